"""Who may attend to whom, and attention itself. One rule serves causal, bidirectional and prefix rows.

Axes: B batch  T query position  S key position  N query heads  K kv heads  G = N/K  H head width.
"""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, kw_only=True)
class Rule:
    """Who may look at whom: query t at key s iff both are of one segment and s is no later than `last_BT` says of t.

    With a window, s must also be less than so many tokens away, before or after. Places are indices in the row, which
    unlike positions do not restart; the keys are those of all places, in order. Padding, segment 0, looks at earlier
    padding and itself, so no row of the softmax is empty. A kernel builds of this what it needs (`kernels.py`).
    """

    segment_BT: Any  # i32: of each query
    place_BT: Any  # i32: of each query
    last_BT: Any  # i32: the last place that it may look at; None = its own, and all places of the row are queries
    segment_BS: Any  # i32: of each key
    window: int | None = dataclasses.field(default=None, metadata={"static": True})

    @classmethod
    def of(
        cls, segment_BT: Int[Array, "B T"], visible_BT: Bool[Array, "B T"] | None, window: int | None = None
    ) -> "Rule":
        """Of rows that look at themselves. `visible_BT`: which keys every query of their segment may look at, the
        first of the segment, so many, or none or all of it; None = none anywhere, known before anything is compiled.
        """
        place_BT = jnp.broadcast_to(jnp.arange(segment_BT.shape[1])[None, :], segment_BT.shape)
        last_BT = None if visible_BT is None else _last_seen(segment_BT, place_BT, visible_BT)
        return cls(
            segment_BT=segment_BT, place_BT=place_BT, last_BT=last_BT, segment_BS=segment_BT, window=window
        )  # fmt: skip

    def at(self, place_t: Int[Array, "t"]) -> "Rule":
        """Of the queries at some places alone, in any order."""
        place_BT = jnp.broadcast_to(place_t[None, :], (len(self.segment_BT), len(place_t)))
        last_BT = place_BT if self.last_BT is None else self.last_BT[:, place_t]
        return dataclasses.replace(self, segment_BT=self.segment_BT[:, place_t], place_BT=place_BT, last_BT=last_BT)


def _last_seen(segment_BT: Array, place_BT: Array, visible_BT: Array) -> Array:
    """The last place of what each token sees: of the visible tokens around it where it is one of them, else its own."""
    T = segment_BT.shape[1]
    goes_on_BT = visible_BT[:, 1:] & (segment_BT[:, 1:] == segment_BT[:, :-1])
    end_BT = jnp.where(jnp.pad(goes_on_BT, ((0, 0), (0, 1))), T, place_BT)  # of a run of visible tokens
    return jnp.where(visible_BT, jax.lax.cummin(end_BT, axis=1, reverse=True), place_BT)


def within_reach(
    place_BT: Int[Array, "B T"], last_BT: Int[Array, "B T"], place_BS: Int[Array, "#B S"], window: int | None
) -> Bool[Array, "B T S"]:
    """Whether a key is no later than a query may look, and within the window; whatever their segments."""
    mask_BTS = place_BS[:, None, :] <= last_BT[:, :, None]
    return mask_BTS if window is None else mask_BTS & (jnp.abs(place_BT[:, :, None] - place_BS[:, None, :]) < window)


def attention_mask(rule: Rule) -> Bool[Array, "B T S"]:
    """The rule written out: True where query t may look at key s."""
    place_1S = jnp.arange(rule.segment_BS.shape[1])[None, :]
    last_BT = rule.place_BT if rule.last_BT is None else rule.last_BT
    same_BTS = rule.segment_BT[:, :, None] == rule.segment_BS[:, None, :]
    return same_BTS & within_reach(rule.place_BT, last_BT, place_1S, rule.window)


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
    prob_BKGTS, log_total_BKGT1 = _probs(q_BTNH, k_BSKH, mask_BTS, cap)
    out_BTKGH = _product("BKGTS,BSKH->BTKGH", prob_BKGTS.astype(v_BSKH.dtype), v_BSKH)
    out_BTNH = out_BTKGH.reshape(q_BTNH.shape).astype(v_BSKH.dtype)
    return out_BTNH, (q_BTNH, k_BSKH, v_BSKH, mask_BTS, out_BTNH, log_total_BKGT1)


def _probs(q_BTNH, k_BSKH, mask_BTS, cap):
    """(the probabilities, the log of their sum before they were shares)."""
    scores_BKGTS = jnp.where(mask_BTS[:, None, None], _scores(q_BTNH, k_BSKH, cap), jnp.finfo(jnp.float32).min)
    top_BKGT1 = scores_BKGTS.max(axis=-1, keepdims=True)
    raised_BKGTS = jnp.exp(scores_BKGTS - top_BKGT1)
    total_BKGT1 = raised_BKGTS.sum(axis=-1, keepdims=True)
    return raised_BKGTS / total_BKGT1, top_BKGT1 + jnp.log(total_BKGT1)


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


def attention_shares(
    q_BTNH: Float[Array, "B T N H"],
    k_BSKH: Float[Array, "B S K H"],
    mask_BTS: Bool[Array, "B T S"],
    cap: float | None = None,
) -> Float[Array, "B N T S"]:
    """The share of each key in what a query takes, as `attend` weighs the values; float32, to look at."""
    prob_BKGTS, _ = _probs(q_BTNH, k_BSKH, mask_BTS, cap)
    B, K, G, T, S = prob_BKGTS.shape
    return prob_BKGTS.reshape(B, K * G, T, S)


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
