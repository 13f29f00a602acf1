"""A run on a bucket: steps that are whole or not there, records, and what a reader fetches."""

import json
import shutil
from pathlib import Path
from threading import Thread

import jax
import numpy as np
import pytest

import gptjax
from gptjax.files import buckets
from gptjax.files.buckets import BucketError
from gptjax.files.locks import locked
from gptjax.files.places import place_of_run
from gptjax.runs.bucket_run import BucketRun, every_step, local_run
from gptjax.runs.manifest import steps, verify
from tests.loopback_store import Asked, Fault, everyday_store, failing
from tests.tiny_run import random_model, write_run

STORE = everyday_store()


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    """A run of two steps on the disk."""
    return write_run(tmp_path_factory.mktemp("made") / "run", random_model(), (10, 20))


@pytest.fixture(params=["s3", "gs"])
def run(request, monkeypatch, tmp_path, made) -> BucketRun:
    """The same on a bucket."""
    monkeypatch.setenv("GPTJAX_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(buckets, "RETRIES", {"max_retries": 2, "initial_delay": "10ms", "max_delay": "20ms"})
    owner = BucketRun(place_of_run(f"{request.param}://{STORE.bucket()}/runs/big", "own"))
    for name in ("model.json", "tokenizer.json"):
        owner.copy.mkdir(parents=True, exist_ok=True)
        shutil.copy(made / name, owner.copy)
    for step in steps(made):
        owner.publish(step, made / "checkpoints" / str(step), lambda: None)
    return owner


def objects(run: BucketRun) -> dict[str, tuple[bytes, int]]:
    return STORE.objects[run.url.split("/")[2]]


def reader(run: BucketRun) -> BucketRun:
    return BucketRun(place_of_run(run.url))


def nothing(_: str) -> None:
    pass


def test_a_model_is_loaded_from_a_bucket_as_from_a_disk(run, made):
    for step in (None, 10):
        here, there = gptjax.load(made, step), gptjax.load(run.url, step)
        assert there.step == here.step
        jax.tree.map(np.testing.assert_array_equal, here.params, there.params)
    with pytest.raises(ValueError, match="no usable checkpoint of step 15; there are"):
        gptjax.load(run.url, 15)
    with pytest.raises(ValueError, match="/runs/bug: no such run"):
        gptjax.load(run.url.replace("big", "bug"))


def test_a_copy_of_the_bucket_is_a_run(run, made, tmp_path):
    """Object by object, as any tool copies it."""
    for key, (content, _) in objects(run).items():
        target = tmp_path / "copied" / key.removeprefix("runs/big/")
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(content)
    for step in steps(made):
        verify(tmp_path / "copied", step)


@pytest.mark.fault(40)
def test_killed_at_any_request_of_a_save_the_older_step_stays_and_the_new_one_is_whole_or_none(run, made):
    """From the n-th request on, none is answered, as if the process had died before it."""
    whole = 0
    for at in range(1, 200, 9):
        run.withdraw(20)
        first = len(STORE.asked)
        try:
            with failing(STORE, lambda asked, last=first + at: Fault(status=403) if asked.number >= last else None):
                run.publish(20, made / "checkpoints/20", lambda: None)
            finished = True
        except BucketError:
            finished = False
        seen = reader(run)
        found = seen.steps()
        assert 10 in found
        seen.fetch_step(10)
        if 20 in found:
            whole += 1
            seen.fetch_step(20)
            verify(seen.copy, 20)
        elif finished:
            pytest.fail("a save that succeeded is not there")
        if finished:
            break
        run.clear(nothing)
        assert all(key.startswith("checkpoints/10/") for key in run.bucket.listed("checkpoints/") if 20 not in found)
    assert finished
    assert whole >= 1


@pytest.mark.fault(40)
def test_an_owner_that_slept_cannot_write_over_its_successors_step(run, made):
    """It meets the other's objects where it makes its own, and the step of the other stays whole."""
    late, theirs = BucketRun(run.copy), made / "checkpoints/10"  # of another content
    asked = []

    def other_saves() -> None:
        asked.append("is it mine?")
        if len(asked) == 3:  # the last time, with all but the manifest written
            run.publish(30, theirs, lambda: None)

    with pytest.raises(BucketError, match="another process has written it"):
        late.publish(30, made / "checkpoints/20", other_saves)
    names = [path.relative_to(theirs).as_posix() for path in theirs.rglob("*") if path.is_file()]
    assert {name: run.bucket.read(f"checkpoints/30/{name}") for name in names} == {
        name: (theirs / name).read_bytes() for name in names
    }

    def lost() -> None:
        raise RuntimeError("lost")

    with pytest.raises(RuntimeError, match="lost"):
        late.publish(40, made / "checkpoints/20", lost)
    assert 40 not in reader(run).steps()


def test_an_owner_that_slept_neither_deletes_a_step_of_its_successor_nor_writes_over_its_records(run, made):
    """The other has saved before: whether the one that slept finds out or does not, the step stays; records too, if so.

    What it found, what it saved itself, and what was never finished it does replace.
    """
    late = BucketRun(run.copy)
    late.clear(nothing)
    run.publish(30, made / "checkpoints/10", lambda: None)
    (run.copy / "metrics.jsonl").write_text("of whoever slept\n")
    before = dict(objects(run))

    def lost() -> None:
        raise RuntimeError("lost")

    with pytest.raises(RuntimeError, match="lost"):
        late.publish(30, made / "checkpoints/20", lost)
    assert objects(run) == before
    with pytest.raises(BucketError, match="another process has written it meanwhile; step 30 is not saved"):
        late.publish(30, made / "checkpoints/20", lambda: None)
    assert {key: kept for key, kept in objects(run).items() if "checkpoints/30/" in key} == {
        key: kept for key, kept in before.items() if "checkpoints/30/" in key
    }
    run.bucket.write("checkpoints/50/data", b"never finished")
    for step in (10, 20, 20, 50):  # found, found, saved, half of one
        late.publish(step, made / "checkpoints/10", lambda: None)
    assert late.steps() == [10, 20, 30, 50]


def test_the_copy_that_a_run_is_trained_in_stays_as_it_is_where_it_is_read(run, made):
    """What it holds beside the bucket is not on it yet; the copy that was fetched to be read is brought up to date."""
    shutil.copytree(made / "checkpoints", run.copy / "checkpoints")
    (run.copy / "views.json").write_text("{}")
    assert gptjax.load(run.copy).step == 20
    assert local_run(run.copy, nothing, model=False) == every_step(run.copy) == run.copy
    assert (run.copy / "views.json").exists()
    read = local_run(run.url, nothing, model=False)
    (read / "views.json").write_text("{}")
    assert local_run(read, nothing, model=False) == read
    assert not (read / "views.json").exists()


def test_readers_on_one_machine_leave_each_other_what_they_fetch(run):
    """Files under way, records that only another reader wants, and the report that one has written."""
    seen = reader(run)
    seen.fetch_records()
    for name in ("model.json.fetching-123", "report.html", "starts.jsonl"):
        (seen.copy / name).write_text("of another reader")
    seen.fetch_records(["model.json"])
    assert (seen.copy / "starts.jsonl").exists()
    seen.fetch_records()
    assert sorted(path.name for path in seen.copy.iterdir() if path.is_file()) == [
        "model.json", "model.json.fetching-123", "report.html", "tokenizer.json",
    ]  # fmt: skip
    del objects(run)["runs/big/tokenizer.json"]
    seen.fetch_records(["model.json", "tokenizer.json"])
    assert not (seen.copy / "tokenizer.json").exists()


def test_readers_on_one_machine_bring_a_copy_up_to_date_one_after_another(run):
    reader(run).fetch_records()
    done = []
    with locked(reader(run).copy / "lease/fetching"):
        threads = [
            Thread(target=lambda act=act: done.append(act())) for act in (reader(run).steps, reader(run).fetch_records)
        ]
        for thread in threads:
            thread.start()
        threads[0].join(0.3)
        assert not done
    for thread in threads:
        thread.join(20)
    assert len(done) == 2


def test_what_is_half_written_is_no_record_and_what_vanishes_meanwhile_is_none(run, monkeypatch):
    (run.copy / "metrics.jsonl").write_text("one\n")
    (run.copy / "views.json.unfinished").write_text("{")
    (run.copy / "gone.json").write_text("{}")
    read_bytes = Path.read_bytes

    def vanishing(path: Path) -> bytes:
        if path.name == "gone.json":
            path.unlink()
        return read_bytes(path)

    monkeypatch.setattr(Path, "read_bytes", vanishing)
    run.send_records()
    assert [key for key in run.bucket.listed() if "/" not in key] == ["metrics.jsonl", "model.json", "tokenizer.json"]


@pytest.mark.fault(41)
def test_a_damaged_step_is_told_and_the_one_before_it_used_and_only_its_owner_sets_it_aside(run):
    key = next(key for key in objects(run) if "checkpoints/20/params" in key and len(objects(run)[key][0]) > 100)
    content, generation = objects(run)[key]
    for damaged in (content[:-1], b"x" + content[1:], None):
        if damaged is None:
            del objects(run)[key]
        else:
            objects(run)[key] = (damaged, generation)
        said: list[str] = []
        assert reader(run).fetch_newest(said.append) == 10
        assert len(said) == 1
        assert "not used: step 20: params/" in said[0]
    with pytest.warns(UserWarning, match="not used: step 20"):
        assert gptjax.load(run.url).step == 10
    said = []
    assert run.fetch_newest(said.append, set_bad_aside=True) == 10
    assert said[0].endswith("kept as checkpoints/20.damaged")
    assert run.steps() == [10]
    assert any("checkpoints/20.damaged/manifest.json" in key for key in objects(run))


def test_where_every_step_is_damaged_none_is_used_and_none_is_touched(run):
    for key in list(objects(run)):
        if key.endswith("_METADATA"):
            objects(run)[key] = (b"{}", 1)
    before = dict(objects(run))
    with pytest.raises(ValueError, match="every checkpoint is damaged"):
        run.fetch_newest(nothing, set_bad_aside=True)
    assert objects(run) == before


def test_records_are_sent_where_they_changed_and_a_reader_sees_none_that_are_gone(run):
    (run.copy / "metrics.jsonl").write_text("one\n")
    (run.copy / "failures.json").write_text("{}")
    run.send_records()
    copy = local_run(run.url, nothing, model=False)
    assert (copy / "metrics.jsonl").read_text() == "one\n"
    (run.copy / "metrics.jsonl").write_text("one\ntwo\n")
    (run.copy / "failures.json").unlink()
    count = len(STORE.asked)
    run.send_records()
    assert sorted(asked.method for asked in STORE.asked[count:] if asked.method not in ("GET", "HEAD")) in (
        ["DELETE", "PUT"], ["DELETE", "POST"],
    )  # fmt: skip
    local_run(run.url, nothing, model=False)
    assert (copy / "metrics.jsonl").read_text() == "one\ntwo\n"
    assert not (copy / "failures.json").exists()


def test_a_manifest_that_names_a_file_elsewhere_is_refused(run, tmp_path):
    key = "runs/big/checkpoints/20/manifest.json"
    manifest = json.loads(objects(run)[key][0])
    manifest["files"]["../../../../../escaped"] = {"bytes": 1, "sha256": "0" * 64}
    manifest["format"] = 1  # which has no digest of its own
    objects(run)[key] = (json.dumps(manifest).encode(), 7)
    seen = reader(run)
    seen.steps()
    with pytest.raises(ValueError, match="lies outside of its folder"):
        seen.fetch_step(20)


def test_all_steps_are_fetched_to_be_verified(run):
    copy = every_step(run.url)
    for step in (10, 20):
        verify(copy, step)


@pytest.mark.fault(41)
def test_what_fails_for_good_while_a_step_is_fetched_is_told_by_its_object(run):
    def fault(asked: Asked) -> Fault | None:
        return Fault(cut=3) if "/params/" in asked.key else None

    with failing(STORE, fault), pytest.raises(BucketError, match=r"checkpoints/20/params/.*asked again and again"):
        gptjax.load(run.url)
    assert gptjax.load(run.url).step == 20
