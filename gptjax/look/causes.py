"""Which tokens of a text a result depends on: by gradient, and by leaving each of them out.

Axes: T position of a context token.
"""

import dataclasses
from collections.abc import Callable, Sequence

import numpy as np

from gptjax.inference.scoring import Row

Score = Callable[[list[list[int]]], np.ndarray]  # texts of ids -> the result of each


@dataclasses.dataclass(frozen=True)
class Causes:
    """What one result depends on.

    `gradient_T`: the gradient of the result by a token's embedding, times this embedding: about by how much the result
    would fall if that went to 0. `left_out_T`: by how much it does fall where the text is read without the token; NaN
    where that was not tried.
    """

    gradient_T: np.ndarray
    left_out_T: np.ndarray


def leave_out(
    ids: Sequence[int], gradient_T: np.ndarray, whole: float, count: int, score: Score, fixed: Sequence[int] = ()
) -> Causes:
    """Leaves out `count` tokens in turn, those with the strongest gradient; those at `fixed` places stay.

    `whole`: the result of the whole text.
    """
    strongest = [int(place) for place in np.argsort(-np.abs(gradient_T)) if place not in fixed][:count]
    left_out_T = np.full(len(ids), np.nan)
    if strongest and len(ids) > 1:
        left_out_T[strongest] = whole - score([[*ids[:place], *ids[place + 1 :]] for place in strongest])
    return Causes(gradient_T, left_out_T)


def token_rows(texts: Sequence[Sequence[int]], token: int) -> list[Row]:
    """Asks how probable a token is behind each text."""
    return [Row(ids, [len(ids) - 1], [token]) for ids in texts]
