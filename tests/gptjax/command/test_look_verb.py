"""`gptjax look` as a user calls it: a page, and one line for each mistake, with nothing left behind."""

import sys

import pytest

from gptjax.cli import main
from tests.headed_model import headed_model
from tests.hf_models import LLAMA, write_folder
from tests.tiny_run import write_run


def run(*words):
    """Runs `gptjax look`; returns the exit status."""
    arguments, sys.argv = sys.argv, ["gptjax", "look", *map(str, words)]
    try:
        main()
    except SystemExit as end:
        return end.code
    finally:
        sys.argv = arguments
    return 0


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return write_run(tmp_path_factory.mktemp("runs") / "fox", headed_model())


def test_a_page_is_written_and_told_of(model, tmp_path, capsys, monkeypatch):
    """In the folder one stands in; a second time only when told to, and of some layers and heads."""
    monkeypatch.chdir(tmp_path)
    assert run(model, "--text", "狐狸 🦊 fox", "--layers", 1, "--heads", 0, 3) == 0
    said = capsys.readouterr().out
    assert said.startswith("wrote look.html: ")
    assert "1 layers x 2 heads" in said
    assert "狐" in (tmp_path / "look.html").read_text(encoding="utf-8")
    assert run(model, "--text", "fox") == 2
    assert "look.html: is there already; give another name, or --replace" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "--text is missing"),
        (["--text", ""], "text: is empty"),
        (["--text", "fox " * 99], "this model's context holds 64"),
        (["--text", "fox", "--layers", "0", "2"], "there is no layer 2; this model has layers 0 to 1"),
        (["--text", "fox", "--heads", "4"], "there is no head 4"),
        (["--text", "fox", "--heads", "x"], "heads"),
        (["--text", "fox", "--token", "0"], "token=0: must be from 1"),
        (["--text", "fox", "--leave-out", "-1"], "leave_out=-1"),
        (["--text", "fox", "--to", "nowhere/look.html"], "there is no folder"),
        (["--text", "fox", "--layer", "0"], "unknown option '--layer'; did you mean '--layers'?"),
    ],
    ids=lambda value: " ".join(value)[:30] if isinstance(value, list) else "",
)
def test_what_cannot_be_is_named_before_a_model_is_loaded(model, words, said, tmp_path, capsys, monkeypatch):
    """In one line; nothing is written."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("gptjax.load", None)
    assert run(model, *words) == 2
    error = capsys.readouterr().err
    assert said in error
    assert error.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_a_run_that_is_not_there_is_named(model, tmp_path, capsys, monkeypatch):
    """With the one that was probably meant."""
    monkeypatch.chdir(tmp_path)
    assert run(model.parent / "foxes", "--text", "fox") == 2
    assert "no such run; did you mean 'fox'?" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_a_folder_of_others_is_refused_the_same(tmp_path, capsys, monkeypatch):
    """Once it is read, before it reads."""
    folder = write_folder(tmp_path / "llama", LLAMA)
    monkeypatch.chdir(folder)
    before = sorted(folder.iterdir())
    monkeypatch.setattr("gptjax.look.looking.read", None)
    assert run(folder, "--text", "fox", "--layers", 3) == 2
    assert "there is no layer 3; this model has layers 0 to 2" in capsys.readouterr().err
    assert sorted(folder.iterdir()) == before
