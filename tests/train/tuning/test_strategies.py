"""A word says what trains, from which step, at which rate; a rule that was given wins."""

import dataclasses

import jax
import numpy as np
import pytest
from flax.traverse_util import flatten_dict, unflatten_dict

from data.examples.example_spec import ExamplesSpec
from data.examples.head_spec import HeadSpec
from data.spec import DataSpec
from gptjax.batch import ClassHead
from gptjax.config import Architecture, Lora, ModelConfig
from gptjax.nn.model import Transformer, init_params
from train.recipe import OptimizerSpec
from train.tuning.strategies import changes_of, check_adapters, falling, groups, settings_said, trained_by
from train.tuning.tune_recipe import ADAPTERS_AND_HEADS, TuneRecipe
from train.tuning.what_trains import what_trains
from train.updates.parameter_rules import layers_of, resolved

SHAPE = Architecture(T=8, D=16, L=4, N=2, K=2, head_width=8, F=32)
HEADS = (ClassHead(name="topic", classes=("a", "b", "c")),)


def flat(heads=HEADS, lora=None):
    config = dataclasses.replace(ModelConfig.of(SHAPE, 100, heads), lora=lora)
    boxed = jax.eval_shape(lambda: init_params(Transformer(config), jax.random.key(0)))
    return {name: leaf.value for name, leaf in flatten_dict(boxed, sep="/").items()}


def shares(word, heads=HEADS, lora=None):
    """Of every single parameter of every layer, the share of the run before it trains."""
    params = flat(heads, lora)
    found = resolved("frozen", changes_of(word, 4, bool(heads)).frozen, layers_of(params))
    return {f"{name}/{row}": share for name, of in found.items() for row, share in enumerate(of)}


TOLD = HeadSpec(kind="classes")


def recipe(tmp_path, head: HeadSpec | None = TOLD, **changes) -> TuneRecipe:
    made = TuneRecipe(
        base="runs/none", data=DataSpec(sources=("chitchat",)), model=SHAPE, run=tmp_path / "run", steps=10,
        examples=ExamplesSpec(sources=("wiki_leads/en",), head=head), optimizer=OptimizerSpec(warmup=2),
    )  # fmt: skip
    return dataclasses.replace(made, **changes)


def test_head_and_top_n_train_what_they_say_and_nothing_else():
    trained = {word: {name for name, share in shares(word).items() if share < 1} for word in ("head", "top-2", "all")}
    assert trained["head"] == {"class_heads/0", "class_heads_bias/0"}
    above = {name for name in shares("all") if name.startswith("layers/") and name.endswith(("/2", "/3"))}
    assert trained["top-2"] == trained["head"] | above | {"final_norm/scale/0"}
    assert trained["all"] == set(shares("all"))


def test_gradual_thaws_from_the_top_and_everything_by_half_of_the_run():
    found = shares("gradual")
    assert [found[f"layers/query/{layer}"] for layer in range(4)] == [0.5, 0.375, 0.25, 0.125]
    assert (found["class_heads/0"], found["final_norm/scale/0"], found["embedding/0"]) == (0.0, 0.125, 0.5)
    without = shares("gradual", heads=())
    assert [without[f"layers/query/{layer}"] for layer in range(4)] == [0.5, 0.3333, 0.1667, 0.0]
    assert [[*part] for part in groups(6)] == [[5], [4], [2, 3], [0, 1]]


def test_rates_fall_from_layer_to_layer_more_slowly_in_deep_models():
    assert dict(falling(3, heads=True)) == {
        "class_heads.*": 1.0, "final_norm/.*": 1.0, "layers/2/.*": 1.0, "layers/1/.*": 0.8, "layers/0/.*": 0.64,
        ".*": 0.512,
    }  # fmt: skip
    assert dict(falling(30, heads=False))["layers/0/.*"] == pytest.approx(0.9**29, rel=1e-2)


def test_adapters_train_beside_new_heads_and_alone_where_there_are_none(tmp_path):
    made = trained_by(recipe(tmp_path), "lora")
    assert made.lora == Lora()
    assert made.optimizer.frozen == ADAPTERS_AND_HEADS
    trained = {name for name, share in shares("lora", lora=Lora(rank=2)).items() if share < 1}
    assert {"class_heads/0", "layers/query_lora_a/3"} < trained
    assert not {"embedding/0", "layers/query/3"} & trained
    talks = trained_by(recipe(tmp_path, head=None), "lora")
    assert dict(talks.optimizer.frozen)[".*_lora_[ab]"] == 0.0


def test_new_heads_learn_faster_than_the_adapters_beside_them_and_these_faster_than_alone(tmp_path):
    slow = OptimizerSpec(warmup=2, learning_rate=1e-5)
    heads, talks = (trained_by(recipe(tmp_path, head=head, optimizer=slow), "lora") for head in (TOLD, None))
    assert (heads.optimizer.learning_rate, dict(heads.optimizer.rates)) == (1e-3, {"class_heads.*": 3.0, ".*": 1.0})
    assert (talks.optimizer.learning_rate, dict(talks.optimizer.rates)) == (3e-4, {".*": 1.0})
    fast = dataclasses.replace(slow, learning_rate=1e-2)
    assert trained_by(recipe(tmp_path, optimizer=fast), "lora").optimizer.learning_rate == 1e-2


def test_a_rule_that_is_given_wins_over_the_word(tmp_path):
    own = (("layers/.*", 1.0), (".*", 0.0))
    given = recipe(tmp_path, optimizer=OptimizerSpec(warmup=2, frozen=own, learning_rate=1e-4))
    said = settings_said(["--optimizer.frozen", "layers/.*", "1", ".*", "0", "--optimizer.learning-rate=1e-4"])
    made = trained_by(given, "gradual", said)
    assert (made.optimizer.frozen, made.optimizer.learning_rate) == (own, 1e-4)
    assert made.optimizer.rates == falling(4, heads=True)
    assert trained_by(given, "gradual").optimizer.frozen != own


@pytest.mark.parametrize(
    ("word", "heads", "told"),
    [
        ("gradul", True, "no such strategy; did you mean 'gradual'"),
        ("top-9", True, "top-1 to top-4"),
        ("top-0", True, "top-1 to top-4"),
        ("head", False, "no output head of their own.*--train top-1"),
    ],
)
def test_what_cannot_train_is_told_with_the_nearest_that_can(word, heads, told):
    with pytest.raises(ValueError, match=told):
        changes_of(word, 4, heads)


def test_settings_of_adapters_are_for_who_trains_some(tmp_path):
    check_adapters(["head", "lora"], {"lora.rank"})
    with pytest.raises(ValueError, match=r"--lora\.\*: head, top-1 trains weights.*--train lora"):
        check_adapters(["head", "top-1"], {"lora.rank"})
    assert trained_by(recipe(tmp_path, lora=Lora(rank=2)), "top-1").lora is None
    assert trained_by(recipe(tmp_path, lora=Lora(rank=2)), "lora").lora == Lora(rank=2)


def test_a_run_says_in_plain_words_what_trains_when_and_at_which_rate():
    wanted = changes_of("gradual", 4, heads=True)
    spec = OptimizerSpec(learning_rate=1e-3, frozen=wanted.frozen, rates=wanted.rates)
    said = what_trains(spec, 40, _nested(flat()))
    assert said[0].startswith("trains from step 0: class_heads, class_heads_bias (")
    assert said[0].endswith(", at 0.001")
    assert said[1].startswith("trains from step 5: final_norm, layer 3 (")
    assert "embedding, layer 0 (" in said[-1]
    assert said[-1].endswith("at 0.00041 to 0.000512")
    spec = OptimizerSpec(frozen=changes_of("top-2", 4, heads=True).frozen)
    assert what_trains(spec, 40, _nested(flat()))[-1].startswith("never trains: embedding, layers 0-1 (")
    adapters = OptimizerSpec(frozen=ADAPTERS_AND_HEADS)
    assert " of layers 0-3" in what_trains(adapters, 40, _nested(flat(lora=Lora(rank=2))))[0]


def _nested(params):
    return unflatten_dict({name: np.zeros(leaf.shape) for name, leaf in params.items()}, sep="/")
