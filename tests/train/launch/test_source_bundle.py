"""The bundle: the same files give the same name and bytes, and nothing else is in it."""

import io
import json
import shutil
import subprocess
import tarfile
from pathlib import Path

import pytest

from train.launch.source_bundle import archive, source_of, unpack


def git(folder, *words):
    who = ("-c", "user.name=a", "-c", "user.email=a@b")
    subprocess.run(["git", "-C", folder, *who, *words], check=True, capture_output=True)


@pytest.fixture
def checkout(tmp_path):
    folder = tmp_path / "checkout"
    folder.mkdir()
    git(folder, "init", "--quiet")
    (folder / "run.sh").write_text("#!/bin/sh\n")
    (folder / "run.sh").chmod(0o755)
    shutil.copy(Path(__file__).parents[3] / ".gitignore", folder)
    git(folder, "add", ".")
    git(folder, "commit", "--quiet", "-m", "one")
    return folder


def test_the_same_files_give_the_same_name_and_bytes_whatever_the_commit(checkout):
    before = source_of(checkout, dirty=False)
    packed = archive(before)
    git(checkout, "commit", "--quiet", "--allow-empty", "-m", "two")
    after = source_of(checkout, dirty=False)
    assert after.name == before.name
    assert after.commit != before.commit
    assert archive(before) == packed
    (checkout / "run.sh").write_text("#!/bin/sh\nls\n")
    git(checkout, "commit", "--quiet", "--all", "-m", "three")
    assert source_of(checkout, dirty=False).name != before.name


def test_changes_are_refused_by_name_until_asked_for_and_then_sent_with_new_files(checkout):
    """What is ignored never goes along; the index of the checkout stays as it is."""
    (checkout / "run.sh").write_text("#!/bin/sh\nls\n")
    (checkout / "new.py").write_text("x = 1\n")
    (checkout / "runs").mkdir()
    (checkout / "runs/large").write_text("")
    with pytest.raises(ValueError, match=r"changed since the commit \w{12}: run.sh, new.py; commit them, or .*--dirty"):
        source_of(checkout, dirty=False)
    source = source_of(checkout, dirty=True)
    assert source.changed == source.tree
    with tarfile.open(fileobj=io.BytesIO(archive(source))) as tar:
        assert sorted(tar.getnames()) == [".gitignore", "new.py", "run.sh", "source.json"]
        assert tar.extractfile("run.sh").read() == b"#!/bin/sh\nls\n"
    listed = subprocess.run(["git", "-C", checkout, "status", "--porcelain"], capture_output=True, text=True).stdout
    assert listed == " M run.sh\n?? new.py\n"


@pytest.mark.parametrize("is_link", [False, True])
def test_an_environment_never_goes_along(checkout, is_link):
    """A folder, or a link to one: it is no change, and where there are changes it is not sent with them."""
    if is_link:
        (checkout / ".venv").symlink_to("/")
    else:
        (checkout / ".venv").mkdir()
        (checkout / ".venv/python").write_text("")
    assert source_of(checkout, dirty=False).changed == ""
    (checkout / "new.py").write_text("x = 1\n")
    with tarfile.open(fileobj=io.BytesIO(archive(source_of(checkout, dirty=True)))) as tar:
        assert sorted(tar.getnames()) == [".gitignore", "new.py", "run.sh", "source.json"]


def test_what_is_unpacked_can_run_and_says_where_it_comes_from(checkout, tmp_path):
    source = source_of(checkout, dirty=False)
    folder = unpack(source, tmp_path / "job")
    assert (folder / "run.sh").stat().st_mode & 0o111
    assert json.loads((folder / "source.json").read_text()) == {"commit": source.commit, "changed": ""}
    (folder / "run.sh").write_text("kept")
    assert unpack(source, tmp_path / "job") == folder
    assert (folder / "run.sh").read_text() == "kept"


def test_a_folder_that_is_no_checkout_is_named(tmp_path):
    with pytest.raises(ValueError, match=f"{tmp_path}: no git checkout with a commit"):
        source_of(tmp_path, dirty=False)
