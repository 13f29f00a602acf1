"""Prompt and answer in one stack: the beginning of a text is encoded, the rest is decoded from it, token by token.

Source: Raffel et al. 2020, "Exploring the limits of transfer learning with a unified text-to-text transformer",
arXiv:1910.10683, section 3.2.3.
"""

import dataclasses
from typing import ClassVar

import numpy as np

from data.tasks.causal_lm import following
from data.tasks.task import Task, Text, packed
from gptjax.batch import Batch


@dataclasses.dataclass(frozen=True, kw_only=True)
class PrefixLM(Task):
    """Prefix language model: the rest of a text is predicted, its beginning seen from both sides."""

    generates: ClassVar[bool] = True

    def build(self, text: Text) -> Batch:
        """Pieces of documents as segments; the last token of the prefix predicts the first of the answer.

        A piece of one token has no answer.
        """
        prefix_I, length_I = np.repeat([prefix(text), text.length_P], text.length_P, axis=1)
        target_I = following(text)
        answers_I = (text.position_I >= prefix_I - 1) & (prefix_I < length_I) & (target_I >= 0)
        return packed(
            text, text.row_P, text.length_P, text.token_I,
            targets_I=np.where(answers_I, target_I, 0), weights_I=answers_I, visible_I=text.position_I < prefix_I,
        )  # fmt: skip


def prefix(text: Text) -> np.ndarray:
    """Tokens of each piece's prefix, evenly from a quarter to three quarters of the piece; i64 [P]."""
    least_P, most_P = -(-text.length_P // 4), text.length_P * 3 // 4
    return least_P + (text.chance_of_pieces(0) * (most_P - least_P + 1)).astype(np.int64)
