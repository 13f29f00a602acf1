"""How probable the targets are, without ever holding all logits: the one token likelihood of training and evaluation.

Axes: B batch  T position  D residual  V vocabulary (padded rows).
"""

import functools

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from gptjax.nn.attention import product_precision, soft_cap
from gptjax.sharding import constrain, gather, per_device, scatter

CHUNK_BYTES = 64 * 2**20  # float32 logits that may exist at once on one device


def chunks_for(rows: int, T: int, V: int) -> int:
    """Number of pieces to cut T into, a divisor of T, so that a piece's logits over `rows` rows fit CHUNK_BYTES."""
    wanted = rows * T * V * 4 / CHUNK_BYTES
    return next(count for count in range(1, T + 1) if T % count == 0 and (count >= wanted or count == T))


def logits_from(
    hidden_BTD: Float[Array, "B T D"], table_VD: Float[Array, "V D"], vocabulary: int, cap: float | None = None
) -> Float[Array, "B T V"]:
    """Scores in float32, bent below `cap`. Rows of the table beyond `vocabulary` are padding and score -inf."""
    dtype = hidden_BTD.dtype
    logits_BTV = jnp.einsum(
        "BTD,VD->BTV", hidden_BTD, table_VD.astype(dtype),
        preferred_element_type=jnp.float32, precision=product_precision(dtype),
    )  # fmt: skip
    logits_BTV = soft_cap(constrain(logits_BTV, "batch", "length", "vocabulary"), cap)
    if vocabulary == table_VD.shape[0]:
        return logits_BTV
    return jnp.where(_ids_like(logits_BTV) < vocabulary, logits_BTV, -jnp.inf)


def _ids_like(logits_BTV):
    """The token id of every place of the last axis."""
    return jax.lax.broadcasted_iota(jnp.int32, logits_BTV.shape, 2)


def token_nll(
    hidden_BTD: Float[Array, "B T D"],
    table_VD: Float[Array, "V D"],
    targets_BT: Int[Array, "B T"],
    *,
    vocabulary: int,
    chunks: int,
    cap: float | None = None,
) -> Float[Array, "B T"]:
    """-log p(target) of every position, nats in float32.

    T is worked through in `chunks` pieces, whose logits the backward pass computes anew: only one exists at a time. On
    a mesh each device scores its own rows; the table is gathered once, and its gradient scattered once, in float32.
    """
    T = hidden_BTD.shape[1]
    if T % chunks:
        raise ValueError(f"chunks={chunks} does not divide T={T}")
    return _nll(hidden_BTD, table_VD, targets_BT, vocabulary, chunks, cap)


def token_scores(
    hidden_BTD: Float[Array, "B T D"],
    table_VD: Float[Array, "V D"],
    targets_BT: Int[Array, "B T"],
    *,
    vocabulary: int,
    chunks: int,
    cap: float | None = None,
) -> tuple[Float[Array, "B T"], Int[Array, "B T"]]:
    """(-log p(target) in nats, the argmax) of every position; as `token_nll`, but to look at, not to learn."""

    def score(hidden_BTD, table_VD, targets_BT):
        whole_VD = gather("embed", table_VD.astype(hidden_BTD.dtype), axis=1)

        def piece(_, inputs):
            hidden_BtD, targets_Bt = inputs
            logits_BtV = logits_from(hidden_BtD, whole_VD, vocabulary, cap)
            own_BtV = _ids_like(logits_BtV) == targets_Bt[..., None]
            nll_Bt = jax.nn.logsumexp(logits_BtV, axis=-1) - jnp.sum(jnp.where(own_BtV, logits_BtV, 0), axis=-1)
            return None, (nll_Bt, jnp.argmax(logits_BtV, axis=-1).astype(jnp.int32))

        return _in_pieces(piece, None, (hidden_BTD, targets_BT), chunks)[1]

    rows = ("batch",)
    return per_device(score, (rows, ("vocabulary", "embed"), rows), (rows, rows))(hidden_BTD, table_VD, targets_BT)


@functools.partial(jax.custom_vjp, nondiff_argnums=(3, 4, 5))
def _nll(hidden_BTD, table_VD, targets_BT, vocabulary, chunks, cap):
    return _forward(hidden_BTD, table_VD, targets_BT, vocabulary, chunks, cap)[0]


def _forward(hidden_BTD, table_VD, targets_BT, vocabulary, chunks, cap):
    def score(hidden_BTD, table_VD, targets_BT):
        whole_VD = gather("embed", table_VD.astype(hidden_BTD.dtype), axis=1)

        def piece(_, inputs):
            hidden_BtD, targets_Bt = inputs
            logits_BtV = logits_from(hidden_BtD, whole_VD, vocabulary, cap)
            total_Bt = jax.nn.logsumexp(logits_BtV, axis=-1)
            # the target's score from its row of the table: to read it out of the logits is one more pass over them
            target_BtD = jnp.take(whole_VD, targets_Bt, axis=0).astype(jnp.float32)
            target_Bt = soft_cap(jnp.sum(hidden_BtD.astype(jnp.float32) * target_BtD, axis=-1), cap)
            return None, (total_Bt - target_Bt, total_Bt, logits_BtV if chunks == 1 else None)

        _, scored = _in_pieces(piece, None, (hidden_BTD, targets_BT), chunks)
        return scored

    rows, table = ("batch",), ("vocabulary", "embed")
    nll_BT, *kept = per_device(score, (rows, table, rows), rows)(hidden_BTD, table_VD, targets_BT)
    return nll_BT, (hidden_BTD, table_VD, targets_BT, *kept)


def _backward(vocabulary, chunks, cap, saved, g_BT):
    """Multiplies in hidden's dtype; the table's gradient has the table's, and adds up in float32."""

    def slope(hidden_BTD, table_VD, targets_BT, total_BT, logits_BTV, g_BT):
        dtype = hidden_BTD.dtype
        whole_VD = gather("embed", table_VD.astype(dtype), axis=1)
        product = {"preferred_element_type": jnp.float32, "precision": product_precision(dtype)}

        def piece(dtable_VD, inputs):
            hidden_BtD, targets_Bt, total_Bt, logits_BtV, g_Bt = inputs
            if logits_BtV is None:
                logits_BtV = logits_from(hidden_BtD, whole_VD, vocabulary, cap)
            is_target_BtV = _ids_like(logits_BtV) == targets_Bt[..., None]
            g_BtV = (jnp.exp(logits_BtV - total_Bt[..., None]) - is_target_BtV) * g_Bt[..., None]
            if cap is not None:  # the slope of the bend; padding, at -inf, has probability 0
                g_BtV = g_BtV * jnp.where(jnp.isfinite(logits_BtV), 1 - jnp.square(logits_BtV / cap), 0)
            g_BtV = g_BtV.astype(dtype)
            dhidden_BtD = jnp.einsum("BTV,VD->BTD", g_BtV, whole_VD, **product).astype(dtype)
            dpiece_VD = jnp.einsum("BTV,BTD->VD", g_BtV, hidden_BtD, **product)
            return dpiece_VD if dtable_VD is None else dtable_VD + dpiece_VD, dhidden_BtD

        nothing = None if chunks == 1 else jnp.zeros(whole_VD.shape, jnp.float32)
        inputs = (hidden_BTD, targets_BT, total_BT, logits_BTV, g_BT)
        dtable_VD, dhidden_BTD = _in_pieces(piece, nothing, inputs, chunks)
        assert dtable_VD is not None
        # together: the whole table's gradient is given up before the backward pass goes on to the layers
        return jax.lax.optimization_barrier((dhidden_BTD, scatter("embed", dtable_VD, axis=1).astype(table_VD.dtype)))

    rows, table = ("batch",), ("vocabulary", "embed")
    run = per_device(slope, (rows, table, rows, rows, rows, rows), (rows, table))
    dhidden_BTD, dtable_VD = run(*saved, g_BT)
    return dhidden_BTD, dtable_VD, None


_nll.defvjp(_forward, _backward)


def _in_pieces(piece, carry, arrays_BT, chunks):
    """lax.scan of `piece` over `chunks` pieces of axis 1; one piece is worked through without a loop."""
    if chunks == 1:
        return piece(carry, arrays_BT)

    def cut(array_BT):  # pieces first
        return jnp.moveaxis(array_BT.reshape(array_BT.shape[0], chunks, -1, *array_BT.shape[2:]), 1, 0)

    def joined(array_pBt):
        array_Bpt = jnp.moveaxis(array_pBt, 0, 1)
        return array_Bpt.reshape(array_Bpt.shape[0], -1, *array_Bpt.shape[3:])

    carry, results = jax.lax.scan(piece, carry, jax.tree.map(cut, arrays_BT))
    return carry, jax.tree.map(joined, results)
