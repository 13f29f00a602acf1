"""How a token is chosen from a model's scores: settings of each row, bias and penalties, narrowing, drawing.

Axes: B rows  V vocabulary (padded rows)  W words of 32 tokens.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

LIKELIEST = 20  # tokens that can be told of with each token drawn


class Choice(NamedTuple):
    """How each row's tokens are chosen. All are traced, so that no change of settings compiles anew."""

    key_B: Any  # random key
    temperature_B: Any  # 0 = the likeliest token
    top_k_B: Any  # the vocabulary's size = off
    top_p_B: Any  # 1 = off
    min_p_B: Any  # 0 = off
    penalty_B: Any  # for repetition; 1 = off
    presence_B: Any  # taken from the score of a token that the text has; 0 = off
    frequency_B: Any  # the same, each time it has it; 0 = off
    bias_BV: Any  # f32: added to the scores
    told_B: Any  # bool: whether the likeliest tokens are asked for


class Drawn(NamedTuple):
    """A token of each row."""

    id_B: Array
    log_prob_B: Array  # f32: nats, as the model believes, before any setting
    likeliest_BJ: Array  # i32 [B,LIKELIEST]: the likeliest tokens, as the model believes; zeros where nobody asked
    their_log_prob_BJ: Array


def draw(
    logits_BV: Float[Array, "B V"],
    seen_BV: Bool[Array, "B V"],
    count_BV: Int[Array, "B V"],
    allowed_BW: Int[Array, "B W"],
    place_B: Int[Array, "B"],
    choice: Choice,
) -> Drawn:
    """A token a row. `seen`: those of prompt and text; `count`: how often the text has each; `allowed`: the bits of
    those that may be drawn; `place`: of the token, for its random numbers."""
    keys_B = jax.vmap(jax.random.fold_in)(choice.key_B, place_B)
    id_B = choose(permitted(adjusted(logits_BV, seen_BV, count_BV, choice), allowed_BW), keys_B, choice)
    total_B = jax.nn.logsumexp(logits_BV, axis=-1)
    log_prob_B = jnp.take_along_axis(logits_BV, id_B[:, None], axis=-1)[:, 0] - total_B
    return Drawn(id_B, log_prob_B, *likeliest(logits_BV, total_B, choice.told_B.any()))


def likeliest(
    logits_MV: Float[Array, "M V"], total_M: Float[Array, "M"], asked: Bool[Array, ""]
) -> tuple[Int[Array, "M J"], Float[Array, "M J"]]:
    """The likeliest tokens of each place and their log-probabilities; zeros if nobody asked."""
    J = min(LIKELIEST, logits_MV.shape[-1])

    def found():
        top_MJ, id_MJ = jax.lax.top_k(logits_MV, J)
        return id_MJ.astype(jnp.int32), top_MJ - total_M[:, None]

    none_MJ = jnp.zeros((logits_MV.shape[0], J))
    return jax.lax.cond(asked, found, lambda: (none_MJ.astype(jnp.int32), none_MJ.astype(jnp.float32)))


def permitted(logits_BV: Float[Array, "B V"], allowed_BW: Int[Array, "B W"]) -> Float[Array, "B V"]:
    """Scores of the tokens whose bits are set, -inf for others; bit v % 32 of word v // 32 is token v's."""
    V = logits_BV.shape[-1]
    bit_BV = (jnp.repeat(allowed_BW, 32, axis=-1)[:, :V] >> (jnp.arange(V) % 32)[None, :]) & 1
    return jnp.where(bit_BV == 1, logits_BV, -jnp.inf)


def adjusted(
    logits_BV: Float[Array, "B V"], seen_BV: Bool[Array, "B V"], count_BV: Int[Array, "B V"], choice: Choice
) -> Float[Array, "B V"]:
    """Scores with the bias added; then those of seen tokens divided by the penalty if positive, else multiplied by it;
    then the penalties for presence and frequency taken off.

    Source: Keskar et al. 2019, arXiv:1909.05858, section 4.1; for negative scores as Hugging Face does, which also has
    this order. Presence and frequency: OpenAI's API reference, and vLLM's order.
    """
    biased_BV = logits_BV + choice.bias_BV
    penalty_B1 = choice.penalty_B[:, None]
    lowered_BV = jnp.where(biased_BV > 0, biased_BV / penalty_B1, biased_BV * penalty_B1)
    scores_BV = jnp.where(seen_BV, lowered_BV, biased_BV)
    return scores_BV - count_BV * choice.frequency_B[:, None] - (count_BV > 0) * choice.presence_B[:, None]


def choose(logits_BV: Float[Array, "B V"], keys_B: Array, choice: Choice) -> Int[Array, "B"]:
    """One token id a row, drawn from what `narrowed` leaves; at temperature 0 the likeliest, of equals the lowest."""
    first_B = jnp.argmax(logits_BV, axis=-1)
    drawn_B = jax.lax.cond(
        (choice.temperature_B > 0).any(),
        lambda: jax.vmap(jax.random.categorical)(keys_B, narrowed(logits_BV, choice)),
        lambda: first_B,
    )
    return jnp.where(choice.temperature_B > 0, drawn_B, first_B).astype(jnp.int32)


def narrowed(logits_BV: Float[Array, "B V"], choice: Choice) -> Float[Array, "B V"]:
    """Scores divided by the temperature, -inf but for the top k, of those the top p, and of those the min p.

    The likeliest token is always kept; so are all that score the same as the last one kept.

    Source: Holtzman et al. 2020, arXiv:1904.09751, section 3.1 (top p); Nguyen et al. 2024, arXiv:2407.01082 (min p).
    """
    scaled_BV = logits_BV / jnp.where(choice.temperature_B > 0, choice.temperature_B, 1)[:, None]
    order_BV = _ordered(scaled_BV)
    top_BV = order_BV >= _threshold(order_BV, jnp.ones_like(scaled_BV), choice.top_k_B.astype(jnp.float32))[:, None]
    probs_BV = jax.nn.softmax(jnp.where(top_BV, scaled_BV, -jnp.inf), axis=-1)
    kept_BV = order_BV >= _threshold(order_BV, probs_BV, choice.top_p_B)[:, None]
    kept_BV = top_BV & (kept_BV | (choice.top_p_B >= 1)[:, None])
    kept_BV &= probs_BV >= choice.min_p_B[:, None] * probs_BV.max(axis=-1, keepdims=True)
    return jnp.where(kept_BV, scaled_BV, -jnp.inf)


def _ordered(x: Float[Array, "B V"]) -> Array:
    """Whole numbers, u32, in the order of the float32 numbers."""
    bits = jax.lax.bitcast_convert_type(x.astype(jnp.float32) + 0.0, jnp.uint32)  # of the two zeros, one
    return jnp.where(bits >> 31 == 1, ~bits, bits | jnp.uint32(1 << 31))


def _threshold(order_BV: Array, weight_BV: Float[Array, "B V"], least_B: Float[Array, "B"]) -> Array:
    """The highest number such that those from it on weigh at least so much: found bit by bit, without sorting, which
    takes ten times as long on a CPU. 0 where all together weigh less."""

    def bit(i: Array, found_B: Array) -> Array:
        tried_B = found_B | (jnp.uint32(1 << 31) >> i.astype(jnp.uint32))
        weight_B = jnp.where(order_BV >= tried_B[:, None], weight_BV, 0).sum(axis=-1)
        return jnp.where(weight_B >= least_B, tried_B, found_B)

    return jax.lax.fori_loop(0, 32, bit, jnp.zeros(order_BV.shape[0], jnp.uint32))
