"""The loss at positions: -log p of a token by the head of the tokens, or of a class by a head of the task's own.

Axes: B batch  T position.
"""

import functools
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from gptjax.batch import Batch
from gptjax.nn.class_heads import class_logits, class_nll
from gptjax.nn.likelihood import token_nll, token_scores
from gptjax.nn.model import head
from train.losses.accuracy import Classified
from train.losses.loss import Seen, joined
from train.objectives import Term

if TYPE_CHECKING:
    from data.tasks.task import Corpus, Task


class Tokens(Classified):
    """What stands at a position, or belongs there."""

    def weights(self, batch: Batch, term: Term) -> Float[Array, "*axes"]:
        return jnp.where(batch.task_BT == term.task, batch.weights_BT, 0.0)

    def targets(self, batch: Batch, term: Term) -> Array:
        return batch.targets_BT

    def losses(self, seen: Seen, terms: Sequence[Term]) -> list[Float[Array, "B T"]]:
        """The terms that the head of the tokens predicts share its one pass over the vocabulary."""
        by_token_head: Any = None
        if any(term.head is None for term in terms):
            by_token_head = token_nll(*self._likelihood(seen), **self._settings(seen, terms))
        return [
            by_token_head if term.head is None else class_nll(self._logits(seen, term.head), seen.batch.targets_BT)
            for term in terms
        ]

    def answers(self, seen: Seen, terms: Sequence[Term]) -> list[tuple[Float[Array, "B T"], Int[Array, "B T"]]]:
        by_token_head: Any = None
        if any(term.head is None for term in terms):
            by_token_head = token_scores(*self._likelihood(seen), **self._settings(seen, terms))
        found = []
        for term in terms:
            if term.head is None:
                found.append(by_token_head)
                continue
            logits_BTC = self._logits(seen, term.head)
            found.append((class_nll(logits_BTC, seen.batch.targets_BT), jnp.argmax(logits_BTC, axis=-1)))
        return found

    def _likelihood(self, seen: Seen) -> tuple[Array, Array, Array]:
        return seen.hidden_BTD, head(seen.params), seen.batch.targets_BT

    def _settings(self, seen: Seen, terms: Sequence[Term]) -> dict[str, Any]:
        config, counted_BT = seen.config, self._counted(seen.batch, terms)
        return {
            "vocabulary": config.vocabulary,
            "chunks": seen.chunks,
            "cap": config.logit_cap,
            "counted_BT": counted_BT,
        }

    def _counted(self, batch: Batch, terms: Sequence[Term]) -> Bool[Array, "B T"] | None:
        """The only positions to be scored; None = all."""
        own = [term for term in terms if term.head is None]
        if not all(term.sparse for term in own):
            return None
        return functools.reduce(jnp.logical_or, (self.weights(batch, term) > 0 for term in own))

    def _logits(self, seen: Seen, number: int) -> Float[Array, "B T C"]:
        return class_logits(seen.params, seen.config, seen.hidden_BTD, number)

    def baseline(self, term: Term, batches: Sequence[Batch], task: "Task", corpus: "Corpus") -> tuple[str, float]:
        """The task's own, where it has one."""
        told = [found for batch in batches if (found := task.baseline(batch, corpus)) is not None]
        if not told:
            return super().baseline(term, batches, task, corpus)
        weight = joined([self.weights(batch, term) for batch in batches])
        return told[0][0], float((joined([correct_BT for _, correct_BT in told]) * weight).sum() / weight.sum())

    def details(self, term: Term, sums: Mapping[str, Any], config: Any) -> dict[str, Any]:
        """Records of every kind of classes have these two; tokens are too many for them."""
        return {"confusion": None, "classes": None}

    def wrote(self, record: Mapping[str, Any]) -> bool:
        return super().wrote(record) and not record.get("confusion")
