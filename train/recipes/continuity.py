"""Sentence continuity in earnest, on one source: are two blocks neighbours, swapped, or of two documents?

Most rows ask it, the others are next and masked words. Blocks are longer than in the default recipe, since short ones
often share no word; documents must be long for that. Another source: --data.sources chitchat=1.
Hardware: 2 cores, 4 GB. Time: 7 minutes of training. Expect: see docs/log.md.
"""

from pathlib import Path

from data.spec import DataSpec
from data.tasks.continuity import Continuity
from gptjax.config import llama
from train.objectives import Objectives
from train.recipe import BatchSpec, ComputeSpec, OptimizerSpec, Recipe, ValidationSpec


def recipe() -> Recipe:
    return Recipe(
        data=DataSpec(sources=("python_library=1",), vocabulary=4096),
        objectives=Objectives(
            rows=("causal_lm=0.09", "masked_lm=0.06", "continuity=0.85:1"),
            continuity=Continuity(shortest=48, longest=128),
        ),
        model=llama(D=128, L=2, N=4, T=512),
        optimizer=OptimizerSpec(name="muon", learning_rate=2e-3, warmup=50, schedule="wsd", decay=0.3, final=0.0),
        batch=BatchSpec(rows=8),
        compute=ComputeSpec(unroll=True),
        validation=ValidationSpec(every=500, rows=8, task_rows=128, final_rows=16, final_task_rows=600),
        run=Path("runs/continuity"),
        steps=1700,
    )
