"""A conversation with a model, in the format of the dialogue source: one line a turn, you are A, the model is B."""

import dataclasses
from collections.abc import Iterator
from typing import TYPE_CHECKING

from gptjax.sampling import Sampling
from gptjax.tokenizer import SPEAKERS, turn_line

if TYPE_CHECKING:
    from gptjax.generate import LanguageModel


class Chat:
    """Keeps earlier turns in context. When it is full, whole oldest turns leave it; it begins with one of yours.

    `sampling.tokens` limits a reply. Up to a quarter of the context is kept free for it.
    """

    def __init__(self, model: "LanguageModel", sampling: Sampling):
        self.turns: list[str] = []  # all that was said, yours at even places; also what the context no longer holds
        self._model = model
        self._sampling = dataclasses.replace(sampling, stop=("\n", *sampling.stop))
        self._room = min(sampling.tokens, max(1, model.config.T // 4))

    def say(self, turn: str) -> Iterator[str]:
        """Your turn; yields the reply piece by piece. An unfinished reply is not remembered, nor is the turn before it.

        Raises ValueError, at once, if the turn alone does not fit the context.
        """
        prompt = self.context(turn)
        return self._reply(turn, prompt)

    def context(self, turn: str) -> str:
        """What the model reads before it replies to `turn`: the newest turns that fit, and the start of its line."""
        turns = [*self.turns, turn]
        limit = self._model.config.T - self._room
        size = 0  # the loop sets it: `turns` is never empty
        for first in range(0, len(turns), 2):  # a turn and its reply go together: a conversation begins with A
            lines = [turn_line(number, turns[number]) for number in range(first, len(turns))]
            prompt = "".join(lines) + f"{SPEAKERS[1]}:"
            size = 1 + len(self._model.tokenizer.encode(prompt))  # 1: BOS
            if size <= limit:
                return prompt
        raise ValueError(
            f"this turn needs {size} tokens; the context holds {self._model.config.T}, "
            f"of which {self._room} are kept for the reply: say it in {limit} or fewer"
        )

    def _reply(self, turn: str, prompt: str) -> Iterator[str]:
        said = ""
        for piece in self._model.stream(prompt, **dataclasses.asdict(self._sampling)):
            piece = piece if said else piece.lstrip()  # the space after "B:"
            said += piece
            if piece:
                yield piece
        self.turns += [turn, said]
