"""What the model makes of held-out text: next words source by source, every other task beside a cheap guesser."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np

from data.rows.pipeline import validation_batches
from data.rows.rows import Builder, HeldOutRows, open_corpus
from train.assemble import Assembly, Text
from train.losses.terms import Scores, labels, target_weights
from train.objectives import Term
from train.record.metrics import Score, TermScore, overall_loss

AT_ONCE = 256  # rows that are looked at for guesses
COMMONEST = "always says what is commonest"


class Findings(NamedTuple):
    """One measurement."""

    sources: dict[str, Score]  # of next-word prediction; empty where it is not trained
    terms: dict[str, TermScore]  # of the other tasks


class HeldOut:
    """The held-out text of a run; rows, chance and what is hidden are the same at every measurement, of any run."""

    def __init__(self, parts: Assembly, text: Text):
        self._parts, self._T = parts, text.rows.T
        self._corpus = open_corpus(text.prepared, "validation")
        self._builder = Builder(self._corpus, text.rows.builder.tasks, self._T)
        self._reads = text.rows.reads
        self._bytes_V = np.zeros(parts.config.V, np.float32)
        self._bytes_V[: text.tokenizer.size] = text.tokenizer.byte_lengths()
        self._guesses: dict[tuple[str, int], dict[str, tuple[str, float]]] = {}

    def findings(
        self, params: Any, most_rows: int, task_rows: int, asks: Callable[[], jax.Array], progress: Callable[[], None]
    ) -> Findings | None:
        """Measures at most `most_rows` rows of every source, and `task_rows` of every other task, without dropout.

        None if asked to stop; `asks` as in train/step.py; `progress` is called after each batch.
        """
        sources: dict[str, Score] = {}
        terms: dict[str, TermScore] = {}
        for name in filter(self._reads.get, self._builder.heads_of):
            by_source = {}
            for source, rows in self._rows(name, most_rows if name == "causal_lm" else task_rows):
                sums = self._sums(params, rows, asks, progress)
                if sums is None:
                    return None
                by_source[source] = sums
            if name == "causal_lm":
                place = next(k for k, term in enumerate(self._parts.curriculum.terms) if term.name == name)
                sources = {source: _score(scores, size, place) for source, (scores, size) in by_source.items()}
            else:
                terms |= self._term_scores(
                    name, {source: scores for source, (scores, _) in by_source.items()}, task_rows
                )
        return Findings(sources, terms)

    def _rows(self, name: str, most: int) -> Iterator[tuple[str, HeldOutRows]]:
        """(source, its rows of a task); `most` is of each source for next-word prediction, of all for other tasks."""
        readable = self._reads[name]
        each = most if name == "causal_lm" else -(-most // len(readable))
        for source in readable:
            place = self._corpus.sources.index(source)
            yield source, HeldOutRows(self._corpus, place, self._builder, name, self._T, each)

    def _sums(
        self, params: Any, rows: HeldOutRows, asks: Callable[[], jax.Array], progress: Callable[[], None]
    ) -> tuple[Scores, float] | None:
        """(the scores of all batches added up, bytes of the token targets); None if asked to stop."""
        parts, total = self._parts, None
        batches = validation_batches(rows, parts.recipe.batch.micro_rows, self._T, parts.own_rows())
        for batch in parts.placed(batches, leading=0):
            scores, size, asked = jax.device_get(parts.validation_step(params, batch, self._bytes_V, asks()))
            if asked:
                return None
            found = jax.tree.map(np.float64, (scores, size))
            total = found if total is None else jax.tree.map(np.add, total, found)
            progress()
        return total

    def _term_scores(self, name: str, by_source: Mapping[str, Scores], task_rows: int) -> dict[str, TermScore]:
        """Scores of the terms of a task; a term without a target in the held-out rows is left out."""
        guesses, found = self._guesses_of(name, task_rows), {}
        for k, term in enumerate(self._parts.curriculum.terms):
            if term.task != self._builder.id_of(name) or term.name not in guesses:
                continue
            total = jax.tree.map(lambda *parts: np.sum(parts, axis=0), *by_source.values())
            nats, targets, right = total.nats_K[k], total.targets_K[k], total.right_K[k]
            confusion = total.confusions.get(term.name)
            found[term.name] = TermScore(
                loss=float(nats / targets), accuracy=float(right / targets), targets=round(float(targets)),
                guess=guesses[term.name][0], guess_accuracy=guesses[term.name][1],
                by_source={
                    source: (float(scores.right_K[k] / scores.targets_K[k]), round(float(scores.targets_K[k])))
                    for source, scores in by_source.items() if scores.targets_K[k]
                },
                confusion=None if confusion is None else np.round(confusion).astype(int).tolist(),
                classes=None if confusion is None else self._parts.config.class_heads[term.head or 0].classes,
            )  # fmt: skip
        return found

    def _guesses_of(self, name: str, task_rows: int) -> dict[str, tuple[str, float]]:
        """Term -> (what a cheap guesser does, its accuracy on the held-out rows of a task); made once."""
        if (name, task_rows) not in self._guesses:
            batches = [
                rows.batch(np.arange(first, min(first + AT_ONCE, rows.count)))
                for _, rows in self._rows(name, task_rows)
                for first in range(0, rows.count, AT_ONCE)
            ]
            task, found = self._builder.tasks[name], {}
            for term in self._parts.curriculum.terms:
                if term.task != self._builder.id_of(name):
                    continue
                weights = np.concatenate([np.ravel(target_weights(batch, term)) for batch in batches])
                label = np.concatenate([np.ravel(labels(batch, term)) for batch in batches])
                guess, right = COMMONEST, label == np.bincount(label, weights).argmax()
                guessed = [task.guess(batch, self._corpus) for batch in batches]
                if not term.sequences and guessed[0] is not None:
                    guess, right = guessed[0][0], np.concatenate([np.ravel(one[1]) for one in guessed if one])
                if weights.sum():
                    found[term.name] = guess, float((right * weights).sum() / weights.sum())
            self._guesses[name, task_rows] = found
        return self._guesses[name, task_rows]


def _score(scores: Scores, size: float, k: int) -> Score:
    nats, targets = float(scores.nats_K[k]), float(scores.targets_K[k])
    loss = nats / targets
    return Score(loss, float(np.exp(loss)), nats / float(np.log(2)) / size, round(targets), round(size))


def overall(found: Findings, rates: Mapping[str, int], terms: tuple[Term, ...]) -> float:
    """Nats a token over all sources, in the proportions that they are trained in; where next words are not trained, the
    losses of the terms by their weights at the start."""
    if found.sources:
        return overall_loss({source: score.loss for source, score in found.sources.items()}, rates)
    return sum(term.weights[0] * found.terms[term.name].loss for term in terms if term.name in found.terms)
