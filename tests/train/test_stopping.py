"""What ends a run, and says so; spikes and steps without numbers on the way."""

import dataclasses
import math

import pytest

from train.recipe import StopSpec
from train.record.ledger import Entry
from train.stopping import WINDOW, Health, out_of_patience, planned_end, reached_target
from train.supervision.exits import BadNumbersError


def entry(step: int, loss: float = 2.0, norm: float = 1.0) -> Entry:
    return Entry(step, step * 8, 8, "0" * 16, loss, norm, not (math.isfinite(loss) and math.isfinite(norm)))


def after(*losses: float, spec: StopSpec | None = None) -> Health:
    health = Health()
    for step, loss in enumerate(losses, start=1):
        health.note_step(entry(step, loss), spec or StopSpec())
    return health


@pytest.mark.parametrize(
    ("spec", "end", "why"),
    [
        (StopSpec(), 100, "its last step, 100"),
        (StopSpec(step=30), 30, "stop.step=30"),
        (StopSpec(tokens=3001), 41, "stop.tokens=3001"),
        (StopSpec(epochs=0.5), 60, "stop.epochs=0.5 of 10,000 tokens"),
        (StopSpec(step=30, tokens=3001, epochs=0.5), 30, "stop.step=30"),
        (StopSpec(tokens=10), 11, "stop.tokens=10"),
    ],
)
def test_the_earliest_condition_ends_the_run_and_names_itself(spec, end, why):
    """Step 10 of 100, with no token read before it; 100 tokens a step from here, of a text of 10,000."""
    assert planned_end(spec, 100, 10, 0, 100, 10_000) == (end, why)


def test_patience_counts_measurements_without_a_gain_of_two_thousandths():
    """A gain of 0.1 % is none; one of 0.3 % starts the count anew. The best is the lowest, however little lower."""
    health, spec = Health(), StopSpec(patience=2)
    assert health.note_held_out(10, 2.0)
    assert health.note_held_out(20, 1.998)
    assert out_of_patience(spec, health) is None
    assert not health.note_held_out(30, 1.999)
    assert "stop.patience=2" in out_of_patience(spec, health)
    assert health.note_held_out(40, 1.99)
    assert out_of_patience(spec, health) is None
    assert (health.best_step, health.best_loss) == (40, 1.99)
    assert out_of_patience(StopSpec(), health) is None


def test_a_target_is_reached_by_the_newest_measurement():
    health = Health()
    assert reached_target(StopSpec(loss=2.0), health) is None
    health.note_held_out(10, 2.1)
    assert reached_target(StopSpec(loss=2.0), health) is None
    health.note_held_out(20, 2.0)
    assert reached_target(StopSpec(loss=2.0), health).startswith("stop.loss=2: ")


@pytest.mark.fault(31)
@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_the_run_ends_at_the_kth_step_in_a_row_without_numbers_and_not_before(bad):
    """Each is told with its rows; a good step between them starts the count anew."""
    spec = StopSpec(skipped=3)
    health = after(2.0)
    for step in (2, 3):
        assert f"step {step} (rows {step * 8} to {step * 8 + 7})" in health.note_step(entry(step, bad), spec)
    health.note_step(entry(4), spec)
    for step in (5, 6):
        health.note_step(entry(step, 2.0, bad), spec)
    with pytest.raises(BadNumbersError, match=r"step 7 .*3 steps in a row .stop.skipped."):
        health.note_step(entry(7, bad), spec)


@pytest.mark.fault(31)
def test_a_spike_is_told_and_a_loss_out_of_bounds_ends_the_run():
    health = after(*([2.0, 2.1] * 15))
    assert health.note_step(entry(31, 2.11), StopSpec()) is None
    assert "the loss jumped to 3 from" in health.note_step(entry(32, 3.0), StopSpec())
    for step in range(33, 37):
        health.note_step(entry(step, 9.0), StopSpec())
    with pytest.raises(BadNumbersError, match=r"for 5 steps was more than 3 times its running median of 2\.1 "):
        health.note_step(entry(37, 9.0), StopSpec())
    health = after(*([2.0, 2.1] * 15), 9.0, 9.0, 9.0, 9.0, 2.0)
    assert health.out_of_bounds == 0
    assert after(2.0, 200.0).losses == [2.0, 200.0], "too few steps to know what is normal"


def test_only_the_newest_losses_count():
    health = after(*[9.0] * WINDOW, *[2.0] * WINDOW)
    assert health.losses == [2.0] * WINDOW


def test_a_run_that_goes_on_knows_what_it_knew():
    health = after(*[2.0] * 30)
    health.note_held_out(30, 2.2)
    health.measured["validation"] = 30
    assert Health(**health.as_json()) == health
    assert Health(**health.as_json()) is not dataclasses.replace(health, skipped=1)
