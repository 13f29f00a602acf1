"""Which conversations train and which are held out: by count, no twin on both sides. Arithmetic on hashes; no chance.

Axis: E conversations of all sources, in order.
"""

import re
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from data.examples.forms import Conversation
from data.preparation.holdout import text_hash

TRAIN, VALIDATION, DUPLICATE, TWIN = range(4)  # TWIN: would train, but is held out too
MOST = 10  # one in so many at most is held out
STRATA = 3  # by length: so many conversations of each third are held out as of any


class Told(NamedTuple):
    """What a conversation is known by."""

    source: str
    text: int  # hash of what is said in it, whatever its spelling
    group: int  # hash of what it answers, or of all of a longer one: those of one group stay on one side
    exact_group: int  # of the text that it is of, as it is written: so pretraining knows it
    size: int  # characters


def told(source: str, conversation: Conversation) -> Told:
    said = "\0".join(f"{message.role}:{plain(message.content)}" for message in conversation.messages)
    replies = [message.content for message in conversation.messages if message.role == "assistant"]
    group = conversation.group
    if len(replies) == 1 and replies[0] in group:  # one question and its answer go by the question
        group = "\0".join(message.content for message in conversation.messages if message.role != "assistant")
    return Told(source, _hash(said), _hash(plain(group)), _hash(conversation.group), len(said))


def plain(text: str) -> str:
    """A text without what does not tell twins apart: case and white space."""
    return re.sub(r"\s+", " ", text.casefold()).strip()


def sides(told_E: Sequence[Told], held_out: int, held_before: Mapping[str, frozenset[int]]) -> np.ndarray:
    """TRAIN, VALIDATION, DUPLICATE or TWIN of each conversation; i8 [E].

    `held_before`: of a source that the base was pretrained on, hashes of the texts that were held out then; they are
    held out again, and no others.
    """
    held: set[int] = set()
    for name in dict.fromkeys(told.source for told in told_E):
        own = [told for told in told_E if told.source == name]
        before = {one.group for one in own if one.exact_group in held_before.get(name, ())}
        held |= before or _chosen(own, max(1, min(held_out, len(own) // MOST)))
    side_E = np.array([VALIDATION if told.group in held else TRAIN for told in told_E], np.int8)
    seen = {told.text for told, side in zip(told_E, side_E, strict=True) if side == VALIDATION}
    kept: set[int] = set()
    for e, told in enumerate(told_E):
        if side_E[e] == TRAIN and told.text in seen:
            side_E[e] = TWIN
        elif told.text in kept:
            side_E[e] = DUPLICATE
        else:
            kept.add(told.text)
    return side_E


def _chosen(own: Sequence[Told], wanted: int) -> set[int]:
    """Groups that are held out: of every third by length in the same proportion, those of the smallest hashes."""
    size_of: dict[int, list[int]] = {}
    for one in own:
        size_of.setdefault(one.group, []).append(one.size)
    by_size = sorted(size_of, key=lambda group: (float(np.mean(size_of[group])), group))
    held: set[int] = set()
    for n, stratum in enumerate(np.array_split(np.array(by_size, np.uint64), STRATA)):
        room = wanted * (n + 1) // STRATA - sum(len(size_of[group]) for group in held)
        for group in sorted(stratum.tolist()):
            if len(size_of[group]) <= room and len(held) + 1 < len(size_of):
                held.add(group)
                room -= len(size_of[group])
    return held or {min(size_of, key=lambda group: (len(size_of[group]), group))}


def _hash(text: str) -> int:
    return text_hash(text.encode("utf-8", "surrogatepass"))
