"""The one matrix product of the model; its backward pass stays in the compute dtype and accumulates in float32."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name
from jaxtyping import Array, Float

from gptjax.nn.attention import product_precision
from gptjax.sharding import constrain

RESULT = "linear result"  # what a rematerialisation policy may keep
THIN = 8  # a weight so many times as high as it is wide, as the first of an adapter's two


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def linear(
    x_BTX: Float[Array, "B T X"],
    w_XY: Float[Array, "X Y"],
    axes: tuple[str | None, str | None],
    gradient_dtype: Any = jnp.float32,
) -> Float[Array, "B T Y"]:
    """x @ w in x's dtype with float32 accumulation; the result has x's dtype, w's gradient w's own.

    `gradient_dtype`: of what each device's tokens give of w's gradient, accumulated in float32, before the devices add
    theirs up; bfloat16 is half as much to exchange.

    `axes` are w's logical names. What fsdp splits of w is gathered here, cast first, and the gradient is scattered
    back. Left to itself, autodiff would multiply float32 gradients with bfloat16 operands, at float32 speed.
    """
    return _forward(x_BTX, w_XY, axes, gradient_dtype)[0]


def _forward(x_BTX, w_XY, axes, gradient_dtype):
    y_BTY = _product("BTX,XY->BTY", x_BTX, _gathered(w_XY, x_BTX.dtype, axes)).astype(x_BTX.dtype)
    # the product stands here, not in a call of `linear`, which rematerialisation could only redo whole;
    # named after the cast, so that what a policy keeps is in x's dtype
    return checkpoint_name(y_BTY, RESULT), (x_BTX, w_XY)


def _backward(axes, gradient_dtype, saved, g_BTY):
    x_BTX, w_XY = saved
    g_BTY = g_BTY.astype(x_BTX.dtype)
    dx_BTX = _product("BTY,XY->BTX", g_BTY, _gathered(w_XY, x_BTX.dtype, axes))
    # contracted over two axes: over one flattened axis XLA on the CPU takes twice as long (docs/log.md, 2026-11-22)
    if w_XY.shape[1] * THIN < w_XY.shape[0]:
        # a CPU lays the first operand out anew, here the small one; merged with `.T`, the product would be slow again
        dw_XY = jax.lax.optimization_barrier(_product("BTY,BTX->YX", g_BTY, x_BTX, gradient_dtype)).T
    else:
        dw_XY = _product("BTX,BTY->XY", x_BTX, g_BTY, gradient_dtype)
    return dx_BTX.astype(x_BTX.dtype), constrain(dw_XY, *axes).astype(w_XY.dtype)


linear.defvjp(_forward, _backward)


def _gathered(w_XY, dtype, axes):
    """The weight in the products' dtype, whole on every device but for what `tensor` splits.

    Rounded before the cast, which then changes nothing more: a mere cast XLA would move out of the loop over layers,
    and hold all of them twice.
    """
    whole = ("residual" if axis == "embed" else axis for axis in axes)
    digits = jnp.finfo(dtype)
    return constrain(jax.lax.reduce_precision(w_XY, digits.nexp, digits.nmant).astype(dtype), *whole)


def _product(spec: str, a: Array, b: Array, dtype: Any = jnp.float32) -> Array:
    return jnp.einsum(spec, a, b, preferred_element_type=dtype, precision=product_precision(a.dtype))
