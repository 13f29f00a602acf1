"""Proof of what was trained on: a hash of every step's rows, made inside the step, and the lines it is kept in.

Axes: A micro-batch  B batch  T position  Q sequence-level targets.
"""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np

from gptjax.batch import Batch
from train.record.jsonl_log import whole_lines

LANES = (0x9E3779B9, 0x85EBCA6B)  # what the two halves of a hash start from


def rows_hash(batch: Batch, xp: ModuleType) -> Any:
    """The sum of the rows' hashes: u32 [2], the lanes of a 64-bit number; `xp` is numpy or jax.numpy.

    Every array of the batch counts, with its place in the row; a row of nothing but padding does not. A sum has no
    order: it is the same over any devices, micro-batches and steps that hold the same rows, and the hashes of two
    batches add up to that of both.
    Arithmetic modulo 2**32, exact everywhere. Source of the mixing: MurmurHash3's 32-bit finalizer, Appleby 2011.
    """
    return xp.stack([_lane(batch, seed, xp) for seed in LANES])


def _lane(batch: Batch, seed: int, xp: ModuleType) -> Any:
    row = xp.full(batch.shape[:-1], seed, np.uint32)
    for axes in ("_BT", "_BQ"):  # arrays of a row's positions, arrays of its sequence-level targets
        shared = [array for name, array in zip(Batch._fields, batch, strict=True) if name.endswith(axes)]
        place = xp.arange(shared[0].shape[-1], dtype=np.uint32)
        mixed = xp.broadcast_to(place * np.uint32(2654435761) + np.uint32(seed), shared[0].shape)
        for array in shared:
            mixed = _mix(mixed + _bits(array), xp)
        row = _mix(row + xp.sum(mixed, axis=-1, dtype=np.uint32), xp)
    return xp.sum(xp.where(xp.any(batch.segment_BT > 0, axis=-1), row, np.uint32(0)), dtype=np.uint32)


def _bits(array: Any) -> Any:
    """The array as u32: a float by its bits."""
    return array.view(np.uint32) if array.dtype == np.float32 else array.astype(np.uint32)


def _mix(x: Any, xp: ModuleType) -> Any:
    x = (x ^ (x >> np.uint32(16))) * np.uint32(0x85EBCA6B)
    x = (x ^ (x >> np.uint32(13))) * np.uint32(0xC2B2AE35)
    return x ^ (x >> np.uint32(16))


class Entry(NamedTuple):
    """One optimizer step: a line of `ledger.jsonl`."""

    step: int  # counted from 1
    first_row: int
    rows: int
    hash: str  # of the rows: 16 hexadecimal digits
    loss: float  # NaN, or infinite, where skipped: in the file null
    gradient_norm: float
    skipped: bool  # loss or gradient was not a number; the state stayed as it was


def entry_of(step: int, first_row: int, rows: int, metrics: Mapping[str, Any]) -> Entry:
    """The entry of a step, from what it measured."""
    loss, norm = float(metrics["loss"]), float(metrics["gradient_norm"])
    return Entry(step, first_row, rows, hexadecimal(metrics["rows_hash"]), loss, norm, bool(metrics["skipped"]))


def hexadecimal(lanes: Any) -> str:
    high, low = (int(lane) for lane in lanes)
    return f"{high:08x}{low:08x}"


def read_ledger(run: Path) -> list[Entry]:
    """The entries of a run, in the order they were made. Raises ValueError naming a line that is none."""
    path = run / "ledger.jsonl"
    if not path.is_file():
        raise ValueError(f"{path}: no such file; `./launch.sh pretrain` writes it into its run directory")
    entries = []
    for number, line in enumerate(whole_lines(path), start=1):
        try:
            fields: dict[str, Any] = {
                name: math.nan if value is None else value for name, value in json.loads(line).items()
            }
            entries.append(Entry(**fields))
        except (ValueError, TypeError, AttributeError) as error:
            raise ValueError(f"{path}, line {number}: {line[:80]!r} is no entry ({error})") from error
    return entries
