"""Attention to what was read is attention to the whole, block by block."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gptjax.nn.attention import Rule, attend, attention_mask
from gptjax.nn.cached_attention import BLOCK, Place, attend_cached, write

B, T, N, K, H, S = 3, 5, 4, 2, 8, 3 * BLOCK


def drawn(seed, *shape):
    return jax.random.normal(jax.random.key(seed), shape)


@pytest.mark.parametrize(("window", "cap"), [(None, None), (7, None), (None, 2.0)])
def test_rows_at_any_place_see_what_attention_over_the_whole_row_lets_them_see(window, cap):
    """In the first block and the last; a row beyond the cache changes nobody."""
    k_LBKSH, v_LBKSH = drawn(1, 2, B, K, S, H), drawn(2, 2, B, K, S, H)
    q_BTNH, slot_B = drawn(3, B, T, N, H), jnp.array([3, S - T, S])
    place = Place(jnp.int32(0), slot_B, jnp.zeros(B, int))
    found = attend_cached(q_BTNH, k_LBKSH, v_LBKSH, jnp.int32(1), place, window, cap)
    one = jnp.ones((B, S), int)
    slot_BT = slot_B[:, None] + jnp.arange(T)[None]
    rule = Rule(segment_BT=one[:, :T], place_BT=slot_BT, last_BT=slot_BT, segment_BS=one, window=window)
    k_BSKH, v_BSKH = (jnp.swapaxes(kept[1], 1, 2) for kept in (k_LBKSH, v_LBKSH))
    np.testing.assert_allclose(found[:2], attend(q_BTNH, k_BSKH, v_BSKH, attention_mask(rule), cap)[:2], atol=1e-5)


def test_how_far_others_are_changes_no_bit():
    """More blocks for a neighbour's sake leave a row as it is; one more of its own does not."""
    k_LBKSH, v_LBKSH, q_BTNH = drawn(1, 1, 2, K, S, H), drawn(2, 1, 2, K, S, H), drawn(3, 2, 1, N, H)

    def of_first(*slots):
        place = Place(jnp.int32(0), jnp.array(slots), jnp.zeros(2, int))
        return np.asarray(jax.jit(attend_cached)(q_BTNH, k_LBKSH, v_LBKSH, jnp.int32(0), place))[0]

    np.testing.assert_array_equal(of_first(100, 5), of_first(100, S - 1))
    assert not np.array_equal(of_first(100, 5), of_first(101, 5))


def test_what_is_written_lies_in_its_layer_row_and_slots_and_nowhere_else():
    """Many tokens of one row, one of every row, and none where the slot is beyond the cache."""
    kept = jnp.zeros((2, B, K, S, H))
    many = write(kept, drawn(1, 1, T, K, H), jnp.int32(1), Place(jnp.int32(2), jnp.array([7]), jnp.array([0])))
    assert np.unique(np.nonzero(np.asarray(many))[3]).tolist() == [7, 8, 9, 10, 11]
    np.testing.assert_array_equal(many[1, 2, :, 7:12], jnp.swapaxes(drawn(1, 1, T, K, H)[0], 0, 1))
    place = Place(jnp.int32(0), jnp.array([3, S, 9]), jnp.zeros(B, int))
    each = np.asarray(write(kept, drawn(1, B, 1, K, H), jnp.int32(0), place))
    assert {(layer, row, slot) for layer, row, _, slot, _ in np.argwhere(each).tolist()} == {(0, 0, 3), (0, 2, 9)}
