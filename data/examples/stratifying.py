"""Which labelled texts train and which are held out: by count, in every class alike, no text on both sides. Arithmetic
on hashes; no chance.

Axis: E labelled texts of all sources, in order.
"""

from collections import Counter
from collections.abc import Collection, Hashable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from data.examples.choosing import DUPLICATE, TRAIN, TWIN, VALIDATION, plain
from data.examples.labelled_texts import LabelledText, Target
from data.preparation.holdout import text_hash

SPARE = 4  # a side for training that is left out, beside those of data/examples/choosing.py: more than were asked for
MOST = 5  # one in so many at most is held out
LEVELS = 5  # numbers fall into so many strata


class Known(NamedTuple):
    """What a labelled text is known by."""

    source: str
    words: int  # hash of what is read, whatever its spelling
    group: int  # hash of the text, or the first of two, or of all that pairs connect: a group stays on one side
    exact: int  # hash of the document as pretraining knows it
    stratum: Hashable  # of its class; those of each are held out in proportion


def known(source_E: Sequence[str], labelled_E: Sequence[LabelledText]) -> list[Known]:
    """One for each of them."""
    strata, groups = _strata([one.target for one in labelled_E]), _groups(labelled_E)
    return [
        Known(
            source,
            _hash(plain(f"{one.text}\0{one.second or ''}")), group, _hash(one.document), stratum,
        )
        for source, one, group, stratum in zip(source_E, labelled_E, groups, strata, strict=True)
    ]  # fmt: skip


def sides(
    known_E: Sequence[Known], held_out: int, most: int | None, held_before: Mapping[str, frozenset[int]],
    measured: Collection[str] = (),
) -> np.ndarray:  # fmt: skip
    """TRAIN, VALIDATION, DUPLICATE, TWIN or SPARE of each; i8 [E].

    `held_before`: of a source that the base was pretrained on, hashes of the texts that were held out then; they are
    held out again, and no others. `measured`: sources of which all is held out, and nothing of the others. `most`: so
    many train.
    """
    measures = [one for one in known_E if one.source in measured]
    held = {one.group for one in measures}
    for name in () if measures else dict.fromkeys(one.source for one in known_E):
        own = _first_ones([one for one in known_E if one.source == name])
        before = {one.group for one in own if one.exact in held_before.get(name, ())}
        held |= before or chosen(own, min(held_out, len(own) // MOST), spares=True)
    side_E = np.full(len(known_E), TRAIN, np.int8)
    seen: set[tuple[bool, int]] = set()
    for e, one in enumerate(known_E):
        is_held = one.source in measured if measures else one.group in held
        if not is_held and one.group in held:
            side_E[e] = TWIN
        elif (is_held, one.words) in seen:
            side_E[e] = DUPLICATE
        else:
            side_E[e] = VALIDATION if is_held else TRAIN
            seen.add((is_held, one.words))
    if most is not None:
        train_E = np.flatnonzero(side_E == TRAIN).tolist()
        kept = chosen([known_E[e] for e in train_E], most, spares=False)
        for e in train_E:
            if known_E[e].group not in kept:
                side_E[e] = SPARE
    return side_E


def chosen(own: Sequence[Known], wanted: int, *, spares: bool) -> set[int]:
    """Groups with `wanted` texts or a few less: of every stratum in proportion, those of the smallest hashes.

    `spares`: leaves a group of every stratum, where it has only one even that; else takes one of every stratum first.
    """
    groups: dict[Hashable, Counter[int]] = {}
    stratum_of: dict[int, Hashable] = {}
    for one in own:
        stratum = stratum_of.setdefault(one.group, one.stratum)  # a group is of the stratum of its first text
        groups.setdefault(stratum, Counter())[one.group] += 1
    sizes = {stratum: sum(found.values()) for stratum, found in groups.items()}
    rooms = _shared_out(sizes, wanted, least=0 if spares else 1)
    held: set[int] = set()
    for stratum, found in groups.items():
        room, left = rooms[stratum], len(found) - spares
        for group, size in sorted(found.items()):
            if size <= room and left > 0:
                held.add(group)
                room, left = room - size, left - 1
    return held


def _shared_out(sizes: Mapping[Hashable, int], wanted: int, least: int) -> dict[Hashable, int]:
    """`wanted` in the proportions of the sizes, by the largest remainders; at least `least` of each."""
    total = max(1, sum(sizes.values()))
    exact = {name: wanted * size / total for name, size in sizes.items()}
    rooms = {name: max(least, int(share)) for name, share in exact.items()}
    by_remainder = sorted(exact, key=lambda name: (rooms[name] - exact[name], str(name)))
    for name in by_remainder[: max(0, wanted - sum(rooms.values()))]:
        rooms[name] += 1
    return rooms


def _strata(targets: Sequence[Target]) -> list[Hashable]:
    """Of a class itself; of labels the rarest; of numbers one of five levels with as many each."""
    if targets and isinstance(targets[0], float):
        levels = np.empty(len(targets), np.int64)
        for level, places in enumerate(np.array_split(np.argsort(np.array(targets), kind="stable"), LEVELS)):
            levels[places] = level
        return list(levels.tolist())
    counts = Counter(name for target in targets if isinstance(target, tuple) for name in target)
    return [
        min(target, key=lambda name: (counts[name], name), default="") if isinstance(target, tuple) else target
        for target in targets
    ]


def _groups(labelled_E: Sequence[LabelledText]) -> list[int]:
    """Of each the hash of its text, or the first of two; where that is the second of another pair, both have one group.

    A second text that is nowhere the first connects nothing: it may be one of few, such as the aspect of a review.
    """
    first_E = [_hash(plain(one.text)) for one in labelled_E]
    above = {first: first for first in first_E}

    def top(group: int) -> int:
        while above[group] != group:
            above[group] = group = above[above[group]]
        return group

    for first, one in zip(first_E, labelled_E, strict=True):
        if one.second is not None and (second := _hash(plain(one.second))) in above:
            above[top(second)] = top(first)
    group_of = dict.fromkeys(above, 0)
    for first in above:
        group_of[top(first)] ^= first  # of all members alike: a large group is held out no sooner than a small one
    return [group_of[top(first)] for first in first_E]


def _first_ones(own: Sequence[Known]) -> list[Known]:
    """Each text once."""
    return list({one.words: one for one in reversed(own)}.values())[::-1]


def _hash(text: str) -> int:
    return text_hash(text.encode("utf-8", "surrogatepass"))
