"""How GGUF packs the values of a tensor, block by block. Does not import JAX.

Source: github.com/ggml-org/ggml, src/ggml-common.h (the blocks) and src/ggml-quants.c (dequantize_row_*,
quantize_row_*_ref).
Axes: n blocks  g groups of a block with a scale of their own.
"""

from collections.abc import Callable

import numpy as np

SMALL, LARGE = 32, 256  # values of a block
# A type's number: name, values and bytes of a block.
TYPES = {
    0: ("F32", 1, 4),
    1: ("F16", 1, 2),
    2: ("Q4_0", SMALL, 2 + 16),
    3: ("Q4_1", SMALL, 4 + 16),
    6: ("Q5_0", SMALL, 2 + 4 + 16),
    7: ("Q5_1", SMALL, 4 + 4 + 16),
    8: ("Q8_0", SMALL, 2 + 32),
    10: ("Q2_K", LARGE, 16 + 64 + 4),
    11: ("Q3_K", LARGE, 32 + 64 + 12 + 2),
    12: ("Q4_K", LARGE, 4 + 12 + 128),
    13: ("Q5_K", LARGE, 4 + 12 + 32 + 128),
    14: ("Q6_K", LARGE, 128 + 64 + 16 + 2),
    30: ("BF16", 1, 2),
}
# Those that are not read, to be named.
OTHERS = {
    9: "Q8_1", 15: "Q8_K", 16: "IQ2_XXS", 17: "IQ2_XS", 18: "IQ3_XXS", 19: "IQ1_S", 20: "IQ4_NL", 21: "IQ3_S",
    22: "IQ2_S", 23: "IQ4_XS", 24: "I8", 25: "I16", 26: "I32", 27: "I64", 28: "F64", 29: "IQ1_M", 34: "TQ1_0",
    35: "TQ2_0", 39: "MXFP4", 40: "NVFP4", 41: "Q1_0",
}  # fmt: skip


def unpacked(kind: str, raw: np.ndarray) -> np.ndarray:
    """The values of a tensor's bytes, float32.

    A value is d q, or d q + m, of a whole number q: d and m are the scale and the offset of its block, of type float16,
    and in the blocks of 256, whose names end with K, times a whole number of its group.
    """
    match kind:
        case "F32":
            return raw.view("<f4").astype(np.float32)
        case "F16":
            return raw.view("<f2").astype(np.float32)
        case "BF16":
            return (raw.view("<u2").astype(np.uint32) << 16).view(np.float32)
    size = next(size for name, _, size in TYPES.values() if name == kind)
    return _UNPACK[kind](raw.reshape(-1, size)).reshape(-1)


def packed(kind: str, values: np.ndarray) -> np.ndarray:
    """The bytes of a tensor's values, float32, for the types in `WRITTEN`: those of the package gguf, bit for bit.

    Raises ValueError where a value, or the scale or offset of its block, is beyond its type.
    """
    values = np.ascontiguousarray(values, np.float32)
    with np.errstate(over="ignore", divide="ignore"):
        match kind:
            case "F32":
                return values.reshape(-1).astype("<f4").view(np.uint8)
            case "BF16":
                bits = values.reshape(-1).view(np.uint32)
                found = (bits + (0x7FFF + (bits >> 16 & 1)) >> 16).astype("<u2")  # to the nearest, of two to the even
                scales = unpacked("BF16", found)
            case "F16":
                found = values.reshape(-1).astype("<f2")
                scales = found
            case _:
                scales, q = _PACK[kind](values.reshape(-1, SMALL))
                scales = scales.astype("<f2")
                found = np.concatenate([scales.view(np.uint8), q.view(np.uint8)], axis=1).reshape(-1)
    if not np.isfinite(scales).all():
        raise ValueError(f"values of up to {np.abs(values).max():.4g} are beyond what {kind} can hold")
    return found.view(np.uint8)


def _to_q8_0(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Scales and whole numbers; halves are rounded away from 0, as C does."""
    d = np.abs(x).max(axis=1, keepdims=True) / np.float32(127)
    scaled = x * _inverse(d)
    whole = np.floor(np.abs(scaled))
    whole += np.abs(scaled) - whole >= 0.5
    return d, np.copysign(whole, scaled).astype(np.int8)


def _to_q4_0(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The value that is farthest from 0 becomes -8."""
    d = np.take_along_axis(x, np.abs(x).argmax(axis=1)[:, None], axis=1) / np.float32(-8)
    return d, _halved(x * _inverse(d) + np.float32(8.5))


def _to_q4_1(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The least value becomes 0, the largest 15; scale and offset side by side."""
    m = x.min(axis=1, keepdims=True)
    d = (x.max(axis=1, keepdims=True) - m) / np.float32(15)
    return np.concatenate([d, m], axis=1), _halved((x - m) * _inverse(d) + np.float32(0.5))


def _inverse(d: np.ndarray) -> np.ndarray:
    return np.where(d == 0, np.float32(0), np.float32(1) / d)


def _halved(numbers: np.ndarray) -> np.ndarray:
    """Cut to whole numbers of four bits; the second half of a block lies above the first."""
    q = np.minimum(numbers.astype(np.uint8), 15)
    return q[:, : SMALL // 2] | q[:, SMALL // 2 :] << 4


_PACK: dict[str, Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]] = {
    "Q8_0": _to_q8_0, "Q4_0": _to_q4_0, "Q4_1": _to_q4_1,
}  # fmt: skip
WRITTEN = ("F32", "F16", "BF16", *_PACK)


def _q8_0(blocks: np.ndarray) -> np.ndarray:
    return _float(blocks[:, :2]) * blocks[:, 2:].view(np.int8)


def _q4_0(blocks: np.ndarray) -> np.ndarray:
    d, q = _float(blocks[:, :2]), _fields(blocks[:, 2:], 16, 4)
    return d * (q.astype(np.float32) - 8)


def _q4_1(blocks: np.ndarray) -> np.ndarray:
    d, m, q = _float(blocks[:, :2]), _float(blocks[:, 2:4]), _fields(blocks[:, 4:], 16, 4)
    return d * q.astype(np.float32) + m


def _q5_0(blocks: np.ndarray) -> np.ndarray:
    d, high, q = _float(blocks[:, :2]), _bits(blocks[:, 2:6]), _fields(blocks[:, 6:], 16, 4)
    return d * ((q | high << 4).astype(np.float32) - 16)


def _q5_1(blocks: np.ndarray) -> np.ndarray:
    d, m, high, q = _float(blocks[:, :2]), _float(blocks[:, 2:4]), _bits(blocks[:, 4:8]), _fields(blocks[:, 8:], 16, 4)
    return d * (q | high << 4).astype(np.float32) + m


def _q2_k(blocks: np.ndarray) -> np.ndarray:
    scales, q = blocks[:, :16], _fields(blocks[:, 16:80], 32, 2)
    d, m = _float(blocks[:, 80:82]) * (scales & 15), _float(blocks[:, 82:84]) * (scales >> 4)
    return _grouped(d, q) - _spread(m, q)


def _q3_k(blocks: np.ndarray) -> np.ndarray:
    high, q, d = _fields(blocks[:, :32], 32, 1), _fields(blocks[:, 32:96], 32, 2), _float(blocks[:, 108:110])
    scales = _fields(blocks[:, 96:104], 8, 4) | _fields(blocks[:, 104:108], 4, 2) << 4
    return _grouped(d * (scales.astype(np.float32) - 32), q.astype(np.float32) + 4 * high.astype(np.float32) - 4)


def _q4_k(blocks: np.ndarray) -> np.ndarray:
    scales, mins = _six_bits(blocks[:, 4:16])
    d, m = _float(blocks[:, :2]) * scales, _float(blocks[:, 2:4]) * mins
    q = _fields(blocks[:, 16:], 32, 4)
    return _grouped(d, q) - _spread(m, q)


def _q5_k(blocks: np.ndarray) -> np.ndarray:
    scales, mins = _six_bits(blocks[:, 4:16])
    d, m = _float(blocks[:, :2]) * scales, _float(blocks[:, 2:4]) * mins
    q = _fields(blocks[:, 48:], 32, 4) | _fields(blocks[:, 16:48], 32, 1) << 4
    return _grouped(d, q) - _spread(m, q)


def _q6_k(blocks: np.ndarray) -> np.ndarray:
    q = _fields(blocks[:, :128], 64, 4) | _fields(blocks[:, 128:192], 32, 2) << 4
    d = _float(blocks[:, 208:210]) * blocks[:, 192:208].view(np.int8)
    return _grouped(d, q.astype(np.float32) - 32)


_UNPACK: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "Q4_0": _q4_0, "Q4_1": _q4_1, "Q5_0": _q5_0, "Q5_1": _q5_1, "Q8_0": _q8_0,
    "Q2_K": _q2_k, "Q3_K": _q3_k, "Q4_K": _q4_k, "Q5_K": _q5_k, "Q6_K": _q6_k,
}  # fmt: skip


def _float(raw_n2: np.ndarray) -> np.ndarray:
    """One float16 of each block, as float32 [n, 1]."""
    return raw_n2.copy().view("<f2").astype(np.float32)


def _fields(raw: np.ndarray, run: int, bits: int) -> np.ndarray:
    """Numbers of so many bits: of each run of bytes first the lowest field of every byte, then the next."""
    shifts = np.arange(0, 8, bits, dtype=np.uint8)[:, None]
    return (raw.reshape(len(raw), -1, 1, run) >> shifts & (1 << bits) - 1).reshape(len(raw), -1)


def _bits(raw: np.ndarray) -> np.ndarray:
    """Every bit, the lowest of each byte first."""
    return np.unpackbits(raw, axis=1, bitorder="little")


def _six_bits(raw: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The eight scales and eight offsets that twelve bytes hold."""
    low, middle, high = np.split(raw, 3, axis=1)
    scales = np.concatenate([low & 63, high & 15 | low >> 2 & 48], axis=1)
    return scales, np.concatenate([middle & 63, high >> 4 | middle >> 2 & 48], axis=1)


def _spread(numbers_ng: np.ndarray, q: np.ndarray) -> np.ndarray:
    """The number of its group for every value."""
    return np.repeat(numbers_ng, q.shape[1] // numbers_ng.shape[1], axis=1)


def _grouped(d_ng: np.ndarray, q: np.ndarray) -> np.ndarray:
    return _spread(d_ng, q) * q.astype(np.float32)
