"""Same text: what a run goes on with is told by its bytes, not by names, places or rates."""

import dataclasses
import fcntl
import json
import shutil

import pytest

from data import prepare
from data.description import FORMATS
from data.preparation import learning
from data.preparation.prepared_folder import content
from data.prepare import Begun
from data.spec import DataSpec
from gptjax.text.tokenizer import Tokenizer
from tests.data.test_prepare import described, some_documents, spec_of, stored, write_jsonl

# of 200 documents named files:a.jsonl, as gptjax prepared them when it held out a share of the documents
BEFORE = "516c78c5e099059e6322de48fd64027e3fb3aafa94fba493d7e394b35750851f"


def began(folder, **changes):
    description = json.loads((folder / "prepared.json").read_text()) | changes
    return Begun(description, Tokenizer.load(folder / "tokenizer.json"))


def two_sources(tmp_path, name):
    """A folder of two files of different words, as sources."""
    (tmp_path / name).mkdir()
    capitals = [text.upper() for text in some_documents(150, seed=1)]
    texts = {"a.jsonl": some_documents(200), "b.jsonl": capitals}
    return [f"files:{write_jsonl(tmp_path / name / file, of_file)}" for file, of_file in texts.items()]


def test_a_renamed_folder_and_a_path_made_absolute_are_the_same_text(tmp_path, monkeypatch):
    """A folder of another name has the same hash; a changed letter has another."""
    was = began(prepare.prepare(spec_of(tmp_path, *two_sources(tmp_path, "old"))))
    (tmp_path / "old").rename(tmp_path / "new")
    monkeypatch.chdir(tmp_path)
    names = ["files:new/a.jsonl", f"files:{tmp_path}/new/b.jsonl"]
    now = prepare.prepare(spec_of(tmp_path, *names), of_run=was)
    assert content(now, was.description) == was.description["content"]
    changed = (tmp_path / "new" / "a.jsonl").read_text().replace("dog", "dig", 1)
    (tmp_path / "new" / "a.jsonl").write_text(changed)
    other = prepare.prepare(spec_of(tmp_path, *names), of_run=was)
    assert content(other, was.description) != was.description["content"]


def test_a_run_keeps_its_tokenizer_when_a_rate_changes(tmp_path, monkeypatch):
    """And its text; a new run of those rates learns another. Its own folder is taken as it is."""
    names = two_sources(tmp_path, "text")
    spec = spec_of(tmp_path, *names)
    was = began(prepare.prepare(spec))
    changed = dataclasses.replace(spec, sources=(names[0], f"{names[1]}=9"))
    with monkeypatch.context() as patched:
        patched.setattr(learning, "train_bpe", None)
        now = prepare.prepare(changed, of_run=was)
        patched.setattr(prepare, "_make", None)
        assert prepare.prepare(changed, of_run=was) == now
        assert json.loads((prepare.prepare(spec, of_run=was) / "prepared.json").read_text()) == was.description
    assert Tokenizer.load(now / "tokenizer.json").fingerprint == was.tokenizer.fingerprint
    assert content(now, was.description) == was.description["content"]
    assert [described(now, number)["share"] for number in (0, 1)] == [1, 9]
    fresh = prepare.prepare(changed)
    assert Tokenizer.load(fresh / "tokenizer.json").fingerprint != was.tokenizer.fingerprint


def test_a_run_from_before_finds_its_text_by_the_rule_of_then(tmp_path, monkeypatch):
    """Prepared anew, also under another name and rate, it holds out what it did; a new run holds out less."""
    monkeypatch.chdir(tmp_path)
    write_jsonl(tmp_path / "a.jsonl", some_documents(200))
    spec = DataSpec(sources=("files:a.jsonl",), tokenizer="characters", vocabulary=400, prepared=tmp_path / "prepared")
    new = prepare.prepare(spec)
    sources = {"files:a.jsonl": {"share": 1.0}}
    was = began(new, format=3, content=BEFORE, sources=sources)
    old = prepare.prepare(dataclasses.replace(spec, sources=(f"files:{tmp_path}/a.jsonl=5",)), of_run=was)
    assert content(old, was.description) == BEFORE != content(new, was.description)
    assert [len(stored(folder, "validation")) for folder in (old, new)] == [69, 15]


@pytest.mark.parametrize("format", FORMATS[1:])
def test_a_prepared_folder_from_before_is_taken_as_it_is(tmp_path, monkeypatch, format):
    """By a new run too, as long as nothing newer is there."""
    file = write_jsonl(tmp_path / "a.jsonl", some_documents(200))
    spec = spec_of(tmp_path, f"files:{file}")
    new = prepare.prepare(spec)
    old = spec.prepared / prepare.fingerprint(spec, format=format)
    assert old != new
    shutil.copytree(new, old)
    with monkeypatch.context() as patched:
        patched.setattr(prepare, "_make", None)
        assert prepare.prepare(spec) == new
        shutil.rmtree(new)
        assert prepare.prepare(spec) == old


def test_a_second_preparation_says_for_whom_it_waits(tmp_path, monkeypatch, capfd):
    """The process and machine that hold the folder; who need not wait is told nothing."""
    holder = prepare.kept_out(tmp_path)
    holder.__enter__()
    assert capfd.readouterr().err == ""
    flock, told = fcntl.flock, []

    def until_let_go(lock, kind):
        if kind == fcntl.LOCK_EX:
            told.append(capfd.readouterr().err)
            holder.__exit__(None, None, None)
        flock(lock, kind)

    monkeypatch.setattr(fcntl, "flock", until_let_go)
    with prepare.kept_out(tmp_path):
        pass
    who = f"process {prepare.os.getpid()} on {prepare.socket.gethostname()}"
    assert told == [f"{tmp_path}: {who} prepares text here; waiting until it is done\n"]
