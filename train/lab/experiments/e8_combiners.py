"""E8: whether weights that change by themselves beat fixed ones, with all tasks on.

Published: Kurin et al. 2022, arXiv:2201.04122: fixed weights with ordinary regularisation are as good.
"""

import dataclasses

from train.lab.experiment import Change, Experiment
from train.lab.experiments.e4_auxiliaries import everything
from train.lab.experiments.small import as_it_is, both, small
from train.lab.outcome import DECIDES, Outcome
from train.objectives import CombinerName
from train.recipe import Recipe

STANDARD_DEVIATIONS, SOURCES = 2, 2  # better by more than so many, on so many sources, and a combiner is the default


def experiment() -> Experiment:
    return Experiment(
        question="E8: with all tasks on, do weights that change by themselves beat fixed ones?",
        base=everything(both(small())),
        arms={"static": as_it_is, "uncertainty": combining("uncertainty"), "famo": combining("famo")},
        rates=(6e-3, 12e-3),
        decide=decide,
    )


def combining(name: CombinerName) -> Change:
    def change(recipe: Recipe) -> Recipe:
        return dataclasses.replace(recipe, objectives=dataclasses.replace(recipe.objectives, combine=name))

    return change


def decide(outcome: Outcome) -> str:
    of_sources = [name for name in outcome.arms[outcome.first].seeds[0] if name.startswith(f"{DECIDES}, ")]
    found = []
    for arm in outcome.others:
        better = [
            name
            for name in of_sources
            if -outcome.difference(arm, name).difference > STANDARD_DEVIATIONS * outcome.sd(outcome.first, name)
        ]
        so = "make it the default" if len(better) >= SOURCES else f"{outcome.first} stays"
        found.append(
            f"{arm}: better by over {STANDARD_DEVIATIONS} sd on {len(better)} of {len(of_sources)} sources: {so}."
        )
    return " ".join(found)
