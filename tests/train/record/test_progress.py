"""What a manifest keeps of a run: enough to go on, and what people look for in a list of checkpoints."""

from types import SimpleNamespace

import pytest

from gptjax.cli import step_lines
from gptjax.runs.manifest import MANIFEST, write_manifest
from train.record.ledger import Entry
from train.record.progress import Progress

TERMS = [SimpleNamespace(name="order")]


def entry(step: int, skipped: bool = False) -> Entry:
    return Entry(step, step * 8, 8, "0" * 16, float(step), 1.0, skipped)


def test_a_run_that_goes_on_has_what_its_manifest_kept():
    progress = Progress()
    progress.note_step(entry(1), TERMS, {"weight/order": 2.0, "loss/order": 3.0})
    progress.health.note_held_out(1, 2.5)
    assert Progress.of(progress.notes(1)) == progress
    assert Progress.of(progress.notes(1)).rows == 8


def test_what_a_manifest_keeps_is_of_its_step_though_it_is_written_later():
    """A save in the background writes it while further steps are taken: a run that goes on takes those again."""
    progress = Progress()
    progress.note_step(entry(1), TERMS, {"weight/order": 2.0, "loss/order": 3.0})
    notes = progress.notes(1)
    progress.note_step(entry(2), TERMS, {"weight/order": 2.0, "loss/order": 3.0})
    assert notes["losses"] == [1.0]
    assert notes["terms"] == {"order": (6.0, 2.0)}
    assert progress.notes(2)["losses"] == [1.0, 2.0]


def test_losses_are_means_since_they_were_last_taken_and_a_skipped_step_has_none():
    progress = Progress()
    assert progress.take_losses() is None
    progress.note_step(entry(1), TERMS, {"weight/order": 1.0, "loss/order": 1.0})
    progress.note_step(entry(2, skipped=True), TERMS, {})
    progress.note_step(entry(3), TERMS, {"weight/order": 3.0, "loss/order": 2.0})
    assert progress.take_losses() == (2.0, {"order": 7 / 4})
    assert progress.rows == 24
    assert progress.take_losses() is None


@pytest.mark.parametrize(
    ("scheduled", "at_the_end", "best", "loss"),
    [
        ({}, 2.5, 70, 2.5),  # a run that ended before its first measurement by schedule
        ({50: 2.0}, 2.5, 50, 2.5),
        ({50: 3.0}, 2.5, 50, 2.5),  # what is measured only where a run happens to end is no best
        ({50: 2.0}, None, 50, 2.0),
        ({}, None, None, None),
    ],
)
def test_a_list_of_checkpoints_shows_the_loss_of_a_step_and_which_is_best(tmp_path, scheduled, at_the_end, best, loss):
    progress = Progress()
    for step, found in scheduled.items():
        progress.newest = (step, found)
        progress.health.note_held_out(step, found)
    if at_the_end is not None:
        progress.newest = (70, at_the_end)
    assert progress.best_step == best
    (tmp_path / "checkpoints" / "70").mkdir(parents=True)
    write_manifest(tmp_path / "checkpoints" / "70", 70, {**progress.notes(70), "best": progress.best_step}, {})
    assert (tmp_path / "checkpoints" / "70" / MANIFEST).exists()
    shown = step_lines(tmp_path)[1]
    assert ("" if loss is None else f"{loss:.4f}") in shown
    assert (" best " in shown) == (best == 70)
