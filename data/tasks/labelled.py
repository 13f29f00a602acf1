"""Labelled texts: what a head is to tell of each whole text, whatever its kind: a class, labels, a number.

Axes: P pieces (texts)  I tokens  L sequence-level targets  C classes of the head.
"""

import dataclasses
from typing import ClassVar

import numpy as np

from data.rows.wholeplan import WholePlan
from data.tasks.task import Corpus, Targets, Task, Text, packed
from gptjax.batch import Batch, ClassHead


@dataclasses.dataclass(frozen=True, kw_only=True)
class Labelled(Task):
    """What a text is judged to be, by people who read it."""

    loss: ClassVar[str] = "classes"  # or as the kind of its head says

    def heads(self, corpus: Corpus) -> dict[str, tuple[str, ...]]:
        return {head.name: head.classes for head in corpus.heads}

    def made_heads(self, corpus: Corpus) -> dict[str, ClassHead]:
        """The head that was prepared with the texts. Raises ValueError where there is none."""
        if len(corpus.heads) != 1:
            raise ValueError(f"reads texts that were prepared for one head, and there are {len(corpus.heads)}")
        return {head.name: head for head in corpus.heads}

    def loss_of(self, head: ClassHead) -> str:
        return head.kind

    def targets_a_row(self, corpus: Corpus, T: int) -> int:
        """Texts of the fullest row, times the labels that each is asked for."""
        (head,) = corpus.heads
        stores = [
            store for name, store in zip(corpus.sources, corpus.stores, strict=True)
            if name in (self.sources or corpus.sources) and name in corpus.whole
        ]  # fmt: skip
        most = max(WholePlan(store, T, None, corpus.growth).most_of_a_row for store in stores)
        return most * (len(head.classes) if head.kind == "labels" else 1)

    def only_reads(self, text: Text) -> np.ndarray:
        """All of a text."""
        return np.ones(len(text.token_I), bool)

    def build(self, text: Text) -> Batch:
        """Texts, each its own segment, with the targets of the head; seen from both sides, or by a causal head not."""
        (head,) = text.corpus.heads
        each = len(head.classes) if head.kind == "labels" else 1
        label_PF, value_PF, weight_PF = (np.zeros((len(text.row_P), each)) for _ in range(3))
        for source in np.unique(text.source_P):
            store, here = text.corpus.stores[source], text.source_P == source
            document = text.document_P[here]
            if head.kind == "values":
                value_PF[here] = store.value_DF[document]
            elif head.kind == "labels":
                label_PF[here], value_PF[here] = np.arange(each), store.label_DF[document]
            else:
                label_PF[here] = store.label_DF[document]
            weight_PF[here] = store.weight_DF[document] if store.weight_DF.shape[1] else 1.0
        targets = Targets(
            np.repeat(np.arange(len(text.row_P)), each), np.zeros(label_PF.size, np.int64),
            label_PF.ravel().astype(np.int64), value_L=value_PF.ravel(), weight_L=weight_PF.ravel(),
        )  # fmt: skip
        return packed(
            text, text.row_P, text.length_P, text.token_I,
            visible_I=np.full(len(text.token_I), not head.causal),
            targets=targets, Q=self.targets_a_row(text.corpus, text.T),
        )  # fmt: skip
