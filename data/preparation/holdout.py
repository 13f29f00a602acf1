"""Which documents train, which are held out, which are neither. Arithmetic on hashes and sizes; no text is kept.

Axis of this file: J documents of a source, in the order in which the source gives them.
"""

import dataclasses
import functools
import hashlib
import re
from collections.abc import Iterator, Sequence
from typing import Literal

import numpy as np

from data.description import LeftOut
from data.preparation import overlap
from data.preparation.token_flags import sentence_ends

SPLITS = ("train", "validation")
# values of `split_J`; DROPPED = a duplicate, LEFT_OUT = would train, but holds held-out text
TRAIN, VALIDATION, DROPPED, LEFT_OUT = range(4)
FEWEST_DOCUMENTS, FEWEST_BYTES = 20, 50_000  # of validation text, when whole documents are held out
WITHIN = 1.5  # times the share that was asked for, or a part: what bytes are held out, where documents allow it
LOOK_BACK = 2000  # characters before the place of a cut in which a sentence is looked for that ends
PARAGRAPH = re.compile(r"\n[^\S\n]*\n")
MEASURED = np.dtype([("hash", "<u8"), ("bytes", "<u8"), ("characters", "<u8"), ("print", overlap.PRINT)])


def text_hash(raw: bytes) -> int:
    """64-bit hash of a document's UTF-8 text: the same on every machine."""
    return int.from_bytes(hashlib.blake2b(raw, digest_size=8).digest(), "little")


def measured(text: str) -> tuple[int, ...]:
    """The fields of `MEASURED` for a document."""
    raw = text.encode("utf-8")
    return text_hash(raw), len(raw), len(text), *overlap.fingerprint(overlap.words_of(text))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Plan:
    """Where each document of a source goes."""

    hash_J: np.ndarray  # uint64
    bytes_J: np.ndarray  # int64, UTF-8
    split_J: np.ndarray  # int8: TRAIN, VALIDATION, DROPPED or LEFT_OUT
    # (document, characters of it that train, or would if it were not LEFT_OUT): the rest of it is validation
    cut: tuple[int, int] | None = None

    @functools.cached_property
    def kept_J(self) -> np.ndarray:
        """True where the document, or a part of it, is training or validation text."""
        return self.in_train_J | self.in_validation_J

    @functools.cached_property
    def in_train_J(self) -> np.ndarray:
        """True where the document, or its beginning, is training text."""
        return self.split_J == TRAIN

    @property
    def in_validation_J(self) -> np.ndarray:
        """True where the document, or its end, is validation text."""
        in_validation_J = self.split_J == VALIDATION
        if self.cut is not None:
            in_validation_J[self.cut[0]] = True
        return in_validation_J

    @property
    def duplicates(self) -> int:
        """Documents dropped because the same words came before."""
        return int((self.split_J == DROPPED).sum())

    @property
    def documents(self) -> int:
        """Documents that are kept; one that is cut counts once."""
        return int(self.kept_J.sum())

    @property
    def left_out(self) -> LeftOut:
        """Number and bytes of the documents that would train, but hold held-out text."""
        out_J = self.split_J == LEFT_OUT
        return {"documents": int(out_J.sum()), "bytes": int(self.bytes_J[out_J].sum())}

    @property
    def bytes(self) -> int:
        """UTF-8 bytes of the text that is kept."""
        return int(self.bytes_J[self.kept_J].sum())

    def without(self, holders: np.ndarray) -> "Plan":
        """The plan in which the documents with these numbers don't train."""
        split_J = self.split_J.copy()
        split_J[holders] = LEFT_OUT
        return dataclasses.replace(self, split_J=split_J)

    def pieces(self, j: int, text: str) -> Iterator[tuple[int, str, bool, bool]]:
        """(split, text, it begins the document, it ends the document) of document `j`; nothing where it is dropped."""
        if self.cut is not None and j == self.cut[0]:
            if self.in_train_J[j]:
                yield TRAIN, text[: self.cut[1]], True, False
            yield VALIDATION, text[self.cut[1] :], False, True
        elif self.kept_J[j]:
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
        kept_J = np.where(self.kept_J, self.bytes_J, 0)
        return (kept_J.cumsum() - kept_J) // part_bytes


def plans(
    names: Sequence[str],
    measured: Sequence[np.ndarray],
    how: Literal["hash", "tail"],
    share: float,
    *,
    by_number: bool = False,
) -> dict[str, Plan]:
    """Drops duplicates across all sources (the first in order stays), then splits each source.

    `measured` holds, per source, what was measured of every document: MEASURED [J]. Documents of the same words are
    duplicates. `by_number`: as folders of the format `BY_NUMBER` were made, where those of the same bytes are.

    Raises ValueError if a source is too short to split.
    """
    seen = [rows_J["hash"] if by_number else rows_J["print"]["words"] for rows_J in measured]
    first = np.zeros(sum(map(len, seen)), bool)
    first[np.unique(np.concatenate(seen), return_index=True)[1]] = True
    of_source = np.split(first, np.cumsum([len(rows_J) for rows_J in measured])[:-1])
    for number, (name, kept_J) in enumerate(zip(names, of_source, strict=True)):
        if len(kept_J) and not kept_J.any():
            twins = [np.isin(seen[number], earlier).sum() for earlier in seen[:number]]
            raise ValueError(
                f"data.sources: {name!r} duplicates the sources before it: all of its {len(kept_J):,} documents are in "
                f"them, most in {names[int(np.argmax(twins))]!r}; leave it out, and give that one a higher rate instead"
            )
    if how == "hash":
        split = _by_number if by_number else _by_hash
    else:
        split = _by_characters if by_number else _by_tail
    return {
        name: split(name, rows_J, kept_J, share)
        for name, rows_J, kept_J in zip(names, measured, of_source, strict=True)
    }


def _by_hash(name: str, rows_J: np.ndarray, kept_J: np.ndarray, share: float) -> Plan:
    """Holds out documents by their hash, so that their bytes are about a share of all."""
    order, bytes_J = _by_hashes(rows_J, kept_J), rows_J["bytes"].astype(np.int64)
    total = int(bytes_J[order].sum())
    if len(order) <= 2 * FEWEST_DOCUMENTS or total <= 2 * FEWEST_BYTES:
        held_out = order
    else:
        held_out = order[_chosen(bytes_J[order], _below(rows_J["hash"][order], share), share)]
    if 2 * len(held_out) >= len(order) or 2 * bytes_J[held_out].sum() >= total:
        raise ValueError(
            f"data.sources: {name!r} is too short for data.validation='hash {share:g}', which would leave less for "
            f"training than it holds out; needed a share below 0.5, over {2 * FEWEST_DOCUMENTS} different documents "
            f"and over {2 * FEWEST_BYTES:,} bytes, none of them most of it; found {len(order):,} documents of "
            f"{total:,} bytes; add text, or hold out its end: --data.validation 'tail 0.1'"
        )
    return _holding_out(held_out, rows_J, kept_J)


def _by_number(name: str, rows_J: np.ndarray, kept_J: np.ndarray, share: float) -> Plan:
    """Holds out a share of the documents by their hash, whatever their size: as folders of `BY_NUMBER` were made."""
    order = _by_hashes(rows_J, kept_J)
    sizes = rows_J["bytes"][order].astype(np.int64).cumsum()
    enough = max(FEWEST_DOCUMENTS, int(np.searchsorted(sizes, FEWEST_BYTES)) + 1)
    held_out = max(_below(rows_J["hash"][order], share), enough)
    if 2 * held_out >= len(order) or 2 * sizes[held_out - 1] >= sizes[-1]:
        raise ValueError(f"data.sources: {name!r} has less text than when the run began; restore it")
    return _holding_out(order[:held_out], rows_J, kept_J)


def _by_hashes(rows_J: np.ndarray, kept_J: np.ndarray) -> np.ndarray:
    """The documents that are kept, in the order of their hashes."""
    order = np.flatnonzero(kept_J)
    return order[np.argsort(rows_J["hash"][order], kind="stable")]


def _below(hash_I: np.ndarray, share: float) -> int:
    """How many hashes are below a share of all there could be."""
    return int((hash_I < np.uint64(min(int(share * 2**64), 2**64 - 1))).sum())


def _holding_out(held_out: np.ndarray, rows_J: np.ndarray, kept_J: np.ndarray) -> Plan:
    split_J = np.where(kept_J, TRAIN, DROPPED).astype(np.int8)
    split_J[held_out] = VALIDATION
    return Plan(hash_J=rows_J["hash"].copy(), bytes_J=rows_J["bytes"].astype(np.int64), split_J=split_J)


def _chosen(bytes_I: np.ndarray, below: int, share: float) -> np.ndarray:
    """Places of the documents that are held out, of N in the order of their hashes.

    The first `below`, and on until there are `FEWEST_DOCUMENTS` and `FEWEST_BYTES`, as far as the bytes stay within
    `WITHIN` of the share; documents too long for that are passed over. Where those come to too little, the longest that
    are not too long; where no choice comes within that factor, what comes nearest.
    """
    total = int(bytes_I.sum())
    wanted = share * total
    least, most = wanted / WITHIN, wanted * WITHIN
    held = int(bytes_I[:below].sum())
    if below >= FEWEST_DOCUMENTS and max(least, FEWEST_BYTES) <= held <= most:
        return np.arange(below)
    chosen, held = [], 0
    for place, size in enumerate(bytes_I.tolist()):
        few, fits = len(chosen) < FEWEST_DOCUMENTS or held < FEWEST_BYTES, held + size <= most
        more = place < below or held < least or (few and fits)
        if not more or 2 * len(chosen) + 3 > len(bytes_I):  # fewer than half, in any case
            break
        if fits:
            chosen.append(place)
            held += size
    if held >= least:
        return np.array(chosen)
    longest = np.argsort(-bytes_I, kind="stable")
    longest = longest[bytes_I[longest] <= most]
    sizes = bytes_I[longest].cumsum()
    if len(sizes) and sizes[-1] >= least:
        return longest[: int(np.searchsorted(sizes, least)) + 1]
    longer = np.flatnonzero((bytes_I > most) & (2 * bytes_I < total))
    nearest = longer[np.argmin(bytes_I[longer])] if len(longer) else None
    if nearest is not None and (held == 0 or wanted / held > bytes_I[nearest] / wanted):
        return np.array([nearest])
    return np.array(chosen, np.int64)


def _by_tail(name: str, rows_J: np.ndarray, kept_J: np.ndarray, share: float) -> Plan:
    """Holds out the last documents where one ends within `WITHIN` of the share; else as `_by_characters`."""
    stop_J, at = _place_of_cut(name, rows_J, kept_J, share)
    nearest, total = int(stop_J[np.argmin(np.abs(stop_J - at))]), int(stop_J[-1])  # end of a document
    whole = all(1 / WITHIN <= part <= WITHIN for part in (nearest / at, (total - nearest) / (total - at)))
    return _cut_at(nearest if whole else at, stop_J, rows_J, kept_J)


def _by_characters(name: str, rows_J: np.ndarray, kept_J: np.ndarray, share: float) -> Plan:
    """Holds out the last characters of the whole text; the cut may fall inside a document."""
    stop_J, at = _place_of_cut(name, rows_J, kept_J, share)
    return _cut_at(at, stop_J, rows_J, kept_J)


def _place_of_cut(name: str, rows_J: np.ndarray, kept_J: np.ndarray, share: float) -> tuple[np.ndarray, int]:
    """(where each document ends in the whole text, where the last share of it begins), in characters."""
    characters_J = np.where(kept_J, rows_J["characters"].astype(np.int64), 0)
    stop_J = characters_J.cumsum()
    total = int(stop_J[-1]) if len(stop_J) else 0
    at = int(total * (1 - share))
    if not 0 < at < total:
        raise ValueError(
            f"data.sources: {name!r} is too short for data.validation='tail {share:g}': "
            f"needed a character on both sides of the cut, found {total:,} characters in all"
        )
    return stop_J, at


def _cut_at(at: int, stop_J: np.ndarray, rows_J: np.ndarray, kept_J: np.ndarray) -> Plan:
    start_J = np.concatenate([[0], stop_J[:-1]])
    split_J = np.where(kept_J, np.where(start_J < at, TRAIN, VALIDATION), DROPPED).astype(np.int8)
    across = np.flatnonzero((start_J < at) & (at < stop_J))
    cut = (int(across[0]), at - int(start_J[across[0]])) if len(across) else None
    return Plan(hash_J=rows_J["hash"].copy(), bytes_J=rows_J["bytes"].astype(np.int64), split_J=split_J, cut=cut)


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
