"""How probable the targets are, without ever holding all logits: the one token likelihood of training and evaluation.

Axes: B batch  T position  D residual  V vocabulary (padded rows).
"""

import functools
import math

import jax
import jax.numpy as jnp
from jax.custom_derivatives import SymbolicZero
from jaxtyping import Array, Bool, Float, Int

from gptjax.nn.attention import product_precision, soft_cap
from gptjax.nn.decoding_weights import Matrix, times
from gptjax.sharding import constrain, gather, highest, length_ways, per_device, scatter

CHUNK_BYTES = 64 * 2**20  # float32 logits that may exist at once on one device
COUNTED_PIECES = 4  # at least, of the places that count: more would end nearer to the last one, but are slower each
TOKENS, ROWS, TABLE = ("batch", "length"), ("batch",), ("vocabulary", "embed")


def chunks_for(rows: int, T: int, V: int) -> int:
    """Number of pieces to cut T into, a divisor of T, so that a piece's logits over `rows` rows fit CHUNK_BYTES."""
    wanted = rows * T * V * 4 / CHUNK_BYTES
    return next(count for count in range(1, T + 1) if T % count == 0 and (count >= wanted or count == T))


def logits_from(
    hidden_BTD: Float[Array, "B T D"], table: Matrix, vocabulary: int, cap: float | None = None
) -> Float[Array, "B T V"]:
    """Scores in float32, bent below `cap`. Rows of the table [V,D] beyond `vocabulary` are padding and score -inf."""
    logits_BTV = soft_cap(constrain(times(hidden_BTD, table), "batch", "length", "vocabulary"), cap)
    if vocabulary == logits_BTV.shape[-1]:
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
    counted_BT: Bool[Array, "B T"] | None = None,
) -> Float[Array, "B T"]:
    """-log p(target) of every position, nats in float32.

    T is worked through in `chunks` pieces, whose logits the backward pass computes anew: only one exists at a time. On
    a mesh each device scores its own tokens, in so many pieces; the table is gathered once, and its gradient scattered
    once, in float32. Where the table does not learn, the forward pass makes the slope by hidden, and the backward pass
    no product.

    With `counted_BT` these places alone are scored; the others have 0 nats and no gradient, whatever stands there.
    """
    _check(chunks * length_ways(), hidden_BTD)
    return _nll(hidden_BTD, table_VD, targets_BT, counted_BT, vocabulary, chunks, cap)


def token_scores(
    hidden_BTD: Float[Array, "B T D"],
    table_VD: Float[Array, "V D"],
    targets_BT: Int[Array, "B T"],
    *,
    vocabulary: int,
    chunks: int,
    cap: float | None = None,
    counted_BT: Bool[Array, "B T"] | None = None,
) -> tuple[Float[Array, "B T"], Int[Array, "B T"]]:
    """(-log p(target) in nats, the argmax) of every position; as `token_nll`, but to look at, not to learn."""
    _check(chunks, hidden_BTD)

    def score(hidden_BTD, table_VD, targets_BT, counted_BT):
        whole_VD = gather("embed", table_VD.astype(hidden_BTD.dtype), axis=1)

        def piece(_, inputs):
            hidden_BtD, targets_Bt = inputs
            logits_BtV = logits_from(hidden_BtD, whole_VD, vocabulary, cap)
            own_BtV = _ids_like(logits_BtV) == targets_Bt[..., None]
            nll_Bt = jax.nn.logsumexp(logits_BtV, axis=-1) - jnp.sum(jnp.where(own_BtV, logits_BtV, 0), axis=-1)
            return None, (nll_Bt, jnp.argmax(logits_BtV, axis=-1).astype(jnp.int32))

        return _in_pieces(piece, None, (hidden_BTD, targets_BT), counted_BT, chunks)[1]

    # of a few places of each row, which need not divide, all devices that share the row score all
    own = TOKENS if hidden_BTD.shape[1] % (chunks * length_ways()) == 0 else ROWS
    run = per_device(score, (own, TABLE, own, own), (own, own))
    return run(hidden_BTD, table_VD, targets_BT, counted_BT)


def _check(pieces: int, hidden_BTD: Array) -> None:
    T, ways = hidden_BTD.shape[1], length_ways()
    if T % pieces:
        over = "" if ways == 1 else f" on each of {ways} devices that share a row"
        raise ValueError(f"chunks={pieces // ways}{over} does not divide T={T}")


@functools.partial(jax.custom_vjp, nondiff_argnums=(4, 5, 6))
def _nll(hidden_BTD, table_VD, targets_BT, counted_BT, vocabulary, chunks, cap):
    return _scored(hidden_BTD, table_VD, targets_BT, counted_BT, vocabulary, chunks, cap, learns=True)[0]


def _forward(hidden, table, targets, counted, vocabulary, chunks, cap):
    """The arrays come with whether anything is differentiated by them."""
    arrays = hidden.value, table.value, targets.value, None if counted is None else counted.value
    nll_BT, *saved = _scored(*arrays, vocabulary, chunks, cap, learns=table.perturbed)
    return nll_BT, (*arrays, *saved) if table.perturbed else tuple(saved)


def _scored(hidden_BTD, table_VD, targets_BT, counted_BT, vocabulary, chunks, cap, *, learns):
    """(nats, the log of the sum of exp of all scores, these where they are one piece); where the table does not learn
    (nats, their slope by hidden)."""

    def score(hidden_BTD, table_VD, targets_BT, counted_BT):
        whole_VD = gather("embed", table_VD.astype(hidden_BTD.dtype), axis=1)

        def piece(_, inputs):
            hidden_BtD, targets_Bt = inputs
            logits_BtV = logits_from(hidden_BtD, whole_VD, vocabulary, cap)
            total_Bt = jax.nn.logsumexp(logits_BtV, axis=-1)
            # the target's score from its row of the table: to read it out of the logits is one more pass over them
            target_BtD = jnp.take(whole_VD, targets_Bt, axis=0).astype(jnp.float32)
            target_Bt = soft_cap(jnp.sum(hidden_BtD.astype(jnp.float32) * target_BtD, axis=-1), cap)
            if learns:
                whole = chunks == 1 and counted_BT is None
                return None, (total_Bt - target_Bt, total_Bt, logits_BtV if whole else None)
            one_Bt = jnp.ones_like(total_Bt)
            g_BtV = _slope(logits_BtV, total_Bt, targets_Bt, one_Bt, cap).astype(hidden_BtD.dtype)
            return None, (total_Bt - target_Bt, _product("BTV,VD->BTD", g_BtV, whole_VD).astype(hidden_BtD.dtype))

        return _in_pieces(piece, None, (hidden_BTD, targets_BT), counted_BT, chunks)[1]

    run = per_device(score, (TOKENS, TABLE, TOKENS, TOKENS), TOKENS)
    return run(hidden_BTD, table_VD, targets_BT, counted_BT)


def _backward(vocabulary, chunks, cap, saved, g_BT):
    """Multiplies in hidden's dtype; the table's gradient has the table's, and adds up in float32."""
    if isinstance(g_BT, SymbolicZero):
        g_BT = jnp.zeros(g_BT.shape, jnp.float32)
    if len(saved) == 1:
        (slope_BTD,) = saved
        return (slope_BTD * g_BT[..., None]).astype(slope_BTD.dtype), None, None, None

    def slopes(hidden_BTD, table_VD, targets_BT, counted_BT, total_BT, logits_BTV, g_BT):
        whole_VD = gather("embed", table_VD.astype(hidden_BTD.dtype), axis=1)

        def piece(dtable_VD, inputs):
            hidden_BtD, targets_Bt, total_Bt, logits_BtV, g_Bt = inputs
            if logits_BtV is None:
                logits_BtV = logits_from(hidden_BtD, whole_VD, vocabulary, cap)
            g_BtV = _slope(logits_BtV, total_Bt, targets_Bt, g_Bt, cap).astype(hidden_BtD.dtype)
            dhidden_BtD = _product("BTV,VD->BTD", g_BtV, whole_VD).astype(hidden_BtD.dtype)
            dpiece_VD = _product("BTV,BTD->VD", g_BtV, hidden_BtD)
            return dpiece_VD if dtable_VD is None else dtable_VD + dpiece_VD, dhidden_BtD

        nothing = None if chunks == 1 and counted_BT is None else jnp.zeros(whole_VD.shape, jnp.float32)
        inputs = (hidden_BTD, targets_BT, total_BT, logits_BTV, g_BT)
        dtable_VD, dhidden_BTD = _in_pieces(piece, nothing, inputs, counted_BT, chunks)
        assert dtable_VD is not None
        # together: the whole table's gradient is given up before the backward pass goes on to the layers
        return jax.lax.optimization_barrier((dhidden_BTD, scatter(dtable_VD, *TABLE).astype(table_VD.dtype)))

    run = per_device(slopes, (TOKENS, TABLE, *(TOKENS,) * 5), (TOKENS, TABLE))
    dhidden_BTD, dtable_VD = run(*saved, g_BT)
    return dhidden_BTD, dtable_VD, None, None


_nll.defvjp(_forward, _backward, symbolic_zeros=True)


def _slope(logits_BtV, total_Bt, targets_Bt, g_Bt, cap):
    """g times the slope of the nats by the scores, before these are bent."""
    is_target_BtV = _ids_like(logits_BtV) == targets_Bt[..., None]
    g_BtV = (jnp.exp(logits_BtV - total_Bt[..., None]) - is_target_BtV) * g_Bt[..., None]
    if cap is not None:  # the slope of the bend; padding, at -inf, has probability 0
        g_BtV = g_BtV * jnp.where(jnp.isfinite(logits_BtV), 1 - jnp.square(logits_BtV / cap), 0)
    return g_BtV


def _product(spec, a, b):
    return jnp.einsum(spec, a, b, preferred_element_type=jnp.float32, precision=product_precision(a.dtype))


def _in_pieces(piece, carry, arrays_BT, counted_BT, chunks):
    """`piece`, (carry, arrays [B, t]) -> (carry, results [B, t]), over `chunks` pieces of axis 1; one without a loop.

    With `counted_BT`, over these places alone: see `_over_counted`.
    """
    if counted_BT is not None:
        return _over_counted(piece, carry, arrays_BT, counted_BT, max(chunks, COUNTED_PIECES))
    if chunks == 1:
        return piece(carry, arrays_BT)

    def cut(array_BT):  # pieces first
        return jnp.moveaxis(array_BT.reshape(array_BT.shape[0], chunks, -1, *array_BT.shape[2:]), 1, 0)

    def joined(array_pBt):
        array_Bpt = jnp.moveaxis(array_pBt, 0, 1)
        return array_Bpt.reshape(array_Bpt.shape[0], -1, *array_Bpt.shape[3:])

    carry, results = jax.lax.scan(piece, carry, jax.tree.map(cut, arrays_BT))
    return carry, jax.tree.map(joined, results)


def _over_counted(piece, carry, arrays_BT, counted_BT, pieces):
    """The places that count, in order, in pieces [1, p] as long as there are any; what `piece` finds, 0 elsewhere.

    A loop of no fixed length: autodiff cannot go through it, and need not.
    """
    B, T = counted_BT.shape
    places = B * T
    size = math.ceil(places / pieces)
    counted_M = counted_BT.reshape(places)  # M places of the rows, one after another
    place_M, *_ = jnp.nonzero(counted_M, size=size * pieces, fill_value=places)  # a place beyond all reads as 0
    arrays_M = jax.tree.map(lambda array_BT: array_BT.reshape(places, *array_BT.shape[2:]), arrays_BT)

    def taken(first):
        place_p = jax.lax.dynamic_slice_in_dim(place_M, first, size)
        return jax.tree.map(lambda array_M: array_M.at[place_p].get(mode="fill", fill_value=0)[None], arrays_M)

    def turn(i, carried):
        carry, found_M = carried
        carry, results = piece(carry, taken(i * size))
        write = lambda whole_M, part: jax.lax.dynamic_update_slice_in_dim(whole_M, part[0], i * size, 0)  # noqa: E731
        return carry, jax.tree.map(write, found_M, results)

    _, shapes = jax.eval_shape(piece, carry, jax.eval_shape(taken, 0))
    found_M = jax.tree.map(lambda leaf: jnp.zeros((size * pieces, *leaf.shape[2:]), leaf.dtype), shapes)
    # as many on every device: some share the vocabulary, and wait for each other
    turns = highest(jnp.ceil(counted_M.sum() / size).astype(jnp.int32))
    carry, found_M = jax.lax.fori_loop(0, turns, turn, (carry, found_M))
    rank_M = jnp.maximum(jnp.cumsum(counted_M) - 1, 0)

    def laid_out(found_M):
        own_M = jnp.where(counted_M.reshape(-1, *(1,) * (found_M.ndim - 1)), found_M[rank_M], 0)
        return own_M.reshape(B, T, *found_M.shape[1:])

    return carry, jax.tree.map(laid_out, found_M)
