"""`gptjax predict`: records in, records with answers out, and every mistake told before the model is loaded."""

import csv
import json
import sys

import numpy as np
import pytest

from gptjax import cli
from gptjax.batch import ClassHead
from gptjax.command.predict_verb import columns_of, refuse_taken
from gptjax.inference.predicting import Prediction
from tests.headed_model import TEXTS, headed_model
from tests.tiny_run import write_run


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("predict")
    write_run(folder / "run", headed_model())
    rows = [["id", "review", "other"], *([str(n), text, "fox"] for n, text in enumerate(TEXTS))]
    with (folder / "in.csv").open("w", newline="") as file:
        csv.writer(file).writerows(rows)
    lines = ({"id": n, "of": {"text": text}, "tags": ["a"]} for n, text in enumerate(TEXTS))
    (folder / "in.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder


def call(monkeypatch, folder, *words):
    monkeypatch.chdir(folder)
    monkeypatch.setattr(sys, "argv", ["gptjax", "predict", *words])
    cli.main()


def test_answers_come_beside_the_records_as_they_were(folder, monkeypatch, capsys):
    """In .csv and .jsonl, of all kinds of heads, as model.predict tells them."""
    model = headed_model()
    call(monkeypatch, folder, "run", "in.csv", "--head", "colours", "--text", "review", "--to", "out.csv")
    said = capsys.readouterr()
    assert "wrote out.csv: 3 answers of head 'colours'" in said.out
    assert "1 of 3 texts are longer than 12 tokens" in said.err
    with (folder / "out.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    for row, text, wanted in zip(rows, TEXTS, model.predict(TEXTS, "colours"), strict=True):
        assert (row["review"], row["colours"]) == (text, "|".join(wanted.answer))
        assert row["colours_cut"] == str(wanted.cut).lower()
        np.testing.assert_allclose(float(row["colours:red"]), wanted.probabilities["red"], atol=1e-6)
    call(monkeypatch, folder, "run", "in.jsonl", "--head", "grade", "--text", "of.text", "--to", "out.jsonl")
    rows = [json.loads(line) for line in (folder / "out.jsonl").read_text().splitlines()]
    for row, text, wanted in zip(rows, TEXTS, model.predict(TEXTS, "grade"), strict=True):
        assert (row["of"], row["tags"], row["grade_cut"]) == ({"text": text}, ["a"], False)
        assert row["grade"] == pytest.approx(wanted.answer, abs=1e-4)
    call(
        monkeypatch, folder, "run", "in.csv", "--head", "same", "--text", "review", "--second", "other", "--to",
        "pairs.jsonl",
    )  # fmt: skip
    rows = [json.loads(line) for line in (folder / "pairs.jsonl").read_text().splitlines()]
    wanted = model.predict([(text, "fox") for text in TEXTS], "same")
    assert [row["same"] for row in rows] == [one.answer for one in wanted]


def test_a_class_may_be_called_as_the_mark_of_a_text_that_lost_its_end():
    """Each column is written, whatever the classes are called."""
    names = ("cut", "_cut", "")
    head = ClassHead(name="verdict", classes=names)
    one = Prediction("cut", dict(zip(names, (0.5, 0.3, 0.2), strict=True)), cut=True)
    told = columns_of(one, head)
    assert told == {"verdict": "cut", "verdict:cut": 0.5, "verdict:_cut": 0.3, "verdict:": 0.2, "verdict_cut": True}
    for name in told:
        with pytest.raises(ValueError, match=f"has a column '{name}' already"):
            refuse_taken({"text": "a", name: "b"}, head)


def test_without_a_file_a_table_is_printed(folder, monkeypatch, capsys):
    call(monkeypatch, folder, "run", "in.csv", "--head", "mood", "--text", "review", "--most", "2")
    shown = capsys.readouterr().out
    [first, second] = headed_model().predict(TEXTS[:2], "mood")
    assert "mood: 2 texts" in shown
    assert TEXTS[0] in shown
    assert TEXTS[2] not in shown
    assert f"{first.answer} {first.probabilities[first.answer]:.0%}" in shown
    assert f"{second.answer} {second.probabilities[second.answer]:.0%}" in shown


@pytest.mark.fault(50)
@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["run", "in.csv", "--to", "out.txt"], "--to out.txt: ends in .txt; a file of answers ends in .csv or .jsonl"),
        (["run", "in.csv", "--to", "in.csv"], "in.csv: is there already; give another name, or --replace"),
        (["run", "in.csv", "--to", "no/out.csv"], "there is no folder"),
        (["run", "in.csv"], "no field 'text'; known: id, other, review; name the column with --text"),
        (["run", "in.csv", "--text", "reviw"], "did you mean 'review'?"),
        (
            ["run", "in.csv", "--text", "review", "--head", "mod"],
            "this model has no such head; did you mean 'mood'",
        ),
        (["run", "in.csv", "--text", "review"], "name one of them: mood, colours, grade, same"),
        (["run", "in.csv", "--text", "review", "--head", "same"], "no field 'second'"),
        (["run", "in.csv", "--text", "review", "--head", "mood", "--second", "other"], "reads one text; leave it out"),
        (["run", "in.jsonl", "--text", "tags", "--head", "mood"], "in.jsonl:1: tags is a list, no text"),
        (["run", "empty.csv", "--text", "review", "--head", "mood"], "empty.csv:2: review is empty"),
        (["run", "taken.csv", "--text", "a", "--head", "mood", "--to", "o.csv"], "has a column 'mood' already"),
        (["run"], "files"),
    ],
)
def test_what_cannot_be_judged_is_one_line(folder, monkeypatch, capsys, words, said):
    (folder / "empty.csv").write_text("id,review\n1,\n")
    (folder / "taken.csv").write_text("a,mood\nx,good\n")
    with pytest.raises(SystemExit) as end:
        call(monkeypatch, folder, *words)
    assert end.value.code == 2
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert said in err
