"""Who may look at whom, and the look itself. One rule serves causal, bidirectional and prefix rows.

Axes: B batch  T query position  S key position  N query heads  K kv heads  G = N/K  H head width.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int


def may_look(
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
    look_BTS = same_BTS & ((behind_BTS >= 0) | visible_BS[:, None, :])
    return look_BTS if window is None else look_BTS & (jnp.abs(behind_BTS) < window)


def attend(
    q_BTNH: Float[Array, "B T N H"],
    k_BSKH: Float[Array, "B S K H"],
    v_BSKH: Float[Array, "B S K H"],
    mask_BTS: Bool[Array, "B T S"],
    cap: float | None = None,
) -> Float[Array, "B T N H"]:
    """Grouped-query attention with scale 1/sqrt(H); True in the mask means "may look".

    `cap` bends the scores smoothly so that none exceeds it. Products accumulate and softmax runs in float32; the result
    has `v`'s dtype.

    Source: Vaswani et al. 2017, arXiv:1706.03762, section 3.2.1; Ainslie et al. 2023, arXiv:2305.13245, section 2.2;
    Gemma Team 2024, arXiv:2408.00118, section 2 (the cap).
    """
    B, T, N, H = q_BTNH.shape
    K = k_BSKH.shape[2]
    precision = product_precision(q_BTNH.dtype)
    q_BTKGH = (q_BTNH * H**-0.5).reshape(B, T, K, N // K, H)
    logits_BKGTS = jnp.einsum(
        "BTKGH,BSKH->BKGTS", q_BTKGH, k_BSKH, preferred_element_type=jnp.float32, precision=precision
    )
    logits_BKGTS = soft_cap(logits_BKGTS, cap)
    logits_BKGTS = jnp.where(mask_BTS[:, None, None], logits_BKGTS, jnp.finfo(jnp.float32).min)
    probs_BKGTS = jax.nn.softmax(logits_BKGTS, axis=-1).astype(v_BSKH.dtype)
    out_BTKGH = jnp.einsum(
        "BKGTS,BSKH->BTKGH", probs_BKGTS, v_BSKH, preferred_element_type=jnp.float32, precision=precision
    )
    return out_BTKGH.reshape(B, T, N, H).astype(v_BSKH.dtype)


def soft_cap(scores: Float[Array, "*axes"], cap: float | None) -> Float[Array, "*axes"]:
    """cap * tanh(scores / cap): nearly the scores where they are small, never beyond the cap. None = the scores."""
    return scores if cap is None else cap * jnp.tanh(scores / cap)


def product_precision(dtype: jnp.dtype) -> jax.lax.Precision:
    """float32 operands are multiplied as float32 on every backend; a TPU would by default round them to bfloat16."""
    return jax.lax.Precision.HIGHEST if dtype == jnp.float32 else jax.lax.Precision.DEFAULT
