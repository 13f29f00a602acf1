"""One vector out of the states of a text: for output heads, for embeddings and for features, the one place of all.

Axes: B batch  T position  D residual  Q places that are looked at, each of which names the segment it lies in.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from gptjax.nn.attention import product_precision


def pooled(
    hidden_BTD: Float[Array, "B T D"], segment_BT: Int[Array, "B T"], at_BQ: Int[Array, "B Q"], pool: str
) -> Float[Array, "B Q D"]:
    """What `pool` says: "mean" of each place's segment; "last", the state at the place; "weighted", the mean in which
    the n-th state of the segment counts n times, for models that read from the left: a later state has seen more.

    Means are made in float32; the result has hidden_BTD's dtype.
    Source: Muennighoff 2022, arXiv:2202.08904, section 3.1 (position-weighted mean).
    """
    match pool:
        case "last":
            return states_at(hidden_BTD, at_BQ)
        case "mean":
            return segment_mean(hidden_BTD, segment_BT, at_BQ)
        case "weighted":
            own_BQT = _own(segment_BT, at_BQ)
            return _mean(hidden_BTD, jnp.cumsum(own_BQT, axis=-1) * own_BQT).astype(hidden_BTD.dtype)
    raise AssertionError(pool)


def states_at(hidden_BTD: Float[Array, "B T D"], at_BQ: Int[Array, "B Q"]) -> Float[Array, "B Q D"]:
    """The hidden states at some positions of each row. A product, which every backend splits over rows without moving
    them; exact, as each sum has one term that is not 0."""
    one_BQT = jax.nn.one_hot(at_BQ, hidden_BTD.shape[1], dtype=hidden_BTD.dtype)
    return jnp.einsum("BQT,BTD->BQD", one_BQT, hidden_BTD, precision=product_precision(hidden_BTD.dtype))


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


def _own(segment_BT: Int[Array, "B T"], at_BQ: Int[Array, "B Q"]) -> Bool[Array, "B Q T"]:
    """Which positions are of the segment of each place."""
    at_BQT = jax.nn.one_hot(at_BQ, segment_BT.shape[1], dtype=segment_BT.dtype)
    return segment_BT[:, None] == jnp.einsum("BQT,BT->BQ", at_BQT, segment_BT)[..., None]


def _mean(
    hidden_BTD: Float[Array, "B T D"], times_BQT: Bool[Array, "B Q T"] | Int[Array, "B Q T"]
) -> Float[Array, "B Q D"]:
    """The mean of some states, each of which counts so many times, float32; 0 of none."""
    if times_BQT.dtype != bool:  # bfloat16 has no odd number above 256
        hidden_BTD = hidden_BTD.astype(jnp.float32)
    sum_BQD = jnp.einsum(
        "BQT,BTD->BQD", times_BQT.astype(hidden_BTD.dtype), hidden_BTD,
        preferred_element_type=jnp.float32, precision=product_precision(hidden_BTD.dtype),
    )  # fmt: skip
    return sum_BQD / jnp.maximum(1, times_BQT.sum(-1, keepdims=True))
