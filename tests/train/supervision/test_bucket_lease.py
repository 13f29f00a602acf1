"""One owner for a run on a bucket: two at once, one that died, one that slept, and one that gave it back."""

import dataclasses
import json
import time

import pytest
from rich.console import Console

from gptjax.files import buckets
from gptjax.files.places import place_of_run
from gptjax.runs.bucket_run import BucketRun
from tests.loopback_store import Fault, everyday_store, failing
from train.run import _own
from train.supervision import bucket_lease, failures
from train.supervision import lease as disk_lease
from train.supervision.bucket_lease import KEY, BucketLease, lease_of
from train.supervision.exits import LAST
from train.supervision.lease import Lease, LeaseLostError, LeaseTakenError

STORE = everyday_store()


@pytest.fixture(params=["s3", "gs"])
def url(request, monkeypatch, tmp_path) -> str:
    monkeypatch.setenv("GPTJAX_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(buckets, "RETRIES", {"max_retries": 2, "initial_delay": "10ms", "max_delay": "20ms"})
    monkeypatch.setattr(bucket_lease, "HEARTBEAT", 0.05)
    monkeypatch.setattr(bucket_lease, "STALE", 0.6)
    return f"{request.param}://{STORE.bucket()}/runs/big"


def lease(url: str, machine: str = "one") -> BucketLease:
    """As of a process of another machine."""
    made = lease_of(place_of_run(url, "own"), 0)
    assert isinstance(made, BucketLease)
    made._sign = dataclasses.replace(made._sign, machine=machine, host=machine)
    return made


def quiet(_: str) -> None:
    pass


def test_a_directory_has_a_lease_of_its_own_kind(tmp_path):
    assert type(lease_of(tmp_path, 0)) is Lease


def test_while_an_owner_lives_a_second_is_refused_and_once_it_gave_back_is_not(url):
    first = lease(url, "one")
    assert first.begin(quiet) is None
    with pytest.raises(LeaseTakenError, match=f"run={url}: process 0 .* host one.* trains here and lives"):
        lease(url, "two").begin(quiet)
    first.release_bucket()
    second = lease(url, "two")
    assert second.begin(quiet) is None  # nobody has died
    second.release_bucket()


@pytest.mark.fault(40)
def test_two_who_take_a_dead_owners_run_at_once_are_not_both_owners(url):
    dead = lease(url, "dead")
    dead._over.set()  # without a heartbeat
    dead.begin(quiet)
    one, two = lease(url, "one"), lease(url, "two")
    said: list[str] = []
    taken = []

    def other_is_quicker(line: str) -> None:
        said.append(line)
        if not taken:
            taken.append(two.take_bucket(quiet))

    with pytest.raises(LeaseTakenError, match="host two"):
        one.take_bucket(other_is_quicker)
    assert "waiting" in said[0]
    assert taken[0].host == "dead"
    two.release_bucket()


@pytest.mark.fault(40)
def test_an_owner_that_slept_finds_out_before_it_makes_a_step_and_does_not_take_back(url):
    slept = lease(url, "one")
    slept._over.set()
    slept.begin(quiet)
    slept.check_bucket()
    other = lease(url, "two")
    dead = other.begin(quiet)
    assert dead is not None
    assert dead["host"] == "one"
    with pytest.raises(LeaseLostError, match="another process took it over"):
        slept.check_bucket()
    assert slept.lost
    slept.release_bucket()
    other.check_bucket()  # is the owner still
    other.release_bucket()


def test_an_owner_outlives_a_store_that_does_not_answer_for_a_while(url):
    own = lease(url)
    own.begin(quiet)
    with failing(STORE, lambda asked: Fault(status=500)), pytest.raises(OSError, match="asked again and again"):
        own.check_bucket()
    own.check_bucket()
    assert own.lost is None
    own.release_bucket()


def test_no_clock_but_that_of_who_looks_on_counts(url):
    """The owner's wall clock is a day behind, the store's years ahead: it lives, as its count goes on."""
    own = lease(url)
    own._sign = dataclasses.replace(own._sign, since="2001-01-01 00:00:00 +0000")
    own.begin(quiet)
    STORE.clock_ahead = 1e8
    try:
        with pytest.raises(LeaseTakenError):
            lease(url, "two").begin(quiet)
    finally:
        STORE.clock_ahead = 0.0
        own.release_bucket()


def test_a_damaged_lease_is_waited_for_and_then_taken(url):
    BucketRun(place_of_run(url, "own")).bucket.write(KEY, b"no lease")
    own = lease(url)
    said: list[str] = []
    own.begin(said.append)
    assert "damaged" in said[0]
    assert json.loads(own._bucket.read(KEY) or b"")["host"] == "one"
    own.release_bucket()


def test_that_another_has_the_run_is_not_forgotten_at_the_next_heartbeat_on_the_disk(url, monkeypatch):
    monkeypatch.setattr(disk_lease, "HEARTBEAT", 0.05)
    slept = lease(url, "one")
    slept._over.set()
    slept.begin(quiet)
    slept.take(quiet)
    slept._bucket.write(KEY, b"of another")
    with pytest.raises(LeaseLostError, match="another process took it over"):
        slept.check_bucket()
    time.sleep(0.3)
    assert slept.lost
    slept.release()
    assert slept._bucket.read(KEY) == b"of another"


def test_a_heartbeat_that_arrived_although_its_answer_did_not_is_the_owners_own(url):
    own = lease(url)
    own._over.set()
    own.begin(quiet)
    before = own._generation
    own.check_bucket()
    own._generation = before  # as where no answer came
    own.check_bucket()
    assert own.lost is None
    own._generation = before
    own.release_bucket()
    assert json.loads(own._bucket.read(KEY) or b"")["phase"] == bucket_lease.RELEASED


def test_a_heartbeat_gives_up_in_time_for_the_next_and_a_save_asks_again(url, monkeypatch):
    assert bucket_lease.ANSWER * 2 + 5 * 3 < 60  # as STALE says
    monkeypatch.setattr(bucket_lease, "ANSWER", 0.2)
    own = lease(url)
    own._over.set()
    own.begin(quiet)
    count = len(STORE.asked)
    slow = Fault(wait=1.0)
    with failing(STORE, lambda asked: slow if asked.number <= count + 1 else None):
        began = time.monotonic()
        with pytest.raises(OSError, match="no answer in time"):
            own.check_bucket()
        assert time.monotonic() - began < 1.0
    count = len(STORE.asked)
    with failing(STORE, lambda asked: slow if asked.number <= count + 1 else None):
        own._surely_owned()
    own.release_bucket()


def test_starts_that_are_killed_are_counted_on_the_bucket(url):
    """The third start knows of two, on a machine that has nothing of the run."""
    for number, count in enumerate((None, 1, 2)):
        own = lease(url, f"machine-{number}")
        own._over.set()
        died = own.begin(quiet)
        _own(own.on_bucket.copy, own, Console(quiet=True), died is not None)
        found = failures._read(own.on_bucket.copy)
        assert (found and found["count"]) == count
        own._ended.set()  # killed: nothing is given back, nothing sent
        own._thread.join()


def test_the_last_copy_of_a_run_is_not_deleted(url):
    """Where the bucket has lost the steps, or the model's description, and the copy that it was trained in has not."""
    own = lease(url)
    step = own.on_bucket.copy / "checkpoints/7"
    step.mkdir(parents=True)
    (step / "manifest.json").write_text("{}")
    with pytest.raises(ValueError, match=f"has no checkpoints, but its copy {own.on_bucket.copy} has steps .7.. Copy"):
        own.begin(quiet)
    with pytest.raises(ValueError, match="has no checkpoints, but its copy"):
        own.follow(quiet)  # as a process does whose copy is of its own
    own._bucket.write("checkpoints/7/manifest.json", b"{}")
    other = lease(url, "two")  # at once: the lease was given back
    with pytest.raises(ValueError, match=r"has no model.json, but its copy"):
        other.begin(quiet)
    assert (step / "manifest.json").exists()
    own._bucket.write("model.json", b"{}")
    other = lease(url, "two")
    with pytest.raises(ValueError, match="every checkpoint is damaged"):
        other.begin(quiet)


def test_a_process_that_ends_at_once_has_longer_to_reach_a_bucket_than_a_disk(url, tmp_path):
    assert lease(url).seconds > 5 * Lease(tmp_path).seconds == 5 * LAST
