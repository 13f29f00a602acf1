"""What an output head learns from labelled texts: which fields hold them, and how it reads. Imports neither TensorFlow
nor JAX."""

import dataclasses
from typing import get_args

from gptjax.batch import HeadKind, Pool
from gptjax.spelling import did_you_mean

KINDS = get_args(HeadKind)
USUAL = {"classes": "label", "labels": "labels", "values": "value"}  # what the target's column is called by default


@dataclasses.dataclass(frozen=True, kw_only=True)
class HeadSpec:
    """An output head beside the one of the tokens: what it reads, what it tells, and out of which columns."""

    kind: HeadKind | None = None
    """one of several classes, any number of labels, a number; None = classes named by words"""
    name: str | None = None  # of the head; None = the last part of the target's column
    text: str | None = None  # column of the text; None = text
    second: str | None = None  # column of a second text, of pairs
    target: str | None = None  # column of class, labels or number; None = label, labels or value
    pool: Pool = "last"  # which states of a text it reads: that of the last token, their mean, a learnt mean
    causal: bool = False  # it reads from the left alone; else every token sees both sides
    lowercase: bool = False  # texts in lower case
    stop_words: str | None = None  # code of the language whose stop words are left out, as en; None = all is read
    smoothing: float = 0.0  # label smoothing: share of a target that is spread over all classes
    dropout: float = 0.1  # share of what the head reads that is dropped in training
    balanced: bool = False  # rare classes count as much as common ones
    most: int | None = None  # training examples at most, of each class in proportion; what is held out stays the same
    held_out: str | None = None  # a file of records, or a source, to measure by; None = some of the examples

    def __post_init__(self):
        if self.kind is not None and self.kind not in KINDS:
            raise ValueError(f"--as {self.kind}{did_you_mean(str(self.kind), KINDS)}")
        if self.pool not in get_args(Pool):
            raise ValueError(f"examples.head.pool={self.pool!r}{did_you_mean(str(self.pool), get_args(Pool))}")
        for name in ("name", "text", "second", "target", "held_out"):
            if getattr(self, name) == "":
                raise ValueError(f"examples.head.{name}: empty; give a name, or leave it out")
        if found := [sign for sign in "/\\\0" if sign in self.called]:
            raise ValueError(
                f"head {self.called!r}: has a {found[0]!r}, and names the run; give --head NAME without one"
            )
        for name in ("smoothing", "dropout"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"examples.head.{name}={getattr(self, name)}: must be at least 0 and below 1")
        if self.second is not None and self.second == self.text:
            raise ValueError(f"--text and --second are both {self.text!r}; give two columns")
        if self.balanced and self.kind == "values":
            raise ValueError("examples.head.balanced: is for classes and labels; a number has no classes to balance")
        if self.most is not None and self.most < 2:
            raise ValueError(f"examples.head.most={self.most}: must be at least 2 examples")

    @property
    def tells(self) -> HeadKind:
        """Its kind, once the labels have been seen to be words where it was not said."""
        return self.kind or "classes"

    @property
    def target_column(self) -> str:
        return self.target or USUAL[self.tells]

    @property
    def called(self) -> str:
        """The head's name."""
        return self.name or self.target_column.rpartition(".")[2]
