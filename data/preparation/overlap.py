"""Held-out documents within training documents, word for word: found by hashes, at any place, in one reading.

A hash of the first `WINDOW` bytes says where one may stand, that of the whole, with BLAKE2, where one does. Both are
polynomials modulo 2**64, so that sums over a block give the hash of any stretch of it at once.
Axes: I bytes of a block  M documents that are looked for  U places where one may stand.

Source: Karp and Rabin 1987, "Efficient randomized pattern-matching algorithms".
"""

import functools
import hashlib
from collections.abc import Iterable, Iterator

import numpy as np

WINDOW = 100  # bytes; shorter documents stand in other text by chance, and are not looked for
BLOCK = 1 << 20  # bytes looked through at once
BASE = 0x9E3779B97F4A7C15  # of the polynomials; odd, so that it has an inverse
FILTER = 22  # bits of a hash by which most places are ruled out
PRINT = np.dtype([("words", "<u8"), ("length", "<u8"), ("start", "<u8"), ("whole", "<u8")])


def words_of(text: str) -> bytes:
    """The words of a text in UTF-8, a space apart: the same of texts that differ in white space or byte order marks."""
    return " ".join(text.replace("\ufeff", "").split()).encode("utf-8")


def fingerprint(words: bytes) -> tuple[int, int, int, int]:
    """What a document is found by, the fields of `PRINT`: hash and length of its words, hash of beginning and whole."""
    term_I = _terms(words)
    return _blake(words), len(words), int(term_I[:WINDOW].sum()), int(term_I.sum())


def _blake(words: bytes | memoryview) -> int:
    return int.from_bytes(hashlib.blake2b(words, digest_size=8).digest(), "little")


@functools.lru_cache(maxsize=2)
def _powers(base: int, bits: int) -> np.ndarray:
    """base**n modulo 2**64 for n below 2**bits."""
    power_I = np.full(1 << bits, base, np.uint64)
    power_I[0] = 1
    return np.multiply.accumulate(power_I)


def _terms(block: bytes) -> np.ndarray:
    """What each byte adds to the polynomial of a block."""
    term_I = np.frombuffer(block, np.uint8).astype(np.uint64)
    term_I *= _powers(BASE, max(20, len(block).bit_length()))[: len(block)]
    return term_I


class Sought:
    """Documents to look for, by their `PRINT`s; those shorter than a window are left alone."""

    def __init__(self, print_M: np.ndarray):
        self.print_M = np.sort(print_M[print_M["length"] >= WINDOW], order=["length", "whole"])
        by_start = np.argsort(self.print_M["start"], kind="stable")
        self._start_M, self._length_M = self.print_M["start"][by_start], self.print_M["length"][by_start]
        self._may = np.zeros(1 << FILTER, bool)
        self._may[self._start_M >> np.uint64(64 - FILTER)] = True

    def holders(self, documents: Iterable[tuple[int, bytes]]) -> list[int]:
        """Of numbered documents, given as their words, the numbers of those that hold one that is looked for."""
        return [number for block in _blocks(documents) for number in self._holders(block)]

    def _holders(self, documents: list[tuple[int, bytes]]) -> Iterator[int]:
        begin_D = np.cumsum([0, *(len(words) + 1 for _, words in documents)])
        place_U = self._places(b"\n".join(words for _, words in documents))  # no words hold a line end
        for d in np.unique(np.searchsorted(begin_D, place_U, side="right") - 1):
            yield documents[d][0]

    def _places(self, block: bytes) -> np.ndarray:
        """Where in a block one of the documents begins."""
        found = [np.zeros(0, np.int64)]
        if len(block) < WINDOW:
            return found[0]
        sum_I = np.zeros(len(block) + 1, np.uint64)  # hash of what comes before each byte
        np.cumsum(_terms(block), out=sum_I[1:])
        inverse_I = _powers(pow(BASE, -1, 1 << 64), max(20, len(block).bit_length()))
        window_I = (sum_I[WINDOW:] - sum_I[:-WINDOW]) * inverse_I[: len(sum_I) - WINDOW]
        place_U = np.flatnonzero(self._may[window_I >> np.uint64(64 - FILTER)])
        place_U = place_U[_within(window_I[place_U], self._start_M)]
        for length in self._lengths(np.unique(window_I[place_U])):
            of_length = slice(*np.searchsorted(self.print_M["length"], [length, length + 1]))
            inside_U = place_U[place_U + length <= len(block)]
            whole_U = (sum_I[inside_U + length] - sum_I[inside_U]) * inverse_I[inside_U]
            alike_U = inside_U[_within(whole_U, self.print_M["whole"][of_length])]
            wanted = set(self.print_M["words"][of_length].tolist()) if len(alike_U) else set()
            same = [place for place in alike_U if _blake(memoryview(block)[place : place + length]) in wanted]
            found.append(np.array(same, np.int64))
        return np.concatenate(found)

    def _lengths(self, starts: np.ndarray) -> list[int]:
        """Lengths of the documents that begin so."""
        first = np.searchsorted(self._start_M, starts, side="left")
        stop = np.searchsorted(self._start_M, starts, side="right")
        parts = [self._length_M[i:j] for i, j in zip(first, stop, strict=True)]
        return np.unique(np.concatenate(parts)).astype(int).tolist() if parts else []


def _blocks(documents: Iterable[tuple[int, bytes]]) -> Iterator[list[tuple[int, bytes]]]:
    block, size = [], 0
    for number, words in documents:
        block.append((number, words))
        size += len(words) + 1
        if size >= BLOCK:
            yield block
            block, size = [], 0
    if block:
        yield block


def _within(values: np.ndarray, sorted_M: np.ndarray) -> np.ndarray:
    """True where a value is one of some sorted ones, of which there is at least one."""
    at = np.searchsorted(sorted_M, values)
    return sorted_M[np.minimum(at, len(sorted_M) - 1)] == values
