"""Objects of buckets, on a loopback store that speaks as S3 and as Google's do."""

import hashlib
from pathlib import Path

import pytest

from gptjax.files import buckets
from gptjax.files.buckets import MISSING, Bucket, BucketError, hint, within
from tests.loopback_store import Fault, everyday_store, failing

STORE = everyday_store()


@pytest.fixture(params=["s3", "gs"])
def bucket(request, monkeypatch) -> Bucket:
    monkeypatch.setattr(buckets, "RETRIES", {"max_retries": 3, "initial_delay": "10ms", "max_delay": "20ms"})
    return Bucket(f"{request.param}://{STORE.bucket()}/runs/big")


def test_what_is_written_is_read_and_listed_and_gone_once_deleted(bucket):
    bucket.write("a/b.json", b"one")
    bucket.write("ab", b"two")
    assert (bucket.read("a/b.json"), bucket.listed(), bucket.listed("a/")) == (b"one", ["a/b.json", "ab"], ["a/b.json"])
    bucket.delete("a/b.json")
    bucket.delete("a/b.json")  # twice is no error
    assert (bucket.read("a/b.json"), bucket.listed()) == (None, ["ab"])


def test_of_two_who_make_an_object_one_is_refused(bucket):
    first = bucket.write_if("lease", b"mine", MISSING)
    assert first is not None
    assert bucket.write_if("lease", b"yours", MISSING) is None
    assert bucket.read("lease") == b"mine"
    second = bucket.write_if("lease", b"mine still", first)
    assert second is not None
    assert bucket.write_if("lease", b"too late", first) is None
    assert bucket.read("lease") == b"mine still"


def test_a_writing_whose_answer_was_lost_is_told_from_a_refusal(bucket):
    """The store has written, the connection breaks, TensorStore asks again and is refused by its own writing."""
    broken = []

    def once(asked):
        if asked.method in ("PUT", "POST") and not broken:
            broken.append(asked)
            return Fault(drop=True, after=True)
        return None

    with failing(STORE, once):
        assert bucket.write_if("lease", b"mine", MISSING) is not None
    assert broken
    assert bucket.read("lease") == b"mine"


def test_tables_of_arrays_are_merged_by_reference_and_an_empty_one_is_named(bucket):
    """The table that is made lies beside them; their data stays where it is."""
    for number in range(2):
        parts = bucket._table(f"step/part_{number}/", config=buckets.TABLE)
        parts.write(f"leaf/{number}", bytes(range(100)) * 50).result()
    bucket.merge("step/", ["part_0/", "part_1/"])
    merged = bucket._table("step/")
    assert [key.decode() for key in sorted(merged.list().result())] == ["leaf/0", "leaf/1"]
    assert merged.read("leaf/1").result().value == bytes(range(100)) * 50
    assert sum(len(bucket.read(key)) for key in bucket.listed("step/") if "part_" not in key) < 5000
    with pytest.raises(BucketError, match="step/: part_2/ holds no arrays"):
        bucket.merge("step/", ["part_0/", "part_2/"])


@pytest.mark.parametrize(
    "fault", [Fault(status=500), Fault(status=503), Fault(drop=True), Fault(cut=1), Fault(status=429)]
)
@pytest.mark.fault(41)
def test_what_fails_in_passing_is_asked_again_and_what_goes_on_failing_is_told(bucket, fault):
    bucket.write("key", b"content")
    count = len(STORE.asked)
    with failing(STORE, lambda asked: fault if asked.number <= count + 2 else None):
        assert bucket.read("key") == b"content"
    with failing(STORE, lambda asked: fault), pytest.raises(BucketError, match=r"runs/big/key: .*retry"):
        bucket.read("key")


@pytest.mark.fault(41)
def test_an_object_that_is_not_whole_becomes_no_file(bucket, tmp_path: Path, monkeypatch):
    monkeypatch.setattr(buckets, "PIECE", 4)
    content = b"0123456789"
    bucket.write("data", content)
    digest = hashlib.sha256(content).hexdigest()
    bucket.fetch("data", tmp_path / "whole", len(content), digest)
    assert (tmp_path / "whole").read_bytes() == content
    for size, sha, said in ((11, digest, "fewer bytes"), (9, digest, "sha256 is"), (10, "0" * 64, "sha256 is")):
        with pytest.raises(ValueError, match=said):
            bucket.fetch("data", tmp_path / "part", size, sha)
    with pytest.raises(ValueError, match="is missing"):
        bucket.fetch("nothing", tmp_path / "part", 10, digest)
    assert [path.name for path in tmp_path.iterdir()] == ["whole"]


@pytest.mark.fault(41)
def test_a_bucket_that_is_not_there_or_may_not_be_written_is_named_with_the_way_out(bucket):
    scheme = bucket.url.partition(":")[0]
    bucket.check_writable()
    with pytest.raises(BucketError, match=f"{scheme}://nowhere-at-all/runs/big/.*no such bucket; make it"):
        Bucket(f"{scheme}://nowhere-at-all/runs/big").check_writable()
    with failing(STORE, lambda asked: Fault(status=401)), pytest.raises(BucketError, match="no usable credentials"):
        bucket.check_writable()
    STORE.read_only.add(bucket.url.split("/")[2])
    with pytest.raises(BucketError, match="these credentials may not"):
        bucket.check_writable()


def test_a_store_that_knows_no_conditions_is_refused():
    """As an emulator of Google's storage on PyPI: it takes the second writing as the first."""
    name = STORE.bucket()
    Bucket(f"gs://{name}/runs/big").check_writable()
    STORE.careless.add(name)
    with pytest.raises(BucketError, match="writes although a condition forbids it"):
        Bucket(f"gs://{name}/runs/big").check_writable()


def test_a_key_that_leads_out_of_its_folder_is_refused():
    assert str(within("a/b")) == "a/b"
    for key in ("../a", "/a", "a/../../b", ""):
        with pytest.raises(ValueError, match="outside"):
            within(key)


def test_a_number_or_a_word_in_a_name_is_no_status():
    """What an answer says in its text, or an object is called, is no reason; the code decides before the word."""
    told = {
        "PERMISSION_DENIED: x [http_response_code='403'] [body='OAuth 401 of these credentials']": "may not do that",
        "PERMISSION_DENIED: Unknown [http_response_code='401']": "no usable credentials",
        "UNAUTHENTICATED: HTTP response code: 401 with body 403": "no usable credentials",
        "Could not find the credentials file in the standard gcloud location": "no usable credentials",
        "HTTP 404 of 401-500": "no such bucket",
        "All 6 retry attempts failed: [http_response_code='503'] for runs/404": "does not answer",
    }
    for said, way_out in told.items():
        assert way_out in hint(said), said
    for said in ("Bad Request [http_response_code='400'] for runs/401-403-404-500", "INTERNAL: a credential NOT_FOUND"):
        assert hint(said) == ""
