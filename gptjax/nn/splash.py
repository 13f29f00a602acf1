"""JAX's splash attention for a TPU, which skips every block of queries and keys that cannot meet.

Short rows that are all causal have a mask that is known before anything is compiled. For all others the kernel takes
one number a query, the last key that it may look at, beside the segments, and finds the mask of a block while it works
on it; which blocks are worked on is found before, from what is lowest and highest in each. Nothing has T x S values.
Axes: B batch  T query position  S key position  I blocks of queries  J blocks of keys  N query heads  K kv heads
H head width.
"""

import functools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array

from gptjax.nn.attention import Rule

SMALLEST_BLOCK, LARGEST_BLOCK = 128, 512  # positions that are worked through at once
# Of rows up to so many tokens the backward pass is one kernel, which holds a gradient of the queries for each block of
# keys; of longer ones it is two, which compute the scores once more.
LONGEST_FUSED = 4096


def splash(
    q_BTNH: Array, k_BSKH: Array, v_BSKH: Array, rule: Rule, cap: float | None, *, interpret: bool = False
) -> Array:
    """`attend` on one TPU. T and S must be multiples of SMALLEST_BLOCK."""
    q_BTNH = q_BTNH * q_BTNH.shape[-1] ** -0.5
    if rule.last_BT is None and q_BTNH.shape[1] <= LONGEST_FUSED:
        return _causal(q_BTNH, k_BSKH, v_BSKH, rule, cap, interpret)
    return _by_rule(q_BTNH, k_BSKH, v_BSKH, rule, cap, interpret)


def _sizes(T: int, S: int, *, fused: bool) -> Any:
    # imported where it is used, here and below: it takes most of a second, which a CPU need not spend
    from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_kernel as kernel

    q, kv = math.gcd(T, LARGEST_BLOCK), math.gcd(S, LARGEST_BLOCK)
    return kernel.BlockSizes(
        block_q=q, block_kv=kv, block_kv_compute=kv, block_q_dkv=q, block_kv_dkv=kv, block_kv_dkv_compute=kv,
        block_q_dq=None if fused else q, block_kv_dq=None if fused else kv, use_fused_bwd_kernel=fused,
    )  # fmt: skip


def _causal(q_BTNH, k_BSKH, v_BSKH, rule, cap, interpret):
    """All rows in one call; which blocks are empty is known to the compiler."""
    from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_kernel as kernel
    from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_mask as masks

    T, N = q_BTNH.shape[1:3]
    mask = masks.CausalMask((T, T)) if rule.window is None else masks.LocalMask((T, T), (rule.window - 1, 0), 0)
    run: Any = kernel.make_splash_mha_single_device(
        masks.MultiHeadMask([mask] * N), block_sizes=_sizes(T, T, fused=True), attn_logits_soft_cap=cap,
        interpret=interpret,
    )  # fmt: skip

    def of_row(q_NTH: Array, k_KTH: Array, v_KTH: Array, segment_T: Array) -> Array:
        return run(q_NTH, k_KTH, v_KTH, segment_ids=kernel.SegmentIds(segment_T, segment_T))

    q_BNTH, k_BKTH, v_BKTH = (jnp.swapaxes(x, 1, 2) for x in (q_BTNH, k_BSKH, v_BSKH))
    return jnp.swapaxes(jax.vmap(of_row)(q_BNTH, k_BKTH, v_BKTH, rule.segment_BT), 1, 2)


def _by_rule(q_BTNH, k_BSKH, v_BSKH, rule, cap, interpret):
    """All rows in one call, one behind the other; each block of queries visits the blocks of keys of its own row."""
    from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_kernel as kernel

    B, T, N, H = q_BTNH.shape
    sizes = _sizes(T, k_BSKH.shape[1], fused=False)
    by_query, by_key = _blocks(rule, sizes.block_q, sizes.block_kv)
    run = kernel.SplashAttentionKernel(
        by_query, by_query, by_key, block_sizes=sizes, is_mqa=False, save_residuals=False,
        mask_value=kernel.DEFAULT_MASK_VALUE, attn_logits_soft_cap=cap, residual_checkpoint_name=None,
        mask_function=_may_look(rule.window), interpret=interpret,
    )  # fmt: skip

    def heads_first(x_BTNH: Array) -> Array:
        return x_BTNH.transpose(2, 0, 1, 3).reshape(x_BTNH.shape[2], -1, H)

    segments = kernel.SegmentIds(rule.segment_BT.reshape(-1), rule.segment_BS.reshape(-1))
    out = run(*map(heads_first, (q_BTNH, k_BSKH, v_BSKH)), segment_ids=segments)
    assert isinstance(out, jax.Array)  # residuals were not asked for
    return out.reshape(N, B, T, H).transpose(1, 2, 0, 3)


def _blocks(rule: Rule, q: int, kv: int) -> tuple[Any, Any]:
    """(what the passes by query take, what the one by key takes): block by block, whether any query may look at any
    key, and the next block where one may; and the number of each query."""
    from jax.experimental.pallas.ops.tpu.splash_attention.splash_attention_mask_info import MaskInfo

    B, S = rule.segment_BS.shape
    first_J = jnp.arange(0, S, kv)
    last_BT = rule.place_BT if rule.last_BT is None else rule.last_BT

    def spread(x_BT: Array, size: int) -> tuple[Array, Array]:
        """Lowest and highest of each block."""
        x_BIi = x_BT.reshape(B, -1, size)
        return x_BIi.min(axis=-1), x_BIi.max(axis=-1)

    (low_BI, high_BI), (low_BJ, high_BJ) = (
        spread(jnp.where(segment == 0, S + 1, segment), size)  # padding stands at the end of a row
        for segment, size in ((rule.segment_BT, q), (rule.segment_BS, kv))
    )
    _, furthest_BI = spread(last_BT, q)
    meet_BIJ = (low_BI[:, :, None] <= high_BJ[:, None]) & (low_BJ[:, None] <= high_BI[:, :, None])
    meet_BIJ &= first_J[None, None, :] <= furthest_BI[:, :, None]
    if rule.window is not None:
        earliest_BI, latest_BI = spread(rule.place_BT, q)
        meet_BIJ &= first_J[None, None, :] < latest_BI[:, :, None] + rule.window
        meet_BIJ &= first_J[None, None, :] + kv - 1 > earliest_BI[:, :, None] - rule.window
    number: Any = _numbers(rule, last_BT).reshape(-1)

    def info(meet: Array, following: Array) -> Any:
        return MaskInfo(following[None].astype(jnp.int16), None, meet[None].astype(jnp.int8), None, number)

    def joined(x_BIJ: Array) -> Array:
        """Blocks of queries of all rows, beside the blocks of keys of one."""
        return x_BIJ.reshape(-1, x_BIJ.shape[2])

    by_query = info(joined(meet_BIJ), joined(_next(meet_BIJ, axis=2)))
    by_key = info(*(joined(x_BIJ.swapaxes(1, 2)).T for x_BIJ in (meet_BIJ, _next(meet_BIJ, axis=1))))
    return by_query, by_key


def _next(meet_BIJ: Array, axis: int) -> Array:
    """Along an axis, the block that is fetched next: the first from here on that is needed, or the last before.

    Numbered through all rows.
    """
    count = meet_BIJ.shape[axis]
    place = jax.lax.broadcasted_iota(jnp.int32, meet_BIJ.shape, axis)
    later = jax.lax.cummin(jnp.where(meet_BIJ, place, count), axis=axis, reverse=True)
    earlier = jax.lax.cummax(jnp.where(meet_BIJ, place, 0), axis=axis)
    row = jax.lax.broadcasted_iota(jnp.int32, meet_BIJ.shape, 0)
    return jnp.where(later < count, later, earlier) + row * count


def _bits(window: int | None) -> int:
    """That hold how much further than its own place a query within a window may look."""
    return 0 if window is None else (window - 1).bit_length()


def _numbers(rule: Rule, last_BT: Array) -> Array:
    """One number a query, from which `_may_look` knows what it may look at; keys are numbered through all rows."""
    B, S = rule.segment_BS.shape
    start_B1 = jnp.arange(B)[:, None] * S
    if rule.window is None:
        return start_B1 + last_BT
    bits = _bits(rule.window)
    if B * S << bits >= 2**31:
        raise ValueError(
            f"compute.kernel='splash': {B} rows of {S} tokens a device with window={rule.window} are too many to "
            "number; use fewer rows a micro-batch, or compute.kernel='xla'"
        )
    further_BT = jnp.minimum(last_BT - rule.place_BT, rule.window - 1)
    return (start_B1 + rule.place_BT << bits) | further_BT


@functools.cache
def _may_look(window: int | None) -> Callable[[Array, Array], Array]:
    """(numbers of queries, numbers of keys) -> whether one may look at the other, their segments aside."""

    def may_look(number: Array, key: Array) -> Array:
        if window is None:
            return key <= number
        place, further = number >> _bits(window), number & (1 << _bits(window)) - 1
        return (key <= place + further) & (place - key < window)

    return may_look
