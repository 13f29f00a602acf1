"""What a checkpoint notes beside the state."""

import contextlib
import dataclasses
from types import SimpleNamespace

import jax
import pytest

from data.spec import DataSpec
from gptjax.config import Shape
from train.recipe import Recipe, StopSpec
from train.record import saver
from train.record.progress import Progress
from train.record.saver import Saver
from train.tuning.tune_recipe import TuneRecipe


@pytest.mark.parametrize(("tuned", "patience", "noted"), [(True, 3, {"load": 7}), (True, None, {}), (False, 3, {})])
def test_the_best_step_is_named_to_be_loaded_of_fine_tuning_with_patience(
    monkeypatch, tmp_path, tuned, patience, noted
):
    """By the loss, as no figure is asked for. The newest step is loaded of others."""
    kept = []
    writer = SimpleNamespace(
        cleared=(), seconds=None, wait=lambda: None, save=lambda step, trees, notes, best: kept.append(notes)
    )
    monkeypatch.setattr(saver, "CheckpointWriter", lambda *_: writer)
    monkeypatch.setattr(saver, "trees_of", lambda state: {})
    shared = {"data": DataSpec(sources=("chitchat",)), "model": Shape(T=32), "run": tmp_path, "steps": 1000}
    recipe = TuneRecipe(**shared, base="runs/base") if tuned else Recipe(**shared)
    recipe = dataclasses.replace(recipe, stop=StopSpec(patience=patience))
    watchdog = SimpleNamespace(phase=lambda _: contextlib.nullcontext())
    guards = SimpleNamespace(lease=SimpleNamespace(held=None, mirror=None, signs=None), watchdog=watchdog)
    progress = Progress()
    progress.health.note_held_out(7, 1.5)
    progress.health.note_held_out(8, 2.5)
    Saver(recipe, {}, guards, print).save(9, SimpleNamespace(params={}), progress)  # pyright: ignore[reportArgumentType]
    assert [{name: notes[name] for name in notes.keys() & {"load"}} for notes in kept] == [noted]


@pytest.mark.parametrize(("processes", "raised"), [(1, OSError), (2, jax.errors.JaxRuntimeError)])
def test_a_save_that_fails_for_want_of_another_process_is_no_mistake_of_the_disk(
    monkeypatch, tmp_path, processes, raised
):
    """The others are missed by the watch, whose word and exit code count; alone, whatever fails is the save's own."""

    def broken():
        raise jax.errors.JaxRuntimeError("connection reset by peer")

    writer = SimpleNamespace(cleared=(), seconds=None, wait=broken, failure=lambda: None)
    monkeypatch.setattr(saver, "CheckpointWriter", lambda *_: writer)
    monkeypatch.setattr(jax, "process_count", lambda: processes)
    recipe = Recipe(data=DataSpec(sources=("chitchat",)), model=Shape(T=32), run=tmp_path, steps=1000)
    watchdog = SimpleNamespace(phase=lambda _: contextlib.nullcontext())
    guards = SimpleNamespace(lease=SimpleNamespace(held=None, mirror=None, signs=None), watchdog=watchdog)
    with pytest.raises(raised):
        Saver(recipe, {}, guards, print).finish(9)  # pyright: ignore[reportArgumentType]
