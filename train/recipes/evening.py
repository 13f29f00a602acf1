"""What one small model learns in an evening on a laptop's CPU: the run to try next.

The text and the model of the recipe `laptop`, eight times as long. More rows ask for masked words, and some for
shuffled trigrams, which the default recipe is too short for. The weights of the auxiliary tasks fall to 0 with the
learning rate. Sentence continuity has a recipe of its own, `continuity`: beside all this it was not learnt.
Hardware: 2 cores, 4 GB. Time: about 45 minutes of training. Expect: docs/several-objectives.md.
"""

import dataclasses
from pathlib import Path

from data.tasks.order import Order
from train.objectives import Objectives
from train.recipe import Recipe
from train.recipes import laptop
from train.recipes.laptop import until_the_end


def recipe() -> Recipe:
    base = laptop.recipe()
    objectives = Objectives(
        rows=(
            "causal_lm",
            "masked_lm=0.10:0.15",
            *until_the_end("order", 0.04, 0.08),
            *until_the_end("position", 0.01, 0.02),
            *until_the_end("classify", 0.02, 0.015),
        ),
        masked_lm=base.objectives.masked_lm,
        order=Order(rate=0.25),
        classify=base.objectives.classify,
    )
    return dataclasses.replace(base, objectives=objectives, steps=8000, run=Path("runs/evening"))
