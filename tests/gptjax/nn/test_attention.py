"""gptjax.nn.attention: the one rule of who sees whom, by a table made by hand, and the look itself against NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gptjax.nn.attention import Rule, attend, attention_mask


def rule(segments, visible, window=None):
    """The mask of one row, as strings of 0 and 1, a query a line."""
    segment_BT, visible_BT = jnp.array([segments]), jnp.array([visible], bool)
    mask_BTS = attention_mask(Rule.of(segment_BT, visible_BT, window))
    return ["".join(str(int(cell)) for cell in row) for row in mask_BTS[0]]


SEGMENTS = [1, 1, 1, 1, 2, 2]
TABLES = {
    "causal": ([0, 0, 0, 0, 0, 0], ["100000", "110000", "111000", "111100", "000010", "000011"]),
    "bidirectional": ([1, 1, 1, 1, 1, 1], ["111100", "111100", "111100", "111100", "000011", "000011"]),
    "prefix of 2": ([1, 1, 0, 0, 0, 0], ["110000", "110000", "111000", "111100", "000010", "000011"]),
    "prefix of 1": ([1, 0, 0, 0, 0, 0], ["100000", "110000", "111000", "111100", "000010", "000011"]),
    "one of each": ([0, 0, 0, 0, 1, 1], ["100000", "110000", "111000", "111100", "000011", "000011"]),
}


@pytest.mark.parametrize(("visible", "table"), TABLES.values(), ids=TABLES)
def test_six_tokens_see_what_the_table_says(visible, table):
    """Four tokens of one document and two of another; the table was written by hand from contract 1."""
    assert rule(SEGMENTS, visible) == table


def test_a_window_bounds_the_look_in_every_mode_and_both_directions():
    """Window 2: oneself and one neighbour, before or after as the mode allows; a wide window changes nothing."""
    assert rule(SEGMENTS, [0] * 6, 2) == ["100000", "110000", "011000", "001100", "000010", "000011"]
    assert rule(SEGMENTS, [1] * 6, 2) == ["110000", "111000", "011100", "001100", "000011", "000011"]
    assert rule(SEGMENTS, [1, 1, 0, 0, 0, 0], 2) == ["110000", "110000", "011000", "001100", "000010", "000011"]
    assert rule(SEGMENTS, [0] * 6, 6) == rule(SEGMENTS, [0] * 6)


def test_padding_sees_itself_and_is_seen_by_no_document():
    """No row of the mask is empty, so that no softmax is over nothing."""
    assert rule([1, 1, 0, 0, 0, 0], [0] * 6) == ["100000", "110000", "001000", "001100", "001110", "001111"]


def test_a_rule_that_is_all_causal_says_so_without_a_visible_key():
    """Known before anything is compiled, and the same mask, packed and with a window."""
    segment_BT = jnp.array([[1, 1, 1, 2, 2, 0]])
    for window in (None, 2):
        known, found = (Rule.of(segment_BT, visible, window) for visible in (None, jnp.zeros((1, 6), bool)))
        assert known.last_BT is None
        np.testing.assert_array_equal(attention_mask(known), attention_mask(found))
    assert attention_mask(Rule.of(segment_BT, segment_BT == 1)).sum() > attention_mask(known).sum()


def test_a_rule_of_some_queries_is_so_many_lines_of_the_whole():
    """In any order, as devices that share a row take them."""
    segment_BT, visible_BT = jnp.array([[1, 1, 1, 2, 2, 0]]), jnp.array([[1, 1, 0, 1, 1, 0]], bool)
    for rule in (Rule.of(segment_BT, visible_BT, 3), Rule.of(segment_BT, None)):
        some = attention_mask(rule.at(jnp.array([4, 0, 2])))
        np.testing.assert_array_equal(some, attention_mask(rule)[:, jnp.array([4, 0, 2])])


def heads(seed, count, T=6, H=4):
    return jax.random.normal(jax.random.key(seed), (2, T, count, H))


def causal(T=6):
    return jnp.tile(jnp.tril(jnp.ones((T, T), bool))[None], (2, 1, 1))


def test_attend_ignores_what_the_mask_forbids():
    """Changing key and value 5 leaves queries 0 to 4 bit-identical and moves query 5."""
    q, k, v = heads(0, 4), heads(1, 2), heads(2, 2)
    before = attend(q, k, v, causal())
    after = attend(q, k.at[:, 5].add(1.0), v.at[:, 5].add(1.0), causal())
    np.testing.assert_array_equal(before[:, :5], after[:, :5])
    assert (before[:, 5] != after[:, 5]).all()


def test_attend_is_the_published_formula():
    """softmax(q k / sqrt(H)) v, query head n with key head n // G, one query at a time in float64."""
    q, k, v = (np.asarray(x, np.float64) for x in (heads(0, 4), heads(1, 2), heads(2, 2)))
    mask = np.asarray(causal())
    wanted = np.zeros_like(q)
    for b, t, n in np.ndindex(2, 6, 4):
        scores = np.exp(k[b, mask[b, t], n // 2] @ q[b, t, n] / 4**0.5)
        wanted[b, t, n] = scores / scores.sum() @ v[b, mask[b, t], n // 2]
    found = attend(*(jnp.asarray(x, jnp.float32) for x in (q, k, v)), causal())
    np.testing.assert_allclose(found, wanted, atol=1e-6)


def test_softmax_is_float32_for_bfloat16_inputs():
    """512 equal keys share the weight exactly; a bfloat16 sum would stop growing at 256. The result stays bfloat16."""
    q = jnp.zeros((1, 1, 1, 4), jnp.bfloat16)
    k = v = jnp.ones((1, 512, 1, 4), jnp.bfloat16)
    found = attend(q, k, v, jnp.ones((1, 1, 512), bool))
    assert found.dtype == jnp.bfloat16
    np.testing.assert_array_equal(found.astype(jnp.float32), 1.0)


def test_a_cap_bends_scores_below_it():
    """As the softmax of cap x tanh(score / cap), made by NumPy; a cap far above the scores changes nothing."""
    q, k, v = heads(0, 1), heads(1, 1), heads(2, 1)
    everyone = jnp.ones((len(q), 6, 6), bool)
    scores = 2.0 * np.tanh(np.einsum("btnh,bsnh->bnts", q, k) / 2 / 2.0)
    probs = np.exp(scores) / np.exp(scores).sum(axis=-1, keepdims=True)
    capped = attend(q, k, v, everyone, 2.0)
    np.testing.assert_allclose(capped, np.einsum("bnts,bsnh->btnh", probs, v), atol=1e-5)
    np.testing.assert_allclose(attend(q, k, v, everyone, 1e4), attend(q, k, v, everyone), atol=1e-4)
    assert np.abs(capped - attend(q, k, v, everyone)).max() > 1e-2
