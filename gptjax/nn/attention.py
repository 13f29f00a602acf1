"""Who may attend to whom, and attention itself. One rule serves causal, bidirectional and prefix rows.

Axes: B batch  T query position  S key position  N query heads  K kv heads  G = N/K  H head width.
"""

import functools

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int


def attention_mask(
    segment_BT: Int[Array, "B T"],
    place_BT: Int[Array, "B T"],
    segment_BS: Int[Array, "B S"],
    place_BS: Int[Array, "B S"],
    visible_BS: Bool[Array, "B S"],
    window: int | None = None,
) -> Bool[Array, "B T S"]:
    """True where query t may look at key s: same segment, and s is not later than t or is visible to all.

    With a `window`, s must also be less than so many tokens away, before or after. `place` is the index in the row (or
    in the cache), which unlike the position does not restart. Padding, segment 0, looks at earlier padding and itself,
    so no row of the softmax is empty.
    """
    same_BTS = segment_BT[:, :, None] == segment_BS[:, None, :]
    behind_BTS = place_BT[:, :, None] - place_BS[:, None, :]
    mask_BTS = same_BTS & ((behind_BTS >= 0) | visible_BS[:, None, :])
    return mask_BTS if window is None else mask_BTS & (jnp.abs(behind_BTS) < window)


@functools.partial(jax.custom_vjp, nondiff_argnums=(4,))
def attend(
    q_BTNH: Float[Array, "B T N H"],
    k_BSKH: Float[Array, "B S K H"],
    v_BSKH: Float[Array, "B S K H"],
    mask_BTS: Bool[Array, "B T S"],
    cap: float | None = None,
) -> Float[Array, "B T N H"]:
    """Grouped-query attention with scale 1/sqrt(H); True in the mask means "may look".

    `cap` bends the scores smoothly so that none exceeds it. Products take q's dtype and accumulate in float32, where
    softmax runs too; the result has `v`'s dtype. The backward pass computes the scores anew, as
    FlashAttention does: of all that has T x S values it keeps nothing.

    Source: Vaswani et al. 2017, arXiv:1706.03762, section 3.2.1; Ainslie et al. 2023, arXiv:2305.13245, section 2.2;
    Dao et al. 2022, arXiv:2205.14135, appendix B.2; Gemma Team 2024, arXiv:2408.00118, section 2 (the cap).
    """
    return _forward(q_BTNH, k_BSKH, v_BSKH, mask_BTS, cap)[0]


def _forward(q_BTNH, k_BSKH, v_BSKH, mask_BTS, cap):
    out_BTNH, _, log_total_BKGT1 = _weighed(q_BTNH, k_BSKH, v_BSKH, mask_BTS, cap)
    return out_BTNH, (q_BTNH, k_BSKH, v_BSKH, mask_BTS, out_BTNH, log_total_BKGT1)


def _weighed(q_BTNH, k_BSKH, v_BSKH, mask_BTS, cap):
    """(the result, the probabilities that the values were weighed by, the log of their sum before they were shares)."""
    scores_BKGTS = jnp.where(mask_BTS[:, None, None], _scores(q_BTNH, k_BSKH, cap), jnp.finfo(jnp.float32).min)
    top_BKGT1 = scores_BKGTS.max(axis=-1, keepdims=True)
    raised_BKGTS = jnp.exp(scores_BKGTS - top_BKGT1)
    total_BKGT1 = raised_BKGTS.sum(axis=-1, keepdims=True)
    probs_BKGTS = (raised_BKGTS / total_BKGT1).astype(v_BSKH.dtype)
    out_BTNH = _product("BKGTS,BSKH->BTKGH", probs_BKGTS, v_BSKH).reshape(q_BTNH.shape).astype(v_BSKH.dtype)
    return out_BTNH, probs_BKGTS, top_BKGT1 + jnp.log(total_BKGT1)


def _backward(cap, saved, g_BTNH):
    q_BTNH, k_BSKH, v_BSKH, mask_BTS, out_BTNH, log_total_BKGT1 = saved
    g_BTKGH = _by_group(g_BTNH.astype(v_BSKH.dtype), k_BSKH)
    scores_BKGTS = _scores(q_BTNH, k_BSKH, cap)
    probs_BKGTS = jnp.where(mask_BTS[:, None, None], jnp.exp(scores_BKGTS - log_total_BKGT1), 0)
    # sum over s of p dp, from the result and its gradient alone
    mean_BTKG = (_by_group(out_BTNH, k_BSKH).astype(jnp.float32) * g_BTKGH.astype(jnp.float32)).sum(axis=-1)
    mean_BKGT1 = mean_BTKG.transpose(0, 2, 3, 1)[..., None]
    dscores_BKGTS = probs_BKGTS * (_product("BTKGH,BSKH->BKGTS", g_BTKGH, v_BSKH) - mean_BKGT1)
    if cap is not None:
        dscores_BKGTS = dscores_BKGTS * (1 - jnp.square(scores_BKGTS / cap))
    # in the dtype of the products, which would else run at float32 speed
    dscores_BKGTS, probs_BKGTS = dscores_BKGTS.astype(q_BTNH.dtype), probs_BKGTS.astype(v_BSKH.dtype)
    scale = q_BTNH.shape[-1] ** -0.5
    dq_BTKGH = _product("BKGTS,BSKH->BTKGH", dscores_BKGTS, k_BSKH) * scale
    dk_BSKH = _product("BKGTS,BTKGH->BSKH", dscores_BKGTS, _by_group(q_BTNH * scale, k_BSKH))
    dv_BSKH = _product("BKGTS,BTKGH->BSKH", probs_BKGTS, g_BTKGH)
    dq_BTNH = dq_BTKGH.reshape(q_BTNH.shape)
    return dq_BTNH.astype(q_BTNH.dtype), dk_BSKH.astype(k_BSKH.dtype), dv_BSKH.astype(v_BSKH.dtype), None


attend.defvjp(_forward, _backward)


@functools.partial(jax.custom_vjp, nondiff_argnums=(4,))
def attend_openly(
    q_BTNH: Float[Array, "B T N H"],
    k_BSKH: Float[Array, "B S K H"],
    v_BSKH: Float[Array, "B S K H"],
    mask_BTS: Bool[Array, "B T S"],
    cap: float | None = None,
) -> tuple[Float[Array, "B T N H"], Float[Array, "B N T S"]]:
    """`attend`, and the probabilities that it weighed the values by; to look at: nothing is learnt through these."""
    return _openly(q_BTNH, k_BSKH, v_BSKH, mask_BTS, cap)[0]


def _openly(q_BTNH, k_BSKH, v_BSKH, mask_BTS, cap):
    out_BTNH, probs_BKGTS, log_total_BKGT1 = _weighed(q_BTNH, k_BSKH, v_BSKH, mask_BTS, cap)
    B, K, G, T, S = probs_BKGTS.shape
    saved = (q_BTNH, k_BSKH, v_BSKH, mask_BTS, out_BTNH, log_total_BKGT1)
    return (out_BTNH, probs_BKGTS.reshape(B, K * G, T, S)), saved


attend_openly.defvjp(_openly, lambda cap, saved, g: _backward(cap, saved, g[0]))


def _scores(q_BTNH, k_BSKH, cap):
    q_BTKGH = _by_group(q_BTNH * q_BTNH.shape[-1] ** -0.5, k_BSKH)
    return soft_cap(_product("BTKGH,BSKH->BKGTS", q_BTKGH, k_BSKH), cap)


def _by_group(x_BTNH, k_BSKH):
    """Query heads as G to each of the K key heads."""
    B, T, N, H = x_BTNH.shape
    K = k_BSKH.shape[2]
    return x_BTNH.reshape(B, T, K, N // K, H)


def _product(spec: str, a: Array, b: Array) -> Array:
    """An einsum that accumulates in float32. With one query head a group, XLA on the CPU is twice as fast without G."""
    operands, out = spec.split("->")
    plain = {"preferred_element_type": jnp.float32, "precision": product_precision(a.dtype)}
    groups = [x.shape[axes.index("G")] for x, axes in zip((a, b), operands.split(","), strict=True) if "G" in axes]
    if groups[0] != 1:
        return jnp.einsum(spec, a, b, **plain)
    a, b = (
        x.squeeze(axes.index("G")) if "G" in axes else x for x, axes in zip((a, b), operands.split(","), strict=True)
    )
    result = jnp.einsum(spec.replace("G", ""), a, b, **plain)
    return jnp.expand_dims(result, out.index("G")) if "G" in out else result


def soft_cap(scores: Float[Array, "*axes"], cap: float | None) -> Float[Array, "*axes"]:
    """cap * tanh(scores / cap): nearly the scores where they are small, never beyond the cap. None = the scores."""
    return scores if cap is None else cap * jnp.tanh(scores / cap)


def product_precision(dtype: jnp.dtype) -> jax.lax.Precision:
    """float32 operands are multiplied as float32 on every backend; a TPU would by default round them to bfloat16."""
    return jax.lax.Precision.HIGHEST if dtype == jnp.float32 else jax.lax.Precision.DEFAULT
