"""`gptjax features` as a user calls it: vectors in a file, a page, and a line for each mistake, nothing left behind."""

import json
import sys

import numpy as np
import pytest

from gptjax import cli
from gptjax.command import features_verb
from tests.hf_models import LLAMA, write_folder
from tests.tiny_run import random_model, write_run

TEXTS = ["the lazy dog", "fox", "hello there 曹操", "over the fox", "the dog jumps"] * 4


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("features")
    write_run(folder / "run", random_model())
    rows = [{"of": {"text": text}, "kind": f"k{n % 2}", "n": n} for n, text in enumerate(TEXTS)]
    (folder / "in.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "gap.csv").write_text("text,kind,vector\nfox,a,1\nthe dog,,2\n")
    (folder / "empty.csv").write_text("text,kind\nfox,a\n , b\n")
    (folder / "long.csv").write_text(f"text,kind\nfox,a\n{'fox ' * 99},b\n")
    return folder


def call(monkeypatch, folder, *words):
    monkeypatch.chdir(folder)
    monkeypatch.setattr(sys, "argv", ["gptjax", "features", *words])
    cli.main()


def test_files_hold_what_python_says(folder, monkeypatch, capsys):
    """A row of .npy for each text, in order; a record of .jsonl with its vector, or those of its tokens."""
    wanted_ID = np.stack([*random_model().features(TEXTS, layer=1, pool="weighted", bidirectional=True)])
    choice = ["--text", "of.text", "--layer", "1"]
    both = [*choice, "--pool", "weighted", "--bidirectional"]
    call(monkeypatch, folder, "run", "in.jsonl", *both, "--to", "out.npy")
    assert "wrote out.npy: 20 texts, 32 numbers a vector" in capsys.readouterr().out
    np.testing.assert_array_equal(np.load(folder / "out.npy", allow_pickle=False), wanted_ID)
    call(monkeypatch, folder, "run", "in.jsonl", *both, "--to", "out.jsonl", "--most", "3")
    rows = [json.loads(line) for line in (folder / "out.jsonl").read_text().splitlines()]
    assert [(row["of"], row["kind"], row["n"]) for row in rows] == [({"text": t}, f"k{n % 2}", n) for n, t in
                                                                    enumerate(TEXTS[:3])]  # fmt: skip
    np.testing.assert_array_equal(np.float32([row["vector"] for row in rows]), wanted_ID[:3])
    call(monkeypatch, folder, "run", "in.jsonl", *choice, "--pool", "none", "--to", "tokens.jsonl", "--most", "3")
    rows = [json.loads(line) for line in (folder / "tokens.jsonl").read_text().splitlines()]
    for row, state_TD in zip(rows, random_model().features(TEXTS[:3], layer=1, pool=None), strict=True):
        np.testing.assert_array_equal(np.float32(row["vectors"]), state_TD)
        assert "".join(row["tokens"][1:]) == row["of"]["text"] or "曹操" in row["of"]["text"]


def test_a_page_is_about_the_first_texts_and_the_file_about_all(folder, monkeypatch, capsys):
    """With the probe of the labels; a second time only when told to."""
    monkeypatch.setattr(features_verb, "REPORTED", 14)
    words = ["run", "in.jsonl", "--text", "of.text", "--label", "kind", "--report", "page.html"]
    call(monkeypatch, folder, *words, "--to", "all.npy")
    assert len(np.load(folder / "all.npy")) == 20
    page = (folder / "page.html").read_text()
    assert "14 of 20 texts, 32 numbers each: final states, mean, read from the left." in page
    assert page.count("<circle") == 14
    assert "TF-IDF" in page
    assert "what the vectors of 14 texts hold" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        call(monkeypatch, folder, *words)
    assert "page.html: is there already; give another name, or --replace" in capsys.readouterr().err
    call(monkeypatch, folder, *words, "--replace")
    assert (folder / "page.html").read_text() == page


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["in.jsonl"], "--to: give a file for the vectors"),
        (["in.jsonl", "--to", "x.csv"], "--to x.csv: ends in .csv; give one of .npy or .jsonl"),
        (["in.jsonl", "--report", "x.pdf"], "--report x.pdf: ends in .pdf; give one of .html"),
        (["in.jsonl", "--to", "no/x.npy"], "there is no folder"),
        (["in.jsonl", "--to", "in.jsonl"], "in.jsonl: is there already; give another name"),
        (["in.jsonl", "--to", "x.npy", "--pool", "none"], "--to x.npy: holds one vector a text"),
        (["in.jsonl", "--to", "x.npy", "--pool", "lats"], "did you mean 'last'?"),
        (["in.jsonl", "--to", "x.npy", "--label", "kind"], "--label kind: is what the page is asked for; add --report"),
        (["in.jsonl", "--to", "x.npy"], "no field 'text'; known: kind, n, of; name the column with --text"),
        (["gap.csv", "--to", "x.npy", "--layer", "2"], "layer=2: this model has layers 0 to 1"),
        (["gap.csv", "--to", "x.npy", "--layer", "finl"], "did you mean 'final'?"),
        (["gap.csv", "--to", "x.npy", "--length", "65"], "length=65: must be from 1 to 64"),
        (["gap.csv", "--report", "x.html", "--label", "kind"], "gap.csv:3: kind is empty; every record needs"),
        (["gap.csv", "--report", "x.html", "--label", "kin"], "did you mean 'kind'?"),
        (["in.jsonl", "--text", "of.text", "--report", "x.html", "--label", "n"], "a probe wants two classes or more"),
        (["gap.csv", "--to", "x.jsonl"], "gap.csv:2: has a column 'vector' already"),
        (["empty.csv", "--to", "x.npy"], "empty.csv:3: text is empty"),
        (["long.csv", "--to", "x.npy"], "long.csv:3: has"),
        (["none.csv", "--to", "x.npy"], "none.csv"),
    ],
    ids=lambda value: " ".join(value)[:40] if isinstance(value, list) else "",
)
def test_what_cannot_be_is_named_before_a_model_is_loaded(folder, words, said, monkeypatch, capsys):
    """In one line; nothing is written."""
    before = sorted(folder.iterdir())
    monkeypatch.setattr("gptjax.load", None)
    with pytest.raises(SystemExit) as end:
        call(monkeypatch, folder, "run", *words)
    assert end.value.code == 2
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert said in err
    assert sorted(folder.iterdir()) == before


def test_a_model_of_others_is_asked_before_it_reads(folder, tmp_path, monkeypatch, capsys):
    """And what fails while it is written leaves nothing."""
    model = write_folder(tmp_path / "llama", LLAMA)
    before = sorted(folder.iterdir())
    monkeypatch.setattr("gptjax.inference.embedding.layer_vectors", None)
    for words, said in {("--layer", "3"): "this model has layers 0 to 2", (): ""}.items():
        with pytest.raises(SystemExit if words else TypeError):
            call(monkeypatch, folder, str(model), "in.jsonl", "--text", "of.text", "--to", "x.npy", *words)
        assert said in capsys.readouterr().err
        assert sorted(folder.iterdir()) == before
