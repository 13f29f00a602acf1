"""Experiments: tuning that treats arms alike, runs that are made once, statistics, and failures told by name.

Runs here are a few lines of Python in the place of the training program: their loss is a formula of their recipe.
"""

import dataclasses
import io
import json
import os
import sys
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console
from scipy import stats

from data.spec import DataSpec
from train.__main__ import main, parse
from train.lab.experiment import SEEDS, TUNED_ON, Experiment, Setting, conduct, folder_of, load_experiment
from train.lab.experiments import experiment_names
from train.lab.outcome import DECIDES, ArmOutcome, Outcome, figures, paired
from train.recipe import OptimizerSpec, Recipe, load_recipe, to_json

PYTHON = os.path.realpath(sys.executable)
STAND_IN = """#!{python} -IS
import json, math, os, pathlib, signal, sys
recipe = json.loads(pathlib.Path(sys.argv[-1]).read_text())
rate, seed, decay = (recipe["optimizer"]["learning_rate"], recipe["seed"], recipe["optimizer"]["weight_decay"])
run = pathlib.Path(recipe["run"])
cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 1
with open(run.parent / "calls.jsonl", "a") as calls:
    calls.write(json.dumps([rate, seed, decay, recipe["batch"]["rows"], recipe["steps"], cores]) + "\\n")
if seed == {killed}:
    print("last words")
    sys.stdout.flush()
    os.kill(os.getpid(), signal.SIGKILL)
run.mkdir(exist_ok=True)
best = 0.02 if recipe["batch"]["rows"] == 32 else 0.01
loss = 3 + abs(math.log(rate / best)) - 0.1 * (decay == 0.4) + seed / 10 + recipe["batch"]["rows"] / 100
(run / "data.json").write_text(json.dumps({{"sources": {{"one": {{"rate": 1024}}}}}}))
(run / "metrics.jsonl").write_text(json.dumps({{"kind": "final", "step": 5, "source": "one", "loss": loss}}) + "\\n")
"""


def replace_program(monkeypatch, folder: Path, killed: int = -1) -> Path:
    """Makes runs end at once, those of seed `killed` by a signal; returns the folder for runs."""
    program = folder / "python"
    program.write_text(STAND_IN.format(python=PYTHON, killed=killed))
    program.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(program))
    return folder / "runs"


def calls(runs: Path) -> list[list]:
    """[rate, seed, decay, rows, steps, cores] of every run that was made."""
    return [json.loads(line) for line in (runs / "calls.jsonl").read_text().splitlines()]


def decaying(recipe: Recipe) -> Recipe:
    return dataclasses.replace(recipe, optimizer=dataclasses.replace(recipe.optimizer, weight_decay=0.4))


def doubled(recipe: Recipe) -> Recipe:
    return dataclasses.replace(recipe, batch=dataclasses.replace(recipe.batch, rows=32))


def tiny(**changes) -> Experiment:
    base = Recipe(data=DataSpec(sources=("one",)), optimizer=OptimizerSpec(warmup=1), run=Path("unused"), steps=10)
    made = Experiment(
        question="Do rows help?",
        base=base,
        arms={"few": lambda recipe: recipe, "many": doubled},
        rates=(0.005, 0.01, 0.02),
        alternatives={"decay 0.4": decaying},
        decide=lambda outcome: f"It is {outcome.change('many', DECIDES):+.2f}.",
    )
    return dataclasses.replace(made, **changes)


def quiet() -> Console:
    return Console(file=io.StringIO(), width=200)


def test_every_arm_is_tuned_alike_and_run_with_what_was_best_for_it(monkeypatch, tmp_path):
    """Best are 0.01 for few rows and 0.02 for many, and decay for both, tried at the best rate only."""
    runs = replace_program(monkeypatch, tmp_path)
    outcome = conduct(tiny(), runs, quiet())
    assert {name: arm.setting for name, arm in outcome.arms.items()} == {
        "few": "rate 0.01, decay 0.4",
        "many": "rate 0.02, decay 0.4",
    }
    made = calls(runs)
    for rows, best in ((16, 0.01), (32, 0.02)):
        of_arm = sorted((rate, seed, decay or 0, steps) for rate, seed, decay, arm, steps, _ in made if arm == rows)
        tuning = [(rate, TUNED_ON, 0, 5) for rate in (0.005, 0.01, 0.02)] + [(best, TUNED_ON, 0.4, 5)]
        assert of_arm == sorted(tuning + [(best, seed, 0.4, 10) for seed in SEEDS])
    assert outcome.mean("few", DECIDES) == pytest.approx(3 - 0.1 + 0.2 + 0.16)
    assert outcome.difference("many", DECIDES).difference == pytest.approx(0.16)
    assert outcome.conclusion == "It is +0.05."


def test_an_alternative_that_is_worse_is_not_taken(monkeypatch, tmp_path):
    runs = replace_program(monkeypatch, tmp_path)
    outcome = conduct(tiny(alternatives={"double": doubled}), runs, quiet())
    assert outcome.arms["few"].setting == "rate 0.01"


def test_finished_runs_are_made_once_for_all_experiments_and_again_if_asked(monkeypatch, tmp_path):
    """The second experiment shares all runs of its first arm with the first experiment."""
    runs = replace_program(monkeypatch, tmp_path)
    first = conduct(tiny(), runs, quiet())
    assert len(calls(runs)) == tiny().runs == 14
    assert conduct(tiny(), runs, quiet()).arms == first.arms
    assert len(calls(runs)) == 14
    conduct(tiny(arms={"alone": lambda recipe: recipe}, decide=lambda _: "Nothing follows."), runs, quiet())
    assert len(calls(runs)) == 14
    conduct(tiny(), runs, quiet(), again=True)
    assert len(calls(runs)) == 28


def test_a_killed_run_is_named_with_its_last_words_and_the_others_stay(monkeypatch, tmp_path):
    runs = replace_program(monkeypatch, tmp_path, killed=2)
    said = r"'(few, rate 0.01|many, rate 0.02), decay 0.4, seed 2' ended with exit status -9(?s:.*)last words"
    with pytest.raises(ValueError, match=said):
        conduct(tiny(), runs, quiet())
    before = [call for call in calls(runs) if call[1] != 2]
    replace_program(monkeypatch, tmp_path)
    conduct(tiny(), runs, quiet())
    assert sum(call[1] != 2 for call in calls(runs)) == 12
    assert len(before) >= 8  # at least the tuning was done, and is not repeated


@pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="this system has no way to pin a process")
def test_a_run_has_one_core_and_this_process_keeps_its_own(monkeypatch, tmp_path):
    before = os.sched_getaffinity(0)
    runs = replace_program(monkeypatch, tmp_path)
    conduct(tiny(), runs, quiet())
    assert {cores for *_, cores in calls(runs)} == {1}
    assert os.sched_getaffinity(0) == before


def test_the_time_of_runs_is_counted_once_they_are_made_and_still_when_they_are_found(monkeypatch, tmp_path):
    runs = replace_program(monkeypatch, tmp_path)
    outcome = conduct(tiny(), runs, quiet())
    kept = [json.loads(file.read_text())["cpu_seconds"] for file in runs.glob("*/cost.json")]
    assert len(kept) == 14
    assert min(kept) > 0
    assert outcome.cpu_minutes == pytest.approx(sum(kept) / 60)


def test_the_interval_is_that_of_the_paired_test_and_the_visible_difference_has_its_formula():
    first, second = [3.0, 3.2, 3.1, 3.4], [2.9, 3.15, 2.95, 3.38]
    found = paired(first, second)
    low, high = stats.ttest_rel(second, first).confidence_interval(0.95)
    assert found[:3] == pytest.approx((-0.08, low, high))
    d = np.subtract(second, first)
    assert found.visible == pytest.approx((3.18245 + 0.97847) * d.std(ddof=1) / 2, rel=1e-4)  # t of 3 degrees
    with pytest.raises(ValueError, match="two at least"):
        paired([1.0], [2.0])


def test_figures_weigh_sources_as_they_were_trained_on_and_put_tasks_beside_their_baselines(tmp_path):
    records = [
        {"kind": "validation", "step": 5, "source": "a", "loss": 2.0},
        {"kind": "validation", "step": 5, "source": "b", "loss": 4.0},
        {"kind": "validation", "step": 9, "source": "a", "loss": 2.5},
        {"kind": "validation", "step": 9, "source": "b", "loss": 5.0},
        {"kind": "final", "step": 9, "source": "a", "loss": 2.5},
        {"kind": "final", "step": 9, "source": "b", "loss": 5.0},
        {"kind": "final_ema", "step": 9, "source": "b", "loss": 9.0},
        {"kind": "final_task", "step": 9, "task": "order", "loss": 1.5, "accuracy": 0.5, "baseline_accuracy": 0.2},
    ]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    (tmp_path / "data.json").write_text(json.dumps({"sources": {"a": {"rate": 768}, "b": {"rate": 256}}}))
    assert figures(tmp_path) == pytest.approx(
        {
            "causal loss": 3.125,
            "causal loss, a": 2.5,
            "causal loss, b": 5.0,
            "rise of the causal loss from its lowest": 0.625,
            "order loss": 1.5,
            "order accuracy": 0.5,
            "order beyond its baseline": 0.3,
        }
    )


def outcome_of(*losses: tuple[float, ...], **figures: float) -> Outcome:
    """An outcome of arms with these causal losses, on two sources alike."""
    names = [DECIDES, f"{DECIDES}, a", f"{DECIDES}, b"]
    seeds_of = [tuple({**dict.fromkeys(names, loss), **figures} for loss in of_arm) for of_arm in losses]
    arms = {
        f"arm {number}": ArmOutcome(setting="rate 1", tried={"rate 1": 0.0}, seeds=seeds)
        for number, seeds in enumerate(seeds_of)
    }
    return Outcome(question="Which?", arms=arms, cpu_minutes=1.5, conclusion="None.")


def test_people_and_the_log_are_told_the_same_numbers(tmp_path):
    outcome = outcome_of((3.0, 3.2, 3.1), (2.9, 3.0, 3.1))
    console = Console(file=io.StringIO(), width=160, record=True)
    console.print(outcome.table())
    shown = console.export_text()
    outcome.keep(tmp_path / "E9")
    written = (tmp_path / "E9" / "results.md").read_text()
    for cell in ("3.1000", "-0.1000", "-0.3484 to +0.1484", "1.5 CPU minutes", "None."):
        assert cell in shown
        assert cell in written
    kept = json.loads((tmp_path / "E9" / "results.json").read_text())
    assert kept["differences"]["arm 1"][DECIDES]["difference"] == pytest.approx(-0.1)


@pytest.mark.parametrize(
    ("name", "losses", "said"),
    [
        ("E2", [(3.0, 3.0, 3.0), (3.05, 3.06, 3.07)], "the causal share stays"),
        ("E2", [(3.0, 3.0, 3.0), (3.11, 3.12, 3.13)], "raise the causal share to 0.9"),
        ("E3", [(3.0, 3.1, 3.2), (2.8, 2.9, 3.01)], "the share that depends on repetition stays"),
        ("E3", [(3.0, 3.1, 3.2), (2.8, 3.1, 3.15)], "not shown to be a gain"),
        ("E4", [(3.0, 3.0, 3.0), (3.02, 3.02, 3.02)], "stays on"),
        ("E4", [(3.0, 3.0, 3.0), (3.04, 3.04, 3.04)], "off by default"),
        ("E8", [(3.0, 3.1, 3.2), (2.9, 3.0, 3.1)], "on 0 of 2 sources: arm 0 stays"),
        ("E8", [(3.0, 3.1, 3.2), (2.7, 2.8, 2.9)], "make it the default"),
        ("E11", [(3.0, 3.1, 3.2), (2.7, 2.8, 2.91)], "arm 1: causal loss -9.6%."),
        ("E11", [(3.0, 3.1, 3.2), (2.7, 3.2, 3.0)], "arm 1: causal loss -4.3% (not shown)."),
    ],
)
def test_the_rule_of_an_experiment_says_what_follows(name, losses, said):
    assert said in load_experiment(name).decide(outcome_of(*losses))


def test_a_task_that_is_no_better_than_its_baseline_is_named():
    outcome = outcome_of((3.0, 3.0), (3.0, 3.0), **{"order beyond its baseline": -0.01})
    assert "not better than their baselines: order" in load_experiment("E4").decide(outcome)
    outcome = outcome_of((3.0, 3.0), (3.0, 3.0), **{"order beyond its baseline": 0.01})
    assert "baseline" not in load_experiment("E4").decide(outcome)


def test_a_task_is_named_that_does_worse_where_another_is_left_out():
    worse = {"order beyond its baseline": -0.01, "position beyond its baseline": 0.01}
    outcome = outcome_of((3.0, 3.0), (3.0, 3.0), **worse)
    outcome.arms["arm 0"].seeds[0].update(dict.fromkeys(worse, 0.0))
    outcome.arms["arm 0"].seeds[1].update(dict.fromkeys(worse, 0.0))
    assert load_experiment("E11").decide(outcome).endswith("worse without: order.")


@pytest.mark.parametrize(
    "name", sorted(experiment_names().keys() - {"E5", "E6", "E7", "E9", "E10"})
)  # those are in test_series.py
def test_every_run_of_an_experiment_starts_from_the_file_of_its_recipe(name, tmp_path):
    """And no two of its runs are one."""
    experiment, file = load_experiment(name), tmp_path / "recipe.json"
    settings = [*map(Setting, experiment.rates), *(Setting(1e-3, name) for name in experiment.alternatives)]
    recipes = [experiment.recipe(arm, setting, seed=1) for arm in experiment.arms for setting in settings]
    for recipe in recipes:
        file.write_text(to_json(recipe))
        assert load_recipe(str(file))() == recipe
    assert parse(["--recipe", str(file)]) == recipes[-1]
    assert len({folder_of(recipe, tmp_path) for recipe in recipes}) == len(recipes)


@pytest.mark.parametrize(
    ("one", "other", "arm", "same"),
    [("E2", "E4", "causal + masked", "causal + masked"), ("E4", "E8", "+ all", "static")],
)
def test_arms_that_two_experiments_have_in_common_are_one_run(one, other, arm, same):
    """At the rates that both try; no other arm is the same run."""
    first, second = load_experiment(one), load_experiment(other)
    assert set(second.rates) <= set(first.rates)
    setting = Setting(second.rates[0])
    ours = folder_of(first.recipe(arm, setting, seed=1), Path())
    theirs = [name for name in second.arms if folder_of(second.recipe(name, setting, seed=1), Path()) == ours]
    assert theirs == [same]


def test_a_mistake_is_answered_in_a_line(capsys, tmp_path):
    assert main(["experiment", "E33"]) == 2
    assert "unknown experiment 'E33'; did you mean 'E3'?" in capsys.readouterr().err
    assert main(["experiment"]) == 2
    assert "NAME is missing: one of E2, E3, E4, E5, E6, E7, E8, E9, E10, E11" in capsys.readouterr().err
    (tmp_path / "recipe.json").write_text('{"steps": 5}')
    assert main(["pretrain", "--recipe", str(tmp_path / "recipe.json")]) == 2
    assert "is no recipe of this gptjax" in capsys.readouterr().err
