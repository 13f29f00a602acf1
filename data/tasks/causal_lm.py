"""Next-word prediction: position t predicts token t + 1 of its document, BOS the first token, the last token EOS.

Source: Radford et al. 2019, "Language Models are Unsupervised Multitask Learners", section 2.
Axes: R rows  T position  P pieces.
"""

import numpy as np

from data.rowplan import Pieces
from gptjax.batch import TASKS, Batch, text_batch

TASK = TASKS.index("causal_lm")


def build(pieces: Pieces, tokens: np.ndarray, rows: int, T: int) -> Batch:
    """Rows of packed documents, each document its own segment. Positions no piece covers are padding.

    A document that a row cuts off still has its next token as the last target; EOS itself has nothing to predict.
    """
    length_P = pieces.length_P
    position = np.arange(length_P.sum()) - np.repeat(np.cumsum(length_P) - length_P, length_P)
    source = np.repeat(pieces.start_P, length_P) + position
    has_next = source + 1 < np.repeat(pieces.document_end_P, length_P)
    place = np.repeat(pieces.row_P * T + pieces.column_P, length_P) + position
    new_row_P = np.diff(pieces.row_P, prepend=-1) != 0
    first_of_row_P = np.maximum.accumulate(np.where(new_row_P, np.arange(len(length_P)), 0))
    segment_P = np.arange(len(length_P)) - first_of_row_P + 1

    def laid_out(values, dtype: type = np.int32):
        array_RT = np.zeros(rows * T, dtype)
        array_RT[place] = values
        return array_RT.reshape(rows, T)

    return text_batch(
        tokens_BT=laid_out(tokens[source]),
        targets_BT=laid_out(np.where(has_next, tokens[source + has_next], 0)),
        weights_BT=laid_out(has_next, np.float32),
        task_BT=laid_out(TASK),
        segment_BT=laid_out(np.repeat(segment_P, length_P)),
        position_BT=laid_out(position),
        visible_BT=np.zeros((rows, T), bool),
    )
