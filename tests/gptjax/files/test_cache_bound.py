"""What copies of buckets may take of the disk."""

import os
import shutil
import time
from pathlib import Path

import pytest

from gptjax.files.cache_bound import evict, used


def step(cache: Path, name: str, hours: float) -> Path:
    """A fetched step of a megabyte that was used so long ago."""
    folder = cache / name / "checkpoints" / "7"
    folder.mkdir(parents=True)
    (folder / "data").write_bytes(bytes(1_000_000))
    os.utime(folder, (time.time() - hours * 3600,) * 2)
    return folder


def test_what_was_not_used_for_longest_goes_until_the_rest_is_within_the_bound(tmp_path, monkeypatch):
    monkeypatch.setenv("GPTJAX_CACHE", str(tmp_path))
    old, older, new = (step(tmp_path / "read/s3/bucket", name, hours) for name, hours in (("a", 3), ("b", 9), ("c", 2)))
    own = step(tmp_path / "own/s3/bucket", "d", 99)  # that a run is trained in
    monkeypatch.setenv("GPTJAX_CACHE_GB", "0.0025")
    evict()
    assert [folder.exists() for folder in (old, older, new, own)] == [True, False, True, True]
    monkeypatch.setenv("GPTJAX_CACHE_GB", "0.0015")
    evict()
    assert [folder.exists() for folder in (old, new, own)] == [False, True, True]


def test_prepared_text_goes_as_steps_do(tmp_path, monkeypatch):
    """What was used again last stays; the rest of its folder's neighbours, such as locks, are not touched."""
    monkeypatch.setenv("GPTJAX_CACHE", str(tmp_path))
    monkeypatch.setenv("GPTJAX_CACHE_GB", "0.0015")
    root = tmp_path / "text/gs/bucket/prepared"
    for name, hours in (("a", 3), ("b", 9)):
        (root / name).mkdir(parents=True)
        (root / name / "prepared.json").write_bytes(bytes(1_000_000))
        os.utime(root / name, (time.time() - hours * 3600,) * 2)
    (root / ".lock").touch()
    evict()
    assert sorted(path.name for path in root.iterdir()) == [".lock", "a"]


def test_what_is_in_use_stays_and_a_bound_that_is_no_number_is_named(tmp_path, monkeypatch):
    monkeypatch.setenv("GPTJAX_CACHE", str(tmp_path))
    monkeypatch.setenv("GPTJAX_CACHE_GB", "0")
    used = step(tmp_path / "read/s3/bucket", "a", 0.1)
    evict()
    assert used.exists()
    monkeypatch.setenv("GPTJAX_CACHE_GB", "much")
    with pytest.raises(ValueError, match="GPTJAX_CACHE_GB='much'"):
        evict()


def test_what_another_reader_takes_away_meanwhile_is_no_error(tmp_path, monkeypatch):
    monkeypatch.setenv("GPTJAX_CACHE", str(tmp_path))
    gone, kept = (step(tmp_path / "read/s3/bucket", name, 3) for name in ("a", "b"))
    is_file = Path.is_file

    def vanishing(path: Path) -> bool:
        there = is_file(path)
        if gone in path.parents:
            shutil.rmtree(gone, ignore_errors=True)
        return there

    monkeypatch.setattr(Path, "is_file", vanishing)
    evict()
    used(gone)
    assert kept.exists()
    assert not gone.exists()
