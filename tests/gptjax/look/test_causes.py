"""gptjax.look.causes: what is left out is read without it, and nothing else is."""

import numpy as np

from gptjax.look.causes import leave_out, token_rows


def total(texts):
    return np.array([float(sum(ids)) for ids in texts])


def test_a_token_that_is_left_out_takes_its_share_with_it():
    """Of a result that is the sum of the tokens, each token's is itself."""
    found = leave_out([5, 1, 3], np.array([1.0, -9.0, 2.0]), 9.0, 3, total)
    np.testing.assert_array_equal(found.left_out_T, [5, 1, 3])


def test_the_strongest_by_gradient_are_tried_and_those_that_stay_are_not():
    """Whatever their sign; the others have no number."""
    gradient_T = np.array([8.0, -9.0, 2.0, 1.0])
    found = leave_out([5, 1, 3, 7], gradient_T, 16.0, 2, total, fixed=[0])
    np.testing.assert_array_equal(found.left_out_T, [np.nan, 1, 3, np.nan])
    assert np.isnan(leave_out([5, 1], gradient_T[:2], 6.0, 0, total).left_out_T).all()
    assert np.isnan(leave_out([5], gradient_T[:1], 5.0, 1, total).left_out_T).all()


def test_rows_ask_for_the_token_behind_each_text():
    assert token_rows([[4, 5], [6]], 9) == [([4, 5], [1], [9], 0), ([6], [0], [9], 0)]
