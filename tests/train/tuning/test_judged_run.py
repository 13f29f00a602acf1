"""A run on labelled texts, from the words of a command line to the report: it tells classes better than whoever has not
read the texts, and is a run like any other."""

import csv
import json

import numpy as np
import pytest
from rich.console import Console

import gptjax
from tests.tiny_recipe import recipe, records, steps_alone, write_text
from train.run import run
from train.tuning import finetune
from train.tuning.tuned import hooks_after

SETTINGS = (
    *("--compute.dtype", "float32", "--batch.rows", "8", "--examples.length", "32"),
    *("--optimizer.learning-rate", "0.01", "--optimizer.warmup", "2"),
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with a trained base in `base`, and files of labelled texts."""
    made = write_text(tmp_path_factory.mktemp("judged"))
    steps_alone(recipe(made, "base", steps=4))
    draw = np.random.default_rng(0)
    rows = []
    for n in range(40):
        good = n % 4 > 0
        words = draw.choice(["the", "box", "over", "five"], 3).tolist() + ["fox" if good else "wizards"] * 2
        rows.append({"review": " ".join(draw.permutation(words)) + f" {n}", "verdict": "good" if good else "bad"})
    with (made / "reviews.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    return made


def tuned(folder, name, *words, settings=SETTINGS):
    """The finished run of a command line, and what it printed."""
    console = Console(record=True, width=200)
    given = [
        str(folder / "base"),
        "--run",
        str(folder / name),
        "--data.prepared",
        str(folder / "prepared"),
        *words,
        *settings,
    ]
    asked, (stage,) = finetune.parse(given)
    made = finetune.settled(stage, asked.epochs, "--steps" in words, console.print)
    finetune.tell(made, console)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("train.record.meter.measured_flops", lambda _: 1e12)
        run(made, hooks_after(made), console=console)
    return folder / name, console.export_text()


@pytest.fixture(scope="module")
def judged(folder):
    words = ("--data", str(folder / "reviews.csv"), "--as", "classes", "--text", "review", "--label", "verdict")
    return tuned(folder, "verdicts", *words, "--steps", "40")


def test_held_out_texts_are_told_better_than_by_the_commonest_class(judged):
    found = json.loads((judged[0] / "heads.json").read_text())
    figures = found["figures"]
    assert found["items"] == 8
    assert figures["baseline"]["accuracy"] == 0.75
    assert figures["after"]["accuracy"] > figures["baseline"]["accuracy"]


def test_it_is_told_what_was_read_and_how_often_each_class_is(judged):
    assert "40 read" in judged[1]
    assert "24 train,     6 held out  good" in judged[1]
    assert "[verdict = bad]" in judged[1]


def test_the_report_shows_confusions_and_calibration(judged):
    page = (judged[0] / "report.html").read_text()
    assert "What its head &#x27;verdict&#x27; tells" in page
    assert "How sure it is, and how right" in page


def test_the_step_that_is_loaded_is_the_best_by_the_figure(judged):
    steps = {record["step"]: record["accuracy"] for record in records(judged[0], "validation_task")}
    assert steps[gptjax.load(judged[0]).step] == max(steps.values())
