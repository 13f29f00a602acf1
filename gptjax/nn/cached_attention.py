"""Keys and values of what was read so far, and attention to them.

Axes: B batch  T position  S cache slot  s slots of one block  N query heads  K kv heads  G = N/K  H head width
L layers.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from gptjax.config import Architecture
from gptjax.nn.attention import product_precision, soft_cap, within_reach
from gptjax.sharding import constrain

BLOCK = 128  # slots that are attended to at once
AXES = ("layers", "batch", "heads", "slots", "width")


class Cache(NamedTuple):
    """Keys and values of every row's tokens: one pair of arrays for each stack of layers. Slot s holds token s."""

    k_LBKSH: tuple[Array, ...]
    v_LBKSH: tuple[Array, ...]

    @classmethod
    def empty(cls, config: Architecture, B: int, slots: int, dtype: Any, stacks: Sequence[int]) -> "Cache":
        """Room for so many tokens a row, in whole blocks."""
        S = slots if slots <= BLOCK else -(-slots // BLOCK) * BLOCK
        k_LBKSH = tuple(jnp.zeros((length, B, config.K, S, config.H), dtype) for length in stacks)
        return cls(k_LBKSH, tuple(map(jnp.zeros_like, k_LBKSH)))

    def placed(self) -> "Cache":
        """On its place of the mesh, always the same, so that every step's result fits the next step's input."""
        return jax.tree.map(lambda x_LBKSH: constrain(x_LBKSH, *AXES), self)


class Place(NamedTuple):
    """Where in a cache the tokens of a batch go, and what they see."""

    row: Array  # i32: the cache's row of the batch's first
    slot_B: Array  # i32: slot of each row's first token; the others follow
    until_B: Array  # i32: slots before it are seen by all, also by earlier tokens: the prompt of a prefix-LM; 0 = none


def write(
    kept_LBKSH: Float[Array, "L B K S H"], new_BTKH: Float[Array, "b T K H"], layer: Int[Array, ""], place: Place
) -> Float[Array, "L B K S H"]:
    """The cache with a layer's keys or values of new tokens in it: of one row's many, or of every row's one."""
    B, T = new_BTKH.shape[:2]
    new_BKTH = jnp.swapaxes(new_BTKH, 1, 2).astype(kept_LBKSH.dtype)
    if T == 1:
        return kept_LBKSH.at[layer, place.row + jnp.arange(B), :, place.slot_B].set(new_BKTH[:, :, 0])
    if jax.export.is_symbolic_dim(B):  # the rows of an exported program, which cannot be gone through
        row_B1, slot_BT = (place.row + jnp.arange(B))[:, None], place.slot_B[:, None] + jnp.arange(T)[None]
        return kept_LBKSH.at[layer, row_B1, :, slot_BT].set(jnp.swapaxes(new_BKTH, 1, 2))
    for b in range(B):
        start = (layer, place.row + b, 0, place.slot_B[b], 0)
        kept_LBKSH = jax.lax.dynamic_update_slice(kept_LBKSH, new_BKTH[None, b : b + 1], start)
    return kept_LBKSH


def attend_cached(
    q_BTNH: Float[Array, "b T N H"],
    k_LBKSH: Float[Array, "L B K S H"],
    v_LBKSH: Float[Array, "L B K S H"],
    layer: Int[Array, ""],
    place: Place,
    window: int | None = None,
    cap: float | None = None,
) -> Float[Array, "b T N H"]:
    """`attend` of new tokens, already in the cache, to it: each sees its row's slots up to its own.

    A row whose slot is beyond the cache has nothing to do. Block by block, as far as any row has tokens. A block that
    a row does not see changes none of its numbers, to the last bit: they do not depend on how far the others are.

    Source: Milakov and Gimelshein 2018, arXiv:1805.02867, algorithm 3 (softmax in one pass).
    """
    B, T, N, H = q_BTNH.shape
    _, _, K, S, _ = k_LBKSH.shape
    size = min(BLOCK, S)  # in this order it is also known of an exported program, whose S is some blocks
    q_BKGTH = (q_BTNH * H**-0.5).reshape(B, T, K, N // K, H).transpose(0, 2, 3, 1, 4)
    slot_BT = place.slot_B[:, None] + jnp.arange(T)[None, :]
    last_BT = jnp.maximum(slot_BT, place.until_B[:, None] - 1)  # that each token sees
    last_BT = jnp.where(place.slot_B[:, None] < S, last_BT, 0)

    def product(spec: str, a: Array, b: Array) -> Array:
        return jnp.einsum(spec, a, b, preferred_element_type=jnp.float32, precision=product_precision(a.dtype))

    def add_block(i: Array, so_far: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
        top_BKGT1, total_BKGT1, out_BKGTH = so_far
        start, shape = (layer, place.row, 0, i * size, 0), (1, B, K, size, H)
        k_BKsH, v_BKsH = (jax.lax.dynamic_slice(kept, start, shape)[0] for kept in (k_LBKSH, v_LBKSH))
        slot_1s = (i * size + jnp.arange(size))[None, :]
        sees_B11Ts = within_reach(slot_BT, last_BT, slot_1s, window)[:, None, None]
        scores_BKGTs = soft_cap(product("BKGTH,BKsH->BKGTs", q_BKGTH, k_BKsH), cap)
        scores_BKGTs = jnp.where(sees_B11Ts, scores_BKGTs, jnp.finfo(jnp.float32).min)
        new_BKGT1 = jnp.maximum(top_BKGT1, scores_BKGTs.max(axis=-1, keepdims=True))
        raised_BKGTs = jnp.where(sees_B11Ts, jnp.exp(scores_BKGTs - new_BKGT1), 0)
        shrink_BKGT1 = jnp.exp(top_BKGT1 - new_BKGT1)
        total_BKGT1 = total_BKGT1 * shrink_BKGT1 + raised_BKGTs.sum(axis=-1, keepdims=True)
        seen_BKGTH = product("BKGTs,BKsH->BKGTH", raised_BKGTs.astype(v_BKsH.dtype), v_BKsH)
        return new_BKGT1, total_BKGT1, out_BKGTH * shrink_BKGT1 + seen_BKGTH

    none_BKGT1 = jnp.zeros((*q_BKGTH.shape[:-1], 1), jnp.float32)
    start = (none_BKGT1 + jnp.finfo(jnp.float32).min, none_BKGT1, jnp.zeros(q_BKGTH.shape, jnp.float32))
    if size == S:
        _, total_BKGT1, out_BKGTH = add_block(jnp.int32(0), start)
    else:
        _, total_BKGT1, out_BKGTH = jax.lax.fori_loop(
            0, jnp.minimum(last_BT.max() // size + 1, S // size), add_block, start
        )
    out_BTKGH = (out_BKGTH / total_BKGT1).transpose(0, 3, 1, 2, 4)
    return out_BTKGH.reshape(B, T, N, H).astype(v_LBKSH.dtype)
