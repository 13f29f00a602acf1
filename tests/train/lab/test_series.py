"""Experiments of several parts: figures are told by part, arms that need no training stand beside."""

import dataclasses
from pathlib import Path

import pytest

from tests.tiny_run import random_model, write_run
from tests.train.lab.test_experiment import calls, quiet, replace_program, tiny
from train.lab.experiment import SEEDS, TUNED_ON, Setting, folder_of
from train.lab.experiments import e5_few_labels, e6_strategies, e7_bases, e9_times_read, e10_augmentation, label_runs
from train.lab.few_labels import train_file
from train.lab.outcome import DECIDES, ArmOutcome, Outcome
from train.lab.series import Series, conduct_any
from train.recipe import from_json, to_json


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


def test_a_part_is_made_of_the_runs_of_the_parts_before_it(monkeypatch, tmp_path):
    """What is prepared beforehand is the text of those parts that are there."""
    runs = replace_program(monkeypatch, tmp_path)
    found = []

    def there(folder):
        found.extend(path.name for path in folder.glob("*/cost.json"))
        return tiny(rates=(0.02,), alternatives={})

    made = series(parts={"here": tiny(rates=(0.01,), alternatives={}), "there": there})
    assert len(made.bases) == 1
    outcome = conduct_any(made, runs, quiet())
    assert len(found) == len(list(runs.glob("*/cost.json"))) / 2 == 6
    assert outcome.arms["few"].setting == "here rate 0.01; there rate 0.02"


def test_runs_of_a_pair_of_bases_differ_in_their_base_alone(monkeypatch, tmp_path):
    """Each seed has bases and draws of its own."""
    at = {
        (arm, seed): write_run(tmp_path / f"{arm} {seed}", random_model())
        for arm in (e7_bases.NEXT_WORDS, e7_bases.ALL)
        for seed in SEEDS[:2]
    }
    monkeypatch.setattr(e7_bases, "_base", lambda bases, folder, arm, seed: at[arm, seed])
    made = e7_bases.experiment()
    for name, make in list(made.parts.items())[1:]:
        part = make(tmp_path)
        first, second = ([part.recipe(arm, Setting(part.rates[0]), seed) for arm in part.arms] for seed in SEEDS[:2])
        for seed, pair in zip(SEEDS, (first, second), strict=False):
            assert [Path(recipe.base) for recipe in pair] == [at[arm, seed] for arm in part.arms]
            assert dataclasses.replace(pair[1], base=pair[0].base) == pair[0]
        if name != "dialogue":
            assert first[0].examples.sources != second[0].examples.sources


def test_one_experiment_is_conducted_as_it_is(monkeypatch, tmp_path):
    runs = replace_program(monkeypatch, tmp_path)
    assert conduct_any(tiny(), runs, quiet()).arms.keys() == {"few", "many"}


def test_what_decides_and_how_a_run_is_measured_are_the_experiments_own(monkeypatch, tmp_path):
    runs = replace_program(monkeypatch, tmp_path)
    rising = tiny(decides="score", measure=lambda run: {"score": -float(len(run.name))}, alternatives={})
    outcome = conduct_any(dataclasses.replace(rising, decide=lambda _: "So."), runs, quiet())
    assert outcome.arms["few"].of("score") == [-12.0] * 3


@pytest.mark.parametrize(("module", "words"), [(e5_few_labels, 2), (e6_strategies, 5), (e10_augmentation, 5)])
def test_every_run_with_few_labels_is_one_of_its_own_and_read_back_as_it_was(module, words, monkeypatch, tmp_path):
    """Arms differ in what trains or begins, seeds in what is drawn; all learn from files that are written before."""
    base = str(write_run(tmp_path / "base", random_model()))
    for name in {"BASE", "LARGE"} & vars(module).keys():
        monkeypatch.setattr(module, name, base)
    made = module.experiment()
    assert len(made.bases) == len(made.parts)
    part = made.parts["topic, 121 labels"]  # 11 of each class
    assert len(part.arms) == words
    recipes = [
        part.recipe(arm, Setting(rate), seed) for arm in part.arms for rate in part.rates for seed in (TUNED_ON, *SEEDS)
    ]
    assert len({folder_of(recipe, tmp_path) for recipe in recipes}) == len(recipes)
    for recipe in recipes:
        assert from_json(to_json(recipe)) == recipe
        assert recipe.examples.sources == (f"files:{train_file(label_runs.FOLDER, 'topic', 128, recipe.seed)}",)
        assert recipe.objectives.labelled.rows == 1


def test_text_that_is_read_at_two_lengths_makes_runs_of_their_own(tmp_path):
    made = e9_times_read.experiment()
    recipes = [
        part.recipe(arm, Setting(part.rates[0]), seed)
        for part in made.parts.values()
        for arm in part.arms
        for seed in SEEDS
    ]
    assert len({folder_of(recipe, tmp_path) for recipe in recipes}) == len(recipes)
    assert all(from_json(to_json(recipe)) == recipe for recipe in recipes)


def test_each_number_of_readings_has_a_verdict_of_its_own():
    found = [
        {"8 times: causal loss": 3.0, "32 times: causal loss": 4.0},
        {"8 times: causal loss": 3.1, "32 times: causal loss": 3.0},
    ]
    arms = {
        name: ArmOutcome(
            setting="",
            tried={},
            seeds=tuple({figure: loss + n / 100 for figure, loss in losses.items()} for n in range(3)),
        )
        for name, losses in zip(("causal", "causal + masked"), found, strict=True)
    }
    outcome = Outcome(question="", arms=arms, cpu_minutes=0.0)
    said = e9_times_read.decide(outcome)
    assert "Read 8 times: masked words change the causal loss by +3.3%, they cost." in said
    assert "Read 32 times: masked words change the causal loss by -24.9%, they help." in said
