"""The loss of segments that have any number of labels: of each label -log p that it is there, or is not, by a sigmoid.

Every (segment, label) is a target: its label is the class, its value 1 or 0. A row's first C targets are the labels of
one segment in their order, the next C those of another, so that a segment is read and scored once.
Axes: B batch  Q targets  S segments that have them, at most Q/C  C classes.
"""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from gptjax.batch import Batch
from gptjax.config import ModelConfig
from gptjax.evaluation.head_figures import common_labels
from gptjax.nn.class_heads import label_nll
from train.losses.head_reading import head_number, head_output
from train.losses.loss import Loss, Measure, Seen, Sums, joined, total
from train.objectives import Term

if TYPE_CHECKING:
    from data.tasks.task import Corpus, Task


class Labels(Loss):
    """Which labels a segment has."""

    unit = "nats per label"
    measure = Measure(key="micro_f1", title="micro F1", form=".3f", higher_is_better=True)

    def targets(self, batch: Batch, term: Term) -> Array:
        return batch.value_BQ

    def losses(self, seen: Seen, terms: Sequence[Term]) -> list[Float[Array, "B Q"]]:
        """With label smoothing, which only what is learnt from has: towards a half."""
        return [
            label_nll(_logit(seen, term), (1 - term.smoothing) * seen.batch.value_BQ + term.smoothing / 2)
            for term in terms
        ]

    def sums(self, seen: Seen, terms: Sequence[Term]) -> list[Sums]:
        """Of each label how often it is answered rightly, answered, and there; every target counts once for these."""
        return [self._sums_of(seen, term, _logit(seen, term)) for term in terms]

    def _sums_of(self, seen: Seen, term: Term, logit_BQ: Float[Array, "B Q"]) -> Sums:
        value_BQ, weight_BQ = self.targets(seen.batch, term), self.weights(seen.batch, term)
        count = _classes(seen, term)
        found_BQ, true_BQ = logit_BQ >= 0, value_BQ > 0.5

        def of_labels(is_so_BQ: Array) -> Float[Array, "C"]:
            counted_BQ = is_so_BQ & (weight_BQ > 0)
            counted_BSC = counted_BQ[:, : counted_BQ.shape[1] // count * count].reshape(len(counted_BQ), -1, count)
            return jnp.sum(counted_BSC.astype(jnp.float32), axis=(0, 1))

        return {
            "loss": total(label_nll(logit_BQ, value_BQ), weight_BQ),
            "weight": jnp.sum(weight_BQ),
            "right_C": of_labels(found_BQ & true_BQ),
            "answered_C": of_labels(found_BQ),
            "true_C": of_labels(true_BQ),
        }

    def score(self, sums: Mapping[str, Any]) -> float:
        """F1 over all labels together; 0 where none is there, nor answered."""
        right, answered, true = (float(np.sum(sums[name])) for name in ("right_C", "answered_C", "true_C"))
        return 2 * right / (answered + true) if answered + true else 0.0

    def baseline(self, term: Term, batches: Sequence[Batch], task: "Task", corpus: "Corpus") -> tuple[str, float]:
        """The best that the same labels for all texts can do: chosen by the held-out texts themselves, as this sees no
        others, and so at least what those of training would do."""
        counted = joined([self.weights(batch, term) for batch in batches]) > 0
        label, value = (joined([of(batch) for batch in batches])[counted] for of in (_label, _value))
        true_C, texts_C = np.bincount(label, value > 0.5), np.bincount(label)
        return "always says the labels that suit these texts best", common_labels(true_C, int(texts_C.max()))[1]

    def details(self, term: Term, sums: Mapping[str, Any], config: ModelConfig) -> dict[str, Any]:
        """Of each label how often it was answered rightly, answered, and there."""
        counted = {name: np.round(sums[f"{name}_C"]).astype(int).tolist() for name in ("right", "answered", "true")}
        return {**counted, "classes": config.class_heads[head_number(term)].classes}


def _classes(seen: Seen, term: Term) -> int:
    return len(seen.config.class_heads[head_number(term)].classes)


def _logit(seen: Seen, term: Term) -> Float[Array, "B Q"]:
    """The score of each target's own label, as the head finds it in one look at its segment; 0 past the last whole C,
    where there is no target of this head."""
    count, at_BQ = _classes(seen, term), seen.batch.at_BQ
    most = at_BQ.shape[1] // count * count
    logits_BSC = head_output(seen._replace(batch=seen.batch._replace(at_BQ=at_BQ[:, :most:count])), term)
    return jnp.pad(logits_BSC.reshape(len(at_BQ), most), ((0, 0), (0, at_BQ.shape[1] - most)))


def _label(batch: Batch) -> Array:
    return batch.label_BQ


def _value(batch: Batch) -> Array:
    return batch.value_BQ
