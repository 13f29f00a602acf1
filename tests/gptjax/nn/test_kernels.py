"""Kernels against XLA: the same rule, the same numbers, chosen by what a backend can do."""

from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gptjax.nn.attention import attend, attention_mask
from gptjax.nn.kernels import attend_by, kernel_for, prepared

T, N, K, H = 256, 4, 2, 32
CPU, TPU = SimpleNamespace(platform="cpu"), SimpleNamespace(platform="tpu")
H100, T4, MI300 = (
    SimpleNamespace(platform="gpu", device_kind=kind, compute_capability=number)
    for kind, number in (("NVIDIA H100 80GB HBM3", "9.0"), ("NVIDIA T4", "7.5"), ("AMD Instinct MI300X", "gfx942"))
)


def packed_row():
    """One row: a causal, a prefix and a bidirectional document, then padding; all boundaries inside blocks of 128."""
    segment_BT = np.repeat([1, 2, 3, 0], [90, 70, 80, 16])[None]
    visible_BT = np.zeros((1, T), bool)
    visible_BT[0, 90:120] = True  # the prefix of document 2
    visible_BT[0, 160:240] = True  # all of document 3
    return jnp.asarray(segment_BT), jnp.asarray(visible_BT)


def mask_of(segment_BT, visible_BT, window=None):
    place_BT = jnp.broadcast_to(jnp.arange(T), segment_BT.shape)
    return attention_mask(segment_BT, place_BT, segment_BT, place_BT, visible_BT, window)


def heads(rows=1):
    keys = jax.random.split(jax.random.key(0), 4)
    return tuple(2 * jax.random.normal(key, (rows, T, count, H)) for key, count in zip(keys, (N, K, K, N), strict=True))


def slopes(look, q, k, v, upstream):
    """The result and the gradients for q, k, v under an upstream gradient."""
    out, pull = jax.vjp(look, q, k, v)
    return out, *pull(upstream)


def interpreted(mask, cap=None):
    look = prepared("splash", mask)
    return lambda q, k, v: attend_by("splash", q, k, v, look, cap, interpret=True)


@pytest.mark.parametrize(("window", "cap"), [(None, None), (40, None), (None, 3.0)])
def test_the_tpu_kernel_is_xlas_attention_on_a_row_of_all_modes(window, cap):
    """Forward within 1e-5, gradients within 1e-4 in float32, grouped queries, with a window and with a cap."""
    mask = mask_of(*packed_row(), window)
    theirs = slopes(interpreted(mask, cap), *heads())
    ours = slopes(lambda q, k, v: attend(q, k, v, mask, cap), *heads())
    for found, wanted, tolerance in zip(theirs, ours, (1e-5, 1e-4, 1e-4, 1e-4), strict=True):
        np.testing.assert_allclose(found, wanted, atol=tolerance, rtol=tolerance)


def test_the_tpu_kernel_reads_each_rows_own_mask():
    """Two rows of different masks at once are what each is alone; and the masks matter."""
    segment, visible = packed_row()
    other = jnp.ones_like(segment)
    q, k, v, _ = heads(2)
    both = mask_of(jnp.concatenate([segment, other]), jnp.concatenate([visible, ~visible]))
    out = interpreted(both)(q, k, v)
    for row in (0, 1):
        alone = interpreted(both[row : row + 1])(q[row : row + 1], k[row : row + 1], v[row : row + 1])
        np.testing.assert_allclose(out[row], alone[0], atol=1e-6)
    swapped = interpreted(both[::-1])(q, k, v)
    assert np.abs(swapped - out).max() > 0.1


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
