"""A file is the old one or the new one."""

import errno
import os

import pytest

from gptjax.files.atomic_file import write_whole


@pytest.mark.parametrize("content", ["naïve\n曹操", "naïve\n曹操".encode(), memoryview("naïve\n曹操".encode())])
def test_what_is_written_is_there_byte_by_byte(tmp_path, content):
    """Text as UTF-8, its line ends as they are; over what was there."""
    for earlier in (False, True):
        file = tmp_path / "a.json"
        if earlier:
            file.write_text("something longer than what comes" * 9)
        write_whole(file, content)
        assert file.read_bytes() == "naïve\n曹操".encode()
    assert [path.name for path in tmp_path.iterdir()] == ["a.json"]


def test_parts_are_written_one_after_another(tmp_path):
    write_whole(tmp_path / "a", (f"{n}\r\n" for n in range(3)))
    assert (tmp_path / "a").read_bytes() == b"0\r\n1\r\n2\r\n"


def full_disk(opened):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_what_cannot_be_written_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch):
    """A full disk, which is named; content that ends in an error; a reader sees only the old file meanwhile."""
    file = tmp_path / "a"
    file.write_text("old")

    def parts():
        yield "new"
        assert file.read_text() == "old"
        raise KeyError("no more")

    with pytest.raises(KeyError):
        write_whole(file, parts())
    monkeypatch.setattr(os, "fsync", full_disk)
    with pytest.raises(OSError, match=r"No space left on device.*a\.unfinished"):
        write_whole(file, "new")
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("a", "old")]
    write_whole(file, "new", sync=False)  # which asks for nothing of the disk
    assert file.read_text() == "new"


def test_two_writers_that_know_nothing_of_each_other_write_two_files(tmp_path):
    file = tmp_path / "a"

    def parts():
        yield "first"
        write_whole(file, "second", aside="2")
        assert file.read_text() == "second"

    write_whole(file, parts(), aside="1")
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("a", "first")]
