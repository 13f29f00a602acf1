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


class HeldOut:
    """The held-out text of a run."""

    def __init__(self, parts: Assembly, text: Text):
        self._parts, self._T = parts, text.rows.T
        sources = json.loads((text.prepared / "prepared.json").read_text(encoding="utf-8"))["sources"]
        self._folders = {name: text.prepared / source["folder"] / "validation" for name, source in sources.items()}
        self._bytes_V = np.zeros(parts.config.V, np.float32)
        self._bytes_V[: text.tokenizer.size] = text.tokenizer.byte_lengths()

    def scores(
        self, params: Any, most_rows: int, asks: Callable[[], jax.Array], progress: Callable[[], None]
    ) -> dict[str, Score] | None:
        """Scores of every source, over at most `most_rows` rows of each, without dropout; None if asked to stop.

        `asks` as in train/step.py; `progress` is called after each batch.
        """
        parts, scores = self._parts, {}
        for name, folder in self._folders.items():
            batches = validation_batches(folder, self._T, parts.recipe.batch.micro_rows, most_rows, parts.own_rows())
            sums = np.zeros(3)
            for batch in parts.placed(batches, leading=0):
                *found, asked = np.asarray(parts.validation_step(params, batch, self._bytes_V, asks()), np.float64)
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
