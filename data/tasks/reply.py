"""Replies: in an example, the tokens that are to be learnt are predicted from all before them; the others are read.

Source: Ouyang et al. 2022, arXiv:2203.02155, section 3.1 (supervised fine-tuning on demonstrations); Raffel et al.
2020, arXiv:1910.10683, section 3.2.3 (`prefix`).
"""

import dataclasses
from typing import ClassVar

import numpy as np

from data.preparation.token_flags import ASKED, ENCODED, LEARNED
from data.tasks.causal_lm import following
from data.tasks.task import Task, Text, packed
from gptjax.batch import Batch


@dataclasses.dataclass(frozen=True, kw_only=True)
class Reply(Task):
    """Next-word prediction of what is marked as learnt: an assistant's turns, each with the token that ends it."""

    models_text: ClassVar[bool] = True
    generates: ClassVar[bool] = True

    def only_reads(self, text: Text) -> np.ndarray:
        """What users say."""
        return (text.mark_I & ASKED) > 0

    def build(self, text: Text) -> Batch:
        """Examples, each its own segment; a position has a target where the token after it is to be learnt."""
        learned_I = np.append((text.mark_I[1:] & LEARNED) > 0, False)
        learned_I[np.cumsum(text.length_P) - 1] = False
        return packed(
            text, text.row_P, text.length_P, text.token_I,
            targets_I=np.where(learned_I, following(text), 0), weights_I=learned_I,
            visible_I=(text.mark_I & ENCODED) > 0,
        )  # fmt: skip
