"""Next-word rows: shifted once, inside one document, with loss on every token that something comes before."""

import numpy as np

from data.tasks.causal_lm import CausalLM, following
from data.tasks.task import Task
from tests.tiny_text import letters, text_of

FIRST, SECOND = [1, 10, 11, 12, 2], [1, 20, 2]  # BOS = 1, EOS = 2


def test_a_hand_made_row_of_two_documents_and_padding():
    """BOS predicts the first token, the last token EOS, EOS and padding nothing; positions restart."""
    batch = CausalLM().build(text_of([[FIRST, SECOND]], T=10))
    np.testing.assert_array_equal(batch.tokens_BT[0], [1, 10, 11, 12, 2, 1, 20, 2, 0, 0])
    np.testing.assert_array_equal(batch.targets_BT[0], [10, 11, 12, 2, 0, 20, 2, 0, 0, 0])
    np.testing.assert_array_equal(batch.weights_BT[0], [1, 1, 1, 1, 0, 1, 1, 0, 0, 0])
    np.testing.assert_array_equal(batch.segment_BT[0], [1, 1, 1, 1, 1, 2, 2, 2, 0, 0])
    np.testing.assert_array_equal(batch.position_BT[0], [0, 1, 2, 3, 4, 0, 1, 2, 0, 0])
    assert not batch.visible_BT.any()
    assert CausalLM.causal
    assert not Task.causal
    assert batch.label_BQ.shape == (1, 0)


def test_a_document_cut_by_the_row_end_still_has_its_next_token_as_target():
    text = text_of([[[1, 30, 31, 32]], [[33, 2]]], T=4)._replace(next_P=np.array([33, -1]))
    batch = CausalLM().build(text)
    np.testing.assert_array_equal(batch.targets_BT, [[30, 31, 32, 33], [2, 0, 0, 0]])
    np.testing.assert_array_equal(batch.weights_BT, [[1, 1, 1, 1], [1, 0, 0, 0]])
    np.testing.assert_array_equal(following(text), [30, 31, 32, 33, 2, -1])


def test_no_weight_where_the_next_position_is_another_segment():
    """Trap 2: a shift that crosses segments, so that EOS of one document predicts BOS of the next."""
    batch = CausalLM().build(text_of([[letters(n) for n in (2, 7, 3)], [letters(n) for n in (5, 8)]], T=16))
    ends = batch.segment_BT[:, :-1] != batch.segment_BT[:, 1:]
    assert ends.sum() == 5
    assert not batch.weights_BT[:, :-1][ends].any()
    assert batch.weights_BT.sum() == (12 - 3) + (13 - 2)


def test_counting_text_is_predicted_by_adding_one():
    """Trap 1: on 4, 5, 6, ... whoever adds one is always right, so nothing is shifted twice; a token is the target of
    the place before it alone."""
    batch = CausalLM().build(text_of([[list(range(4, 12))]], T=8))
    where = batch.weights_BT > 0
    np.testing.assert_array_equal(batch.targets_BT[where], batch.tokens_BT[where] + 1)
    changed = CausalLM().build(text_of([[[4, 5, 6, 20, 8, 9, 10, 11]]], T=8))
    np.testing.assert_array_equal(np.argwhere(batch.targets_BT != changed.targets_BT), [[0, 2]])
