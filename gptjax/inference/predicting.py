"""Texts judged by an output head: text in, the answer out.

Axes: I texts  C classes of the head.
"""

import dataclasses
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Unpack

import numpy as np

from gptjax import arguments
from gptjax.batch import ClassHead
from gptjax.inference.head_input import HeadInput, TextOrTwo, fitted, head_inputs, head_named
from gptjax.inference.scoring import ScoreOptions

if TYPE_CHECKING:
    from gptjax.inference.language_model import LanguageModel

SURE = 0.5  # probability from which on a label counts as there


@dataclasses.dataclass(frozen=True)
class Prediction:
    """What a head tells of one text, or of two.

    `probabilities` sum to 1 over classes; over labels each is for itself; of a number there are none.
    """

    answer: str | tuple[str, ...] | float  # the most probable class; the labels of a half and more; the number
    probabilities: dict[str, float]
    cut: bool  # the text was longer than the head reads, and lost its end


def predict(
    model: "LanguageModel", texts: Iterable[TextOrTwo], head: str | None, **options: Unpack[ScoreOptions]
) -> list[Prediction]:
    """What a head tells of every text, in order; of a head of two texts they are pairs (text, text).

    `head`: its name; None = the only one. Texts are read as the head was taught (gptjax.inference.head_input): in lower
    case or without stop words where it was, and cut where they are too long. `options`, and what the numbers depend on:
    see gptjax.inference.scoring.score.

    Raises ValueError, before any is read, for a head that the model has not, a text that is empty, and two texts where
    the head reads one, or the other way round; and where scores are no numbers.
    """
    number, inputs = read_by_head(model, arguments.listed(texts, "texts"), head)
    found_IC = model.class_log_probs([one.ids for one in inputs], number, **options)
    return judged(model.config.class_heads[number], found_IC, inputs)


def read_by_head(model: "LanguageModel", texts: Sequence[TextOrTwo], head: str | None) -> tuple[int, list[HeadInput]]:
    """(the head's number, what it reads of every text). Raises ValueError as `predict` does."""
    heads = model.config.class_heads
    number = head_named(heads, head)
    return number, head_inputs(model.tokenizer, fitted(heads[number], model.config.T), texts)


def judged(head: ClassHead, found_IC: np.ndarray, inputs: Sequence[HeadInput]) -> list[Prediction]:
    """Predictions, of what `class_log_probs` tells."""
    if head.tells_number:
        return [Prediction(float(row_C[0]), {}, one.cut) for row_C, one in zip(found_IC, inputs, strict=True)]
    found = []
    for row_C, one in zip(np.exp(found_IC.astype(np.float64)), inputs, strict=True):
        probabilities = dict(zip(head.classes, row_C.tolist(), strict=True))
        if head.kind == "labels":
            answer = tuple(name for name, probability in probabilities.items() if probability >= SURE)
        else:
            answer = head.classes[int(row_C.argmax())]
        found.append(Prediction(answer, probabilities, one.cut))
    return found
