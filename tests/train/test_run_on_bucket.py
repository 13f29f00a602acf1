"""A whole run on a bucket: trained, continued elsewhere, read, audited, and the mistakes told before slow work."""

import dataclasses
import shutil

import pytest

import gptjax
from gptjax.files import buckets
from gptjax.files.buckets import BucketError
from gptjax.files.places import place_of_run, shown
from gptjax.runs.bucket_run import BucketRun
from tests.loopback_store import everyday_store
from tests.tiny_recipe import recipe, records, steps_alone, write_text
from train.lab.audit import audit
from train.recipe import StopSpec, from_json, to_json
from train.supervision.lease import LeaseTakenError

STORE = everyday_store()


@pytest.fixture
def on_bucket(tmp_path, monkeypatch):
    monkeypatch.setenv("GPTJAX_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(buckets, "RETRIES", {"max_retries": 2, "initial_delay": "10ms", "max_delay": "20ms"})
    url = f"s3://{STORE.bucket()}/runs/big"
    write_text(tmp_path)
    return url, dataclasses.replace(recipe(tmp_path, "unused"), run=url)


@pytest.mark.slow
def test_a_run_on_a_bucket_goes_on_on_a_machine_that_has_nothing_of_it_and_is_the_run_on_a_disk(on_bucket, tmp_path):
    """Stopped after 6 steps, its copy lost; the losses, the rows and the steps are those of a run on a disk."""
    url, wanted = on_bucket
    assert shown(from_json(to_json(wanted)).run) == url
    steps_alone(dataclasses.replace(wanted, stop=StopSpec(step=6)))
    shutil.rmtree(tmp_path / "cache")
    run = steps_alone(wanted)
    disk = steps_alone(dataclasses.replace(wanted, run=tmp_path / "disk"))
    assert [record["loss"] for record in records(run, "train")][-1] == [r["loss"] for r in records(disk, "train")][-1]
    shutil.rmtree(tmp_path / "cache")
    there = BucketRun(place_of_run(url))
    assert there.steps() == [6, 10, 12]
    assert gptjax.load(url).step == 12
    there.fetch_records()
    from gptjax.command.console import make_console

    assert audit(there.copy, make_console())
    assert '"phase": "released"' in (there.bucket.read("lease/0.json") or b"").decode()


def test_a_second_job_on_the_bucket_is_refused_and_a_bucket_that_is_not_there_is_named_first(on_bucket):
    url, wanted = on_bucket
    from train.supervision.bucket_lease import BucketLease

    owner = BucketLease(BucketRun(place_of_run(url, "own")))
    owner.begin(lambda _: None)
    with pytest.raises(LeaseTakenError, match=f"run={url}"):
        steps_alone(wanted)
    owner.release_bucket()
    with pytest.raises(BucketError, match="no such bucket"):
        steps_alone(dataclasses.replace(wanted, run="s3://nowhere-at-all/runs/big"))
    with pytest.raises(ValueError, match="no kind of bucket is called 'gcs'; did you mean 'gs'"):
        dataclasses.replace(wanted, run="gcs://bucket/runs/big")
    with pytest.raises(ValueError, match="give a bucket and a name in it"):
        dataclasses.replace(wanted, run="gs://bucket")
