"""What vectors of texts hold, by a linear probe: logistic regression that is asked only of texts it was not fitted to.

Axes: I texts  D, W features  C classes.

Source: Alain and Bengio 2016, arXiv:1610.01644 (linear classifiers of the states behind each layer).
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Int

from gptjax.evaluation.by_head import intervals
from gptjax.evaluation.head_figures import confusion, counts_of, macro_f1
from gptjax.evaluation.tf_idf import TfIdf
from gptjax.probing.folds import FOLDS, folds
from gptjax.probing.logistic import Logistic, standardised
from gptjax.results import Metric

STRENGTHS = (0.1, 1.0, 10.0, 100.0)  # C of logistic regression, of features whose rows have a length of about 1

# (numbers of texts to fit to, numbers of others) -> features of both, of which those of the others decide nothing
Features = Callable[[np.ndarray, np.ndarray], tuple[Any, Any]]


class Probe(NamedTuple):
    """Answers to every text, each of a probe that had not seen it."""

    probability_IC: Float[np.ndarray, "I C"]
    strengths: tuple[float, ...]  # of each fold


def of_vectors(vector_ID: np.ndarray) -> Features:
    """Vectors, each feature at mean 0 and the same deviation over the texts that are fitted to."""

    def made(fitted: np.ndarray, others: np.ndarray) -> tuple[Any, Any]:
        train_ID, other_ID = standardised(*(vector_ID[some].astype(np.float64) for some in (fitted, others)))
        return train_ID / vector_ID.shape[1] ** 0.5, other_ID / vector_ID.shape[1] ** 0.5

    return made


def of_words(texts: Sequence[str]) -> Features:
    """TF-IDF, by the words of the texts that are fitted to: what a probe of vectors is to be compared with."""

    def made(fitted: np.ndarray, others: np.ndarray) -> tuple[Any, Any]:
        known, asked = ([str(texts[number]) for number in some.tolist()] for some in (fitted, others))
        weigh = TfIdf(known)
        return weigh(known), weigh(asked)

    return made


def probed(features: Features, label_I: Int[np.ndarray, "I"], classes: int, seed: int = 0) -> Probe:
    """Cross-validation in FOLDS parts, each with its share of every class: a part is asked of a probe of the others.

    How strongly the probe is bound is chosen without the part that is asked: by the accuracy on the part behind it, of
    a probe of the other three.
    """
    fold_I = folds(label_I, seed)
    probability_IC = np.zeros((len(label_I), classes))
    chosen = []
    for fold in range(FOLDS):
        behind = (fold + 1) % FOLDS
        asked, dev = np.flatnonzero(fold_I == fold), np.flatnonzero(fold_I == behind)
        fewer, fitted = np.flatnonzero((fold_I != fold) & (fold_I != behind)), np.flatnonzero(fold_I != fold)
        fewer_IW, dev_IW = features(fewer, dev)
        right = {
            strength: np.mean(_answers(fewer_IW, label_I[fewer], dev_IW, classes, strength).argmax(1) == label_I[dev])
            for strength in STRENGTHS
        }
        best = max(STRENGTHS, key=right.__getitem__)  # of equals the most strongly bound
        fitted_IW, asked_IW = features(fitted, asked)
        probability_IC[asked] = _answers(fitted_IW, label_I[fitted], asked_IW, classes, best)
        chosen.append(best)
    return Probe(probability_IC, tuple(chosen))


def figures_of(probe: Probe, label_I: Int[np.ndarray, "I"]) -> dict[str, Metric]:
    """Accuracy and macro F1, with their intervals over texts."""

    answer_I, classes = probe.probability_IC.argmax(axis=1), probe.probability_IC.shape[1]

    def of(drawn: np.ndarray) -> dict[str, float]:
        counts = counts_of(confusion(label_I[drawn], answer_I[drawn], classes))
        return {"accuracy": float(counts.right_C.sum() / len(drawn)), "macro_f1": macro_f1(counts)}

    return intervals(of, len(label_I), seed=0)


def _answers(fitted_IW: Any, label_I: np.ndarray, asked_IW: Any, classes: int, strength: float) -> np.ndarray:
    return Logistic(fitted_IW, label_I, classes, strength).probabilities(asked_IW)
