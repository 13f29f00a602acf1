"""How right the answers of an output head are: classes, labels, numbers, and what its probabilities are worth.

Pure NumPy, float64. Axes: I items  C classes or labels of the head  K bins of probability  E training examples.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

from gptjax.batch import HeadKind
from gptjax.spelling import did_you_mean

BINS = 10  # of probability, equally wide


class Figure(NamedTuple):
    """A figure of heads, for people."""

    title: str
    form: str  # as format() takes it
    higher_is_better: bool
    kinds: tuple[HeadKind, ...]  # of heads that have it


FIGURES: dict[str, Figure] = {
    "accuracy": Figure("right answers", ".1%", True, ("classes",)),
    "macro_f1": Figure("macro F1, the mean over classes", ".3f", True, ("classes", "labels")),
    "micro_f1": Figure("micro F1, over all labels", ".3f", True, ("labels",)),
    "all_right": Figure("texts with all labels right", ".1%", True, ("labels",)),
    "mse": Figure("mean squared error", ".4g", False, ("values",)),
    "mae": Figure("mean absolute error", ".4g", False, ("values",)),
    "r2": Figure("R2, share of the variance that is explained", ".3f", True, ("values",)),
    "pearson": Figure("Pearson correlation", ".3f", True, ("values",)),
    "spearman": Figure("Spearman rank correlation", ".3f", True, ("values",)),
    "nll": Figure("nats a target", ".3f", False, ("classes", "labels")),
    "ece": Figure("calibration error (ECE)", ".3f", False, ("classes", "labels")),
}
FIRST: dict[HeadKind, str] = {"classes": "accuracy", "labels": "micro_f1", "values": "mse"}  # what a head is judged by


def check_figure(name: str, kind: HeadKind, where: str) -> None:
    """Raises ValueError for a figure that there is not, or that heads of this kind have not."""
    fits = [known for known, figure in FIGURES.items() if kind in figure.kinds]
    if name not in FIGURES:
        raise ValueError(f"{where}={name!r}{did_you_mean(name, fits)}")
    if name not in fits:
        raise ValueError(
            f"{where}={name!r}: is of {' and '.join(FIGURES[name].kinds)}, and the head tells {kind}; "
            f"one of {', '.join(fits)}"
        )


def figures(kind: HeadKind, found_IC: Float[np.ndarray, "I C"], true_IC: Float[np.ndarray, "I C"]) -> dict[str, float]:
    """All figures of a head of this kind by name.

    `found_IC`: of classes probabilities that sum to 1; of labels probabilities; of values the number, in one column.
    `true_IC`: 1 at the class, or at each label, else 0; the number. A figure that cannot be, such as the correlation
    with a constant, is NaN. Raises ValueError where there is no item.
    """
    if not len(found_IC):
        raise ValueError("there are no held-out items, so there is nothing to measure")
    if kind == "values":
        return of_values(found_IC[:, 0], true_IC[:, 0])
    if kind == "labels":
        return of_labels(found_IC, true_IC > 0)
    return of_classes(found_IC, true_IC.argmax(axis=1))


def of_classes(probability_IC: Float[np.ndarray, "I C"], label_I: Int[np.ndarray, "I"]) -> dict[str, float]:
    """Of one class of several: the most probable is the answer, the first of equals."""
    answer_I = probability_IC.argmax(axis=1)
    right_I = answer_I == label_I
    own_I = np.take_along_axis(np.asarray(probability_IC, np.float64), label_I[:, None], axis=1)[:, 0]
    return {
        "accuracy": float(right_I.mean()),
        "macro_f1": macro_f1(counts_of(confusion(label_I, answer_I, probability_IC.shape[1]))),
        "nll": float(-np.log(np.maximum(own_I, 1e-12)).mean()),
        "ece": calibration(probability_IC.max(axis=1), right_I).error,
    }


def of_labels(probability_IC: Float[np.ndarray, "I C"], true_IC: Bool[np.ndarray, "I C"]) -> dict[str, float]:
    """Of any number of labels: those with a probability of a half or more are the answer."""
    answer_IC = probability_IC >= 0.5
    counts = label_counts(answer_IC, true_IC)
    right_IC = np.where(true_IC, probability_IC, 1 - np.asarray(probability_IC, np.float64))
    return {
        "micro_f1": micro_f1(counts),
        "macro_f1": macro_f1(counts),
        "all_right": float((answer_IC == true_IC).all(axis=1).mean()),
        "nll": float(-np.log(np.maximum(right_IC, 1e-12)).mean()),
        "ece": calibration(probability_IC.ravel(), true_IC.ravel()).error,
    }


def of_values(found_I: Float[np.ndarray, "I"], true_I: Float[np.ndarray, "I"]) -> dict[str, float]:
    """Of numbers, in their own units."""
    found_I, true_I = np.asarray(found_I, np.float64), np.asarray(true_I, np.float64)
    error_I = found_I - true_I
    variance = float(true_I.var())
    mse = float(np.square(error_I).mean())
    return {
        "mse": mse,
        "mae": float(np.abs(error_I).mean()),
        "r2": 1 - mse / variance if variance > 0 else float("nan"),
        "pearson": pearson(found_I, true_I),
        "spearman": pearson(ranks(found_I), ranks(true_I)),
    }


def confusion(label_I: Int[np.ndarray, "I"], answer_I: Int[np.ndarray, "I"], classes: int) -> Int[np.ndarray, "C C"]:
    """How many items of each class (a row) were taken for which (a column)."""
    return np.bincount(label_I * classes + answer_I, minlength=classes**2).reshape(classes, classes)


class Counts(NamedTuple):
    """Of each class: right answers, answers, and items that are of it."""

    right_C: np.ndarray
    answered_C: np.ndarray
    true_C: np.ndarray


def counts_of(confusion_CC: Int[np.ndarray, "C C"] | Float[np.ndarray, "C C"]) -> Counts:
    """Those of a confusion matrix."""
    return Counts(np.diag(confusion_CC), confusion_CC.sum(axis=0), confusion_CC.sum(axis=1))


def label_counts(answer_IC: Bool[np.ndarray, "I C"], true_IC: Bool[np.ndarray, "I C"]) -> Counts:
    """Those of labels that are told one by one."""
    return Counts((answer_IC & true_IC).sum(axis=0), answer_IC.sum(axis=0), true_IC.sum(axis=0))


def macro_f1(counts: Counts) -> float:
    """The mean of F1 over the classes that occur, in truth or among the answers; 0 where none does.

    Source: Sokolova and Lapalme 2009, "A systematic analysis of performance measures", table 3.
    """
    occurs_C = counts.answered_C + counts.true_C
    f1_C = 2 * counts.right_C[occurs_C > 0] / occurs_C[occurs_C > 0]
    return float(f1_C.mean()) if len(f1_C) else 0.0


def micro_f1(counts: Counts) -> float:
    """F1 over the answers of all classes together; 0 where there is neither a label nor an answer."""
    occurs = counts.answered_C.sum() + counts.true_C.sum()
    return float(2 * counts.right_C.sum() / occurs) if occurs else 0.0


def pearson(one_I: Float[np.ndarray, "I"], other_I: Float[np.ndarray, "I"]) -> float:
    """The linear correlation; NaN where one of the two does not vary."""
    one_I, other_I = one_I - one_I.mean(), other_I - other_I.mean()
    size = float(np.sqrt(np.square(one_I).sum() * np.square(other_I).sum()))
    return float((one_I * other_I).sum() / size) if size > 0 else float("nan")


def ranks(value_I: Float[np.ndarray, "I"]) -> Float[np.ndarray, "I"]:
    """Places in rising order from 1; equal ones share the mean of theirs."""
    _, place_I, count_U = np.unique(value_I, return_inverse=True, return_counts=True)
    last_U = count_U.cumsum()
    return (last_U - (count_U - 1) / 2)[place_I.reshape(-1)]


class Calibration(NamedTuple):
    """What probabilities are worth: of each bin how many there are, how high they are, and how often they come true."""

    error: float  # mean distance of the last two, weighted by the first: the expected calibration error
    count_K: np.ndarray
    probability_K: np.ndarray  # mean; NaN of an empty bin
    share_K: np.ndarray  # that came true; NaN of an empty bin

    def as_json(self) -> list[dict[str, float | int]]:
        """The bins that are not empty."""
        rows = zip(self.count_K.tolist(), self.probability_K.tolist(), self.share_K.tolist(), strict=True)
        return [{"count": count, "probability": said, "share": share} for count, said, share in rows if count]


def calibration(probability_I: Float[np.ndarray, "I"], true_I: Bool[np.ndarray, "I"], bins: int = BINS) -> Calibration:
    """In bins of equal width; one that ends at a probability holds it.

    Source: Guo et al. 2017, arXiv:1706.04599, section 2 (equations 2 and 3).
    """
    probability_I = np.asarray(probability_I, np.float64)
    bin_I = np.clip(np.ceil(probability_I * bins).astype(np.int64) - 1, 0, bins - 1)
    count_K = np.bincount(bin_I, minlength=bins)
    with np.errstate(invalid="ignore"):
        probability_K = np.bincount(bin_I, probability_I, bins) / count_K
        share_K = np.bincount(bin_I, np.asarray(true_I, np.float64), bins) / count_K
    distance_K = np.where(count_K > 0, np.abs(probability_K - share_K), 0.0)
    return Calibration(float((distance_K * count_K).sum() / count_K.sum()), count_K, probability_K, share_K)


def common_labels(true_C: Float[np.ndarray, "C"], texts: int) -> tuple[Bool[np.ndarray, "C"], float]:
    """(the commonest labels, as many as have the highest micro F1 if they are told of every text, that F1).

    `true_C`: how many of the texts have each label.
    """
    order_C = np.argsort(-np.asarray(true_C), kind="stable")
    occurs_C = texts * np.arange(1, len(order_C) + 1) + np.sum(true_C)  # answers and labels, by how many are told
    f1_C = 2 * np.cumsum(true_C[order_C]) / occurs_C
    told_C = np.zeros(len(order_C), bool)
    told_C[order_C[: int(f1_C.argmax()) + 1]] = True
    return told_C, float(f1_C.max())


def baseline(kind: HeadKind, train_EC: Float[np.ndarray, "E C"], items: int) -> tuple[str, Float[np.ndarray, "I C"]]:
    """(what whoever has not read the texts would say, its answers for so many items), out of training truth alone.

    Of classes their shares, whose answer is the commonest class; of labels those that `common_labels` tells, each with
    its share or a half, whichever is more, and of the others their shares; of values the mean.
    """
    said = {
        "classes": "always says the commonest class",
        "labels": "always says the labels that are commonest in training, as many as make its F1 highest there",
        "values": "always says the mean",
    }
    mean_C = np.asarray(train_EC, np.float64).mean(axis=0)
    if kind == "labels":
        told_C, _ = common_labels(train_EC.sum(axis=0), len(train_EC))
        mean_C = np.where(told_C, np.maximum(mean_C, 0.5), mean_C)  # one of a half or more is always among those told
    return said[kind], np.repeat(mean_C[None], items, axis=0)


def in_words(found: Mapping[str, float], names: Sequence[str] | None = None) -> dict[str, str]:
    """Title -> figure, written as people read it."""
    return {FIGURES[name].title: format(found[name], FIGURES[name].form) for name in names or found if name in FIGURES}
