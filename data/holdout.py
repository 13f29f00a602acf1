"""Which documents train, which are held out, which are duplicates. Arithmetic on hashes and sizes; no text is kept.

Axis of this file: J documents of a source, in the order in which the source gives them.
"""

import dataclasses
import functools
import hashlib
import re
from collections.abc import Iterator, Sequence
from typing import Literal

import numpy as np

from data.marks import sentence_ends

SPLITS = ("train", "validation")
TRAIN, VALIDATION, DROPPED = range(3)  # values of `split_J`; DROPPED = a duplicate
FEWEST_DOCUMENTS, FEWEST_BYTES = 20, 50_000  # of validation text, when whole documents are held out
WITHIN = 1.5  # times the share that was asked for, or a part: where a document ends within it, `tail` cuts none
LOOK_BACK = 2000  # characters before the place of a cut in which a sentence is looked for that ends
PARAGRAPH = re.compile(r"\n[^\S\n]*\n")


def text_hash(raw: bytes) -> int:
    """64-bit hash of a document's UTF-8 text: the same on every machine."""
    return int.from_bytes(hashlib.blake2b(raw, digest_size=8).digest(), "little")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Plan:
    """Where each document of a source goes."""

    hash_J: np.ndarray  # uint64
    bytes_J: np.ndarray  # int64, UTF-8
    split_J: np.ndarray  # int8: TRAIN, VALIDATION or DROPPED
    cut: tuple[int, int] | None = None  # (document, character at which, or before, validation text begins in it)

    @functools.cached_property
    def in_train_J(self) -> np.ndarray:
        """True where the document, or its beginning, is training text."""
        in_train_J = self.split_J == TRAIN
        if self.cut is not None:
            in_train_J[self.cut[0]] = True
        return in_train_J

    @property
    def in_validation_J(self) -> np.ndarray:
        """True where the document, or its end, is validation text."""
        in_validation_J = self.split_J == VALIDATION
        if self.cut is not None:
            in_validation_J[self.cut[0]] = True
        return in_validation_J

    @property
    def duplicates(self) -> int:
        """Documents dropped because the same text came before."""
        return int((self.split_J == DROPPED).sum())

    @property
    def documents(self) -> int:
        """Documents that are kept; one that is cut counts once."""
        return len(self.split_J) - self.duplicates

    @property
    def bytes(self) -> int:
        """UTF-8 bytes of the text that is kept."""
        return int(self.bytes_J[self.split_J != DROPPED].sum())

    def pieces(self, j: int, text: str) -> Iterator[tuple[int, str, bool, bool]]:
        """(split, text, it begins the document, it ends the document) of document `j`; nothing for a duplicate."""
        if self.cut is not None and j == self.cut[0]:
            at = sentence_end(text, self.cut[1])
            yield TRAIN, text[:at], True, False
            yield VALIDATION, text[at:], False, True
        elif self.split_J[j] != DROPPED:
            yield int(self.split_J[j]), text, True, True

    def sliced(self, first: int, stop: int) -> "Plan":
        """The plan of the documents from `first` to before `stop`, numbered anew."""
        cut = None
        if self.cut is not None and first <= self.cut[0] < stop:
            cut = (self.cut[0] - first, self.cut[1])
        of = slice(first, stop)
        return Plan(hash_J=self.hash_J[of], bytes_J=self.bytes_J[of], split_J=self.split_J[of], cut=cut)

    def parts(self, part_bytes: int) -> np.ndarray:
        """Part number of every document: parts of about `part_bytes`, in order."""
        kept_J = np.where(self.split_J == DROPPED, 0, self.bytes_J)
        return (kept_J.cumsum() - kept_J) // part_bytes


def plans(
    names: Sequence[str], measured: Sequence[np.ndarray], how: Literal["hash", "tail"], share: float
) -> dict[str, Plan]:
    """Drops duplicates across all sources (the first in order stays), then splits each source.

    `measured` holds, per source, hash, bytes and characters of every document: uint64 [J, 3].
    Raises ValueError if a source is too short to split.
    """
    first = np.zeros(sum(map(len, measured)), bool)
    first[np.unique(np.concatenate([rows_J3[:, 0] for rows_J3 in measured]), return_index=True)[1]] = True
    of_source = np.split(first, np.cumsum([len(rows_J3) for rows_J3 in measured])[:-1])
    for number, (name, kept_J) in enumerate(zip(names, of_source, strict=True)):
        if len(kept_J) and not kept_J.any():
            twins = [np.isin(measured[number][:, 0], rows_J3[:, 0]).sum() for rows_J3 in measured[:number]]
            raise ValueError(
                f"data.sources: {name!r} duplicates the sources before it: all of its {len(kept_J):,} documents are in "
                f"them, most in {names[int(np.argmax(twins))]!r}; leave it out, and give that one a higher rate instead"
            )
    split = _by_hash if how == "hash" else _by_tail
    return {
        name: split(name, rows_J3, kept_J, share)
        for name, rows_J3, kept_J in zip(names, measured, of_source, strict=True)
    }


def _by_hash(name: str, rows_J3: np.ndarray, kept_J: np.ndarray, share: float) -> Plan:
    """Holds out the documents with a hash below a share of all hashes, then more by hash until there are enough."""
    hash_J, bytes_J = rows_J3[:, 0].copy(), rows_J3[:, 1].astype(np.int64)
    order = np.flatnonzero(kept_J)
    order = order[np.argsort(hash_J[order], kind="stable")]
    sizes = bytes_J[order].cumsum()
    below = int((hash_J[order] < np.uint64(min(int(share * 2**64), 2**64 - 1))).sum())
    held_out = max(below, FEWEST_DOCUMENTS, int(np.searchsorted(sizes, FEWEST_BYTES)) + 1)
    if 2 * held_out >= len(order) or 2 * sizes[held_out - 1] >= sizes[-1]:
        raise ValueError(
            f"data.sources: {name!r} is too short for data.validation='hash {share:g}', which would hold out "
            f"{min(held_out, len(order)):,} documents and leave fewer for training; needed a share below 0.5, over "
            f"{2 * FEWEST_DOCUMENTS} different documents and over {2 * FEWEST_BYTES:,} bytes, found {len(order):,} "
            f"documents of {int(bytes_J[order].sum()):,} bytes; add text, or write 'tail 0.1' to cut off the end"
        )
    split_J = np.where(kept_J, TRAIN, DROPPED).astype(np.int8)
    split_J[order[:held_out]] = VALIDATION
    return Plan(hash_J=hash_J, bytes_J=bytes_J, split_J=split_J)


def _by_tail(name: str, rows_J3: np.ndarray, kept_J: np.ndarray, share: float) -> Plan:
    """Holds out the last characters of the whole text: whole documents, or else the end of one too (`sentence_end`)."""
    characters_J = np.where(kept_J, rows_J3[:, 2].astype(np.int64), 0)
    stop_J = characters_J.cumsum()
    total = int(stop_J[-1]) if len(stop_J) else 0
    at = int(total * (1 - share))
    if not 0 < at < total:
        raise ValueError(
            f"data.sources: {name!r} is too short for data.validation='tail {share:g}': "
            f"needed a character on both sides of the cut, found {total:,} characters in all"
        )
    nearest = int(stop_J[np.argmin(np.abs(stop_J - at))])  # end of a document
    if all(1 / WITHIN <= part <= WITHIN for part in (nearest / at, (total - nearest) / (total - at))):
        at = nearest
    start_J = stop_J - characters_J
    split_J = np.where(kept_J, np.where(start_J < at, TRAIN, VALIDATION), DROPPED).astype(np.int8)
    across = np.flatnonzero((start_J < at) & (at < stop_J))
    cut = (int(across[0]), at - int(start_J[across[0]])) if len(across) else None
    return Plan(hash_J=rows_J3[:, 0].copy(), bytes_J=rows_J3[:, 1].astype(np.int64), split_J=split_J, cut=cut)


def sentence_end(text: str, at: int) -> int:
    """Where a document is cut in two: where the last paragraph before `at` ended, or else sentence, or else word.

    Neither part becomes more than `WITHIN` times as long; where nothing ends that near, it is `at` itself.
    """
    begin = at - min(LOOK_BACK, at // 3, (len(text) - at) // 2)
    before, around = text[begin:at], text[begin : at + LOOK_BACK]
    ends = [found.end() for found in PARAGRAPH.finditer(before)]
    ends = ends or [end + 1 for end in sentence_ends([around]).tolist() if end < len(before)]
    ends = ends or [found.end() for found in re.finditer(r"\s+", before)]
    if not ends:
        return at
    cut = begin + ends[-1]
    return at - len(text[cut:at].lstrip())
