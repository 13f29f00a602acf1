"""The state by arithmetic, beside what the training step places; and what is refused before anything slow."""

import dataclasses
import math
from typing import get_args

import jax
import pytest
from rich.console import Console

from gptjax.config import SIZES, Lora, ModelConfig
from gptjax.nn.model import Transformer
from gptjax.sharding import make_mesh
from tests.tiny_recipe import recipe
from train.assemble import config_of, mesh_of
from train.objectives import causal_only
from train.planning import state_bytes as module
from train.planning.state_bytes import StateBytes, check_state_fits, state_bytes
from train.recipe import OptimizerName, OptimizerSpec
from train.run import run
from train.step import abstract_state
from train.tuning.tune_recipe import ADAPTERS_ALONE

CONFIG = ModelConfig.of(dataclasses.replace(SIZES["nano"](), D=64, F=128, N=4, K=2, L=2), 512)


def placed(config, spec, sizes):
    """Bytes on one device of what `abstract_state` places: parameters, average, moments."""
    mesh = make_mesh(*sizes, devices=jax.devices()[:8])
    with jax.set_mesh(mesh):
        state, _ = abstract_state(Transformer(config), spec, causal_only(), 100, mesh, seed=0)

    def of(tree):
        shapes = [(leaf.sharding.shard_shape(leaf.shape), leaf.dtype.itemsize) for leaf in jax.tree.leaves(tree)]
        return sum(math.prod(shape) * size for shape, size in shapes)

    return of(state.params), of(state.ema), of(state.optimizer)


@pytest.mark.parametrize("name", get_args(OptimizerName))
def test_the_count_is_what_is_placed(name):
    """Of every optimizer, with an average, over three axes of the mesh, and over none."""
    spec = OptimizerSpec(name=name, ema=0.99)
    found = state_bytes(CONFIG, spec, 100, {"data": 2, "fsdp": 2, "tensor": 2, "context": 1})
    assert (found.parameters, found.average, found.moments) == placed(CONFIG, spec, (2, 2, 2))
    assert found.gradients == found.parameters  # all of them train
    assert (
        state_bytes(CONFIG, spec, 100, {"data": 8, "fsdp": 1, "tensor": 1, "context": 1}).parameters
        == 4 * CONFIG.parameters
    )


def test_adapters_alone_have_gradients_and_moments():
    """Of a base that does not train there are the weights alone."""
    config = dataclasses.replace(CONFIG, lora=Lora(rank=2))
    spec = OptimizerSpec(frozen=ADAPTERS_ALONE)
    found = state_bytes(config, spec, 100, {"data": 1, "fsdp": 1, "tensor": 1, "context": 1})
    adapters = 4 * (config.parameters - CONFIG.parameters)
    assert found.parameters == 4 * config.parameters
    assert found.gradients == adapters
    assert found.moments == pytest.approx(2 * adapters, rel=0.01)


def test_what_cannot_fit_is_refused_with_settings_that_would_be_enough(tmp_path, monkeypatch):
    """One byte less than the state: refused, in one line, with changes that were counted; with that byte it is not."""
    made = recipe(tmp_path, "run", optimizer=OptimizerSpec(name="adamw", warmup=2, ema=0.9))
    mesh = mesh_of(made)
    config = config_of(made, 400, mesh)
    needs = state_bytes(config, made.optimizer, made.steps, dict(mesh.shape)).total
    monkeypatch.setattr(module, "_room", lambda _: (needs, "this has as much"))
    check_state_fits(made, config, mesh)
    monkeypatch.setattr(module, "_room", lambda _: (needs - 1, "this has a byte less"))
    with pytest.raises(ValueError, match="this has a byte less") as refusal:
        check_state_fits(made, config, mesh)
    said = str(refusal.value)
    assert "\n" not in said
    for enough in ("mesh.fsdp=4 (now 2)", "optimizer.name=muon (now adamw)", "optimizer.ema=None (now 0.9)"):
        assert enough in said
    assert "compute.remat" not in said  # which lessens no state
    monkeypatch.setattr(module, "_room", lambda _: (1, "this has nothing"))
    with pytest.raises(ValueError, match=r"more devices, with mesh\.fsdp over all of them, or a smaller model"):
        check_state_fits(made, config, mesh)


def test_training_refuses_before_it_reads_any_text(tmp_path, monkeypatch):
    """There is no text at all here; on devices that are large enough the run gets as far as to miss it."""
    made = recipe(tmp_path, "run")
    with monkeypatch.context() as patch:
        patch.setattr(module, "_room", lambda _: (1000, "this has 1 kB"))
        with pytest.raises(ValueError, match=r"memory: the state .* takes"):
            run(made, console=Console(quiet=True))
    assert not (tmp_path / "run").exists()
    with pytest.raises(ValueError, match=r"one\.txt"):
        run(made, console=Console(quiet=True))


def test_kinds_are_told_where_there_are_any():
    assert (
        str(StateBytes(10**9, 10**9, 2 * 10**9, 0)) == "parameters 1.00 + gradients 1.00 + optimizer's moments 2.00 GB"
    )
    assert "average 1.00" in str(StateBytes(10**9, 0, 0, 10**9))
