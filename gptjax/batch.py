"""What a training step receives: fixed-shape arrays, already shifted, corrupted and weighted.

A shift or a mask is made where the batch is built and nowhere else.
Axes: B batch, T position, Q sequence-level targets.
"""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any, Literal, NamedTuple, get_args

import numpy as np

from gptjax.spelling import did_you_mean

HeadKind = Literal["classes", "labels", "values"]
Pool = Literal["last", "mean", "attention"]
CHOICES = {"kind": get_args(HeadKind), "pool": get_args(Pool)}


@dataclasses.dataclass(frozen=True, kw_only=True)
class ClassHead:
    """An output head beside the one of the tokens: it tells something of a token, or of a whole sequence.

    A head of kind "classes" with one class tells a number, as heads did before there were "values".
    """

    name: str
    classes: tuple[str, ...]  # of kind "values": the name of the number
    pair: bool = False  # compares the parts of a segment before and from its target's place; else reads one state
    token: bool = False  # tells something of single tokens that its task has marked, and nothing of whole texts
    kind: HeadKind = "classes"  # one of several classes (softmax); any number of labels (sigmoid); a number
    pool: Pool = "last"  # which of the states of a text it reads: of the last token, the mean, a learnt mean
    causal: bool = False  # reads a text from the left alone; else every token sees both sides
    length: int | None = None  # tokens that a text is cut at, BOS and EOS among them; None = the context
    two: bool = False  # reads two texts: BOS a EOS b EOS
    lowercase: bool = False  # reads texts in lower case
    stop_words: str | None = None  # code of the language whose stop words it does not read; None = reads all
    mean: float = 0.0  # of kind "values": the user's value is mean + scale * output
    scale: float = 1.0

    def __post_init__(self):
        _check_single_fields(self.name, vars(self))
        if self.kind == "values" and len(self.classes) != 1:
            raise ValueError(
                f"head {self.name!r}: kind 'values' tells one number, and has {len(self.classes)} names; give one"
            )
        least = 5 if self.two else 3  # one token of each text
        if self.length is not None and self.length < least:
            raise ValueError(f"head {self.name!r}: length={self.length}: at least {least}, as BOS and EOS count")
        if not math.isfinite(self.mean) or not 0 < self.scale < math.inf:
            raise ValueError(
                f"head {self.name!r}: mean={self.mean}, scale={self.scale}: must be finite, and scale above 0"
            )
        if self.kind != "values" and (self.mean, self.scale) != (0.0, 1.0):
            raise ValueError(f"head {self.name!r}: mean and scale are for kind 'values', this one is {self.kind!r}")
        if self.pair and self.pool != "last":
            raise ValueError(
                f"head {self.name!r}: pair compares two means, and has no pool={self.pool!r}; leave it out"
            )

    @property
    def of_texts(self) -> bool:
        """Whether it tells something of whole texts that are given to it."""
        return not self.token and (self.two or not self.pair)

    @property
    def tells_number(self) -> bool:
        """Whether its one output is a number, and not the score of a class."""
        return self.kind == "values" or (self.kind == "classes" and len(self.classes) == 1)

    def fields(self) -> dict[str, Any]:
        """As JSON without the name: `classes` and `pair`, as always, of all others those that are no default.

        What reads files of this package from before those others refuses a file with them, or takes it for what it was.
        """
        others = [field for field in dataclasses.fields(self) if field.name not in ("name", *BARE)]
        changed = {one.name: getattr(self, one.name) for one in others if getattr(self, one.name) != one.default}
        return {"classes": list(self.classes), "pair": self.pair, **changed}

    @classmethod
    def of(cls, name: str, fields: Any) -> "ClassHead":
        """Reads such JSON. Raises ValueError that names the head and the field."""
        if not isinstance(fields, dict) or not fields.keys() >= set(BARE):
            raise ValueError(f"head {name!r}: must have the fields classes and pair, found {str(fields)[:80]}")
        known = {field.name for field in dataclasses.fields(cls)} - {"name"}
        for field in fields:
            if field not in known:
                raise ValueError(f"head {name!r}: unknown field {field!r}{did_you_mean(field, known)}")
        _check_single_fields(name, fields)
        classes = fields["classes"]
        if not isinstance(classes, list) or not classes or not all(isinstance(text, str) for text in classes):
            raise ValueError(f"head {name!r}: classes must be a list of texts, found {str(classes)[:80]}")
        given: dict[str, Any] = {"name": name, **fields, "classes": tuple(classes)}
        for field in given.keys() & {"mean", "scale"}:
            given[field] = float(given[field])
        return cls(**given)


BARE = ("classes", "pair")  # the fields that every file names


def _check_single_fields(name: str, fields: Mapping[str, Any]) -> None:
    """Raises ValueError for a field whose value is of the wrong kind, or unknown."""
    for field, value in fields.items():
        if field in CHOICES and value not in CHOICES[field]:
            raise ValueError(f"head {name!r}: {field}={value!r}{did_you_mean(str(value), CHOICES[field])}")
        if field in ("pair", "token", "causal", "two", "lowercase") and not isinstance(value, bool):
            raise ValueError(f"head {name!r}: {field} must be true or false, found {value!r}")
        if field in ("mean", "scale") and (isinstance(value, bool) or not isinstance(value, int | float)):
            raise ValueError(f"head {name!r}: {field} must be a number, found {value!r}")
        if field == "length" and value is not None and type(value) is not int:
            raise ValueError(f"head {name!r}: length must be a whole number or null, found {value!r}")
        if field == "stop_words" and not isinstance(value, str | None):
            raise ValueError(f"head {name!r}: stop_words must be a language code or null, found {value!r}")


class Batch(NamedTuple):
    """One batch, or with a leading axis A one optimizer step of A micro-batches. Arrays of NumPy or JAX."""

    tokens_BT: Any  # i32: input ids
    targets_BT: Any  # i32: the id that this position must predict
    weights_BT: Any  # f32: 0 = no loss here; the only thing that decides where loss is taken
    task_BT: Any  # i32: which objective, by its place in the run's table, from 1; 0 = padding
    segment_BT: Any  # i32: packed document, counted from 1 in each row; 0 = padding
    position_BT: Any  # i32: restarts at 0 in every segment
    visible_BT: Any  # bool: may be seen by every query of its own segment, not only by later ones; its first so many
    label_BQ: Any  # i32: class of a sequence-level target
    value_BQ: Any  # f32: value of a sequence-level target
    at_BQ: Any  # i32: the position that it is read from, or, by a head of pairs, where the second part begins
    head_BQ: Any  # i32: the output head that it belongs to
    label_weight_BQ: Any  # f32: 0 = no target here

    @property
    def shape(self) -> tuple[int, ...]:
        """([A,] B, T)."""
        return self.tokens_BT.shape


def text_batch(
    tokens_BT: np.ndarray,
    targets_BT: np.ndarray,
    weights_BT: np.ndarray,
    task_BT: np.ndarray,
    segment_BT: np.ndarray,
    position_BT: np.ndarray,
    visible_BT: np.ndarray,
    Q: int = 0,
) -> Batch:
    """A batch with room for Q sequence-level targets, of which there are none."""
    none_i32 = np.zeros((*tokens_BT.shape[:-1], Q), np.int32)
    none_f32 = none_i32.astype(np.float32)
    return Batch(
        tokens_BT, targets_BT, weights_BT, task_BT, segment_BT, position_BT, visible_BT,
        none_i32, none_f32, none_i32, none_i32, none_f32,
    )  # fmt: skip
