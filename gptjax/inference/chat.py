"""A conversation with a model: by its own chat template, or as lines in which you are A and the model is B."""

import dataclasses
from collections.abc import Generator, Sequence
from typing import TYPE_CHECKING

from gptjax.decoding.sampling import Sampling
from gptjax.inference.prompt import encode_prompts, encode_rendered
from gptjax.text.tokenizer import SHIELD, SPEAKERS, turn_line

if TYPE_CHECKING:
    from gptjax.inference.language_model import LanguageModel, Sample

# The lines of `turn_line`, as a chat template for others; the speaker of an answer is written, the answer is not.
LINES = (
    "{{ bos_token }}{% for message in messages %}"
    "{% if message['role'] not in ['user', 'assistant'] %}"
    "{{ raise_exception('only the roles user and assistant are known') }}{% endif %}"
    f"{{{{ '{SPEAKERS[0]}' if message['role'] == 'user' else '{SPEAKERS[1]}' }}}}: "
    "{{ message['content'].split() | join(' ') }}{{ '\\n' }}"
    f"{{% endfor %}}{{% if add_generation_prompt %}}{SPEAKERS[1]}:{{% endif %}}"
)

# The same lines for a model that was taught to talk: EOS ends an answer, and there may be others who speak. What
# anybody says is one line, so that nobody's text begins another's.
TURNS = (
    "{{ bos_token }}{% for message in messages %}{% set text = message['content'].split() | join(' ') %}"
    f"{{% if message['role'] == 'assistant' %}}{SPEAKERS[1]}: {{{{ text + eos_token }}}}"
    f"{{% elif message['role'] == 'user' %}}{SPEAKERS[0]}: {{{{ text }}}}"
    "{% elif message['role'] == 'tool' %}T: {{ text }}"
    "{% elif message['role'] == 'system' and loop.first %}S: {{ text }}"
    "{% else %}{{ raise_exception('the roles are user, assistant and tool, and system for the first message') }}"
    f"{{% endif %}}{{{{ '\\n' }}}}{{% endfor %}}{{% if add_generation_prompt %}}{SPEAKERS[1]}:{{% endif %}}"
)


class Chat:
    """Keeps earlier turns in context. When it is full, whole oldest turns leave it; it begins with one of yours.

    `sampling.tokens` limits a reply. Up to a quarter of the context is kept free for it.
    """

    def __init__(self, model: "LanguageModel", sampling: Sampling):
        self.turns: list[str] = []  # all that was said, yours at even places; also what the context no longer holds
        self._model = model
        stop = sampling.stop if model.generation_config.chat_template else ("\n", *sampling.stop)
        self.sampling = dataclasses.replace(sampling, stop=stop)  # of a reply: without a template it is a line
        self._room = min(sampling.tokens, max(1, model.config.T // 4))

    def say(self, turn: str) -> Generator[str, None, "Sample"]:
        """Your turn; yields the reply piece by piece, and returns its Sample.

        An unfinished reply is not remembered, nor is the turn before it.

        Raises ValueError, at once, if the turn alone does not fit the context, or the chat template refuses it.
        """
        _, prompt, prefix = self._read(turn)
        return self._reply(turn, prompt, prefix)

    def context(self, turn: str) -> str:
        """What the model reads before it replies to `turn`: the newest turns that fit, and the start of its own."""
        return self._read(turn)[0]

    def tokens(self, turn: str) -> list[int]:
        """The same as token ids."""
        return self._read(turn)[1]

    def _read(self, turn: str) -> tuple[str, list[int], int]:
        """The context as text and as token ids, and how many of these see each other: what stands before the first
        answer, of a model that encodes it; else none."""
        turns = [*self.turns, turn]
        limit = self._model.config.T - self._room
        size = 0  # the loop sets it: `turns` is never empty
        for first in range(0, len(turns), 2):  # a turn and its reply go together: a conversation begins with yours
            text, ids = self._written(turns[first:])
            if (size := len(ids)) <= limit:
                encodes = self._model.generation_config.encodes_prompt
                return text, ids, len(self._written(turns[first : first + 1])[1]) if encodes else 0
        raise ValueError(
            f"this turn needs {size} tokens; the context holds {self._model.config.T}, "
            f"of which {self._room} are kept for the reply: say it in {limit} or fewer"
        )

    def _written(self, turns: Sequence[str]) -> tuple[str, list[int]]:
        tokenizer, generation_config = self._model.tokenizer, self._model.generation_config
        if generation_config.chat_template is None:
            text = "".join(turn_line(number, turn) for number, turn in enumerate(turns)) + f"{SPEAKERS[1]}:"
            return text, encode_prompts(tokenizer, generation_config, [text])[0]
        from gptjax.inference.template import render  # here, for a run of ours needs no Jinja

        messages = [{"role": ("user", "assistant")[number % 2], "content": turn} for number, turn in enumerate(turns)]
        text = render(generation_config.chat_template, messages, generation_config.names, tokenizer)
        return text.replace(SHIELD, ""), encode_rendered(tokenizer, text)

    def _reply(self, turn: str, prompt: Sequence[int], prefix: int) -> Generator[str, None, "Sample"]:
        settings = dataclasses.asdict(self.sampling)
        reply = from_first_word(self._model.stream(prompt, prefix=prefix, **settings))
        said = ""
        while True:
            try:
                piece = next(reply)
            except StopIteration as end:
                self.turns += [turn, said]
                return end.value
            said += piece
            yield piece


def from_first_word[Result](pieces: Generator[str, None, Result]) -> Generator[str, None, Result]:
    """A reply without the white space in front of it, such as the space after "B:"."""
    begun = False
    while True:
        try:
            piece = next(pieces)
        except StopIteration as end:
            return end.value
        if not begun:
            piece = piece.lstrip()
        if piece:
            begun = True
            yield piece
