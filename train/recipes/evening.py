"""Every task of this package learnt by one small model, in an evening on a laptop's CPU: the run to try next.

The text, the model and the masked words of the recipe `laptop`, eight times as long. Some rows ask for shuffled
trigrams; continuity is asked of long blocks in three sources whose words tell it best. The weights of the auxiliary
tasks are so small that they seldom make a gradient that is clipped, and fall to 0 with the learning rate.
Hardware: 2 cores, 4 GB. Time: about 45 minutes of training. Expect: docs/objectives.md.
"""

import dataclasses
from pathlib import Path

from data.tasks.continuity import Continuity
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
            "masked_lm=0.06:0.06",
            *until_the_end("order", 0.04, 0.04),
            *until_the_end("position", 0.01, 0.005),
            *until_the_end("continuity", 0.16, 0.015),
            *until_the_end("classify", 0.02, 0.004),
        ),
        sources=("continuity=chitchat", "continuity=three_kingdoms", "continuity=python_library"),
        masked_lm=base.objectives.masked_lm,
        order=Order(rate=0.25),
        continuity=Continuity(shortest=32, longest=120),
    )
    return dataclasses.replace(base, objectives=objectives, steps=8000, run=Path("runs/evening"))
