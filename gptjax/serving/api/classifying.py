"""What an output head says of the texts of a request, as /v1/classify answers."""

from typing import Any

import numpy as np

from gptjax.batch import ClassHead
from gptjax.inference.head_input import HeadInput, fitted, head_inputs, head_named
from gptjax.inference.language_model import LanguageModel
from gptjax.inference.predicting import Prediction, judged
from gptjax.serving.api import prepared
from gptjax.serving.api.requests import Classification
from gptjax.serving.errors import ApiError

SHOWN = 60  # characters of a head's name that an error shows


def reading(asked: Classification, model: LanguageModel) -> tuple[int, list[HeadInput]]:
    """(the head's number, what it reads of each text). Token ids are read as they are. Raises ApiError."""
    heads, name = model.config.class_heads, asked.head
    if name is not None and len(name) > SHOWN and all(head.name != name for head in heads):
        name = f"{name[:SHOWN]}..."
    try:
        number = head_named(heads, name)
    except ValueError as error:
        raise ApiError(str(error), "head") from None
    if asked.ids:
        found = [HeadInput(list(ids), False) for ids in prepared.prompt_ids(asked.ids, model, "input")]
        for place, one in enumerate(found):
            prepared.check_length(len(one.ids), model.config.T, f"input[{place}]")
        return number, found
    try:
        return number, head_inputs(model.tokenizer, fitted(heads[number], model.config.T), asked.texts)
    except ValueError as error:
        raise ApiError(f"input: {error}", "input") from None


def told(head: ClassHead, found_IC: np.ndarray, inputs: list[HeadInput]) -> list[dict[str, Any]]:
    """What the head says of every text: its class or labels with probabilities, or the number that it finds."""
    return [
        {"index": index, **_of(head, one), "cut": one.cut} for index, one in enumerate(judged(head, found_IC, inputs))
    ]


def _of(head: ClassHead, one: Prediction) -> dict[str, Any]:
    if head.tells_number:
        return {"label": head.classes[0], "score": one.answer}
    said = {"labels": list(one.answer)} if isinstance(one.answer, tuple) else {"label": one.answer}
    return {**said, "probs": list(one.probabilities.values()), "num_classes": len(head.classes)}
