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
from train.tuning.strategies import settings_said
from train.tuning.tuned import hooks_after

SETTINGS = (
    *("--compute.dtype", "float32", "--batch.rows", "8", "--examples.length", "32"),
    *("--optimizer.learning-rate", "0.01", "--optimizer.warmup", "2", "--validation.every", "10"),
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


def tuned(folder, name, *words, reports=True):
    """The finished run of a command line, and what it printed."""
    console = Console(record=True, width=200)
    given = [
        str(folder / "base"),
        "--run",
        str(folder / name),
        "--data.prepared",
        str(folder / "prepared"),
        *words,
        *SETTINGS,
    ]
    asked, (stage,) = finetune.parse(given)
    made = finetune.settled(stage, asked.epochs, settings_said(words), console.print)
    finetune.tell(made, console)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("train.record.meter.measured_flops", lambda _: 1e12)
        run(made, hooks_after(made) if reports else (), console=console)
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


def test_the_model_of_a_run_tells_what_the_report_says_and_still_writes(judged, folder):
    model = gptjax.load(judged[0])
    [[sample]] = model.generate(["the box"], tokens=4)
    assert len(sample.ids) == 4
    assert [head.name for head in model.config.class_heads] == ["verdict"]
    assert model.generation_config.chat_template is None


@pytest.mark.slow
def test_a_number_is_told_in_its_own_units(folder):
    with (folder / "grades.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["essay", "grade"])
        writer.writerows((f"the box {n} " + "fox" * (n % 3), 100 + 50 * (n % 3)) for n in range(40))
    words = ("--data", str(folder / "grades.csv"), "--as", "values", "--text", "essay", "--value", "grade")
    run, said = tuned(folder, "grades", *words, "--steps", "60")
    figures = json.loads((run / "heads.json").read_text())["figures"]
    assert figures["baseline"]["mse"] == pytest.approx(1700, rel=0.3)
    assert figures["after"]["mse"] < 0.5 * figures["baseline"]["mse"]
    assert "100 to 200" in said


@pytest.mark.slow
def test_several_labels_are_told_at_once_each_better_than_by_the_commonest(folder):
    words = {"f": "wizards ", "b": "quartz "}
    given = [["f"][: n % 2] + ["b"][: n // 2 % 2] for n in range(40)]
    rows = [{"text": "".join(map(words.__getitem__, tags)) + f"box {n}", "tags": tags} for n, tags in enumerate(given)]
    (folder / "tags.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    words = ("--data", str(folder / "tags.jsonl"), "--labels", "tags", "--steps", "60", "--stop.figure", "macro_f1")
    run, _ = tuned(folder, "tags", *words, reports=False)
    assert max(record["micro_f1"] - record["baseline_micro_f1"] for record in records(run, "validation_task")) > 0.1
    assert json.loads((run / "model.json").read_text())["class_heads"][0]["kind"] == "labels"


@pytest.mark.parametrize(("small", "rates"), [(0, [3e-5, 1e-3]), (30_000_000, [5e-4, 1e-3])])
def test_adapters_of_one_stage_do_not_raise_the_rate_of_another(folder, monkeypatch, small, rates):
    monkeypatch.setattr(finetune, "SMALL", small)  # parameters, above which the base counts as a large one
    words = ("--data", str(folder / "reviews.csv"), "--as", "classes", "--text", "review", "--label", "verdict")
    _, stages = finetune.parse([str(folder / "base"), *words, "--stages", "all,lora"])
    assert [stage.optimizer.learning_rate for stage in stages] == rates


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--as", "values", "--value", "verdict"), r"reviews.csv:2: verdict='bad' is no number"),
        (("--label", "verdict", "--stop.figure", "r2"), "stop.figure='r2': is of values, and the head tells classes"),
        (("--label", "verdict", "--stop.figure", "chrf"), "stop.figure='chrf': is of written answers, and this head"),
        (("--label", "verdict", "--head", "verdict", "--examples.template", __file__), "is of conversations"),
    ],
)
def test_bad_input_is_named_before_anything_slow(folder, words, said):
    given = ("--data", str(folder / "reviews.csv"), "--text", "review", *words)
    with pytest.raises(ValueError, match=said):
        tuned(folder, "refused", *given)
    assert not (folder / "refused").exists()
