"""Kernels, chosen by what a backend can do; the numbers of splash are in test_splash.py."""

from types import SimpleNamespace

import jax.numpy as jnp
import pytest

from gptjax.nn.kernels import kernel_for

CPU, TPU = SimpleNamespace(platform="cpu"), SimpleNamespace(platform="tpu")
H100, T4, MI300 = (
    SimpleNamespace(platform="gpu", device_kind=kind, compute_capability=number)
    for kind, number in (("NVIDIA H100 80GB HBM3", "9.0"), ("NVIDIA T4", "7.5"), ("AMD Instinct MI300X", "gfx942"))
)


def test_each_backend_gets_the_kernel_that_can_do_the_work():
    """16 bits on an accelerator; XLA where a kernel would round, cannot cap, or has no block of the size."""
    assert kernel_for(CPU, jnp.bfloat16, 2048, 128) == "xla"
    assert kernel_for(TPU, jnp.bfloat16, 2048, 64, cap=50.0) == "splash"
    assert kernel_for(TPU, jnp.float32, 2048, 128) == "xla"
    assert kernel_for(TPU, jnp.bfloat16, 100, 128) == "xla"
    assert kernel_for(H100, jnp.bfloat16, 100, 64) == "cudnn"
    assert kernel_for(H100, jnp.bfloat16, 101, 64) == "xla"
    assert kernel_for(H100, jnp.bfloat16, 2048, 64, cap=50.0) == "xla"
    assert kernel_for(H100, jnp.bfloat16, 2048, 256) == "xla"
    assert kernel_for(T4, jnp.bfloat16, 2048, 64) == "xla"
    assert kernel_for(MI300, jnp.bfloat16, 2048, 64) == "xla"


def test_a_kernel_that_was_asked_for_is_taken_or_refused():
    """XLA can always be had; a kernel that would compute something else cannot, and the error says what it met."""
    assert kernel_for(TPU, jnp.bfloat16, 2048, 64, wanted="xla") == "xla"
    with pytest.raises(ValueError, match=r"compute\.kernel='cudnn' .* device gpu, bfloat16, .* attention_cap=50"):
        kernel_for(H100, jnp.bfloat16, 2048, 64, cap=50.0, wanted="cudnn")
    with pytest.raises(ValueError, match=r"compute\.kernel='splash' .* device cpu"):
        kernel_for(CPU, jnp.bfloat16, 2048, 64, wanted="splash")
