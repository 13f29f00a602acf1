"""How probable the targets are, without ever holding all logits: the one token likelihood of training and evaluation.

Axes: B batch  T position  D residual  V vocabulary (padded rows).
"""

import functools

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from gptjax.attention import product_precision
from gptjax.sharding import constrain

CHUNK_BYTES = 64 * 2**20  # float32 logits that may exist at once on one device


def chunks_for(rows: int, T: int, V: int) -> int:
    """Number of pieces to cut T into, a divisor of T, so that a piece's logits over `rows` rows fit CHUNK_BYTES."""
    wanted = rows * T * V * 4 / CHUNK_BYTES
    return next(count for count in range(1, T + 1) if T % count == 0 and (count >= wanted or count == T))


def logits_from(
    hidden_BTD: Float[Array, "B T D"], table_VD: Float[Array, "V D"], vocabulary: int
) -> Float[Array, "B T V"]:
    """Scores in float32. Rows of the table beyond `vocabulary` are padding and score -inf."""
    dtype = hidden_BTD.dtype
    logits_BTV = jnp.einsum(
        "BTD,VD->BTV", hidden_BTD, table_VD.astype(dtype),
        preferred_element_type=jnp.float32, precision=product_precision(dtype),
    )  # fmt: skip
    logits_BTV = constrain(logits_BTV, "batch", "length", "vocabulary")
    if vocabulary == table_VD.shape[0]:
        return logits_BTV
    return jnp.where(_ids_like(logits_BTV) < vocabulary, logits_BTV, -jnp.inf)


def _ids_like(logits_BTV):
    """The token id of every place of the last axis."""
    return jax.lax.broadcasted_iota(jnp.int32, logits_BTV.shape, 2)


def token_nats(
    hidden_BTD: Float[Array, "B T D"],
    table_VD: Float[Array, "V D"],
    targets_BT: Int[Array, "B T"],
    *,
    vocabulary: int,
    chunks: int,
) -> Float[Array, "B T"]:
    """-log p(target) of every position, nats in float32.

    T is worked through in `chunks` pieces, whose logits the backward pass computes anew: only one exists at a time.
    """
    T = hidden_BTD.shape[1]
    if T % chunks:
        raise ValueError(f"chunks={chunks} does not divide T={T}")
    if chunks == 1:
        return _nats(hidden_BTD, table_VD, targets_BT, vocabulary)

    @jax.checkpoint
    def piece(_, inputs):
        return None, _nats(inputs[0], table_VD, inputs[1], vocabulary)

    def cut(array_BT):  # pieces first
        return jnp.moveaxis(array_BT.reshape(-1, chunks, T // chunks, *array_BT.shape[2:]), 1, 0)

    _, nats_pBt = jax.lax.scan(piece, None, (cut(hidden_BTD), cut(targets_BT)))
    return jnp.moveaxis(nats_pBt, 0, 1).reshape(targets_BT.shape)


@functools.partial(jax.custom_vjp, nondiff_argnums=(3,))
def _nats(hidden_BTD, table_VD, targets_BT, vocabulary):
    """-log p of each target. The backward pass multiplies in hidden's dtype; the table's gradient has the table's."""
    return _forward(hidden_BTD, table_VD, targets_BT, vocabulary)[0]


def _forward(hidden_BTD, table_VD, targets_BT, vocabulary):
    logits_BTV = logits_from(hidden_BTD, table_VD, vocabulary)
    total_BT = jax.nn.logsumexp(logits_BTV, axis=-1)
    # the target's score from its row of the table: reading it out of the logits would be one more pass over them
    target_BTD = jnp.take(table_VD, targets_BT, axis=0).astype(hidden_BTD.dtype).astype(jnp.float32)
    target_BT = jnp.sum(hidden_BTD.astype(jnp.float32) * target_BTD, axis=-1)
    return total_BT - target_BT, (hidden_BTD, table_VD, targets_BT, logits_BTV, total_BT)


def _backward(vocabulary, saved, g_BT):
    hidden_BTD, table_VD, targets_BT, logits_BTV, total_BT = saved
    is_target_BTV = _ids_like(logits_BTV) == targets_BT[..., None]
    probs_BTV = jnp.exp(logits_BTV - total_BT[..., None])
    g_BTV = ((probs_BTV - is_target_BTV) * g_BT[..., None]).astype(hidden_BTD.dtype)
    product = {"preferred_element_type": jnp.float32, "precision": product_precision(hidden_BTD.dtype)}
    dhidden_BTD = jnp.einsum("BTV,VD->BTD", g_BTV, table_VD.astype(hidden_BTD.dtype), **product)
    dtable_VD = jnp.einsum("BTV,BTD->VD", g_BTV, hidden_BTD, **product)
    return dhidden_BTD.astype(hidden_BTD.dtype), dtable_VD.astype(table_VD.dtype), None


_nats.defvjp(_forward, _backward)
