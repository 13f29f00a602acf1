"""What the model makes of held-out text: next words source by source, every other task beside a cheap baseline."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
import numpy as np

from data.rows.rows import Builder, HeldOutRows, open_corpus
from train.assemble import Assembly, Text
from train.losses.loss import Sums, joined
from train.losses.table import loss_named
from train.objectives import Term
from train.record.metrics import Findings, Score, TermScore, overall_loss

AT_ONCE = 256  # rows that are looked at for baselines


class HeldOut:
    """The held-out text of a run; rows, chance and what is hidden are the same at every measurement, of any run."""

    def __init__(self, parts: Assembly, text: Text):
        self._parts, self._T = parts, text.rows.T
        self._corpus = open_corpus(text.prepared, "validation")
        self._builder = Builder(self._corpus, text.rows.builder.tasks, self._T)
        self._reads, self._trained = text.rows.reads, text.rows.trained
        self._bytes_V = np.zeros(parts.config.V, np.float32)
        self._bytes_V[: text.tokenizer.size] = text.tokenizer.byte_lengths()
        self._baselines: dict[tuple[str, int], dict[str, tuple[str, float]]] = {}

    def findings(
        self,
        params: Any,
        most_rows: int,
        task_rows: int,
        stop_flag: Callable[[], jax.Array],
        progress: Callable[[], None],
    ) -> Findings | None:
        """Measures at most `most_rows` rows of every source, and `task_rows` of every other task, without dropout.

        None if asked to stop; `stop_flag` as in train/step.py; `progress` is called after each batch.
        """
        sources: dict[str, Score] = {}
        terms: dict[str, TermScore] = {}
        for name, task in self._trained.items():
            by_source = {}
            for source, rows in self._rows(name, most_rows if task.models_text else task_rows):
                sums = self._sums(params, rows, stop_flag, progress)
                if sums is None:
                    return None
                by_source[source] = sums
            if task.models_text:
                sources |= {source: _score(found[name], size) for source, (found, size) in by_source.items()}
            else:
                of_terms = {source: found for source, (found, _) in by_source.items()}
                terms |= self._term_scores(name, of_terms, task_rows)
        return Findings(sources, terms)

    def _rows(self, name: str, most: int) -> Iterator[tuple[str, HeldOutRows]]:
        """(source, its rows of a task); `most` is of each source where text is modelled, of all for other tasks."""
        readable = self._reads[name]
        each = most if self._trained[name].models_text else -(-most // len(readable))
        for source in readable:
            place = self._corpus.sources.index(source)
            yield source, HeldOutRows(self._corpus, place, self._builder, name, self._T, each)

    def _sums(
        self, params: Any, rows: HeldOutRows, stop_flag: Callable[[], jax.Array], progress: Callable[[], None]
    ) -> tuple[dict[str, Sums], float] | None:
        """(the sums of all batches, by term, bytes of the token targets); None if asked to stop."""
        parts, total = self._parts, None
        for batch in parts.loader.held_out(rows):
            sums, size, asked = jax.device_get(parts.validation_step(params, batch, self._bytes_V, stop_flag()))
            if asked:
                return None
            found = jax.tree.map(np.float64, (sums, size))
            total = found if total is None else jax.tree.map(np.add, total, found)
            progress()
        return total

    def _term_scores(
        self, name: str, by_source: Mapping[str, Mapping[str, Sums]], task_rows: int
    ) -> dict[str, TermScore]:
        """Scores of the terms of a task; a term without a target in the held-out rows is left out."""
        baselines, found = self._baselines_of(name, task_rows), {}
        for term in self._terms_of(name):
            if term.name not in baselines:
                continue
            loss, (baseline, baseline_score) = loss_named(term.loss), baselines[term.name]
            key, of_source = loss.measure.key, {source: sums[term.name] for source, sums in by_source.items()}
            total = jax.tree.map(lambda *parts: np.sum(parts, axis=0), *of_source.values())
            found[term.name] = TermScore(
                loss=float(total["loss"] / total["weight"]),
                targets=round(float(total["weight"])), baseline=baseline,
                by_source={
                    source: (loss.score(sums), round(float(sums["weight"])))
                    for source, sums in of_source.items() if sums["weight"]
                },
                measured={"loss_kind": term.loss, key: loss.score(total), f"baseline_{key}": baseline_score}
                | loss.details(term, total, self._parts.config),
            )  # fmt: skip
        return found

    def _terms_of(self, name: str) -> list[Term]:
        return [term for term in self._parts.loss_spec.terms if term.task == self._builder.id_of(name)]

    def _baselines_of(self, name: str, task_rows: int) -> dict[str, tuple[str, float]]:
        """Term -> (what a cheap baseline does, its score on the held-out rows of a task); made once."""
        if (name, task_rows) not in self._baselines:
            batches = [
                rows.batch(np.arange(first, min(first + AT_ONCE, rows.count)))
                for _, rows in self._rows(name, task_rows)
                for first in range(0, rows.count, AT_ONCE)
            ]
            found = self._baselines[name, task_rows] = {}
            for term in self._terms_of(name):
                loss = loss_named(term.loss)
                if joined([loss.weights(batch, term) for batch in batches]).any():
                    found[term.name] = loss.baseline(term, batches, self._trained[name], self._corpus)
        return self._baselines[name, task_rows]


def _score(sums: Mapping[str, Any], size: float) -> Score:
    nll, targets = float(sums["loss"]), float(sums["weight"])
    loss = nll / targets
    return Score(loss, float(np.exp(loss)), nll / float(np.log(2)) / size, round(targets), round(size))


def overall(found: Findings, rates: Mapping[str, int], terms: tuple[Term, ...]) -> float:
    """Nats a token over all sources, in the proportions that they are trained in; where next words are not trained, the
    losses of the terms by their weights at the start."""
    if found.sources:
        return overall_loss({source: score.loss for source, score in found.sources.items()}, rates)
    return sum(term.weights[0] * found.terms[term.name].loss for term in terms if term.name in found.terms)
