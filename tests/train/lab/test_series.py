"""Experiments of several parts: figures are told by part, arms that need no training stand beside."""

import dataclasses

import pytest

from tests.train.lab.test_experiment import calls, quiet, replace_program, tiny
from train.lab.experiments import experiment_names
from train.lab.outcome import DECIDES, ArmOutcome
from train.lab.series import Series, conduct_any


def series(**changes) -> Series:
    made = Series(
        question="And elsewhere?",
        parts={"here": tiny(), "there": tiny(rates=(0.01,), alternatives={})},
        beside=lambda part: {"a guess": ArmOutcome(setting=f"of {part}", tried={}, seeds=({"loss": 1.0},) * 3)},
        decide=lambda outcome: f"{len(outcome.arms)} arms.",
    )
    return dataclasses.replace(made, **changes)


def test_parts_and_arms_beside_them_make_one_table(monkeypatch, tmp_path):
    """The part with one rate tunes nothing; its runs at that rate are made for it alone."""
    runs, made = replace_program(monkeypatch, tmp_path), []
    outcome = conduct_any(series(before=lambda: made.append("files")), runs, quiet())
    assert made == ["files"]
    assert outcome.conclusion == "3 arms."
    assert outcome.mean("few", f"here: {DECIDES}") != outcome.mean("few", f"there: {DECIDES}")
    assert outcome.arms["few"].setting == "here rate 0.01, decay 0.4; there rate 0.01"
    assert outcome.arms["few"].tried.keys() == {
        f"here rate {rate}" for rate in ("0.005", "0.01", "0.02", "0.01, decay 0.4")
    }
    assert outcome.arms["a guess"].of("there: loss") == [1.0] * 3
    assert any(row[0] == "there: loss" for row in outcome.rows())
    assert len(calls(runs)) == 14 + 6


def test_one_experiment_is_conducted_as_it_is(monkeypatch, tmp_path):
    runs = replace_program(monkeypatch, tmp_path)
    assert conduct_any(tiny(), runs, quiet()).arms.keys() == {"few", "many"}


def test_what_decides_and_how_a_run_is_measured_are_the_experiments_own(monkeypatch, tmp_path):
    runs = replace_program(monkeypatch, tmp_path)
    rising = tiny(decides="score", measure=lambda run: {"score": -float(len(run.name))}, alternatives={})
    outcome = conduct_any(dataclasses.replace(rising, decide=lambda _: "So."), runs, quiet())
    assert outcome.arms["few"].of("score") == [-12.0] * 3


@pytest.mark.parametrize("name", ["E5", "E6"])
def test_the_experiments_of_few_labels_are_known(name):
    assert name in experiment_names()
