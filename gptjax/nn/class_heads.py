"""Output heads beside the one of the tokens: one bank of linear layers over hidden states, means or pairs of them.

Axes: B batch  T position  D residual  Q positions that are looked at  C classes of a head.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from gptjax.config import ModelConfig
from gptjax.nn.attention import product_precision
from gptjax.nn.pooling import pair_states, pooled, segment_mean


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
    if one.pool == "attention":
        return segment_mean(hidden_BTD, segment_BT, at_BQ, params["class_heads_query"][head])
    return pooled(hidden_BTD, segment_BT, at_BQ, one.pool)


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
