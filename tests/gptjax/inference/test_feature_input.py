"""Which vectors can be asked for, and what is said of those that cannot."""

import re

import pytest

from gptjax.inference.feature_input import check_reading, feature_ids
from tests.tiny_run import random_model


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ((2, "mean", None), "layer=2: this model has layers 0 to 1, 'embedding' before them and 'final' behind"),
        ((-1, "mean", None), "layer=-1: this model has"),
        (("finl", "mean", None), "did you mean 'final'?"),
        ((1.5, "mean", None), "layer=1.5: must be a whole number"),
        ((0, "lst", None), "did you mean 'last'?"),
        ((0, "mean", 65), "length=65: must be from 1 to 64 tokens"),
        ((0, "mean", 0), "length=0: must be from 1"),
    ],
)
def test_a_layer_a_pool_and_a_length_that_are_not_there_are_named(asked, said):
    """Those that are there pass."""
    with pytest.raises(ValueError, match=re.escape(said)):
        check_reading(random_model().config, *asked)
    for fine in ((0, None, 64), (1, "weighted", 1), ("embedding", "last", None), ("final", "mean", None)):
        check_reading(random_model().config, *fine)


def test_what_is_read_of_a_text_is_its_beginning_behind_bos():
    """As of a prompt; at most so many tokens of it."""
    model = random_model()
    parts = model.config, model.tokenizer, model.generation_config
    [whole], [cut] = (feature_ids(*parts, ["the lazy fox"], ["a"], length) for length in (None, 3))
    assert whole == model.encode_prompt("the lazy fox")
    assert cut == whole[:3]
    with pytest.raises(ValueError, match=r"a\.csv:7: is empty; leave it out"):
        feature_ids(*parts, ["fox", " "], ["a.csv:6", "a.csv:7"], None)
