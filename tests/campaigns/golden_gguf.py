"""Writes golden_gguf.npz: what the package gguf makes of random blocks of every type that we read, and the bytes that
it makes of random values in every type that we write.

    python -m tests.campaigns.golden_gguf

in an environment that has gguf and numpy; the file holds its version. The blocks are drawn by `blocks`, the values by
`values`.
"""

import importlib.metadata
import zlib
from pathlib import Path

import numpy as np

from gptjax.exchange.gguf_blocks import TYPES, WRITTEN

GOLDEN = Path(__file__).with_name("golden_gguf.npz")
SCALES = {  # bytes of a block that hold numbers of type float16
    "Q4_0": [0], "Q4_1": [0, 2], "Q5_0": [0], "Q5_1": [0, 2], "Q8_0": [0], "Q2_K": [80, 82], "Q3_K": [108],
    "Q4_K": [0, 2], "Q5_K": [0, 2], "Q6_K": [208], "F16": [0], "BF16": [0], "F32": [0],
}  # fmt: skip


def blocks(kind: str, size: int) -> np.ndarray:
    """Three blocks of random bytes with scales that are finite."""
    draw = np.random.default_rng(zlib.crc32(kind.encode()))
    raw = draw.integers(0, 256, (3, size), np.uint8)
    for place in SCALES[kind]:
        raw[:, place : place + 2] = draw.normal(size=(3, 1)).astype("<f2").view(np.uint8)
    return raw


def values() -> np.ndarray:
    """Sixty blocks of 32: normal ones large and small, zeros, all alike, whole numbers that end on halves, extremes."""
    draw = np.random.default_rng(5)
    found = draw.normal(size=(60, 32)) * 10.0 ** draw.integers(-9, 5, (60, 1))
    found[50], found[51], found[52], found[53] = 0, 3.25, -3.25, -0.0
    found[54] = np.arange(32) * 127 / 31 - 0.5
    found[55] = np.linspace(-127, 127, 32).round() / 2
    found[56] = np.where(np.arange(32) == 7, 127, np.arange(32) + 0.5)
    found[57] = np.where(np.arange(32) == 7, -8, np.arange(32) / 4 - 4)
    found[58] = np.where(np.arange(32) == 9, 15, np.arange(32) / 4)
    return found.astype(np.float32)


def main() -> None:
    from gguf import GGMLQuantizationType, quants

    found = {"version": np.array(f"gguf {importlib.metadata.version('gguf')}")}
    for number, (kind, _, size) in TYPES.items():
        raw = blocks(kind, size).reshape(-1)
        found[kind] = quants.dequantize(raw, GGMLQuantizationType(number)).astype(np.float32).reshape(-1)
    for kind in WRITTEN:
        raw = quants.quantize(values(), GGMLQuantizationType[kind])
        found[f"bytes {kind}"] = np.ascontiguousarray(raw).view(np.uint8).reshape(-1)
    np.savez_compressed(GOLDEN, **found)


if __name__ == "__main__":
    main()
