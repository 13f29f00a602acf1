"""Memory, time and exchanged bytes by arithmetic."""

import dataclasses

import pytest

from gptjax.config import SIZES, Architecture, ModelConfig
from tests.tiny_recipe import recipe
from train.planning.chips import machines
from train.planning.estimate import IN_THE_WAY, estimate, kernel_seconds
from train.recipe import BatchSpec, ComputeSpec, MeshSpec, OptimizerSpec


def of(tmp_path, device, slices=1, remat="full", rows=16, parts=1, gradients="float32", **mesh):
    made = recipe(
        tmp_path, "run", model=SIZES["llama-7b"](), mesh=MeshSpec(**mesh), optimizer=OptimizerSpec(warmup=2),
        batch=BatchSpec(rows=rows, micro_batches=parts), compute=ComputeSpec(remat=remat, gradients=gradients),
    )  # fmt: skip
    return estimate(made, ModelConfig.of(made.model, 32_000), machines(device, slices))


def test_llama_7b_on_sixteen_chips_is_near_what_its_compiler_says(tmp_path):
    """docs/log.md, 2026-11-28: 8.06 GB at the peak and 896 ms; 2.4 GB gathered and 27.5 GB of gradients passed on."""
    found = of(tmp_path, "v5e:4x4", fsdp=16)
    assert found.memory == pytest.approx(8.06e9, rel=0.25)
    assert found.compute_seconds == pytest.approx(0.945, rel=0.15)  # kernels included
    assert found.near_bytes["reduce-scatter of gradients"] == pytest.approx(26e9, rel=0.1)
    assert found.far_bytes == {}


def test_less_is_kept_where_more_is_computed_again(tmp_path):
    """And nothing else moves memory or time that way."""
    none, products, full = (
        of(tmp_path, "v5p:4x4x8", remat=remat, rows=128, fsdp=128) for remat in ("none", "products", "full")
    )
    assert none.memory > products.memory > full.memory
    assert none.compute_seconds < products.compute_seconds < full.compute_seconds
    halved = of(tmp_path, "v5p:4x4x8", remat="none", rows=256, parts=2, fsdp=128)
    whole = of(tmp_path, "v5p:4x4x8", remat="none", rows=256, fsdp=128)
    assert halved.activations < whole.activations
    assert halved.near_bytes["all-gather of weights"] == 2 * whole.near_bytes["all-gather of weights"]


def test_between_slices_go_gradients_alone_and_between_nodes_what_spans_them(tmp_path):
    """Each chip receives half of the sum of its part of the gradient, there and back, from the other of two slices."""
    two = of(tmp_path, "v5e:4x4", slices=2, rows=32, fsdp=16)
    assert two.far_bytes == {"all-reduce of gradients": two.state.gradients}
    short = of(tmp_path, "v5e:4x4", slices=2, rows=32, fsdp=16, gradients="bfloat16")
    assert short.far_bytes == {"all-reduce of gradients": two.state.gradients / 2}
    assert short.near_bytes["reduce-scatter of gradients"] == two.near_bytes["reduce-scatter of gradients"] / 2
    within = of(tmp_path, "h100:8x4", rows=32, fsdp=8)
    across = of(tmp_path, "h100:8x4", rows=32, fsdp=32)
    assert within.far_bytes.keys() == {"all-reduce of gradients"}
    assert across.far_bytes.keys() == {"all-gather of weights", "reduce-scatter of gradients"}
    assert within.near_bytes.keys() == across.near_bytes.keys()


def test_what_a_tensor_axis_sums_is_waited_for(tmp_path):
    split, whole = of(tmp_path, "v5p:4x4x8", rows=128, fsdp=32, tensor=4), of(tmp_path, "v5p:4x4x8", rows=128, fsdp=128)
    assert split.waited_seconds > 0
    assert whole.waited_seconds == 0


def test_the_tokens_of_a_row_are_shared_by_the_nearest_chips_and_heads_by_the_next(tmp_path):
    """Of 4 nodes of 8 GPUs: four that share rows lie in one node, four times as many that share heads too in two."""
    found = of(tmp_path, "h100:8x4", rows=16, fsdp=2, tensor=4, context=4)
    keys, h100 = "all-gather of keys and values", machines("h100:8").chip
    assert {IN_THE_WAY, keys} <= found.near_bytes.keys()
    assert found.far_bytes.keys() == {IN_THE_WAY, "all-gather of weights", "reduce-scatter of gradients"}
    assert found.waited_seconds == found.near_bytes[IN_THE_WAY] / h100.near + found.far_bytes[IN_THE_WAY] / h100.far
    wide = of(tmp_path, "h100:8x4", rows=16, fsdp=1, tensor=2, context=16)
    assert keys in wide.far_bytes
    assert IN_THE_WAY not in wide.near_bytes  # its two chips lie in two nodes


def test_attention_takes_what_its_kernel_computes(tmp_path):
    """A window's keys alone; 2 products forward, twice, and 5 backward, 7 of long or split rows; float32 slower."""

    def seconds(T, window=None, dtype="bfloat16", **mesh):
        shape = dataclasses.replace(SIZES["llama-7b"](), T=T)
        model = Architecture(**vars(shape) | {"window": window})
        made = recipe(
            tmp_path, "run", model=model, mesh=MeshSpec(**mesh), compute=ComputeSpec(remat="full", dtype=dtype),
            batch=BatchSpec(rows=2**20 // T),
        )  # fmt: skip
        return kernel_seconds(made, ModelConfig.of(model, 32_000), machines("v5e:4x4"))

    short = seconds(4096)
    assert seconds(4096, window=1024) == pytest.approx(short / 2)
    assert seconds(4096, window=4000) == short
    assert seconds(8192) == pytest.approx(2 * short * 11 / 9)
    assert seconds(4096, context=2) == pytest.approx(short * 11 / 9)
    assert seconds(4096, dtype="float32") == pytest.approx(4 * short)
