"""The TPU's kernel, run in Python, against XLA's attention: the same rule, the same numbers, nothing of T x S."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gptjax.nn import splash as module
from gptjax.nn.attention import Rule, attend, attention_mask
from gptjax.nn.kernels import attend_by, prepared
from gptjax.nn.splash import splash

T, N, K, H = 256, 4, 2, 32


def packed_row():
    """One row: a causal, a prefix and a bidirectional document, then padding; all boundaries inside blocks of 128."""
    segment_BT = np.repeat([1, 2, 3, 0], [90, 70, 80, 16])[None]
    visible_BT = np.zeros((1, T), bool)
    visible_BT[0, 90:120] = True  # the prefix of document 2
    visible_BT[0, 160:240] = True  # all of document 3
    return jnp.asarray(segment_BT), jnp.asarray(visible_BT)


def heads(rows=1):
    keys = jax.random.split(jax.random.key(0), 4)
    return tuple(2 * jax.random.normal(key, (rows, T, count, H)) for key, count in zip(keys, (N, K, K, N), strict=True))


def slopes(look, q, k, v, upstream):
    """The result and the gradients for q, k, v under an upstream gradient."""

    @jax.jit
    def both(q, k, v, upstream):
        out, pull = jax.vjp(look, q, k, v)
        return out, *pull(upstream)

    return both(q, k, v, upstream)


def by_splash(rule, cap=None):
    return jax.jit(lambda q, k, v: attend_by("splash", q, k, v, rule, cap, interpret=True))


def assert_as_xla(rule, cap=None):
    theirs = slopes(by_splash(rule, cap), *heads())
    ours = slopes(lambda q, k, v: attend(q, k, v, attention_mask(rule), cap), *heads())
    for found, wanted, tolerance in zip(theirs, ours, (1e-5, 1e-4, 1e-4, 1e-4), strict=True):
        np.testing.assert_allclose(found, wanted, atol=tolerance, rtol=tolerance)


@pytest.mark.parametrize(("window", "cap"), [(None, None), (40, None), (None, 3.0)])
def test_the_tpu_kernel_is_xlas_attention_on_a_row_of_all_modes(window, cap):
    """Forward within 1e-5, gradients within 1e-4 in float32, grouped queries, with a window and with a cap."""
    segment, visible = packed_row()
    assert_as_xla(Rule.of(segment, visible, window), cap)


@pytest.mark.parametrize("window", [None, 40])
def test_so_it_is_of_packed_rows_that_are_all_causal(window, monkeypatch):
    """By the mask that is known before, and by the rule, which takes over where rows are long."""
    rule = Rule.of(packed_row()[0], None, window)
    assert_as_xla(rule)
    monkeypatch.setattr(module, "LONGEST_FUSED", T - 1)
    assert_as_xla(rule)


def test_the_tpu_kernel_reads_each_rows_own_rule():
    """Two rows of different rules at once are what each is alone; and the rules matter."""
    segment, visible = packed_row()
    segments = jnp.concatenate([segment, jnp.ones_like(segment)])
    q, k, v, _ = heads(2)
    seen = jnp.concatenate([visible, jnp.ones_like(visible)])
    out = by_splash(Rule.of(segments, seen))(q, k, v)
    for row in (0, 1):
        alone = by_splash(Rule.of(segments[row : row + 1], seen[row : row + 1]))
        np.testing.assert_allclose(out[row], alone(*(x[row : row + 1] for x in (q, k, v)))[0], atol=1e-6)
    swapped = by_splash(Rule.of(segments[::-1], seen[::-1]))(q, k, v)
    assert np.abs(swapped - out).max() > 0.1


def test_some_queries_of_a_row_get_what_they_get_among_all():
    """Pieces that are no neighbours, as devices that share a row take them."""
    segment, visible = packed_row()
    q, k, v, _ = heads()
    place = jnp.concatenate([jnp.arange(128, 192), jnp.arange(64)])
    for rule in (Rule.of(segment, visible), Rule.of(segment, None, 40)):
        look = jax.jit(lambda q, k, v, rule=rule: splash(q[:, place], k, v, rule.at(place), None, interpret=True))
        some = look(q, k, v)
        np.testing.assert_allclose(some, attend(q, k, v, attention_mask(rule))[:, place], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("window", [None, 100])
def test_blocks_are_worked_on_where_anybody_may_look_and_nowhere_else(window):
    """Of 8 x 8 blocks of two rows: those in which NumPy finds a place in the mask; fewer than all."""
    lengths = [[300, 212, 412, 100], [1024, 0, 0, 0]]
    segment = jnp.array([np.repeat([1, 2, 3, 0], each) for each in lengths])
    visible = (segment == 2) & (jnp.arange(1024)[None] < 400)
    rule = Rule.of(segment, visible, window)
    by_query, by_key = module._blocks(rule, 128, 128)
    mask = np.asarray(attention_mask(rule)).reshape(2, 8, 128, 8, 128).any(axis=(2, 4))
    np.testing.assert_array_equal(by_query.block_mask[0], mask.reshape(16, 8))
    np.testing.assert_array_equal(by_key.block_mask[0], mask.transpose(1, 0, 2).reshape(8, 16))
    assert mask.mean() < 0.6
    worked = np.argwhere(np.asarray(by_query.block_mask[0]))
    assert all(by_query.data_next[0, i, j] == j + 8 * (i // 8) for i, j in worked)
    worked = np.argwhere(np.asarray(by_key.block_mask[0]))
    assert all(by_key.data_next[0, i, j] == i + 8 * (j // 8) for i, j in worked)


def test_no_array_has_a_value_for_every_pair_of_tokens():
    """Forward and back, of what stands outside the kernel; XLA's attention does have one."""
    segment, visible = (jnp.repeat(x, 16, axis=1) for x in packed_row())
    shapes = [jax.ShapeDtypeStruct((1, 16 * T, count, H), jnp.bfloat16) for count in (N, K, K)]

    def squares(kernel, visible):
        def loss(q, k, v):
            return attend_by(kernel, q, k, v, prepared(kernel, Rule.of(segment, visible))).astype(jnp.float32).sum()

        text = str(jax.make_jaxpr(jax.grad(loss, argnums=(0, 1, 2)))(*shapes))
        return text.count(f"{16 * T},{16 * T}]")

    assert squares("splash", visible) == squares("splash", None) == 0
    assert squares("xla", visible) > 0
