"""Next-word rows: shifted once, inside one document, with loss on every token that something comes before."""

import numpy as np

from data.rowplan import Pieces
from data.tasks.causal_lm import TASK, build

TOKENS = np.array([1, 10, 11, 12, 2, 1, 20, 2, 1, 30, 31, 32, 33, 2], "<u2")  # three documents: BOS=1, EOS=2


def pieces(*rows):
    """Pieces from (row, column, start, length, document end)."""
    row_P, column_P, start_P, length_P, end_P = np.array(rows, np.int64).T
    return Pieces(row_P, column_P, start_P, length_P, end_P, np.zeros_like(row_P), np.zeros_like(row_P))


def test_a_hand_made_row_of_two_documents_and_padding():
    """BOS predicts the first token, the last token EOS, EOS and padding nothing; positions restart."""
    batch = build(pieces((0, 0, 0, 5, 5), (0, 5, 5, 3, 8)), TOKENS, rows=1, T=10)
    np.testing.assert_array_equal(batch.tokens_BT[0], [1, 10, 11, 12, 2, 1, 20, 2, 0, 0])
    np.testing.assert_array_equal(batch.targets_BT[0], [10, 11, 12, 2, 0, 20, 2, 0, 0, 0])
    np.testing.assert_array_equal(batch.weights_BT[0], [1, 1, 1, 1, 0, 1, 1, 0, 0, 0])
    np.testing.assert_array_equal(batch.segment_BT[0], [1, 1, 1, 1, 1, 2, 2, 2, 0, 0])
    np.testing.assert_array_equal(batch.position_BT[0], [0, 1, 2, 3, 4, 0, 1, 2, 0, 0])
    np.testing.assert_array_equal(batch.task_BT[0], [TASK] * 8 + [0] * 2)
    assert not batch.visible_BT.any()
    assert batch.label_BC.shape == (1, 0)


def test_a_document_cut_by_the_row_end_still_has_its_next_token_as_target():
    batch = build(pieces((0, 0, 8, 4, 14), (1, 0, 12, 2, 14)), TOKENS, rows=2, T=4)
    np.testing.assert_array_equal(batch.targets_BT, [[30, 31, 32, 33], [2, 0, 0, 0]])
    np.testing.assert_array_equal(batch.weights_BT, [[1, 1, 1, 1], [1, 0, 0, 0]])
    np.testing.assert_array_equal(batch.segment_BT, [[1, 1, 1, 1], [1, 1, 0, 0]])


def test_no_weight_where_the_next_position_is_another_segment():
    batch = build(pieces((0, 0, 3, 2, 5), (0, 2, 5, 3, 8), (0, 5, 8, 3, 14)), TOKENS, rows=1, T=8)
    ends = batch.segment_BT[0][:-1] != batch.segment_BT[0][1:]
    assert ends.sum() == 2
    assert not batch.weights_BT[0][:-1][ends].any()
