"""Output heads beside the one of the tokens: one bank of linear classifiers over hidden states, or pairs of them.

Axes: B batch  T position  D residual  Q positions that are looked at  C classes of a head.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from gptjax.config import ModelConfig
from gptjax.nn.attention import product_precision


def states_at(hidden_BTD: Float[Array, "B T D"], at_BQ: Int[Array, "B Q"]) -> Float[Array, "B Q D"]:
    """The hidden states at some positions of each row. A product, which every backend splits over rows without moving
    them; exact, as each sum has one term that is not 0."""
    one_BQT = jax.nn.one_hot(at_BQ, hidden_BTD.shape[1], dtype=hidden_BTD.dtype)
    return jnp.einsum("BQT,BTD->BQD", one_BQT, hidden_BTD, precision=product_precision(hidden_BTD.dtype))


def pair_states(
    hidden_BTD: Float[Array, "B T D"], segment_BT: Int[Array, "B T"], at_BQ: Int[Array, "B Q"]
) -> Float[Array, "B Q D"]:
    """What the two parts of a segment have in common: those before and from a place of it on.

    The product of their mean states, each at a root mean square of 1, in float32. From a state that has read both, a
    small model learns far more slowly whether they belong together: see docs/log.md.

    Source: Mou et al. 2016, arXiv:1512.08422, section 3.3 (the product as a heuristic of matching).
    """
    T = hidden_BTD.shape[1]
    at_BQT = jax.nn.one_hot(at_BQ, T, dtype=segment_BT.dtype)
    own_BQT = segment_BT[:, None] == jnp.einsum("BQT,BT->BQ", at_BQT, segment_BT)[..., None]
    second_BQT = jnp.arange(T)[None, None] >= at_BQ[..., None]

    def of(part_BQT):
        sum_BQD = jnp.einsum(
            "BQT,BTD->BQD", part_BQT.astype(hidden_BTD.dtype), hidden_BTD,
            preferred_element_type=jnp.float32, precision=product_precision(hidden_BTD.dtype),
        )  # fmt: skip
        mean_BQD = sum_BQD / jnp.maximum(1, part_BQT.sum(-1, keepdims=True))
        return mean_BQD * jax.lax.rsqrt(jnp.square(mean_BQD).mean(-1, keepdims=True) + 1e-6)

    return (of(own_BQT & ~second_BQT) * of(own_BQT & second_BQT)).astype(hidden_BTD.dtype)


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
