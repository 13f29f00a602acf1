"""Tokens of a prepared source as they lie on the disk, stretches of them, and the arithmetic that stands for chance.

Axes: D documents  F label fields  X anything.
"""

from pathlib import Path

import numpy as np


class TokenStore:
    """One split of one prepared source, read from disk as it is needed."""

    def __init__(self, folder: Path):
        self.offset_D = np.load(folder / "offsets.npy", mmap_mode="r")
        self.hash_D = np.load(folder / "hashes.npy", mmap_mode="r")
        self.label_DF = np.load(folder / "labels.npy", mmap_mode="r")  # i32: class in each label field; -1 = none
        self.value_DF = _table(folder / "values.npy", self.documents)  # f32: numbers to be told, standardised
        self.weight_DF = _table(folder / "weights.npy", self.documents)  # f32: of each target; none = 1
        count = int(self.offset_D[-1])
        width = (folder / "tokens.bin").stat().st_size // count if count else 2
        self.tokens = _mapped(folder / "tokens.bin", {2: "<u2", 4: "<u4"}[width])
        self.marks = _mapped(folder / "marks.bin", "u1")  # of each token: WORD_START, SENTENCE_END of token_flags.py

    @property
    def documents(self) -> int:
        return len(self.offset_D) - 1


def _table(path: Path, documents: int) -> np.ndarray:
    """Numbers of the documents, f32 [D, F]; F = 0 where there is no file."""
    return np.load(path, mmap_mode="r") if path.exists() else np.zeros((documents, 0), np.float32)


def _mapped(path: Path, dtype: str) -> np.ndarray:
    """A file's numbers, read as they are needed; an empty file cannot be mapped."""
    return np.memmap(path, dtype=dtype, mode="r") if path.stat().st_size else np.zeros(0, dtype)


def runs(begin_X: np.ndarray, length_X: np.ndarray) -> np.ndarray:
    """begin, begin + 1, ... of each length, one run after another."""
    stop_X = np.cumsum(length_X)
    return np.repeat(begin_X - stop_X + length_X, length_X) + np.arange(stop_X[-1] if len(stop_X) else 0)


def scramble(values: np.ndarray, *key: int) -> np.ndarray:
    """A 64-bit hash of every value under a key of integers; no state, the same on every machine.

    Source: splitmix64, Steele et al. 2014, "Fast splittable pseudorandom number generators", section 6.
    """
    with np.errstate(over="ignore"):
        mixed = np.asarray(values).astype(np.uint64)
        for part in (0, *key):
            mixed = mixed + np.uint64(0x9E3779B97F4A7C15) * np.uint64(2 * (part % 2**62) + 1)
            mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
            mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
            mixed = mixed ^ (mixed >> np.uint64(31))
    return mixed
