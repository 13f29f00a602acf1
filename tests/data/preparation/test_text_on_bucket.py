"""Prepared text on a bucket: made once, found by every machine, held against its hashes."""

import dataclasses
import filecmp
import os
from pathlib import Path

import pytest

from data import prepare
from data.examples.preparing import made_once
from data.preparation.text_on_bucket import LIST
from data.spec import DataSpec
from gptjax.files.buckets import BucketError
from gptjax.files.places import place_of_text
from tests.loopback_store import everyday_store
from tests.tiny_text import sentences, write_prepared

STORE = everyday_store()


@pytest.fixture(params=["gs", "s3"])
def name(request) -> str:
    return STORE.bucket(request.param)


@pytest.fixture
def url(name) -> str:
    return f"{name.partition('-')[0]}://{name}/prepared"


@pytest.fixture
def machine(tmp_path, monkeypatch):
    """Goes on as a machine of a name, with a cache of its own."""
    return lambda name: monkeypatch.setenv("GPTJAX_CACHE", str(tmp_path / name))


def of_text(folder: Path, url: str) -> DataSpec:
    """Of one file, which is the same one to both machines."""
    if not (file := folder / "notes.txt").exists():
        file.write_text("".join(sentences(400)), encoding="utf-8")
    return DataSpec(sources=(f"files:{file}",), prepared=Path(url), validation="tail 0.1", tokenizer="bytes")


def same(one: Path, other: Path) -> bool:
    names = sorted(path.relative_to(one).as_posix() for path in one.rglob("*") if path.is_file())
    return filecmp.cmpfiles(one, other, names, shallow=False)[0] == names


def forbidden(*_, **__):
    raise AssertionError("prepared again")


def test_text_that_one_machine_prepared_is_brought_to_another(tmp_path, machine, url, monkeypatch):
    """The same bytes, and nothing is prepared; nor is anything fetched again that is there."""
    machine("one")
    first = prepare.prepare(of_text(tmp_path, url))
    monkeypatch.setattr(prepare, "_make", forbidden)
    machine("other")
    second = prepare.prepare(spec := of_text(tmp_path, url))
    assert first != second
    assert same(first, second)
    asked = len(STORE.asked)
    assert prepare.prepare(spec) == second
    assert len(STORE.asked) - asked == 2  # what there is; whether the bucket has it
    with pytest.raises(AssertionError, match="prepared again"):  # of other settings it is another text
        prepare.prepare(dataclasses.replace(spec, validation="tail 0.2"))


def test_text_that_is_wanted_again_is_not_what_makes_room(tmp_path, machine, url, monkeypatch):
    """However long it was not used, and however little room there is; another that was not used goes."""
    machine("one")
    wanted = prepare.prepare(spec := of_text(tmp_path, url))
    other = prepare.prepare(dataclasses.replace(spec, validation="tail 0.2"))
    for folder in (wanted, other):
        os.utime(folder, (0, 0))
    monkeypatch.setenv("GPTJAX_CACHE_GB", "0")
    monkeypatch.setattr(prepare, "_make", forbidden)
    assert prepare.prepare(spec) == wanted
    assert not other.exists()


def test_what_only_this_machine_has_is_sent(tmp_path, machine, url, name):
    """As after a bucket that was out of reach when the text was done."""
    machine("one")
    folder = prepare.prepare(spec := of_text(tmp_path, url))
    whole = STORE.objects[name].copy()
    for key in [key for key in whole if key.endswith((LIST, "tokens.bin"))]:
        del STORE.objects[name][key]
    assert prepare.prepare(spec) == folder
    assert STORE.objects[name].keys() == whole.keys()


def test_what_the_bucket_has_spoilt_is_named_and_becomes_no_folder(tmp_path, machine, url, name):
    machine("one")
    prepare.prepare(of_text(tmp_path, url))
    key = next(key for key in STORE.objects[name] if key.endswith("tokenizer.json"))
    STORE.objects[name][key] = (b"{}", STORE.next_generation())
    machine("other")
    with pytest.raises(ValueError, match=rf"{url}/\w+: is not what was prepared .*delete it there"):
        prepare.prepare(spec := of_text(tmp_path, url))
    assert list(spec.prepared.rglob("*.json")) == []


def test_a_bucket_that_cannot_be_written_is_told_before_text_is_prepared(tmp_path, machine, url, name, monkeypatch):
    """And serves who only reads what it has."""
    machine("one")
    prepare.prepare(of_text(tmp_path, url))
    monkeypatch.setattr(prepare, "_make", forbidden)
    monkeypatch.setattr(STORE, "read_only", {name})
    machine("other")
    prepare.prepare(spec := of_text(tmp_path, url))
    with pytest.raises(BucketError, match="may not do that"):
        prepare.prepare(dataclasses.replace(spec, validation="tail 0.2"))


def test_examples_are_kept_as_text_is(tmp_path, machine, url):
    """One machine makes them, another finds them; of a folder that is no copy nothing is asked."""
    machine("one")
    made = made_once(place_of_text(url) / "examples", filled("the fox"))
    machine("other")
    assert same(made, made_once(place_of_text(url) / "examples", forbidden))
    asked = len(STORE.asked)
    made_once(tmp_path / "own" / "examples", filled("the fox"))
    assert len(STORE.asked) == asked


def test_other_bytes_of_the_same_name_are_refused(tmp_path, machine, url, name):
    """The first stay, where one machine had sent all but the list and another has made something else of it."""
    machine("one")
    made_once(place_of_text(url) / "examples", filled("the fox"))
    del STORE.objects[name][f"prepared/examples/{LIST}"]
    machine("other")
    with pytest.raises(BucketError, match=r"prepared/examples/\S+: holds other bytes than were prepared here"):
        made_once(place_of_text(url) / "examples", filled("a lazy dog"))
    machine("one")
    made_once(place_of_text(url) / "examples", forbidden)


def filled(text: str):
    """What writes a small prepared folder of a text."""

    def fill(aside: Path) -> None:
        write_prepared(aside, {"notes": [f"{text} {number}\n" for number in range(10)]})

    return fill
