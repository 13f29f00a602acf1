"""One owner for a run on a bucket: two at once, one that died, one that slept, and one that gave it back."""

import dataclasses
import json

import pytest

from gptjax.files import buckets
from gptjax.files.places import place_of_run
from gptjax.runs.bucket_run import BucketRun
from tests.loopback_store import Fault, everyday_store, failing
from train.supervision import bucket_lease
from train.supervision.bucket_lease import KEY, BucketLease, lease_of
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
