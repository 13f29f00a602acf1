"""What does not train costs no backward pass: a head-only step is a forward pass and little more."""

import jax
import pytest

from tests.tiny_run import random_model, write_run
from train.assemble import assemble, mesh_of
from train.lab.finetune_cost import (
    Asked,
    costs,
    forward_flops,
    loss_spec_of,
    random_batch,
    recipe_of,
    strategies,
)
from train.tuning.base import open_base


@pytest.fixture(scope="module")
def asked(tmp_path_factory):
    run = write_run(tmp_path_factory.mktemp("cost") / "base", random_model())
    return Asked(base=str(run), rows=4, length=32, steps=0, dtype="float32", only=("head", "top-1", "all"))


@pytest.fixture(scope="module")
def found(asked):
    return list(costs(asked))


@pytest.mark.slow
def test_a_step_that_trains_the_head_alone_does_about_what_a_forward_pass_does(asked, found):
    base = open_base(asked.base)
    recipe = recipe_of(asked, base, "head")
    mesh = mesh_of(recipe, jax.devices()[:1])
    with jax.set_mesh(mesh):
        parts = assemble(recipe, base.tokenizer.size, loss_spec_of(asked), mesh)
        forward = forward_flops(parts, random_batch(asked, parts))
    head, _, whole = found
    assert forward <= head.flops < 1.2 * forward
    assert whole.flops > 2 * forward


@pytest.mark.slow
def test_fewer_layers_that_train_cost_fewer_operations_and_less_memory(found):
    head, top, whole = found
    assert head.flops < top.flops < whole.flops
    assert head.peak_bytes < top.peak_bytes < whole.peak_bytes
    assert head.trained < top.trained < whole.trained


def test_gradual_is_shown_stage_by_stage():
    named = strategies(Asked(), 6)
    assert [word for what, word in named if what.startswith("gradual")] == ["head", "top-1", "top-2", "top-4", "all"]
