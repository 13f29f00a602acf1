"""What a training step receives: fixed-shape arrays, already shifted, corrupted and weighted.

A shift or a mask is made where the batch is built and nowhere else.
Axes: B batch, T position, Q sequence-level targets.
"""

import dataclasses
from typing import Any, NamedTuple

import numpy as np


@dataclasses.dataclass(frozen=True, kw_only=True)
class ClassHead:
    """An output head beside the one of the tokens: it tells classes of a token, or of a whole sequence."""

    name: str
    classes: tuple[str, ...]
    pair: bool = False  # compares the parts of a segment before and from its target's place; else reads the state there


class Batch(NamedTuple):
    """One batch, or with a leading axis A one optimizer step of A micro-batches. Arrays of NumPy or JAX."""

    tokens_BT: Any  # i32: input ids
    targets_BT: Any  # i32: the id that this position must predict
    weights_BT: Any  # f32: 0 = no loss here; the only thing that decides where loss is taken
    task_BT: Any  # i32: which objective, by its place in the run's table, from 1; 0 = padding
    segment_BT: Any  # i32: packed document, counted from 1 in each row; 0 = padding
    position_BT: Any  # i32: restarts at 0 in every segment
    visible_BT: Any  # bool: may be seen by every query of its own segment, not only by later ones
    label_BQ: Any  # i32: class of a sequence-level target
    value_BQ: Any  # f32: value of a sequence-level target
    at_BQ: Any  # i32: the position that it is read from, or, by a head of pairs, where the second part begins
    head_BQ: Any  # i32: the output head that it belongs to
    label_weight_BQ: Any  # f32: 0 = no target here

    @property
    def shape(self) -> tuple[int, ...]:
        """([A,] B, T)."""
        return self.tokens_BT.shape


def text_batch(
    tokens_BT: np.ndarray,
    targets_BT: np.ndarray,
    weights_BT: np.ndarray,
    task_BT: np.ndarray,
    segment_BT: np.ndarray,
    position_BT: np.ndarray,
    visible_BT: np.ndarray,
    Q: int = 0,
) -> Batch:
    """A batch with room for Q sequence-level targets, of which there are none."""
    none_i32 = np.zeros((*tokens_BT.shape[:-1], Q), np.int32)
    none_f32 = none_i32.astype(np.float32)
    return Batch(
        tokens_BT, targets_BT, weights_BT, task_BT, segment_BT, position_BT, visible_BT,
        none_i32, none_f32, none_i32, none_i32, none_f32,
    )  # fmt: skip
