"""Output heads beside the one of the tokens: one bank of linear layers over hidden states, means or pairs of them.

Axes: B batch  T position  D residual  Q positions that are looked at  C classes of a head.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from gptjax.config import ModelConfig
from gptjax.nn.attention import product_precision


def states_at(hidden_BTD: Float[Array, "B T D"], at_BQ: Int[Array, "B Q"]) -> Float[Array, "B Q D"]:
    """The hidden states at some positions of each row. A product, which every backend splits over rows without moving
    them; exact, as each sum has one term that is not 0."""
    one_BQT = jax.nn.one_hot(at_BQ, hidden_BTD.shape[1], dtype=hidden_BTD.dtype)
    return jnp.einsum("BQT,BTD->BQD", one_BQT, hidden_BTD, precision=product_precision(hidden_BTD.dtype))


def _own(segment_BT: Int[Array, "B T"], at_BQ: Int[Array, "B Q"]) -> Bool[Array, "B Q T"]:
    """Which positions are of the segment of each place."""
    at_BQT = jax.nn.one_hot(at_BQ, segment_BT.shape[1], dtype=segment_BT.dtype)
    return segment_BT[:, None] == jnp.einsum("BQT,BT->BQ", at_BQT, segment_BT)[..., None]


def _mean(hidden_BTD: Float[Array, "B T D"], part_BQT: Bool[Array, "B Q T"]) -> Float[Array, "B Q D"]:
    """The mean of some states, float32; 0 of none."""
    sum_BQD = jnp.einsum(
        "BQT,BTD->BQD", part_BQT.astype(hidden_BTD.dtype), hidden_BTD,
        preferred_element_type=jnp.float32, precision=product_precision(hidden_BTD.dtype),
    )  # fmt: skip
    return sum_BQD / jnp.maximum(1, part_BQT.sum(-1, keepdims=True))


def pair_states(
    hidden_BTD: Float[Array, "B T D"], segment_BT: Int[Array, "B T"], at_BQ: Int[Array, "B Q"]
) -> Float[Array, "B Q D"]:
    """What the two parts of a segment have in common: those before and from a place of it on.

    The product of their mean states, each at a root mean square of 1, in float32. From a state that has read both, a
    small model learns far more slowly whether they belong together: see docs/log.md.

    Source: Mou et al. 2016, arXiv:1512.08422, section 3.3 (the product as a heuristic of matching).
    """
    own_BQT = _own(segment_BT, at_BQ)
    second_BQT = jnp.arange(hidden_BTD.shape[1])[None, None] >= at_BQ[..., None]

    def of(part_BQT):
        mean_BQD = _mean(hidden_BTD, part_BQT)
        return mean_BQD * jax.lax.rsqrt(jnp.square(mean_BQD).mean(-1, keepdims=True) + 1e-6)

    return (of(own_BQT & ~second_BQT) * of(own_BQT & second_BQT)).astype(hidden_BTD.dtype)


def segment_mean(
    hidden_BTD: Float[Array, "B T D"],
    segment_BT: Int[Array, "B T"],
    at_BQ: Int[Array, "B Q"],
    query_D: Float[Array, "D"] | None = None,
) -> Float[Array, "B Q D"]:
    """The mean of the states of each place's segment, in float32; with a query one that weighs them by softmax of
    query . state / sqrt(D), which tells states apart that the plain mean does not.

    Source: Yang et al. 2016, "Hierarchical Attention Networks", section 2.2 (a learnt query; here without its layer).
    """
    own_BQT = _own(segment_BT, at_BQ)
    if query_D is None:
        return _mean(hidden_BTD, own_BQT).astype(hidden_BTD.dtype)
    hidden32_BTD = hidden_BTD.astype(jnp.float32)
    score_BT = jnp.einsum("BTD,D->BT", hidden32_BTD, query_D, precision="highest") * hidden_BTD.shape[-1] ** -0.5
    share_BQT = jax.nn.softmax(score_BT[:, None], axis=-1, where=own_BQT)
    return jnp.einsum("BQT,BTD->BQD", share_BQT, hidden32_BTD, precision="highest").astype(hidden_BTD.dtype)


def head_states(
    params: Any,
    config: ModelConfig,
    hidden_BTD: Float[Array, "B T D"],
    segment_BT: Int[Array, "B T"],
    at_BQ: Int[Array, "B Q"],
    head: int,
) -> Float[Array, "B Q D"]:
    """What a head reads of the segment of each place: the state there, the mean of all, or a learnt mean."""
    one = config.class_heads[head]
    if one.pair:
        return pair_states(hidden_BTD, segment_BT, at_BQ)
    if one.pool == "last":
        return states_at(hidden_BTD, at_BQ)
    query_D = params["class_heads_query"][head] if one.pool == "attention" else None
    return segment_mean(hidden_BTD, segment_BT, at_BQ, query_D)


def class_logits(
    params: Any, config: ModelConfig, hidden_BQD: Float[Array, "B Q D"], head: int
) -> Float[Array, "B Q C"]:
    """Scores of one head's classes for every hidden state, float32."""
    count = len(config.class_heads[head].classes)
    bank_DC = params["class_heads"][head, :, :count].astype(hidden_BQD.dtype)
    logits_BQC = jnp.einsum(
        "BQD,DC->BQC", hidden_BQD, bank_DC,
        preferred_element_type=jnp.float32, precision=product_precision(hidden_BQD.dtype),
    )  # fmt: skip
    return logits_BQC + params["class_heads_bias"][head, :count][None, None]


def class_nll(logits_BQC: Float[Array, "B Q C"], label_BQ: Int[Array, "B Q"]) -> Float[Array, "B Q"]:
    """-log p(label), nats in float32. A label that the head has no class for counts as a score of 0."""
    own_BQC = jnp.arange(logits_BQC.shape[-1])[None, None] == label_BQ[..., None]
    return jax.nn.logsumexp(logits_BQC, axis=-1) - jnp.sum(jnp.where(own_BQC, logits_BQC, 0.0), axis=-1)


def smoothed_nll(
    logits_BQC: Float[Array, "B Q C"], label_BQ: Int[Array, "B Q"], smoothing: float
) -> Float[Array, "B Q"]:
    """Cross-entropy to the label's class, of which every class has a share of `smoothing` / C; nats in float32.

    Source: Szegedy et al. 2016, arXiv:1512.00567, section 7.
    """
    nll_BQ = class_nll(logits_BQC, label_BQ)
    if not smoothing:
        return nll_BQ
    of_all_BQ = jax.nn.logsumexp(logits_BQC, axis=-1) - logits_BQC.mean(axis=-1)
    return (1 - smoothing) * nll_BQ + smoothing * of_all_BQ


def label_nll(logit_BQ: Float[Array, "B Q"], true_BQ: Float[Array, "B Q"]) -> Float[Array, "B Q"]:
    """-log of the probability of a label that is there (1) or is not (0), by a sigmoid; between them, of both so much.

    Nats in float32, without overflow.
    """
    return jnp.maximum(logit_BQ, 0) - logit_BQ * true_BQ + jnp.log1p(jnp.exp(-jnp.abs(logit_BQ)))
