"""Each task, alone, learns eight rows by heart; what cannot has a wrong loss, shift or mask, or a dead gradient."""

import dataclasses

import jax
import numpy as np
import pytest

from data.rows.rows import Rows
from data.tasks.classify import Classify
from data.tasks.continuity import Continuity
from gptjax.config import Architecture, ModelConfig
from gptjax.nn.model import Transformer
from gptjax.sharding import make_mesh
from gptjax.text.tokenizer import train_bpe
from tests.tiny_text import stories, write_prepared
from tests.train.test_step import stop_flag
from train.objectives import Objectives, loss_spec
from train.recipe import OptimizerSpec
from train.step import abstract_state, make_train_step

T, ROWS, MOST = 64, 8, 300
SPEC = OptimizerSpec(learning_rate=3e-3, warmup=10, schedule="constant", weight_decay=0.0)
OF_BLOCKS = {
    "continuity": Continuity(shortest=8, longest=24),
    "classify": Classify(labels=("source", "type"), shortest=8, longest=24),
}
TASKS = {  # all that read running text; replies by heart: tests/train/tuning/test_tuned_run.py
    name: dataclasses.replace(OF_BLOCKS.get(name, task), rows=1 / 7)
    for name, task in Objectives().tasks.items()
    if name not in ("reply", "labelled")
}


@pytest.fixture(scope="module")
def learnt(tmp_path_factory):
    """(rows, loss spec, step, first state, mesh): one step for all tasks, so that it is compiled once.

    Few documents begin in the rows: who has seen only BOS cannot know the first word.
    """
    texts = {"p": stories(20, 100), "q": stories(20, 100, seed=1)}
    tokenizer = train_bpe([*texts["p"], *texts["q"]], 400)  # a word is a token: blocks of few hold sentences
    objectives = Objectives(**TASKS)
    prepared = write_prepared(tmp_path_factory.mktemp("overfit"), texts, tokenizer=tokenizer)
    rows = Rows(prepared, T, 0, None, objectives.tasks)
    terms = loss_spec(rows, ROWS, "static")
    shape = Architecture(T=T, D=64, L=2, N=4, K=4, F=128)
    model = Transformer(ModelConfig.of(shape, tokenizer.size, terms.heads))
    mesh = make_mesh(devices=jax.devices()[:1])
    with jax.set_mesh(mesh):
        abstract, fresh = abstract_state(model, SPEC, terms, MOST, mesh, seed=0)
        return rows, terms, make_train_step(model, SPEC, terms, MOST, abstract, mesh, ROWS, seed=0), fresh, mesh


@pytest.mark.parametrize("name", TASKS)
def test_every_task_alone_learns_eight_rows_by_heart(learnt, name):
    """Figure 1: within 0.05 nats a target, of each of its terms."""
    rows, terms, step, fresh, mesh = learnt
    place = list(TASKS).index(name)
    batch = rows.builder.batch(rows.text(np.arange(ROWS)), np.full(ROWS, place))
    own = [term.name for term in terms.terms if term.task == rows.builder.id_of(name)]
    with jax.set_mesh(mesh):
        state, placed, seen = fresh(), jax.device_put(jax.tree.map(lambda array: array[None], batch)), []
        while len(seen) < MOST and (not seen or max(seen[-1]) >= 0.05):
            state, metrics = step(state, placed, stop_flag(mesh))
            seen.append([float(metrics[f"loss/{term}"]) for term in own])
    targets = [int(metrics[f"weight/{term}"]) for term in own]
    print(f"{name}: {own}, {targets} targets: from {seen[0]} to {seen[-1]} nats in {len(seen)} steps")
    assert min(targets) >= ROWS / 2
    assert min(seen[0]) > 0.5
    assert max(seen[-1]) < 0.05
    assert step._cache_size() == 1
