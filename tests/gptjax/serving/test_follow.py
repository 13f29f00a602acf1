"""A run that is training is followed: its newest good checkpoint is what new requests are for."""

import asyncio
import logging
import shutil
import time

import jax

import gptjax
from gptjax.inference.language_model import LanguageModel
from gptjax.runs import manifest
from gptjax.serving.follow import look
from gptjax.serving.worker import Worker
from tests.tiny_run import random_model, write_run


def test_whatever_goes_wrong_with_one_checkpoint_the_next_is_looked_at(tmp_path, caplog):
    def broken(step):
        raise RuntimeError("out of memory")

    run = write_run(tmp_path / "run", random_model())
    worker = Worker(random_model(), rows=1)
    assert look(worker, run, broken, 5) == 10
    assert "RuntimeError: out of memory; the model stays as it was" in caplog.messages[-1]


def test_a_newer_checkpoint_is_served_and_a_damaged_or_missing_one_is_told_once(tmp_path, caplog):
    caplog.set_level(logging.WARNING)
    model = random_model()
    others = LanguageModel(model.config, model.tokenizer, jax.tree.map(lambda leaf: -leaf, model.params))
    later = write_run(tmp_path / "later", others, steps=(20, 30, 40))
    run = write_run(tmp_path / "run", model)
    worker = Worker(gptjax.load(run), rows=2)
    worker.start()
    worker.wait()

    def seen_after(step, seen):
        shutil.copytree(manifest.folder_of(later, step), manifest.folder_of(run, step))
        if step == 30:
            file = max(manifest.folder_of(run, step).rglob("*"), key=lambda path: path.stat().st_size)
            file.write_bytes(file.read_bytes()[:-1])
        return look(worker, run, lambda step: gptjax.load(run, step), seen)

    seen = look(worker, run, gptjax.load, 10)
    assert (seen, worker.model.step) == (10, 10)
    seen = seen_after(20, seen)
    until = time.monotonic() + 30
    while worker.model.step == 10 and time.monotonic() < until:
        time.sleep(0.01)
    assert (seen, worker.model.step) == (20, 20)
    seen = seen_after(30, seen)
    assert look(worker, run, gptjax.load, seen) == seen == 30
    assert worker.model.step == 20
    assert sum("not used: step 30" in line for line in caplog.messages) == 1

    def gone(step):
        raise ValueError(f"no usable checkpoint of step {step}")

    shutil.copytree(manifest.folder_of(later, 40), manifest.folder_of(run, 40))
    assert look(worker, run, gone, seen) == 40
    assert worker.model.step == 20
    assert "the model stays as it was" in caplog.messages[-1]
    asyncio.run(worker.drain(5))
