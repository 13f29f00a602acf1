"""Which of the two measurements of a run with an average it is judged by."""

import contextlib
from types import SimpleNamespace

import pytest

from train.measuring import measure
from train.measuring.measure import Measuring
from train.recipe import StopSpec, ValidationSpec
from train.record.progress import Progress


@pytest.mark.parametrize(("judged_by", "loss"), [("loss", 1.0), (None, 2.0)])
def test_a_run_whose_best_is_loaded_is_judged_by_the_weights_that_are_loaded(monkeypatch, judged_by, loss):
    """By the trained ones, of which the loss is 1; others by the average, of which it is 2."""
    monkeypatch.setattr(measure, "HeldOut", lambda parts, text: SimpleNamespace(findings=lambda params, *_: params))
    monkeypatch.setattr(measure, "Monitor", lambda *_: None)
    monkeypatch.setattr(measure, "insight", lambda *_: None)
    monkeypatch.setattr(measure, "overall", lambda found, *_: found)
    monkeypatch.setattr(measure, "judged_by", lambda recipe: judged_by)
    recipe = SimpleNamespace(stop=StopSpec(), validation=ValidationSpec(every=1))
    parts = SimpleNamespace(recipe=recipe, loss_spec=SimpleNamespace(terms=()))
    text = SimpleNamespace(rows=SimpleNamespace(rates={}))
    recorder = SimpleNamespace(scores=lambda *_: None, show_scores=lambda *_: None)
    watchdog = SimpleNamespace(phase=lambda _: contextlib.nullcontext(), progress=lambda: None)
    guards = SimpleNamespace(lease=SimpleNamespace(beat=lambda *_: None), watchdog=watchdog)
    stop, progress = SimpleNamespace(agreed=False, own=None), Progress()
    measuring = Measuring(parts, text, progress, recorder, stop, guards)  # pyright: ignore[reportArgumentType]
    measuring.validate("validation", 5, SimpleNamespace(params=1.0, ema=2.0))  # pyright: ignore[reportArgumentType]
    assert (progress.health.best_loss, progress.health.best_step) == (loss, 5)
