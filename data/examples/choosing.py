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
    group: int  # hash of what it answers, or of all of it: those of one group stay on one side
    exact_group: int  # the same as it is written
    size: int  # characters


def told(source: str, conversation: Conversation) -> Told:
    said = "\0".join(f"{message.role}:{plain(message.content)}" for message in conversation.messages)
    group = conversation.group
    return Told(source, _hash(said), _hash(plain(group)), _hash(group), len(said))


def plain(text: str) -> str:
    """A text without what does not tell twins apart: case and white space."""
    return re.sub(r"\s+", " ", text.casefold()).strip()


def sides(told_E: Sequence[Told], held_out: int, held_before: Mapping[str, frozenset[int]]) -> np.ndarray:
    """TRAIN, VALIDATION, DUPLICATE or TWIN of each conversation; i8 [E].

    `held_before`: of a source that the base was pretrained on, hashes of the texts that were held out then; they are
    held out again, and no others.
    """
    count = {name: sum(told.source == name for told in told_E) for name in dict.fromkeys(t.source for t in told_E)}
    held: set[int] = set()
    for name, of_source in count.items():
        own = [told for told in told_E if told.source == name]
        before = {one.group for one in own if one.exact_group in held_before.get(name, ())}
        wanted = max(1, min(round(held_out * of_source / len(told_E)), of_source // MOST))
        held |= before or _chosen(own, wanted)
    side_E = np.array([VALIDATION if told.group in held else TRAIN for told in told_E], np.int8)
    seen = {told.text for told, side in zip(told_E, side_E, strict=True) if side == VALIDATION}
    first: set[int] = set()
    for e, told in enumerate(told_E):
        if side_E[e] == TRAIN and told.text in seen:
            side_E[e] = TWIN
        elif told.text in first:
            side_E[e] = DUPLICATE
        first.add(told.text)
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
