"""E11: which task of the recipe `evening` costs next words how much, and which others it helps.

At a quarter of its length; an arm for each task, whose rows are next words instead, and one of next words alone.
"""

import dataclasses

from train.lab.experiment import Change, Experiment
from train.lab.experiments.small import as_it_is, quarter
from train.lab.outcome import BEYOND, DECIDES, Outcome
from train.recipe import Recipe

NEXT_WORDS = "causal_lm"  # which has the rows that the others leave
LEFT_OUT = ("masked_lm", "order", "position", "continuity", "classify")


def experiment() -> Experiment:
    base = quarter()
    return Experiment(
        question="E11: what does each task of `evening` cost next words?",
        base=base,
        arms={
            "all": as_it_is,
            **{f"without {task}": without(task) for task in LEFT_OUT},
            "next words": without(*LEFT_OUT),
        },
        rates=(base.optimizer.learning_rate,),
        decide=decide,
    )


def without(*left_out: str) -> Change:
    """Next words have the rows of these tasks."""

    def change(recipe: Recipe) -> Recipe:
        objectives = recipe.objectives
        of_others = [row for row in objectives.rows if row.split("=")[0] not in (NEXT_WORDS, *left_out)]
        sources = tuple(source for source in objectives.sources if source.split("=")[0] not in left_out)
        kept = dataclasses.replace(objectives, rows=(NEXT_WORDS, *of_others), sources=sources)
        return dataclasses.replace(recipe, objectives=kept)

    return change


def decide(outcome: Outcome) -> str:
    """What a task costs is how much lower the causal loss is without it; seen where the interval has no 0 in it."""
    return " ".join(_verdict(outcome, arm) for arm in outcome.others)


def _verdict(outcome: Outcome, arm: str) -> str:
    found, change = outcome.difference(arm, DECIDES), outcome.change(arm, DECIDES)
    seen = "" if found.low > 0 or found.high < 0 else " (not shown)"
    others = [
        name.removesuffix(f" {BEYOND}")
        for name in outcome.arms[arm].seeds[0]
        if name.endswith(BEYOND) and outcome.difference(arm, name).high < 0
    ]
    worse = f"; worse without: {', '.join(others)}" if others else ""
    return f"{arm}: causal loss {change:+.1%}{seen}{worse}."
