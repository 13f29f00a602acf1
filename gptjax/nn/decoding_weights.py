"""Weights as texts are written with: cast once, and on a CPU laid out for products with few rows.

A step of decoding reads every weight once and multiplies it with a token a row: it is as fast as memory is. On a CPU
XLA reads matrices fastest as [Y,X], whose product with a row is one of rows with rows, and each layer's as an array of
its own, for it copies a slice before it multiplies with it (docs/log.md, 2026-11-28, serving).
Axes: B batch  T position  X width read  Y width written  V vocabulary  D residual  L layers.
"""

import contextlib
import re
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from gptjax.nn.attention import product_precision

FEWEST = 4  # rows in 16 bits: with a single one, XLA on a CPU first casts the whole matrix to float32
SMALLEST_SCALE = 1e-12  # of a row of zeros


class Int8(NamedTuple):
    """A matrix in whole numbers from -127 to 127, and what one is worth in each row.

    Source: Dettmers et al. 2022, arXiv:2208.07339, section 2.1 (absmax, by row), of weights alone.
    """

    w_YX: Array
    scale_Y: Array  # f32

    @classmethod
    def of(cls, w_YX: Float[Array, "*L Y X"]) -> "Int8":
        scale_Y = jnp.maximum(jnp.abs(w_YX).max(axis=-1) / 127, SMALLEST_SCALE).astype(jnp.float32)
        return cls(jnp.rint(w_YX / scale_Y[..., None]).astype(jnp.int8), scale_Y)


Matrix = Array | Int8


def times(x_BTX: Float[Array, "B T X"], w: Matrix) -> Float[Array, "B T Y"]:
    """x W^T, in x's dtype with float32 accumulation, in float32."""
    w_YX = (w.w_YX if isinstance(w, Int8) else w).astype(x_BTX.dtype)
    plain = {"preferred_element_type": jnp.float32, "precision": product_precision(x_BTX.dtype)}
    B, T, _ = x_BTX.shape
    # the dtype is asked first: the rows of an exported program are not known
    if x_BTX.dtype != jnp.float32 and B * T < FEWEST and jax.default_backend() == "cpu":
        padded_BTX = jnp.pad(x_BTX, ((0, FEWEST - B), (0, 0), (0, 0)))
        y_BTY = jax.lax.optimization_barrier(jnp.einsum("BTX,YX->BTY", padded_BTX, w_YX, **plain))[:B]
    else:
        y_BTY = jnp.einsum("BTX,YX->BTY", x_BTX, w_YX, **plain)
    return y_BTY * w.scale_Y[None, None, :] if isinstance(w, Int8) else y_BTY


def rows_of(table: Matrix, ids: Array, dtype: Any) -> Array:
    """The rows of an embedding's table; cast last, so that a row's gradients add up in the table's own dtype."""
    if isinstance(table, Int8):
        return (jnp.take(table.w_YX, ids, axis=0) * jnp.take(table.scale_Y, ids, axis=0)[..., None]).astype(dtype)
    return jnp.take(table, ids, axis=0).astype(dtype)


def decoding_weights(params: Any, dtype: Any, *, laid_out: bool) -> Any:
    """The weights in a dtype; but for the scales of norms, which stay float32 as their arithmetic does, and in int8
    for biases and positions.

    `laid_out`: every layer of `layers` as a stack of its own, `layers_0` and so on. Its matrices are turned then, as
    they are in int8.
    """
    if dtype == jnp.float32 and not laid_out:
        return params
    int8 = jnp.dtype(dtype) == jnp.int8

    def leaf(path: Any, x: Array) -> Any:
        name = path[-1].key
        if int8:
            return Int8.of(x) if in_int8(name) else x
        return x if name == "scale" or name.startswith("class_heads") else x.astype(dtype)

    def turned(path: Any, x: Array) -> Array:
        return jnp.swapaxes(x, 1, 2) if is_matrix(path[-1].key) else x

    outside = {name: value for name, value in params.items() if name != "layers"}
    stack = params["layers"]
    if laid_out or int8:
        stack = jax.tree_util.tree_map_with_path(turned, stack)
    stacks = {"layers": stack}
    if laid_out:
        count = len(jax.tree.leaves(stack)[0])
        stacks = {f"layers_{n}": jax.tree.map(lambda x: x[n : n + 1], stack) for n in range(count)}  # noqa: B023
    return jax.tree_util.tree_map_with_path(leaf, outside | stacks)


def rounded(params: Any) -> Any:
    """The weights as int8 has them, in float32."""

    def leaf(path: Any, x: Array) -> Array:
        if not in_int8(path[-1].key):
            return x
        turned = len(path) > 1  # a layer's lie [X,Y] in their stack, tables [V,D]
        w_YX, scale_Y = Int8.of(jnp.swapaxes(x, 1, 2) if turned else x)
        whole_YX = w_YX * scale_Y[..., None]
        return jnp.swapaxes(whole_YX, 1, 2) if turned else whole_YX

    return jax.tree_util.tree_map_with_path(leaf, params)


def fastest_dtype() -> str:
    """Of products on this machine: bfloat16 where it has instructions for it, else float32."""
    if jax.default_backend() != "cpu":
        return "bfloat16"
    with contextlib.suppress(OSError):
        if re.search(r"\b(amx_bf16|avx512_bf16)\b", Path("/proc/cpuinfo").read_text()):
            return "bfloat16"
    return "float32"


def is_matrix(name: str) -> bool:
    """Whether a layer's parameter of this name multiplies: all do but norms and biases."""
    return name != "scale" and not name.endswith("_bias") and name != "bias"


def in_int8(name: str) -> bool:
    """Whether a parameter of this name is rounded: every matrix of the layers, and the tables of tokens."""
    return is_matrix(name) and name != "position_embedding" and not name.startswith("class_heads")
