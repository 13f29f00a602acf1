"""Next-word prediction: position t predicts token t + 1 of its document, BOS the first token, the last token EOS.

Source: Radford et al. 2019, "Language Models are Unsupervised Multitask Learners", section 2.
"""

import dataclasses
from typing import ClassVar

import numpy as np

from data.tasks.schedule import Schedule
from data.tasks.task import Task, Text, packed
from gptjax.batch import Batch


@dataclasses.dataclass(frozen=True, kw_only=True)
class CausalLM(Task):
    """Next-word prediction: every token is predicted from those before it."""

    schedule: ClassVar[Schedule] = Schedule(rows=1.0)

    causal: ClassVar[bool] = True
    models_text: ClassVar[bool] = True
    generates: ClassVar[bool] = True

    def build(self, text: Text) -> Batch:
        """Documents, each its own segment. EOS has nothing to predict; a piece that a row cuts off, its next token."""
        target_I = following(text)
        has_next_I = target_I >= 0
        return packed(
            text, text.row_P, text.length_P, text.token_I,
            targets_I=np.where(has_next_I, target_I, 0), weights_I=has_next_I,
        )  # fmt: skip


def following(text: Text) -> np.ndarray:
    """The token after each in its document, beyond the piece too; -1 after EOS. i64 [I]"""
    next_I = np.append(text.token_I[1:], 0).astype(np.int64)
    next_I[np.cumsum(text.length_P) - 1] = text.next_P
    return next_I
