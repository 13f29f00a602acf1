"""gptjax.nn.linear: a product whose backward pass is its own, and is right."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gptjax.nn import linear as module

AXES = ("embed", "mlp")


def linear(x, w):
    return module.linear(x, w, AXES)


def inputs(dtype=jnp.float32):
    """x [B,T,X], w [X,Y] in float32, and a direction for the gradient."""
    keys = jax.random.split(jax.random.key(0), 3)
    return (
        jax.random.normal(keys[0], (3, 5, 8)).astype(dtype),
        jax.random.normal(keys[1], (8, 6)),
        jax.random.normal(keys[2], (3, 5, 6)).astype(dtype),
    )


def gradients(product):
    """Gradients in x and w of a sum that weighs every result differently and is not linear."""
    x, w, direction = inputs()
    return jax.grad(lambda x, w: (jnp.sin(product(x, w)) * direction).sum(), argnums=(0, 1))(x, w)


def test_gradients_are_those_of_a_plain_product():
    """In float32 autodiff of x @ w gives the same two gradients."""
    ours = gradients(linear)
    plain = gradients(lambda x, w: jnp.matmul(x, w, precision="highest"))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), ours, plain)
    assert all(np.abs(leaf).min() > 0 for leaf in ours)


def test_a_weights_gradient_stays_float32_under_bfloat16():
    """x and the result are bfloat16, the weight's gradient is float32 and holds more digits than bfloat16 has."""
    x, w, direction = inputs(jnp.bfloat16)
    y, backward = jax.vjp(linear, x, w)
    dx, dw = backward(direction)
    assert (y.dtype, dx.dtype, dw.dtype) == (jnp.bfloat16, jnp.bfloat16, jnp.float32)
    assert (dw != dw.astype(jnp.bfloat16)).any()
    exact = np.einsum("btx,bty->xy", np.asarray(x, np.float64), np.asarray(direction, np.float64))
    np.testing.assert_allclose(dw, exact, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("width", [6, 1])
def test_a_gradient_that_is_added_up_in_bfloat16_is_accumulated_in_float32(width):
    """On each device: it is the other one, rounded once; 4,096 ones are 4,096. A thin weight's too."""
    x, _, direction = inputs(jnp.bfloat16)
    x, g, w = jnp.tile(x, (1, 1, module.THIN)), direction[..., :width], jnp.ones((8 * module.THIN, width))
    kept, rounded = (
        jax.vjp(lambda w, dtype=dtype: module.linear(x, w, AXES, dtype), w)[1](g)[0]
        for dtype in (jnp.float32, jnp.bfloat16)
    )
    assert rounded.dtype == jnp.float32
    np.testing.assert_array_equal(rounded, kept.astype(jnp.bfloat16).astype(jnp.float32))
    assert (rounded != kept).any()
    one = jnp.ones((64, 64, 1), jnp.bfloat16)
    (dw,) = jax.vjp(lambda w: module.linear(one, w, AXES, jnp.bfloat16), jnp.ones((1, 1)))[1](one)
    assert dw.item() == 4096


@pytest.mark.parametrize("width", [1, 2, 3])
def test_a_thin_weights_gradient_is_that_of_any_other(width):
    """Within 1e-5 of the exact one on both sides of where a weight counts as thin."""
    x, g = (jax.random.normal(jax.random.key(k), (3, 5, size)) for k, size in ((0, module.THIN * 2), (1, width)))
    _, dw = jax.vjp(linear, x, jnp.ones((module.THIN * 2, width)))[1](g)
    exact = np.einsum("btx,bty->xy", np.asarray(x, np.float64), np.asarray(g, np.float64))
    np.testing.assert_allclose(dw, exact, rtol=1e-5, atol=1e-5)


def test_many_small_gradients_are_not_lost_in_bfloat16():
    """4,096 ones add up to 4,096; added in bfloat16 they would stop at 256."""
    x, g = jnp.ones((64, 64, 1), jnp.bfloat16), jnp.ones((64, 64, 1), jnp.bfloat16)
    (dw,) = jax.vjp(lambda w: linear(x, w), jnp.ones((1, 1)))[1](g)
    assert dw.item() == 4096


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_the_result_is_rounded_once(dtype):
    """Accumulation is float32 whatever the inputs: the result is the exact one, rounded."""
    x, w, _ = inputs(dtype)
    exact = np.einsum("btx,xy->bty", np.asarray(x, np.float64), np.asarray(w.astype(dtype), np.float64))
    found = linear(x, w)
    np.testing.assert_allclose(np.asarray(found, np.float64), exact, rtol=float(jnp.finfo(dtype).eps), atol=1e-6)
