"""gptjax.batch: what crosses from `data` to `train` has fixed shapes."""

import jax
import numpy as np
import pytest

from gptjax.batch import Batch, text_batch


def arrays(*shape):
    """The seven [B,T] arrays, all zero."""
    kinds = (np.int32, np.int32, np.float32, np.int32, np.int32, np.int32, bool)
    return [np.zeros(shape, kind) for kind in kinds]


@pytest.mark.parametrize("lead", [(), (3,)], ids=["rows", "micro-batches"])
def test_a_text_batch_has_no_sequence_targets(lead):
    """The five [B,C] arrays are there with C = 0, the leading axes of the tokens and the dtypes of the contract."""
    batch = text_batch(*arrays(*lead, 2, 8))
    assert batch.shape == (*lead, 2, 8)
    sequence = (batch.label_BQ, batch.value_BQ, batch.at_BQ, batch.head_BQ, batch.label_weight_BQ)
    assert [array.shape for array in sequence] == [(*lead, 2, 0)] * 5
    assert [array.dtype for array in sequence] == [np.int32, np.float32, np.int32, np.int32, np.float32]


def test_a_batch_is_a_tree_that_scan_can_slice():
    """Slice 1 of a stack of micro-batches is micro-batch 1."""
    stacked = text_batch(*(array + np.arange(3).reshape(3, 1, 1).astype(array.dtype) for array in arrays(3, 2, 8)))
    one = jax.tree.map(lambda array: array[1], stacked)
    assert isinstance(one, Batch)
    assert one.shape == (2, 8)
    assert (one.tokens_BT == 1).all()
