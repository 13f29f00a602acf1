"""gptjax.nn.likelihood: the chunked loss is the plain one, and all logits never exist at once."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from gptjax.nn import likelihood
from gptjax.nn.likelihood import CHUNK_BYTES, chunks_for, logits_from
from gptjax.sharding import make_mesh

VOCABULARY, V = 100, 128
# compiled as users have them; operation by operation, a test would compile a hundred small programs
token_nll = jax.jit(likelihood.token_nll, static_argnames=("vocabulary", "chunks", "cap"))
token_scores = jax.jit(likelihood.token_scores, static_argnames=("vocabulary", "chunks", "cap"))


@functools.cache
def inputs(B=3, T=8, D=16, vocabulary=VOCABULARY, rows=V, dtype=jnp.float32):
    """hidden, table and targets; logits spread over several nats."""
    keys = jax.random.split(jax.random.key(0), 3)
    hidden_BTD = jax.random.normal(keys[0], (B, T, D)).astype(dtype)
    table_VD = 0.5 * jax.random.normal(keys[1], (rows, D))
    return hidden_BTD, table_VD, jax.random.randint(keys[2], (B, T), 0, vocabulary)


def weighed(nll_BT):
    """A sum in which every position counts differently, some not at all."""
    return (nll_BT * jnp.linspace(-1, 2, nll_BT.size).reshape(nll_BT.shape).at[0, 0].set(0)).sum()


@functools.partial(jax.jit, static_argnames="cap")
def optax_nll(hidden_BTD, table_VD, targets_BT, cap=None):
    """The oracle: optax on logits of the rows in use."""
    logits_BTV = jnp.matmul(hidden_BTD, table_VD[:VOCABULARY].T, precision="highest")
    logits_BTV = logits_BTV if cap is None else cap * jnp.tanh(logits_BTV / cap)
    return optax.softmax_cross_entropy_with_integer_labels(logits_BTV, targets_BT)


@pytest.mark.parametrize("chunks", [1, 2, 8])
def test_nats_are_those_of_optax(chunks):
    """In however many pieces, every position's nats are within 1e-6 of optax on the whole."""
    found = token_nll(*inputs(), vocabulary=VOCABULARY, chunks=chunks)
    np.testing.assert_allclose(found, optax_nll(*inputs()), rtol=1e-6, atol=1e-6)
    assert found.dtype == jnp.float32


@pytest.mark.parametrize(("chunks", "cap"), [(1, None), (2, None), (8, None), (1, 2.0), (4, 2.0)])
def test_gradients_are_those_of_optax(chunks, cap):
    """In however many pieces, capped or not, within 1e-6 of optax's in hidden and table, and no live one is 0."""
    hidden_BTD, table_VD, targets_BT = inputs()

    def nats(h, t):
        return token_nll(h, t, targets_BT, vocabulary=VOCABULARY, chunks=chunks, cap=cap)

    np.testing.assert_allclose(nats(hidden_BTD, table_VD), optax_nll(*inputs(), cap), rtol=1e-5, atol=1e-6)
    ours = jax.jit(jax.grad(lambda h, t: weighed(nats(h, t)), argnums=(0, 1)))
    theirs = jax.jit(jax.grad(lambda h, t: weighed(optax_nll(h, t, targets_BT, cap)), argnums=(0, 1)))
    found, wanted = ours(hidden_BTD, table_VD), theirs(hidden_BTD, table_VD)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), found, wanted)
    assert np.abs(found[1][:VOCABULARY]).min() > 0


@pytest.mark.parametrize("chunks", [1, 4])
def test_padding_rows_of_the_table_never_score_and_never_learn(chunks):
    """Their logits are -inf and their gradient exactly 0, however large their values."""
    hidden_BTD, table_VD, targets_BT = inputs()
    table_VD = table_VD.at[VOCABULARY:].set(1e3)
    logits_BTV = logits_from(hidden_BTD, table_VD, VOCABULARY)
    assert (logits_BTV[..., VOCABULARY:] == -jnp.inf).all()
    assert jnp.isfinite(logits_BTV[..., :VOCABULARY]).all()
    loss = lambda t: weighed(token_nll(hidden_BTD, t, targets_BT, vocabulary=VOCABULARY, chunks=chunks))  # noqa: E731
    dtable_VD = jax.jit(jax.grad(loss))(table_VD)
    assert (dtable_VD[VOCABULARY:] == 0).all()
    assert (dtable_VD[:VOCABULARY] != 0).all()


@pytest.mark.parametrize(("chunks", "cap"), [(1, None), (2, None), (8, 2.0)])
def test_scores_are_the_same_nats_and_the_likeliest_id_of_all(chunks, cap):
    """In however many pieces; of float32 and of bfloat16; a padding row is never the likeliest, however large."""
    for dtype in (jnp.float32, jnp.bfloat16):
        hidden_BTD, table_VD, targets_BT = inputs(dtype=dtype)
        table_VD = table_VD.at[VOCABULARY:].mul(1e3)
        settings = {"vocabulary": VOCABULARY, "chunks": chunks, "cap": cap}
        nll_BT, argmax_BT = token_scores(hidden_BTD, table_VD, targets_BT, **settings)
        wanted_BT = token_nll(hidden_BTD, table_VD, targets_BT, **settings)
        np.testing.assert_allclose(nll_BT, wanted_BT, rtol=2e-5, atol=1e-5)
        logits_BTV = logits_from(hidden_BTD, table_VD, VOCABULARY, cap)
        np.testing.assert_array_equal(argmax_BT, jnp.argmax(logits_BTV, axis=-1))
        assert len(np.unique(argmax_BT)) > 1
        assert argmax_BT.max() < VOCABULARY


def test_scores_on_a_mesh_are_those_of_one_device():
    hidden_BTD, table_VD, targets_BT = inputs(B=4)
    settings = {"vocabulary": VOCABULARY, "chunks": 2}
    alone = token_scores(hidden_BTD, table_VD, targets_BT, **settings)
    with jax.set_mesh(make_mesh(2, 2, 2)):
        spread = token_scores(hidden_BTD, table_VD, targets_BT, **settings)
    np.testing.assert_allclose(spread[0], alone[0], rtol=1e-5)
    np.testing.assert_array_equal(spread[1], alone[1])


def test_probabilities_sum_to_one():
    """exp(-nats) over all ids of the vocabulary, at every position."""
    hidden_BTD, table_VD, targets_BT = inputs()
    every = [
        token_nll(hidden_BTD, table_VD, jnp.full_like(targets_BT, id), vocabulary=VOCABULARY, chunks=1)
        for id in range(VOCABULARY)
    ]
    np.testing.assert_allclose(sum(jnp.exp(-nats) for nats in every), 1.0, atol=1e-5)


def test_bfloat16_is_within_a_thousandth_at_50k():
    """50,257 ids from bfloat16 hidden states: within 1e-3 nats of float32 on the same values (trap 37)."""
    hidden_BTD, table_VD, targets_BT = inputs(D=64, vocabulary=50_257, rows=50_304, dtype=jnp.bfloat16)
    table_VD = table_VD.astype(jnp.bfloat16).astype(jnp.float32)
    half = token_nll(hidden_BTD, table_VD, targets_BT, vocabulary=50_257, chunks=4)
    full = token_nll(hidden_BTD.astype(jnp.float32), table_VD, targets_BT, vocabulary=50_257, chunks=1)
    assert half.dtype == jnp.float32
    np.testing.assert_allclose(half, full, atol=1e-3)


def test_the_tables_gradient_is_float32_under_bfloat16():
    """Pieces are added up in float32: in 1 piece or 8, the table's gradient agrees to 1e-5 of its size."""
    hidden_BTD, table_VD, targets_BT = inputs(dtype=jnp.bfloat16)

    @functools.partial(jax.jit, static_argnums=1)
    @jax.grad
    def slope(table_VD, chunks):
        return weighed(token_nll(hidden_BTD, table_VD, targets_BT, vocabulary=VOCABULARY, chunks=chunks))

    one, eight = (slope(table_VD, chunks) for chunks in (1, 8))
    assert one.dtype == eight.dtype == jnp.float32
    np.testing.assert_allclose(one, eight, atol=1e-5 * float(jnp.abs(one).max()))


def test_all_logits_never_exist_at_once():
    """Cut in 32, a compiled loss with gradients needs less memory than half its f32 logits; whole, more than all."""
    B, T, rows = 8, 64, 8192
    hidden_BTD, table_VD, targets_BT = inputs(B, T, 8, rows, rows)

    def memory(chunks):
        loss = jax.value_and_grad(
            lambda h, t: token_nll(h, t, targets_BT, vocabulary=rows, chunks=chunks).sum(), argnums=(0, 1)
        )
        compiled = jax.jit(loss).lower(hidden_BTD, table_VD).compile()
        return compiled.memory_analysis().temp_size_in_bytes, f"f32[{B},{T},{rows}]" in compiled.as_text()

    logits_bytes = B * T * rows * 4
    chunked, plain = memory(32), memory(1)
    assert chunked[0] < logits_bytes / 2 < logits_bytes <= plain[0]
    assert (chunked[1], plain[1]) == (False, True)


@pytest.mark.parametrize(
    ("rows", "T", "V"), [(1, 8, 128), (12, 64, 128), (16, 1024, 50_304), (8, 2048, 32_000), (3, 1021, 50_304)]
)
def test_the_number_of_pieces_divides_t_and_fits(rows, T, V):
    """A piece's logits fit the allowance, or a piece is one position; with fewer pieces they would not fit."""
    chunks = chunks_for(rows, T, V)
    assert T % chunks == 0
    assert rows * (T // chunks) * V * 4 <= CHUNK_BYTES or chunks == T
    fewer = [count for count in range(1, chunks) if T % count == 0]
    assert all(rows * (T // count) * V * 4 > CHUNK_BYTES for count in fewer)


COUNTED = {
    "some": jax.random.uniform(jax.random.key(5), (4, 8)) < 0.4,
    "one": jnp.zeros((4, 8), bool).at[2, 3].set(True),
    "none": jnp.zeros((4, 8), bool),
    "all": jnp.ones((4, 8), bool),
}


@functools.partial(jax.jit, static_argnames=("chunks", "cap", "learns"))
def value_and_slopes(inputs, counted_BT=None, chunks=2, cap=None, learns=True):
    """(nats, slope by hidden, and by the table where it learns) of a sum in which every counted place has a weight."""
    hidden_BTD, table_VD, targets_BT = inputs
    weight_BT = jnp.linspace(-1, 2, targets_BT.size).reshape(targets_BT.shape)
    counts_BT = COUNTED["all"] if counted_BT is None else counted_BT

    def loss(hidden_BTD, table_VD):
        nll_BT = likelihood.token_nll(
            hidden_BTD, table_VD, targets_BT, vocabulary=VOCABULARY, chunks=chunks, cap=cap, counted_BT=counted_BT
        )
        return jnp.sum(jnp.where(counts_BT, nll_BT * weight_BT, 0)), nll_BT

    slopes = jax.value_and_grad(loss, argnums=(0, 1) if learns else (0,), has_aux=True)
    (_, nll_BT), gradient = slopes(hidden_BTD, table_VD)
    return nll_BT, *gradient


@functools.partial(jax.jit, static_argnames=("chunks", "cap"))
def dense(inputs, counted_BT, **settings):
    """The oracle: all places scored, and those that do not count weighed with 0."""
    hidden_BTD, table_VD, targets_BT = inputs
    weight_BT = jnp.where(counted_BT, jnp.linspace(-1, 2, targets_BT.size).reshape(targets_BT.shape), 0)

    def loss(hidden_BTD, table_VD):
        nll_BT = token_nll(hidden_BTD, table_VD, targets_BT, vocabulary=VOCABULARY, **settings)
        return jnp.sum(nll_BT * weight_BT), nll_BT

    (_, nll_BT), gradient = jax.value_and_grad(loss, argnums=(0, 1), has_aux=True)(hidden_BTD, table_VD)
    return jnp.where(counted_BT, nll_BT, 0), *gradient


@pytest.mark.parametrize("learns", [True, False])
@pytest.mark.parametrize(
    ("which", "chunks", "cap"), [("some", 1, None), ("some", 8, 2.0), ("all", 2, None), ("one", 2, None)]
)
def test_counted_places_alone_have_the_nats_and_slopes_of_all(which, chunks, cap, learns):
    """Within 1e-6, in float32, whether or not the table learns; all others are exactly 0."""
    counted_BT = COUNTED[which]
    found = value_and_slopes(inputs(B=4), counted_BT, chunks, cap, learns)
    wanted = dense(inputs(B=4), counted_BT, chunks=chunks, cap=cap)
    assert len(found) == 2 + learns
    for a, b in zip(found, wanted, strict=False):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)
        assert a.dtype == b.dtype
    assert not found[0][~counted_BT].any()
    assert not found[1][~counted_BT].any()
    assert np.abs(wanted[1][counted_BT]).max() > 1e-3


@pytest.mark.parametrize("learns", [True, False])
def test_what_stands_at_places_that_do_not_count_changes_nothing(learns):
    """Numbers beyond all bounds, NaN, and other targets there: bit for bit the same; at a place that counts, not."""
    hidden_BTD, table_VD, targets_BT = inputs(B=4)
    counted_BT = COUNTED["some"]
    for garbage in (1e30, np.nan):
        other = (
            jnp.where(counted_BT[..., None], hidden_BTD, garbage), table_VD, jnp.where(counted_BT, targets_BT, 7),
        )  # fmt: skip
        found = value_and_slopes(other, counted_BT, learns=learns)
        wanted = value_and_slopes((hidden_BTD, table_VD, targets_BT), counted_BT, learns=learns)
        jax.tree.map(np.testing.assert_array_equal, found, wanted)
    moved = value_and_slopes((hidden_BTD * 2, table_VD, targets_BT), counted_BT, learns=learns)
    assert not np.array_equal(moved[0], wanted[0])


@pytest.mark.parametrize("learns", [True, False])
def test_a_batch_without_a_target_has_no_nats_and_no_slope(learns):
    for array in value_and_slopes(inputs(B=4), COUNTED["none"], learns=learns):
        assert not array.any()


@pytest.mark.parametrize("learns", [True, False])
def test_counted_places_on_a_mesh_are_those_of_one_device(learns):
    """Eight devices, of which some have a target in every place, one has none; within 1e-5."""
    counted_BT = COUNTED["some"].at[0].set(False).at[1].set(True)
    alone = value_and_slopes(inputs(B=4), counted_BT, learns=learns)
    for sizes in ((2, 2, 2), (4, 1, 2)):
        with jax.set_mesh(make_mesh(*sizes)):
            spread = value_and_slopes(inputs(B=4), counted_BT, learns=learns)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), spread, alone)


@pytest.mark.parametrize("counted", [None, COUNTED["some"]])
def test_a_table_that_does_not_learn_costs_two_products_less(counted):
    """Its slope is never made, nor are the scores made again; the slope by hidden is within 1e-6 the same."""
    arrays = inputs(B=4)
    np.testing.assert_allclose(
        value_and_slopes(arrays, counted, learns=False)[1], value_and_slopes(arrays, counted)[1], rtol=1e-5, atol=1e-6
    )

    def products(learns):
        text = str(jax.make_jaxpr(functools.partial(value_and_slopes, learns=learns))(arrays, counted))
        return text.count("dot_general")

    assert (products(True), products(False)) == (4, 2)


def test_scores_of_counted_places_are_those_of_all():
    counted_BT, settings = COUNTED["some"], {"vocabulary": VOCABULARY, "chunks": 2}
    nll_BT, argmax_BT = token_scores(*inputs(B=4), **settings, counted_BT=counted_BT)
    wanted = token_scores(*inputs(B=4), **settings)
    np.testing.assert_allclose(nll_BT, jnp.where(counted_BT, wanted[0], 0), rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(argmax_BT, jnp.where(counted_BT, wanted[1], 0))


def test_pieces_that_do_not_divide_t_are_refused():
    """The error holds both numbers."""
    with pytest.raises(ValueError, match=r"chunks=3 .* T=8"):
        token_nll(*inputs(), vocabulary=VOCABULARY, chunks=3)
