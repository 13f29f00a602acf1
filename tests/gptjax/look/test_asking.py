"""gptjax.look.asking: what cannot be looked at is refused in a line, with what can."""

import copy
import dataclasses
import re
from typing import Any

import numpy as np
import pytest

from gptjax.config import SIZES, ModelConfig
from gptjax.look.asking import MOST_BYTES, asked, layers_within, sees_both_ways
from tests.headed_model import HEADS, headed_model
from tests.tiny_run import bpe, random_model


def of(text: Any = "hello there", model=None, **choice):
    model = model or random_model()
    return asked(model.config, model.tokenizer, model.generation_config, text, **choice)


@pytest.mark.parametrize(
    ("choice", "said"),
    [
        ({"text": ""}, "text: is empty"),
        ({"text": b"hello"}, "text: must be text"),
        ({"text": "\ud800"}, "half of a surrogate pair"),
        ({"text": "fox " * 64}, "this model's context holds 64: give a shorter one"),
        ({"layers": [0, 2]}, "layers: there is no layer 2; this model has layers 0 to 1"),
        ({"layers": [-1]}, "there is no layer -1"),
        ({"layers": []}, "layers: is empty; give some of 0 to 1"),
        ({"layers": 0}, "layers: must be a list of numbers, not a int"),
        ({"layers": "01"}, "layers: must be a list of numbers, not a str"),
        ({"layers": [0.5]}, "layers=0.5: must be a whole number"),
        ({"heads": [4]}, "heads: there is no head 4; this model has heads 0 to 3"),
        ({"token": 0}, "token=0: must be from 1"),
        ({"token": 99}, "token=99: must be from 1"),
        ({"token": True}, "token=True: must be a whole number"),
        ({"leave_out": -1}, "leave_out=-1: must be 0 or more"),
    ],
    ids=str,
)
def test_what_is_not_there_is_named_with_what_is(choice, said):
    with pytest.raises(ValueError, match=said.replace(" (", r" \(")) as refused:
        of(**choice)
    assert "\n" not in str(refused.value)


def test_what_is_there_is_taken_in_order_and_once():
    """All layers and heads, and the token that would follow, unless others are named."""
    every, some = of(), of(layers=[1, 0, 1], heads=(3,), token=2, leave_out=1)
    assert (every.layers, every.heads, every.token) == ((0, 1), (0, 1, 2, 3), len(every.ids))
    assert (some.layers, some.heads, some.token, some.leave_out) == ((0, 1), (3,), 2, 1)
    assert every.ids[0] == bpe().bos


def test_a_small_model_reads_for_all_that_is_optional_and_a_large_one_for_some():
    """The lens at all places and every token left out; of a billion parameters, few and none."""
    small = of()
    assert (small.lens, small.leave_out, small.hides) == (tuple(range(len(small.ids))), len(small.ids), small.both)
    assert of(token=2).lens == small.lens
    large = ModelConfig.of(SIZES["llama-1b"](), 128_000)
    found = asked(large, bpe(), random_model().generation_config, "fox " * 100, layers=[0, 8])
    assert len(found.lens) < len(found.ids)
    assert found.lens[-1] == len(found.ids) - 1
    assert asked(large, bpe(), random_model().generation_config, found.ids, layers=[0, 8], token=90).lens[-1] == 89
    assert (found.leave_out, found.hides) == (0, False)
    assert found.token == len(found.ids)


def test_too_much_attention_is_refused_with_what_would_fit():
    """And what is said to fit does: fewer layers, fewer heads, or a shorter text."""
    config = ModelConfig.of(dataclasses.replace(SIZES["llama-7b"](), T=4096), 32_000)
    text, settings = "the fox " * 300, random_model().generation_config

    def refused(**choice):
        with pytest.raises(ValueError, match=r"takes \d+\.\d GB, and 2 GB are allowed; ") as found:
            asked(config, bpe(), settings, text, **choice)
        return str(found.value)

    def fits(kind, said, **choice):
        """So many do, as in the example; one more does not."""
        [most] = map(int, re.findall(rf"ask for (\d+) {kind}", said))
        [example] = re.findall(rf"--{kind} ([\d ]+)", said)
        for some in (list(range(most)), [int(word) for word in example.split()]):
            assert getattr(asked(config, bpe(), settings, text, **choice, **{kind: some}), kind) == tuple(some)
        refused(**choice, **{kind: range(most + 1)})

    fits("layers", refused())
    fits("heads", refused(layers=range(16)), layers=range(16))
    text = "the fox " * 1_200
    assert "give at most" in refused(layers=[0], heads=[0])
    assert MOST_BYTES == 2e9


def test_token_ids_are_taken_as_they_are():
    """A list, a tuple or an array, without another BOS; ids that no token has are refused."""
    assert of([5, 6]).ids == of((5, 6)).ids == of(np.array([5, 6])).ids == (5, 6)
    for wrong, said in (([], "text: is empty"), ([-1], "text: has token id -1"), ([10**6], "token id 1000000")):
        with pytest.raises(ValueError, match=said):
            of(wrong)


def test_layers_that_there_is_room_for_are_spread_and_are_taken():
    """As many as fit in so many bytes, the last one among them; at least one."""
    config = ModelConfig.of(SIZES["nano"](), 4096)
    square = 4 * 256**2  # bytes of a map of 200 tokens, which are read as 256
    passing, every = 3 * config.N, config.L * config.N
    assert layers_within(config, 200, False, (passing + every + config.N) * square) == tuple(range(config.L))
    some = layers_within(config, 200, False, (passing + every) * square)
    assert (len(some), some[-1]) == (config.L - 1, config.L - 1)
    assert layers_within(config, 200, True, 0) == (config.L - 1,)


def test_a_model_reads_both_ways_that_knows_a_mask_or_has_a_head_that_does():
    """A causal head alone does not say so."""
    config = headed_model().config
    unmasked = copy.copy(bpe())
    unmasked.mask = None
    assert sees_both_ways(config, bpe())
    assert sees_both_ways(config, unmasked)
    causal = dataclasses.replace(config, class_heads=tuple(head for head in HEADS if head.causal or head.pair))
    assert not sees_both_ways(causal, unmasked)
