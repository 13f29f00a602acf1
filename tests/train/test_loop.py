"""The loop: what ends it, what it does first when it goes on, and what it does when saving fails."""

import dataclasses
import re

import numpy as np
import pytest
from rich.console import Console

import gptjax
from gptjax.runs import checkpoint
from gptjax.runs.manifest import manifest, steps
from tests.tiny_recipe import recipe, records, steps_alone, write_text
from train import loop
from train.measuring.measure import Measuring
from train.recipe import CheckpointSpec, OptimizerSpec, StopSpec, ValidationSpec
from train.record import recorder
from train.record.ledger import read_ledger
from train.supervision.exits import INTERRUPTED, STOPPED, StoppedError
from train.supervision.signals import Signals


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    return write_text(tmp_path_factory.mktemp("loop"))


def small(text, run: str, **changes):
    """With frequent measurements and without samples."""
    settings = {"samples": 0, "validation": ValidationSpec(every=2, rows=4, final_rows=4)}
    return recipe(text, run, **{**settings, **changes})


def trained(settings, **arguments) -> tuple[str, str]:
    """Trains; returns what was printed and the message of the StoppedError that ended it, or ""."""
    console = Console(record=True, width=300)
    stopped = ""
    try:
        steps_alone(settings, console, **arguments)
    except StoppedError as error:
        stopped = str(error)
    return console.export_text(), stopped


class Asking(Signals):
    """SIGTERM or SIGINT as if it came in a certain step."""

    def __init__(self, step: int, name: str):
        super().__init__()
        self._step, self._name = step, name

    def note(self, step: int) -> None:
        if step == self._step:
            self.asked = self._name


@pytest.mark.slow
def test_where_there_is_no_bar_a_line_now_and_then_says_how_far_it_is(text, monkeypatch):
    """Every 30 seconds, here every record; on a terminal the bar says it."""
    monkeypatch.setattr(loop, "RECORD_EVERY", 2)
    monkeypatch.setattr(recorder, "TELL_EVERY", 0)
    said, _ = trained(small(text, "told", steps=4))
    assert re.findall(r"step (\d) of 4: loss \d\.\d{3}  .* tokens/s  MFU .*, 0 min left", said) == ["2", "4"]


@pytest.mark.fault(20, 21)
@pytest.mark.parametrize(("name", "code"), [("SIGTERM", STOPPED), ("SIGINT", INTERRUPTED)])
def test_asked_to_stop_it_saves_the_step_it_is_at_and_the_same_command_goes_on(text, monkeypatch, name, code):
    """Asked while step 3 is read, it takes step 4, which was under way, hears of it, and step 5, and saves that."""
    signals = Asking(3, name)
    read = loop.Loop._read

    def noting(self, step):
        signals.note(step)
        return read(self, step)

    settings = small(text, name, checkpoint=CheckpointSpec(every=50), validation=ValidationSpec(every=50))
    with monkeypatch.context() as patch:
        patch.setattr(loop.Loop, "_read", noting)
        with pytest.raises(StoppedError, match=r"saved at step \d; the same command goes on from there") as stopped:
            steps_alone(settings, signals=signals)
    assert stopped.value.code == code
    (newest,) = set(steps(text / name)) - {0}
    assert newest in (4, 5, 6)
    said, _ = trained(dataclasses.replace(settings, stop=StopSpec(step=newest + 1)))
    assert f"continuing from step {newest}" in said
    assert len(read_ledger(text / name)) == newest + 1


def test_out_of_time_it_stops_saved_and_goes_on_with_the_next_start(text):
    """A limit of no time at all still takes a step or two: each start makes progress."""
    settings = small(text, "minutes", stop=StopSpec(minutes=1e-6))
    _, stopped = trained(settings)
    assert "the same command goes on" in stopped
    first = max(steps(text / "minutes"))
    assert first > 0
    trained(settings)
    assert max(steps(text / "minutes")) > first


def test_a_target_loss_ends_the_run_and_says_so(text):
    """Without hooks, nothing follows it."""
    said, _ = trained(small(text, "target", stop=StopSpec(loss=100.0)))
    assert not any((text / "target" / name).exists() for name in ("report.html", "xz.json", "samples.jsonl"))
    assert "ended at step 2: stop.loss=100: the loss on held-out text is" in said
    assert {record["step"] for record in records(text / "target", "final")} == {2}
    assert steps(text / "target") == [0, 2]


def test_patience_ends_a_run_that_learns_no_more_and_keeps_its_best(text):
    """At a rate of nothing, no measurement gains: the third after the first is one too many."""
    still = OptimizerSpec(learning_rate=1e-30, warmup=0, schedule="constant")
    said, _ = trained(small(text, "patience", optimizer=still, stop=StopSpec(patience=3), steps=40))
    assert "ended at step 8: stop.patience=3: so many measurements in a row without a held-out loss below " in said
    best = manifest(text / "patience", max(steps(text / "patience")))["best"]
    assert best in steps(text / "patience")


def test_with_wsd_patience_starts_the_fall_and_the_run_ends_when_it_has_fallen(text, monkeypatch):
    """Planned from step 36 of 40, the fall of 4 steps starts at 8, without another compilation; resumed, it goes on.

    From there the bar and the minutes left are of the new end.
    """
    shown, show = {}, recorder.Recorder.show
    monkeypatch.setattr(
        recorder.Recorder, "show", lambda self, step, end: (shown.update({step: end}), show(self, step, end))
    )
    still = OptimizerSpec(learning_rate=1e-30, warmup=0, schedule="wsd", decay=0.1, final=0.0)
    settings = small(
        text, "wsd", optimizer=still, stop=StopSpec(patience=3), steps=40, checkpoint=CheckpointSpec(every=3)
    )
    said, _ = trained(dataclasses.replace(settings, stop=StopSpec(patience=3, step=10)))
    assert "in a row without a held-out loss below" in said
    assert "the learning rate falls now, for 4 steps" in said
    assert "ended at step 10: stop.step=10" in said
    said, _ = trained(settings)
    assert "ended at step 12: its last step, 12" in said
    assert (shown[7], shown[11], shown[12]) == (10, 12, 12)
    rates = {record["step"]: record["learning_rate"] for record in records(text / "wsd", "train")}
    assert rates[8] == pytest.approx(1e-30)
    assert rates[12] == pytest.approx(0.25e-30)


@pytest.mark.fault(34)
def test_what_was_due_when_a_run_was_stopped_is_done_once_by_the_next_start(text):
    """Stopped at step 4 before its measurement, as a signal does: the next start measures first. A third does not."""
    settings = small(text, "due", stop=StopSpec(step=4))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Measuring, "validate", lambda *_: None)
        trained(settings)
    assert records(text / "due", "validation") == []
    for _ in range(2):
        trained(settings)
        assert [record["step"] for record in records(text / "due", "validation")] == [4, 4]
        assert [record["step"] for record in records(text / "due", "final")] == [4, 4]


@pytest.mark.fault(6)
@pytest.mark.parametrize("policy", ["stop", "continue"])
def test_a_save_that_fails_ends_the_run_or_does_not_as_the_recipe_has_it(text, monkeypatch, policy):
    """No space for step 2: told within a step; older steps stay, and later ones are saved if the run goes on."""
    describe = checkpoint.describe

    def full(path):
        if "/2.unfinished" in str(path):
            raise OSError(28, "No space left on device")
        return describe(path)

    monkeypatch.setattr(checkpoint, "describe", full)
    settings = small(
        text, f"full {policy}", checkpoint=CheckpointSpec(every=2, if_it_fails=policy), stop=StopSpec(step=6)
    )
    if policy == "stop":
        with pytest.raises(OSError, match=r"could not be written: .*No space left.*saved steps: \[0\]. Make room"):
            trained(settings)
        assert steps(text / "full stop") == [0]
    else:
        said, _ = trained(settings)
        assert "No space left" in said
        assert "Training goes on" in said
        assert 6 in steps(text / "full continue")
    assert not list((text / f"full {policy}" / "checkpoints").glob("*unfinished*"))


def test_the_average_is_measured_beside_the_parameters_saved_and_loaded_when_asked_for(text):
    averaged = OptimizerSpec(learning_rate=1e-2, warmup=0, ema=0.9)
    steps_alone(small(text, "ema", optimizer=averaged, stop=StopSpec(step=4)))
    trained_loss, ema_loss = (
        [record["loss"] for record in records(text / "ema", kind) if record["step"] == 4]
        for kind in ("validation", "validation_ema")
    )
    assert len(trained_loss) == len(ema_loss) == 2
    assert trained_loss != ema_loss
    weights, average = (gptjax.load(text / "ema", weights=name).params for name in ("trained", "ema"))
    assert not np.array_equal(weights["embedding"], average["embedding"])


@pytest.mark.slow
def test_a_longer_run_than_was_begun_goes_on_to_its_new_end_and_its_schedule_follows(text):
    """Four steps of six, then of twelve: accepted, wsd falls before step 12 and no more before step 6."""
    spec = OptimizerSpec(learning_rate=1e-2, warmup=1, schedule="wsd", decay=0.5, final=0.0)
    trained(small(text, "longer", optimizer=spec, steps=6, stop=StopSpec(step=4)))
    longer = small(text, "longer", optimizer=spec, steps=12)
    with pytest.raises(ValueError, match=r"steps: 6 -> 12\n(?s:.*)or add --accept-changes"):
        trained(longer)
    said, _ = trained(longer, accept_changes=True)
    assert "changed: steps: 6 -> 12" in said
    assert "ended at step 12: its last step, 12" in said
    rates = {record["step"]: record["learning_rate"] for record in records(text / "longer", "train")}
    assert rates[6] == pytest.approx(1e-2)
    assert rates[12] == pytest.approx(1e-2 / 6)


def test_a_last_save_that_fails_is_never_called_saved(text, monkeypatch):
    """Going on in spite of failures does not include the end."""

    def full(self, step, *_, **__):
        if step == 4:
            raise OSError(28, "No space left on device")
        return save(self, step, *_, **__)

    save = checkpoint.CheckpointWriter.save
    monkeypatch.setattr(checkpoint.CheckpointWriter, "save", full)
    settings = small(text, "last", checkpoint=CheckpointSpec(every=2, if_it_fails="continue"), stop=StopSpec(step=4))
    with pytest.raises(OSError, match="step 4 is not saved, see above"):
        trained(settings)
