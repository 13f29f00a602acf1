"""What the model makes of held-out text, source by source."""

import json
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np

from data.pipeline import validation_batches
from train.assemble import Assembly, Text


class Score(NamedTuple):
    """The loss on one source's held-out text."""

    loss: float  # nats a token
    perplexity: float
    bits_per_byte: float
    targets: int
    bytes: int


def held_out(
    parts: Assembly,
    text: Text,
    params: Any,
    most_rows: int,
    asks: Callable[[], jax.Array],
    progress: Callable[[], None],
) -> dict[str, Score] | None:
    """Scores of every source, over at most `most_rows` rows of each, without dropout; None if asked to stop meanwhile.

    `asks` as in train/step.py; `progress` is called after each batch.
    """
    sources = json.loads((text.prepared / "prepared.json").read_text(encoding="utf-8"))["sources"]
    bytes_V = np.zeros(parts.config.V, np.float32)
    bytes_V[: text.tokenizer.size] = text.tokenizer.byte_lengths()
    scores = {}
    for name, source in sources.items():
        folder = text.prepared / source["folder"] / "validation"
        batches = validation_batches(folder, text.rows.T, parts.recipe.batch.micro_rows, most_rows, parts.own_rows())
        sums = np.zeros(3)
        for batch in parts.placed(batches, leading=0):
            *found, asked = np.asarray(parts.validation_step(params, batch, bytes_V, asks()), np.float64)
            if asked:
                return None
            sums += found
            progress()
        nats, targets, size = sums.tolist()
        loss = nats / targets
        scores[name] = Score(loss, float(np.exp(loss)), nats / float(np.log(2)) / size, int(targets), int(size))
    return scores


def overall(scores: Mapping[str, Score], rates: Mapping[str, int]) -> float:
    """Nats a token over all sources, in the proportions that they are trained in."""
    return sum(rates[name] * score.loss for name, score in scores.items()) / sum(rates[name] for name in scores)
