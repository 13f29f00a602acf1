"""A small model of Chinese: Romance of the Three Kingdoms, and small talk with a chatbot.

The novel is read about five times. Its 1.8 MB are little and classical; there is ten times as much, newspaper prose and
reviews, of unclear licence, for your own machine alone:

    ./launch.sh setup --as-is
    ./launch.sh pretrain chinese --run runs/chinese-news \\
        --data.sources three_kingdoms chatterbot/chinese people_daily chinese_reviews

`unimax 8` then shares the run out anew: equal parts, but no source more than eight times.
Hardware: 2 cores, 4 GB. Time: about 6 minutes of training.
"""

from pathlib import Path

from data.spec import DataSpec
from gptjax.config import SIZES
from train.recipe import BatchSpec, ComputeSpec, OptimizerSpec, Recipe, ValidationSpec


def recipe() -> Recipe:
    return Recipe(
        data=DataSpec(
            sources=("three_kingdoms", "chatterbot/chinese"),
            mixture="unimax 8",
            validation="tail 0.1",  # the last chapters; the small talk is too short to hold out by hash
            vocabulary=4096,
        ),
        model=SIZES["nano"](),
        optimizer=OptimizerSpec(learning_rate=3e-3, warmup=100, schedule="wsd", decay=0.4, final=0.0),
        batch=BatchSpec(rows=8),
        compute=ComputeSpec(unroll=True),
        validation=ValidationSpec(rows=64),
        run=Path("runs/chinese"),
        steps=1000,
    )
