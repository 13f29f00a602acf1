"""Conversations as token ids, and which of them are learnt: the template that trains is the one that talks. No JAX."""

import re
from bisect import bisect_left, bisect_right
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from gptjax.inference.chat import LINES
from gptjax.inference.conversation import joined_system
from gptjax.inference.generation_config import GenerationConfig
from gptjax.inference.prompt import encode_rendered
from gptjax.inference.template import Writing
from gptjax.text.tokenizer import SHIELD, Tokenizer

PROBE = ({"role": "user", "content": "What is it?"}, {"role": "assistant", "content": "It is this."})
# How templates spell special tokens: <|im_start|>, <｜User｜>, <start_of_turn>.
MARK = re.compile(r"<[|｜][^<>\s]+[|｜]>|<\w+_of_\w+>")


class Rendered(NamedTuple):
    """A conversation as a model reads it."""

    ids: list[int]
    learned: list[bool]  # of each id: it is of what a learnt turn says, or the token that ends that turn
    asked: list[bool]  # of each id: it is of what a user says, and of nothing that the template writes


class ConversationEncoder:
    """Makes token ids of conversations by the chat template of a `generation_config`.

    A learnt turn begins where the model is asked for it, that is where the template ends with the messages before and
    `add_generation_prompt`; of a template that ignores this, behind the header that it writes. It ends with the first
    token of the kind that ends turns, `end`. A template with `{% generation %}` says itself what of this is learnt; the
    end is in any case.

    Raises ValueError, here, where training by the template would not be talking by it: it writes special tokens that
    the tokenizer lacks, no token at the end of a turn, or another beginning of an answer than it asks with.
    """

    def __init__(self, tokenizer: Tokenizer, generation_config: GenerationConfig):
        self._tokenizer, self._names = tokenizer, generation_config.names
        self._template = generation_config.chat_template or LINES
        writing = self._writing(PROBE)
        asked, bare = (writing.text(1, add_generation_prompt=asks) for asks in (True, False))
        text = writing.text(2, add_generation_prompt=False)
        self._refuse_lacking(asked + text)
        if not text.startswith(asked):
            raise ValueError(
                f"the chat template asks for an answer with {_differing(asked, text)}: what is learnt would not be "
                f"what is asked for; take a template that asks as it writes"
            )
        said = PROBE[1]["content"]
        if (at := text.find(said, len(asked))) < 0:
            raise ValueError(f"the chat template writes {text[len(asked) :]!r} where the assistant says {said!r}")
        self._header = text[len(asked) : at] if asked == bare else ""
        ids, offsets = tokenizer.encode_spelt_at(text)
        ends = [id for id, (_, end) in zip(ids, offsets, strict=True) if end > at + len(said)]
        end = next((id for id in ends if id in tokenizer.added_ids), None)
        if end is None:
            raise ValueError(
                f"the chat template writes no token at the end of a turn, but {text[at + len(said) :]!r}: a model that "
                f"learns it would not know when to stop; GenerationConfig.of_turns has a template that does"
            )
        self.end: int = end  # the id that ends a turn; a model that is to stop by itself has it among its `ends`
        self._in_blocks = bool(writing.generated())

    def encode(self, messages: Sequence[Mapping[str, str]], learn: Sequence[bool]) -> Rendered:
        """The whole conversation. `learn`: of each message, whether it is learnt; only the assistant's may be.

        A system message goes before the first turn where the template refuses it. What stands before a learnt turn is,
        token by token, what the model reads in a chat before it answers.
        Raises ValueError naming the message where that cannot be: the template writes it otherwise once later ones
        follow, or leaves some of it out, or tokens reach over its beginning.
        """
        for number, (message, learnt) in enumerate(zip(messages, learn, strict=True)):
            if learnt and (message["role"] != "assistant" or not message["content"].strip()):
                what = f"is of the {message['role']}" if message["role"] != "assistant" else "is empty"
                raise ValueError(f"message {number} {what}: only what the assistant says can be learnt")
        writing, text, joined = self._whole(messages)
        ids, offsets = self._tokenizer.encode_spelt_at(text)
        added = [place for place, id in enumerate(ids) if id in self._tokenizer.added_ids]
        ends = [place for place in added if ids[place] == self.end]
        if sum(learn) > 1:
            writing.prepare_beginnings()
        blocks = writing.generated() if self._in_blocks and any(learn) else [(0, len(text))]
        learned = [False] * len(ids)
        for number, message in enumerate(messages):
            if not learn[number]:
                continue
            try:
                begin, first = self._begin(text, writing.text(number - joined), ids, offsets, added)
                if (count := bisect_left(ends, first)) == len(ends):
                    raise ValueError(f"no {self._tokenizer.token(self.end)!r} ends it")
                last = ends[count]
                end = offsets[last][0]
                alone = text
                if number + 1 < len(messages):
                    alone = writing.text(number + 1 - joined, add_generation_prompt=False)
                before = text[: offsets[last][1]].rstrip()
                if not alone.startswith(before):
                    raise ValueError(
                        f"once later messages follow, it is rewritten: {_differing(alone, before)}; learn from the "
                        f"last turn alone, or by a template that leaves earlier ones as they were"
                    )
                spans = [(max(begin, a), min(end, b)) for a, b in blocks if a < end and b > begin]
                self._check_said(message["content"], "".join(text[a:b] for a, b in spans))
            except ValueError as error:
                raise ValueError(f"message {number} of the assistant, by the model's chat template: {error}") from error
            learned[first : last + 1] = [True] * (last + 1 - first)
            for place in range(first, last) if self._in_blocks else ():
                starts, stops = offsets[place]  # alike of a space that the tokenizer puts there
                learned[place] = any(starts < b and max(stops, starts + 1) > a for a, b in spans)
        asked = self._asked(messages, writing, text, joined, offsets)
        return Rendered(ids or [self._tokenizer.bos], learned or [False], asked or [False])

    def _asked(
        self, messages: Sequence[Mapping[str, str]], writing: Writing, text: str, joined: int,
        offsets: list[tuple[int, int]],
    ) -> list[bool]:  # fmt: skip
        """Which tokens are of what users say; none of a turn that the template does not write as it is."""
        asked = [False] * len(offsets)
        for number, message in enumerate(messages):
            if message["role"] != "user":
                continue
            try:
                before, whole = (
                    writing.text(count, add_generation_prompt=False) if count else ""
                    for count in (number - joined, number + 1 - joined)
                )
            except ValueError:  # a template that cannot end here
                continue
            if not (text.startswith(before) and text.startswith(whole)):
                continue
            for said in (message["content"].strip(), " ".join(message["content"].split())):
                if said and (begin := text.rfind(said, len(before), len(whole))) >= 0:
                    first = bisect_left(offsets, begin, key=lambda span: span[1])
                    for place in range(first, len(offsets)):
                        a, b = offsets[place]
                        if b > begin + len(said):
                            break
                        asked[place] = b > begin and (a >= begin or text[a:begin].isspace())
                    break
        return asked

    def prompt(self, messages: Sequence[Mapping[str, str]]) -> list[int]:
        """What the model reads before it answers."""
        writing, _, joined = self._whole(messages)
        return encode_rendered(self._tokenizer, writing.text(len(messages) - joined))

    def _whole(self, messages: Sequence[Mapping[str, str]]) -> tuple[Writing, str, int]:
        """The text of all messages, and whether the system's is joined with the first turn."""
        try:
            writing = self._writing(messages)
            return writing, writing.text(len(messages), add_generation_prompt=False), 0
        except ValueError:
            if (joined := joined_system(messages)) is None:
                raise
        writing = self._writing(joined)
        return writing, writing.text(len(joined), add_generation_prompt=False), 1

    def _writing(self, messages: Sequence[Mapping[str, str]]) -> Writing:
        return Writing(self._template, messages, self._names, self._tokenizer)

    def _begin(
        self, text: str, asked: str, ids: list[int], offsets: list[tuple[int, int]], added: list[int]
    ) -> tuple[int, int]:
        """Where a turn begins that is asked for with `asked`: character and token.

        What stands before is encoded from the last added token on. Added tokens are found first, from the left, and
        what is between two is encoded by itself; so the ids before that token are the same whatever follows.
        """
        if not text.startswith(asked):
            raise ValueError(f"it is asked for with {_differing(asked, text)}")
        begin = len(asked) + len(self._header)
        if not text.startswith(self._header, len(asked)):
            raise ValueError(f"{self._header!r} should precede it, but {text[len(asked) : begin]!r} does")
        count = bisect_right(added, begin, key=lambda place: offsets[place][1])
        place = added[count - 1] if count else 0
        read = self._tokenizer.encode_spelt(text[offsets[place][0] if count else 0 : begin])
        first = place + len(read)
        if not first:
            raise ValueError("nothing stands before it")
        if ids[place:first] != read:
            raise ValueError(
                f"its beginning {text[begin : begin + 20]!r} and what stands before, {text[:begin][-20:]!r}, share a "
                f"token, which a chat never has; take white space off its beginning"
            )
        return begin, first

    def _check_said(self, content: str, written: str) -> None:
        """Raises ValueError where a template leaves out some of a turn; white space may change."""
        wanted, found = ("".join(one.replace(SHIELD, "").split()) for one in (content, written))
        if not found.endswith(wanted):
            raise ValueError(f"it says {content[:60]!r}, of which {written[:60]!r} is written")

    def _refuse_lacking(self, text: str) -> None:
        """Raises ValueError naming a special token of the template that the tokenizer has not."""
        named = {self._names[role] for role in ("bos_token", "eos_token") if role in self._names}
        written = {*MARK.findall(text), *(name for name in named if name in text)}
        if lacking := sorted(written - self._tokenizer.added_names):
            raise ValueError(
                f"the chat template writes {', '.join(map(repr, lacking))}, which the tokenizer does not have as "
                f"special tokens: take the base with its own template, or GenerationConfig.of_turns, which needs none"
            )


def _differing(text: str, other: str) -> str:
    """Where two texts part, for a message."""
    at = next((place for place, (a, b) in enumerate(zip(text, other, strict=False)) if a != b), len(other))
    return f"{text[at : at + 40]!r} where the whole conversation has {other[at : at + 40]!r}"
