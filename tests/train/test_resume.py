"""What a saved step is to a recipe that has changed since: the state it goes on with, or a refusal by field."""

import dataclasses
import functools
import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from rich.console import Console

from data.spec import DataSpec
from data.tasks.causal_lm import CausalLM
from data.tasks.masked_lm import MaskedLM
from data.tasks.prefix_lm import PrefixLM
from gptjax.config import ModelConfig
from gptjax.nn.model import Transformer
from gptjax.runs.checkpoint import CheckpointWriter
from gptjax.sharding import make_mesh
from tests.tiny_recipe import recipe, write_text
from train.objectives import Objectives, causal_only
from train.pretrain import pretrain
from train.recipe import OptimizerSpec, Recipe, to_json
from train.resume import saved_trees
from train.step import abstract_state
from train.updates.optimizer import by_thaw_step

TINY = ModelConfig(T=8, D=16, L=2, N=2, K=2, head_width=8, F=32, vocabulary=100)
THAWING = OptimizerSpec(warmup=0, frozen=(("layers/.*", 0.5), ("embedding", 0.4), (".*", 0.0)))
SMALL = Recipe(data=DataSpec(sources=("chitchat",)), run=Path("runs/small"), steps=12, optimizer=THAWING)
TERMS = {
    2: Objectives(combine="famo", causal_lm=CausalLM(rows=0.5), masked_lm=MaskedLM(rows=0.5)),
    3: Objectives(
        combine="famo", causal_lm=CausalLM(rows=0.5), masked_lm=MaskedLM(rows=0.25), prefix_lm=PrefixLM(rows=0.25)
    ),
}


@functools.cache
def state_of(settings: Recipe, terms: int = 1):
    """(abstract, numbered) trees of the state of a recipe: every leaf has numbers of its own."""
    causal = causal_only()
    loss_spec = causal._replace(terms=causal.terms * terms, combine=settings.objectives.combine)
    mesh = make_mesh(8, 1, 1)
    abstract, _ = abstract_state(Transformer(TINY), settings.optimizer, loss_spec, settings.steps, mesh, seed=0)
    trees = {
        "params": abstract.params,
        "training": {"step": abstract.step, "optimizer": abstract.optimizer, "combiner": abstract.combiner},
    }
    leaves, treedef = jax.tree.flatten(trees)
    numbers = [
        jax.device_put(jnp.full(leaf.shape, number, leaf.dtype), leaf.sharding) for number, leaf in enumerate(leaves)
    ]
    return trees, jax.tree.unflatten(treedef, numbers)


def save(run: Path, trees, settings: Recipe) -> Path:
    run.mkdir(exist_ok=True)
    writer = CheckpointWriter(run, keep=1)
    writer.save(6, trees, {"best": None, "provenance": {"recipe": json.loads(to_json(settings))}})
    writer.close()
    return run


def assert_same(one, other):
    assert jax.tree.structure(one) == jax.tree.structure(other)
    jax.tree.map(np.testing.assert_array_equal, one, other)


@pytest.mark.parametrize("steps", [12, 24, 100])
def test_a_run_with_a_thawing_rule_can_be_made_longer(steps):
    """The state is named by the share, so that no name depends on how long the run is."""
    longer = dataclasses.replace(SMALL, steps=steps)
    assert jax.tree.structure(state_of(longer)[0]) == jax.tree.structure(state_of(SMALL)[0])
    refrozen = dataclasses.replace(SMALL, optimizer=OptimizerSpec(warmup=0, frozen=(("layers/.*", 0.6), (".*", 0.0))))
    assert jax.tree.structure(state_of(refrozen)[0]) != jax.tree.structure(state_of(SMALL)[0])


@pytest.mark.parametrize(("name", "steps"), [("adamw", 12), ("muon", 100), ("adafactor", 12), ("sgd", 12)])
def test_a_checkpoint_that_names_its_state_by_steps_goes_on_longer(tmp_path, name, steps):
    """0.4 and 0.5 of 12 are steps 5 and 6; of 2, both are step 1."""
    optimizer = dataclasses.replace(THAWING, name=name)
    older, now = (dataclasses.replace(SMALL, optimizer=optimizer, steps=count) for count in (2, steps))
    wanted, state = state_of(older)
    moments = by_thaw_step(state["training"]["optimizer"], 2)
    assert set(moments) >= {f"{name}_from_1"}
    save(tmp_path, {**state, "training": {**state["training"], "optimizer": moments}}, older)
    found = saved_trees(tmp_path, 6, wanted, now)
    assert jax.tree.structure(found) == jax.tree.structure(state)

    def same(path, found, saved):
        if not jax.tree_util.keystr(path).endswith(".count"):  # one group had one count
            np.testing.assert_array_equal(found, saved)

    jax.tree_util.tree_map_with_path(same, found, state)


def test_layers_that_thaw_one_by_one_go_on_longer_and_other_layers_are_refused_by_field(tmp_path):
    """The moments of layer 1 alone are no moments of layer 0 and 1."""
    frozen = (("layers/0/.*", 1.0), ("layers/1/up", 0.5), (".*", 0.0))
    parted = dataclasses.replace(SMALL, optimizer=OptimizerSpec(warmup=0, frozen=frozen))
    wanted, state = state_of(parted)
    save(tmp_path, state, parted)
    assert_same(saved_trees(tmp_path, 6, wanted, dataclasses.replace(parted, steps=100)), state)
    rules = (("layers/0/up", 1.0), *frozen[1:])  # so that the other moments are of both layers
    every = dataclasses.replace(SMALL, optimizer=OptimizerSpec(warmup=0, frozen=rules))
    with pytest.raises(ValueError, match=r"optimizer\.frozen: .*layers/0/"):
        saved_trees(tmp_path, 6, state_of(every)[0], every)


def test_a_combiner_of_other_terms_is_refused_naming_the_fields_that_decide(tmp_path):
    two, three = (dataclasses.replace(SMALL, objectives=TERMS[count]) for count in (2, 3))
    save(tmp_path, state_of(two, 2)[1], two)
    assert_same(saved_trees(tmp_path, 6, state_of(two, 2)[0], two), state_of(two, 2)[1])
    with pytest.raises(ValueError, match=r"training/combiner/adam/1/0/mu is \(2,\) .* \(3,\)") as told:
        saved_trees(tmp_path, 6, state_of(three, 3)[0], dataclasses.replace(three, steps=24))
    then, now = ["causal_lm=0.5", "masked_lm=0.5"], ["causal_lm=0.5", "masked_lm=0.25", "prefix_lm=0.25"]
    assert f"objectives.rows: {then} -> {now}\n" in str(told.value)
    assert "steps: " not in str(told.value)
    assert str(told.value).endswith("put these back, or start a new run with --run runs/another-name")


def test_a_mistake_that_shows_late_counts_as_no_crash(tmp_path, monkeypatch):
    """Six of them leave the run open for the right command; a crash is counted: test_faults.py."""

    def refuse(*_):
        raise ValueError("what was saved does not fit the changed recipe")

    monkeypatch.setattr("train.run.train", refuse)
    settings = recipe(write_text(tmp_path), "run")
    for _ in range(6):
        with pytest.raises(ValueError, match="does not fit"):
            pretrain(settings, Console(quiet=True))
    assert not (tmp_path / "run" / "failures.json").exists()
