"""E3: what masked words give next-word prediction where little text is read over and over.

Published: "Dual-objective Language Models", arXiv:2512.14549: with text read 32 times and more, both uses gain.
"""

import dataclasses

from train.lab.experiment import Experiment
from train.lab.experiments.small import as_it_is, both, conversations, small
from train.lab.outcome import DECIDES, Outcome
from train.recipe import Recipe


def experiment() -> Experiment:
    return Experiment(
        question="E3: of 100 kB read over 32 times, do masked words help next-word prediction?",
        base=conversations(small(), 0.992, steps=600),  # 100 kB are read
        arms={"causal": as_it_is, "causal + masked": both},
        rates=(2e-3, 4e-3),
        alternatives={"dropout 0.2": dropout, "decay 1": decay},
        decide=decide,
    )


def dropout(recipe: Recipe) -> Recipe:
    return dataclasses.replace(recipe, model=dataclasses.replace(recipe.model, dropout=0.2))


def decay(recipe: Recipe) -> Recipe:
    return dataclasses.replace(recipe, optimizer=dataclasses.replace(recipe.optimizer, weight_decay=1.0))


def decide(outcome: Outcome) -> str:
    (arm,) = outcome.others
    found, change = outcome.difference(arm, DECIDES), outcome.change(arm, DECIDES)
    if found.high < 0:
        return f"Masked words lower the causal loss by {-change:.1%}: the share that depends on repetition stays."
    return (
        f"Masked words change the causal loss by {change:+.1%}, which is not shown to be a gain: try replaced tokens "
        "and more weight decay before them."
    )
