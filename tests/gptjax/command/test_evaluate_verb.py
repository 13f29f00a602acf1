"""`gptjax evaluate`: each task from a file to a table and files, the same figures as the API's, and refusals."""

import json
import sys

import pytest

from gptjax.cli import main, parse
from gptjax.command.evaluate_verb import words_of
from gptjax.evaluation.evaluate import answer, classify, multiple_choice
from tests.headed_model import headed_model
from tests.tiny_run import random_model, write_run

MODEL = random_model()
LINES = {
    "quiz": [{"context": "the quick", "choices": ["brown", "lazy dog"], "answer": 0}],
    "moods": [{"text": "the quick", "label": "good"}, {"text": "dog", "label": "bad"}],
    "questions": [{"question": "who?", "answers": ["brown"]}],
    "texts": [{"text": "hello there"}, {"text": "fox"}, {"text": "曹操"}],
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("evaluate")
    write_run(folder / "run", MODEL)
    for name, items in LINES.items():
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(item) + "\n" for item in items))
    return folder


def run(folder, monkeypatch, *words):
    """Runs the command; result.json and the items."""
    monkeypatch.setattr(sys, "argv", ["gptjax", "evaluate", str(folder / "run"), *words, "--out", str(folder / "out")])
    main()
    items = [json.loads(line) for line in (folder / "out" / "items.jsonl").read_text().splitlines()]
    return json.loads((folder / "out" / "result.json").read_text()), items


@pytest.mark.parametrize(
    ("words", "api"),
    [
        (["perplexity", "texts.jsonl"], lambda: MODEL.perplexity(["hello there", "fox", "曹操"])),
        (["perplexity", "texts.jsonl", "--most", "1"], lambda: MODEL.perplexity(["hello there"])),
        (
            ["perplexity", "texts.jsonl", "--view", "bidirectional"],
            lambda: MODEL.perplexity(["hello there", "fox", "曹操"], view="bidirectional"),
        ),
        (
            ["choices", "quiz.jsonl", "--template", "{context}:\\n", "--delimiter", "\\n"],
            lambda: multiple_choice(MODEL, LINES["quiz"], template="{context}:\n", delimiter="\n"),
        ),
        (
            ["classes", "moods.jsonl", "--labels", "good=brown", "bad"],
            lambda: classify(MODEL, LINES["moods"], {"good": "brown", "bad": "bad"}),
        ),
        (
            ["answers", "questions.jsonl", "--tokens", "5", "--stop", "x", "\\n"],
            lambda: answer(MODEL, LINES["questions"], tokens=5, stop=("x", "\n")),
        ),
    ],
)
def test_the_command_finds_what_the_api_finds(folder, monkeypatch, capsys, words, api):
    """Bit for bit, in the files and, rounded, in the table; and the files say what was asked of which model."""
    task, name, *options = words
    summary, items = run(folder, monkeypatch, task, str(folder / name), *options)
    wanted = api()
    asked = summary.pop("asked")
    assert (asked["model"], asked["task"], asked["files"]) == (str(folder / "run"), task, [str(folder / name)])
    assert "{" in asked["template"]
    assert asked["step"] == 10
    assert summary == wanted.summary()
    assert items == [dict(item) for item in wanted.items]
    shown = capsys.readouterr().out
    assert f"wrote {folder / 'out'}: result.json, items.jsonl" in shown
    assert all(name in shown and f"{found.value:.4f}" in shown for name, found in wanted.metrics.items())


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["perplexity"], "files: give at least one"),
        (["classes", "a.jsonl"], "either --labels, the words to choose from, or --head"),
        (["classes", "a.jsonl", "--labels", "a", "--head", "b"], "either --labels"),
        (["choices", "a.jsonl", "--labels", "a"], "--labels is for classes, not for choices"),
        (["perplexity", "a.txt", "--head", "a"], "--head is for classes, labels and values, not for perplexity"),
        (["answers", "a.jsonl", "--delimiter", ""], "--delimiter is for choices and classes, not for answers"),
        (["classes", "a.jsonl", "--head", "b", "--delimiter", ""], "not for classes with --head"),
        (["values", "a.jsonl"], "values need --head, the output head that tells them"),
        (["choices", "a.jsonl", "--second", "{b}"], "--second is for classes, labels and values, not for choices"),
        (["choices", "a.jsonl", "--truth", "b"], "--truth is for classes, labels and values, not for choices"),
        (["classes", "a.jsonl", "--labels", "a", "b", "--truth", "b"], "--truth names a column for --head"),
        (["answers", "a.jsonl", "--batch-tokens", "8"], "--batch-tokens is for .*, not for answers"),
        (["choices", "a.jsonl", "--tokens", "8"], "--tokens is for answers, not for choices"),
        (["choices", "a.jsonl", "--stop", "x"], "--stop is for answers, not for choices"),
        (["choices", "a.jsonl", "--view", "bidirectional"], "is for perplexity"),
        (["perplexity", "a.txt", "--most", "0"], "most=0: must be at least 1"),
        (
            ["perplexity", "a.txt", "--batch-tokenz", "8"],
            "unknown option '--batch-tokenz'; did you mean '--batch-tokens'",
        ),
    ],
)
def test_what_does_not_go_together_is_refused_at_once(words, said):
    with pytest.raises(ValueError, match=said):
        parse(["evaluate", "run", *words])


def test_a_head_is_measured_by_the_column_that_is_named(tmp_path, monkeypatch, capsys):
    """As the column of the usual name would; a second text is refused where one is read."""
    write_run(tmp_path / "run", headed_model())
    told = [("mood", "classes", "label", ["good", "bad"]), ("colours", "labels", "labels", ["red | blue", []])]
    for head, task, usual, truth in told:
        for name, fields in (("usual", {usual: 0}), ("own", {"seen": {"as": 0}})):
            lines = [
                {"text": text} | {key: {"as": one} if key == "seen" else one for key in fields}
                for text, one in zip(["the lazy dog", "fox"], truth, strict=True)
            ]
            (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
        usual_one, _ = run(tmp_path, monkeypatch, task, str(tmp_path / "usual.jsonl"), "--head", head)
        own = [task, str(tmp_path / "own.jsonl"), "--head", head, "--truth", "seen.as"]
        own_one, _ = run(tmp_path, monkeypatch, *own)
        assert own_one["metrics"] == usual_one["metrics"]
        assert own_one["asked"]["truth"] == "seen.as"
        for more, said in (
            (["--second", "{text}"], "reads one text; leave it out"),
            (["--truth", "sen"], "did you mean 'seen'"),
        ):
            with pytest.raises(SystemExit):
                run(tmp_path, monkeypatch, *own, *more)
            assert said in capsys.readouterr().err


def test_a_file_without_items_is_refused_in_one_line(folder, monkeypatch, capsys):
    (folder / "empty.jsonl").write_text("\n")
    with pytest.raises(SystemExit):
        run(folder, monkeypatch, "choices", str(folder / "empty.jsonl"))
    error = capsys.readouterr().err
    assert "empty.jsonl: there are no items" in error
    assert error.count("\n") == 1


def test_labels_may_have_words_of_their_own():
    assert words_of(["good", "sports=foot ball", "a=b=c"]) == {"good": "good", "sports": "foot ball", "a": "b=c"}
    assert words_of(["good=\\ngood"]) == {"good": "\ngood"}
    for labels, said in ((["=x"], "label 0 is empty"), (["a", "a=b"], "'a' is given twice")):
        with pytest.raises(ValueError, match=said):
            words_of(labels)


def test_where_results_cannot_be_written_is_told_before_the_model_is_loaded(folder, monkeypatch, capsys):
    """There is no such model, and that is not what is told."""
    quiz = str(folder / "quiz.jsonl")
    monkeypatch.setattr(sys, "argv", ["gptjax", "evaluate", "nowhere", "choices", quiz, "--out", quiz])
    with pytest.raises(SystemExit):
        main()
    assert "quiz.jsonl: is a file; give a folder" in capsys.readouterr().err
