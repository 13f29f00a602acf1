"""The step compiled for chips that are not here: its kernels are in it; with the TPU compiler, its figures too."""

import importlib.util

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from data.spec import DataSpec
from gptjax.batch import text_batch
from gptjax.config import ModelConfig, llama
from gptjax.nn.attention import Rule
from gptjax.nn.kernels import attend_by
from gptjax.nn.model import Transformer
from gptjax.sharding import make_mesh
from train.objectives import causal_only
from train.planning.compile_for import _too_large, compile_for
from train.recipe import BatchSpec, ComputeSpec, MeshSpec, OptimizerSpec, Recipe
from train.step import abstract_state, make_train_step


def lowered_for_tpu(kernel):
    """The text of a bfloat16 training step for a TPU, on a mesh of 2 x 2 x 2, before the TPU's compiler sees it."""
    config = ModelConfig.of(llama(D=256, L=2, N=4, K=2, T=256), vocabulary=512)
    mesh = make_mesh(2, 2, 2, devices=jax.devices()[:8])
    model = Transformer(config, jnp.bfloat16, "full", kernel=kernel)
    spec = OptimizerSpec()
    zeros = np.zeros((1, 4, config.T), np.int32)
    batch = text_batch(zeros, zeros, zeros.astype(np.float32), zeros, zeros, zeros, zeros > 0)
    with jax.set_mesh(mesh):
        abstract, _ = abstract_state(model, spec, causal_only(), 1000, mesh, seed=0)
        step = make_train_step(model, spec, causal_only(), 1000, abstract, mesh, 4, seed=0)
        return step.trace(abstract, batch, np.zeros(mesh.size, np.int32)).lower(lowering_platforms=("tpu",)).as_text()


def test_a_tpus_training_step_contains_the_pallas_kernel():
    """Forward and backward; without the kernel there is none, so that the test would notice its loss."""
    assert lowered_for_tpu("splash").count("tpu_custom_call") >= 2
    assert "tpu_custom_call" not in lowered_for_tpu("xla")


def test_a_gpus_attention_is_cudnns(monkeypatch):
    """Lowered for CUDA, forward and backward are cuDNN's flash attention with the mask as a bias.

    JAX asks the library on this machine for its version, and there is none: the test answers in its place.
    """
    monkeypatch.setattr("jax._src.cudnn.fused_attention_stablehlo.check_cudnn_version", lambda: 91_000)
    q_BTNH, k_BSKH = (jax.ShapeDtypeStruct((2, 128, count, 64), jnp.bfloat16) for count in (4, 2))
    segment_BT = jax.ShapeDtypeStruct((2, 128), jnp.int32)

    def loss(q, k, v, segment_BT):
        return attend_by("cudnn", q, k, v, Rule.of(segment_BT, segment_BT > 1)).astype(jnp.float32).sum()

    traced = jax.jit(jax.grad(loss)).trace(q_BTNH, k_BSKH, k_BSKH, segment_BT)
    text = traced.lower(lowering_platforms=("cuda",)).as_text()
    assert "__cudnn$fmhaScaleBiasSoftmax" in text
    assert "__cudnn$fmhaScaleBiasSoftmaxBackward" in text


RECIPE = Recipe(
    data=DataSpec(sources=("chitchat",), vocabulary=512), model=llama(D=256, L=2, N=2, T=256), run="unused", steps=1000,
    batch=BatchSpec(rows=16), mesh=MeshSpec(fsdp=4), compute=ComputeSpec(remat="full"),
)  # fmt: skip


@pytest.mark.skipif(importlib.util.find_spec("libtpu") is None, reason="libtpu, the TPU compiler, is not installed")
def test_a_step_is_compiled_for_a_slice_of_sixteen_chips():
    """Two kernels a layer and one more for rematerialisation; memory, exchanged bytes and cycles are told."""
    found = compile_for(RECIPE, "v5e:4x4")
    assert found.mesh == {"data": 4, "fsdp": 4, "tensor": 1, "context": 1}
    assert found.kernels == 3 * 2
    assert found.cycles > 0
    assert found.milliseconds == found.cycles / 1.5e6
    assert found.collective_bytes.keys() & {"all-gather", "collective-permute"}


@pytest.mark.skipif(importlib.util.find_spec("libtpu") is not None, reason="libtpu is here")
def test_without_the_compiler_the_error_says_how_to_get_it():
    with pytest.raises(ValueError, match="pip install libtpu"):
        compile_for(RECIPE, "v5e:4x4")


def test_a_step_too_large_for_a_chip_is_told_in_fields_that_make_it_smaller():
    """As libtpu says it; no field that is as small as it gets already."""
    said = (
        "RESOURCE_EXHAUSTED: E1000: CompileTimeHbmOom: Ran out of memory on HBM, the total memory required for HLO "
        "temporaries (16.67G) exceeds available HBM (15.75G). HLO module: jit_step."
    )
    told = str(_too_large(RECIPE, "v5e:4x4", 16, said))
    assert "needs 16.67GB of 15.75GB a chip" in told
    assert all(f"{field}=" in told for field in ("mesh.fsdp", "optimizer.name"))
    assert "batch.rows" not in told  # one row a chip already
    assert "compute.remat" not in told  # full already
    assert "RESOURCE_EXHAUSTED: HBM" in str(_too_large(RECIPE, "v5e:4x4", 16, "RESOURCE_EXHAUSTED: HBM\nat 0x1"))
