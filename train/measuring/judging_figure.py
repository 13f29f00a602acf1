"""The figure that a run is judged by while it trains (stop.figure): of an output head, or of the answers it writes.

It is turned into how far it falls short, so that lower is better, as of a loss: its best less what it is, or the error.
"""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from gptjax.batch import HeadKind
from gptjax.evaluation import head_figures
from gptjax.evaluation.head_figures import FIGURES, Counts, counts_of, macro_f1, micro_f1
from gptjax.evaluation.text_figures import TITLES
from gptjax.spelling import did_you_mean
from train.record.metrics import TermScore

LOST = 1e30  # how far a figure falls short that is no number
WHILE_TRAINING: dict[
    HeadKind, tuple[str, ...]
] = {  # kind of head -> the figures that are known while it trains; the others need every answer
    "classes": ("accuracy", "macro_f1", "nll"),
    "labels": ("micro_f1", "macro_f1", "nll"),
    "values": ("mse", "r2", "pearson"),
}


def check_figure(name: str, kind: HeadKind, where: str) -> None:
    """Raises ValueError for a figure that a head of this kind has not, or not while it trains."""
    if name in TITLES:
        raise ValueError(
            f"{where}={name!r}: is of written answers, and this head tells {kind}; one of "
            f"{', '.join(WHILE_TRAINING[kind])}"
        )
    head_figures.check_figure(name, kind, where)
    if name not in WHILE_TRAINING[kind]:
        raise ValueError(
            f"{where}={name!r}: is known at the end alone; while {kind} are learnt, one of "
            f"{', '.join(WHILE_TRAINING[kind])}"
        )


def check_written(name: str, where: str) -> None:
    """Raises ValueError for what is no figure of written answers."""
    if name not in TITLES:
        raise ValueError(f"{where}={name!r}{did_you_mean(name, TITLES)}")


def figure_of(name: str, score: TermScore) -> float:
    """The figure of a term's score; NaN where it cannot be."""
    measured = score.measured
    if name == "nll":
        return score.loss
    if name == "accuracy" or name in measured:
        return measured[name]
    counts = _counts(measured)
    return micro_f1(counts) if name == "micro_f1" else macro_f1(counts)


def shortfall(name: str, found: float) -> float:
    """How far a figure falls short."""
    if not math.isfinite(found):
        return LOST
    return _turned(name, found)


def figure_at(name: str, short: float) -> float:
    """The figure that falls short so far."""
    return _turned(name, short)


def _turned(name: str, number: float) -> float:
    """From a figure to how far it falls short, and back."""
    best = 100 if name in TITLES else 1
    return best - number if name in TITLES or FIGURES[name].higher_is_better else number


def _counts(measured: Mapping[str, Any]) -> Counts:
    if "confusion" in measured:
        return counts_of(np.array(measured["confusion"]))
    return Counts(*(np.array(measured[key]) for key in ("right", "answered", "true")))
