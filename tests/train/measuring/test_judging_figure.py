"""The figure that a run of labelled texts is judged by: from a measurement, as how far it falls short."""

import math

import pytest

from train.measuring.judging_figure import LOST, WHILE_TRAINING, check_figure, figure_at, figure_of, shortfall
from train.recipe import StopSpec
from train.record.metrics import TermScore
from train.stopping import Health, out_of_patience

CLASSES = TermScore(loss=0.7, measured={"accuracy": 0.75, "confusion": [[6, 0], [2, 0]]})
LABELS = TermScore(loss=0.3, measured={"micro_f1": 0.6, "right": [3, 0], "answered": [4, 1], "true": [4, 1]})
VALUES = TermScore(loss=0.5, measured={"mse": 8.0, "r2": 0.5, "pearson": math.nan})


def test_the_figures_of_every_kind_are_found_in_its_measurement():
    for kind, score in (("classes", CLASSES), ("labels", LABELS), ("values", VALUES)):
        for name in WHILE_TRAINING[kind]:
            check_figure(name, kind, "stop.figure")
            figure_of(name, score)
    assert figure_of("macro_f1", CLASSES) == pytest.approx((2 * 6 / 14 + 0) / 2)
    assert figure_of("macro_f1", LABELS) == pytest.approx((2 * 3 / 8 + 0) / 2)
    assert figure_of("nll", CLASSES) == 0.7


def test_what_falls_short_less_is_better_whichever_way_the_figure_goes():
    assert shortfall("accuracy", figure_of("accuracy", CLASSES)) == 0.25
    assert shortfall("mse", figure_of("mse", VALUES)) == 8.0
    assert shortfall("pearson", figure_of("pearson", VALUES)) == LOST
    assert shortfall("chrf", 70.0) == 30.0
    assert figure_at("accuracy", 0.25) == 0.75
    assert figure_at("mse", 8.0) == 8.0
    assert figure_at("chrf", 30.0) == 70.0


def test_a_figure_that_is_known_at_the_end_alone_is_refused():
    with pytest.raises(ValueError, match="known at the end alone"):
        check_figure("spearman", "values", "stop.figure")


def test_patience_and_the_best_step_go_by_the_figure_and_the_loss_decides_between_equals():
    health, spec = Health(), StopSpec(patience=2, figure="accuracy")
    assert health.note_held_out(1, 0.9, 0.5)
    assert health.note_held_out(2, 0.95, 0.25)  # a better figure, though the loss rose
    assert health.note_held_out(3, 0.8, 0.25)
    assert not health.note_held_out(4, 0.85, 0.25)
    assert not health.note_held_out(5, 0.1, 0.5)
    assert health.best_step == 3
    assert "without accuracy better than 0.7505" in str(out_of_patience(spec, health))
    assert health.held_out == 0.1


def test_what_was_best_by_another_figure_counts_no_further():
    """A run goes on with another stop.figure: its numbers cannot be compared. With the same one nothing is lost."""
    health = Health()
    health.judge_by("accuracy")
    assert health.note_held_out(1, 0.9, 0.1)
    assert not health.note_held_out(2, 0.9, 0.2)
    before = health.as_json()
    health.judge_by("accuracy")
    assert health.as_json() == before
    health.judge_by("macro_f1")
    assert (health.best_step, health.reference, health.without_gain) == (None, None, 0)
    assert health.note_held_out(3, 0.9, 0.6)
    assert health.best_step == 3
