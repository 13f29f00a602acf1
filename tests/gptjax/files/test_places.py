"""gptjax.files.places: `~` is the home folder wherever a path is given, however it is spelt; spaces are quoted."""

import os
from pathlib import Path

import pytest

import gptjax
from data import distribute, dump
from data.spec import DataSpec
from gptjax import cli
from gptjax.command import compiled
from gptjax.evaluation.items import read_items
from gptjax.files.atomic_folder import absent
from gptjax.files.places import expanded, named, place_of_run, place_of_text, shown, standing, url_of
from gptjax.results import place_for
from gptjax.text.tokenizer import byte_tokenizer, ready_made
from train import __main__ as program
from train.recipe import Recipe, from_json, load_recipe, to_json

ROOT = Path(__file__).parents[3]


@pytest.fixture
def home(tmp_path, monkeypatch):
    """A home folder; one stands in another."""
    (tmp_path / "home").mkdir()
    (tmp_path / "here").mkdir()
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.delenv("GPTJAX_CACHE", raising=False)
    monkeypatch.chdir(tmp_path / "here")
    return tmp_path / "home"


def test_a_tilde_is_home_at_the_beginning_alone(home):
    assert expanded("~") == expanded("~/") == home
    assert expanded("~/a b") == home / "a b"
    for other in ("a/~", "x~", "/~/a", "~nobody-of-this-name/a", "a~/b"):
        assert expanded(other) == Path(other)


def test_without_a_home_a_tilde_is_refused_and_no_folder_is_called_so(monkeypatch):
    monkeypatch.setattr(os.path, "expanduser", lambda path: os.fspath(path))  # as for a uid that nobody knows
    assert expanded("/tmp/x") == Path("/tmp/x")
    with pytest.raises(ValueError, match=r"^~/x: ~ stands for no folder, as HOME is not set"):
        expanded("~/x")


@pytest.mark.parametrize("spelling", [["--run=~/x", "--data.prepared=~/y"], ["--run", "~/x", "--data.prepared", "~/y"]])
def test_paths_of_a_recipe_begin_at_home_and_are_kept_so(home, spelling):
    """From the command line in both spellings, from a recipe in Python, and from its JSON."""
    recipe = program.parse(["laptop", *spelling])
    assert (recipe.run, recipe.data.prepared) == (home / "x", home / "y")
    assert from_json(to_json(recipe)) == recipe
    made = Recipe(data=DataSpec(sources=("chitchat",), prepared=Path("~/y")), run=Path("~/x"), steps=200)
    assert (made.run, made.data.prepared) == (home / "x", home / "y")


def test_every_verb_and_function_that_takes_a_path_begins_at_home(home, capsys):
    """What is made is made there, what is read is read there, and what is not there is looked for there."""
    (home / "text.txt").write_text("a text")
    byte_tokenizer().save(home / "tokens.json")
    (home / "recipe.json").write_text(to_json(program.parse(["laptop"])))
    assert [item["text"] for item in read_items(["~/text.txt"])] == ["a text"]
    assert ready_made("~/tokens.json").size == byte_tokenizer().size
    assert load_recipe("~/recipe.json")().steps
    assert absent("~/exported") == home / "exported"
    assert place_for("~/results") == home / "results"
    for look in (
        lambda: gptjax.load("~/none"),
        lambda: cli.parse(["checkpoint", "list", "~/none"]).run(),
        lambda: cli.parse(["generate", "~/none"]).run(),
    ):
        with pytest.raises(ValueError, match=f"{home}/none: no such run"):
            look()
    (home / "run").mkdir()
    (home / "run" / "model.json").touch()
    assert program.Audit(run="~/run").folder == home / "run"
    assert program.main(["bench", "--json=~/none/file"]) == 2
    assert f"there is no folder {home}/none" in capsys.readouterr().err
    assert not any((home.parent / "here").iterdir())


def test_a_dump_goes_home(home, monkeypatch):
    monkeypatch.setattr(dump, "examples", lambda *arguments: iter([{"text": "a"}]))
    assert dump.main(["chitchat", "--out=~/a.jsonl"]) == 0
    assert (home / "a.jsonl").read_text() == '{"text": "a"}\n'


def test_a_shared_folder_begins_at_home_or_lies_in_an_object_store(home):
    assert [str(distribute._shared(text)) for text in ("~/a", "gs://b/~/a")] == [f"{home}/a", "gs://b/~/a"]


def test_what_stands_is_the_path_itself_or_the_nearest_above_it(tmp_path):
    (tmp_path / "disk").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "disk")
    assert standing(tmp_path / "link") == tmp_path / "link"
    assert standing(tmp_path / "link" / "a" / "b") == tmp_path / "link"
    assert standing(tmp_path / "a" / "b") == tmp_path


def test_compiled_programs_are_kept_where_a_folder_can_be_had(tmp_path, monkeypatch):
    """Not without a home, and not at the top, which is the home of many a container's user."""
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert compiled._folder() == tmp_path / ".cache" / "gptjax" / "compiled"
    monkeypatch.setattr(os, "access", lambda path, mode: path != Path("/"))
    monkeypatch.setenv("HOME", "/")
    assert compiled._folder() is None
    monkeypatch.setattr(os.path, "expanduser", lambda path: os.fspath(path))
    assert compiled._folder() is None


def test_a_full_disk_is_named(tmp_path):
    """Which the system itself does not do when it refuses to write; where it names a file, that stays."""
    with pytest.raises(OSError, match=r"No space left on device: '.*/prepared'"), named(tmp_path / "prepared"):
        Path("/dev/full").write_text("x")
    with pytest.raises(OSError, match=r"No such file or directory: '/none'"), named(tmp_path):
        Path("/none").read_text()


def test_a_run_on_a_bucket_has_a_folder_here_that_says_of_which(home):
    """However many slashes a Path has left of its URL; a folder of any other name is of no bucket."""
    for written in ("s3://bucket/runs/big", Path("s3://bucket/runs/big"), "s3://bucket/runs/big/"):
        folder = place_of_run(written)
        assert folder == home / ".cache/gptjax/read/s3/bucket/runs/big"
        assert url_of(folder) == shown(folder) == "s3://bucket/runs/big"
    own = place_of_run("gs://bucket/runs/big", "own")
    assert (own != place_of_run("gs://bucket/runs/big"), url_of(own)) == (True, "gs://bucket/runs/big")
    text = place_of_text("gs://bucket/prepared")
    assert (text, url_of(text)) == (home / ".cache/gptjax/text/gs/bucket/prepared", "gs://bucket/prepared")
    assert (place_of_run("~/runs/big"), url_of(home / "runs/big")) == (home / "runs/big", None)
    assert url_of(home / ".cache/gptjax") is None


def test_a_url_that_names_no_run_is_refused_with_what_was_meant(home):
    for written, said in (
        ("gs://bucket", "give a bucket and a name in it"),
        ("s3:///runs", "give a bucket and a name in it"),
        ("s3://bucket/../other", "give a bucket and a name in it"),
        ("gcs://bucket/runs/big", "no kind of bucket is called 'gcs'; did you mean 'gs'"),
    ):
        with pytest.raises(ValueError, match=said):
            place_of_run(written)
    with pytest.raises(ValueError, match="only runs and prepared text can lie on a bucket; copy this to a disk"):
        expanded("gs://bucket/text.txt")
