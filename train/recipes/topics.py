"""Topics of an encyclopaedia, learnt beside masked words: whole articles, as far as a row holds them, and their topic.

Hardware: 2 cores, 4 GB. Time: 7 minutes of training. Expect: see docs/log.md, beside TF-IDF with logistic regression.
"""

from pathlib import Path

from data.spec import DataSpec
from data.tasks.classify import Classify
from gptjax.config import llama
from train.objectives import Objectives
from train.recipe import BatchSpec, ComputeSpec, OptimizerSpec, Recipe, ValidationSpec


def recipe() -> Recipe:
    return Recipe(
        data=DataSpec(sources=("wiki_leads/en",), vocabulary=8192),
        objectives=Objectives(
            rows=("masked_lm=0.5", "classify=0.5:1"),
            classify=Classify(labels=("topic",), longest=512),
        ),
        model=llama(D=192, L=3, N=3, T=512, dropout=0.1),
        optimizer=OptimizerSpec(name="muon", learning_rate=4e-3, warmup=100, schedule="wsd", decay=0.4, final=0.0),
        batch=BatchSpec(rows=8),
        compute=ComputeSpec(unroll=True),
        validation=ValidationSpec(every=250, rows=16, task_rows=300, final_task_rows=10_000),
        run=Path("runs/topics"),
        samples=0,
        steps=1000,
    )
