"""Attention over the devices that share a row: the same numbers, and as much work on each."""

import copy

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gptjax.nn.attention import Rule, attend, attention_mask
from gptjax.nn.context import _even_then_odd, _worker
from gptjax.nn.kernels import attend_by, prepared
from gptjax.sharding import make_mesh
from tests.tiny_run import random_model

B, N, K, H = 2, 4, 2, 8


def drawn(T):
    keys = jax.random.split(jax.random.key(0), 4)
    return tuple(jax.random.normal(key, (B, T, count, H)) for key, count in zip(keys, (N, K, K, N), strict=True))


def rule_of(T, window=None):
    """A row of one causal document, and one of a prefix, both sides and padding."""
    place = jnp.arange(T)
    segment = jnp.stack([jnp.ones(T, int), jnp.where(place < T // 3, 1, jnp.where(place < T - 3, 2, 0))])
    visible = jnp.stack([place < 0, (place < T // 5) | (place >= T // 3) & (place < T - 3)])
    return Rule.of(segment, visible, window)


def with_slopes(look, q, k, v, upstream):
    out, pull = jax.vjp(look, q, k, v)
    return out, *pull(upstream)


@pytest.mark.parametrize(("ways", "T", "window"), [(4, 32, None), (8, 24, None), (2, 32, 5)])
def test_result_and_gradients_are_those_of_one_device(ways, T, window):
    """Two pieces a device and, where tokens are odd, one; the keys of the row are gathered."""
    rule = rule_of(T, window)
    wanted = jax.jit(lambda *x: with_slopes(lambda *y: attend(*y, attention_mask(rule)), *x))(*drawn(T))
    with jax.set_mesh(make_mesh(data=8 // ways, context=ways) if ways > 2 else make_mesh(2, 1, 2, 2)):
        run = jax.jit(lambda *x: with_slopes(lambda *y: attend_by("xla", *y, prepared("xla", rule)), *x))
        found = run(*drawn(T))
        assert "all-gather" in run.lower(*drawn(T)).compile().as_text()
    for one, other in zip(found, wanted, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-5)


def test_a_text_that_the_mesh_does_not_divide_is_computed_as_ever():
    """Seven tokens over four devices."""
    q, k, v, _ = drawn(7)
    rule = Rule.of(jnp.ones((B, 7), int), None)
    with jax.set_mesh(make_mesh(data=2, context=4)):
        found = jax.jit(lambda *x: attend_by("xla", *x, prepared("xla", rule)))(q, k, v)
    np.testing.assert_allclose(found, attend(q, k, v, attention_mask(rule)), atol=1e-6)


@pytest.mark.parametrize("ways", [2, 3, 4, 8])
def test_every_piece_has_one_worker_and_a_causal_row_is_as_dear_on_each(ways):
    """Pairs of tokens that may meet, counted in the mask; by neighbours the last device would have most of them."""
    T = 8 * ways
    pieces = [[int(piece) for piece in _even_then_odd(jnp.int32(d), ways)] for d in range(ways)]
    assert sorted(piece for own in pieces for piece in own) == list(range(2 * ways))
    assert all(
        piece % 2 == odd and _worker(piece, ways) == d for d in range(ways) for odd, piece in enumerate(pieces[d])
    )
    pairs = np.asarray(attention_mask(Rule.of(jnp.ones((1, T), int), None)))[0].sum(axis=1).reshape(2 * ways, -1).sum(1)
    assert len({sum(pairs[piece] for piece in own) for own in pieces}) == 1
    assert pairs[-2:].sum() > 1.4 * pairs.sum() / ways


def test_texts_are_scored_and_written_as_on_one_device():
    """Lengths that divide over the devices and such that do not; greedy texts, from a cache that nobody splits."""
    model = random_model()
    spread = copy.copy(model)
    spread.mesh = make_mesh(data=2, context=4)
    texts = [[1, *range(5, 5 + length)] for length in (3, 18, 63)]
    for found, wanted in zip(spread.log_probs(texts), model.log_probs(texts), strict=True):
        np.testing.assert_allclose(found, wanted, atol=1e-4)
    both_sides = spread.log_probs(texts[1:2], view="bidirectional")[0]
    np.testing.assert_allclose(both_sides, model.log_probs(texts[1:2], view="bidirectional")[0], atol=1e-4)
    assert spread.generate("the", temperature=0, tokens=8) == model.generate("the", temperature=0, tokens=8)
