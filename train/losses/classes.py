"""The loss of segments that belong to classes: -log p of the class, by a head that reads one state, or a mean of them.

Axes: B batch  Q places that are looked at  C classes of a head.
"""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from gptjax.batch import Batch
from gptjax.config import ModelConfig
from gptjax.nn.class_heads import class_nll, smoothed_nll
from train.losses.accuracy import COMMONEST, Classified
from train.losses.head_reading import head_number, head_output
from train.losses.loss import Matrix, Seen, Sums, joined
from train.objectives import Term

if TYPE_CHECKING:
    from data.tasks.task import Corpus, Task


class Classes(Classified):
    """What a segment is."""

    def targets(self, batch: Batch, term: Term) -> Array:
        return batch.label_BQ

    def output(self, seen: Seen, term: Term) -> Float[Array, "B Q C"]:
        """What the term's head says at every place."""
        return head_output(seen, term)

    def losses(self, seen: Seen, terms: Sequence[Term]) -> list[Float[Array, "B Q"]]:
        """With the term's label smoothing, which only what is learnt from has."""
        return [smoothed_nll(self.output(seen, term), seen.batch.label_BQ, term.smoothing) for term in terms]

    def answers(self, seen: Seen, terms: Sequence[Term]) -> list[tuple[Float[Array, "B Q"], Int[Array, "B Q"]]]:
        found = [self.output(seen, term) for term in terms]
        return [(class_nll(logits_BQC, seen.batch.label_BQ), jnp.argmax(logits_BQC, axis=-1)) for logits_BQC in found]

    def sums_of(self, seen: Seen, term: Term, nll_BQ: Array, argmax_BQ: Array) -> Sums:
        """And a confusion matrix: targets by class and answer, each counted once, whatever its class weighs."""
        count = len(seen.config.class_heads[head_number(term)].classes)
        label_BQ, weight_BQ = self.targets(seen.batch, term), self.weights(seen.batch, term)
        counted_BQ = (weight_BQ > 0).astype(jnp.float32)
        label_BQC, argmax_BQC = (jax.nn.one_hot(ids, count) for ids in (label_BQ, argmax_BQ))
        confusion_CC = jnp.einsum("BQ,BQC,BQc->Cc", counted_BQ, label_BQC, argmax_BQC)
        correct = jnp.sum(jnp.where(argmax_BQ == label_BQ, counted_BQ, 0.0))
        sums = super().sums_of(seen, term, nll_BQ, argmax_BQ)
        return sums | {"correct": correct, "count": jnp.sum(counted_BQ), "confusion": confusion_CC}

    def score(self, sums: Mapping[str, Any]) -> float:
        return float(sums["correct"] / sums["count"])

    def baseline(self, term: Term, batches: Sequence[Batch], task: "Task", corpus: "Corpus") -> tuple[str, float]:
        label = joined([self.targets(batch, term) for batch in batches])
        count = np.bincount(label[joined([self.weights(batch, term) for batch in batches]) > 0])
        return COMMONEST, float(count.max() / count.sum())

    def details(self, term: Term, sums: Mapping[str, Any], config: ModelConfig) -> dict[str, Any]:
        confusion = np.round(sums["confusion"]).astype(int).tolist()
        return {"confusion": confusion, "classes": config.class_heads[head_number(term)].classes}

    def pictures(self, term: str, record: Mapping[str, Any]) -> list[Matrix]:
        if not record.get("confusion"):
            return []
        return [Matrix(f"{term}: what is taken for what", np.array(record["confusion"]), list(record["classes"]))]
