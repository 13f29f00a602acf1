"""gptjax.batch: what crosses from `data` to `train` has fixed shapes."""

import json

import jax
import numpy as np
import pytest

from gptjax.batch import Batch, ClassHead, text_batch


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


FULL = ClassHead(
    name="grade", classes=("grade",), kind="values", pool="attention", causal=True, length=64, two=True, lowercase=True,
    stop_words="en", mean=2.5, scale=0.5,
)  # fmt: skip


def test_a_head_is_read_as_it_was_written_and_one_from_before_its_fields_is_written_as_it_was():
    """JSON holds what is no default; `classes` and `pair` are always there."""
    old = ClassHead(name="mood", classes=("good", "bad"), pair=True)
    assert old.fields() == {"classes": ["good", "bad"], "pair": True}
    for head in (FULL, old):
        assert ClassHead.of(head.name, json.loads(json.dumps(head.fields()))) == head
    assert FULL.fields().keys() > old.fields().keys()


@pytest.mark.fault(50)
@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"kind": "value"}, "kind='value'; did you mean 'values'"),
        ({"pool": "max"}, "pool='max'; known: attention, last, mean"),
        ({"classes": ["a", "b"]}, "one number, and has 2 names"),
        ({"length": 4}, "length=4: at least 5, as BOS and EOS"),
        ({"length": 6.5}, "length must be a whole number or null, found 6.5"),
        ({"scale": 0}, "scale=0.0: must be finite, and scale above 0"),
        ({"mean": float("inf")}, "must be finite"),
        ({"mean": "2"}, "mean must be a number, found '2'"),
        ({"two": 1}, "two must be true or false, found 1"),
        ({"stop_words": True}, "stop_words must be a language code or null"),
        ({"lenght": 9}, "unknown field 'lenght'; did you mean 'length'"),
        ({"kind": "labels"}, "mean and scale are for kind 'values'"),
        ({"pair": True}, "has no pool='attention'"),
        ({"classes": []}, "classes must be a list of texts"),
    ],
    ids=str,
)
def test_a_head_that_cannot_be_is_refused_with_its_name_and_field(change, said):
    with pytest.raises(ValueError, match=r"head 'grade'") as error:
        ClassHead.of("grade", FULL.fields() | change)
    assert said in str(error.value)
