"""The source that every machine runs: a commit of this checkout as one file, named by the hash of what is in it."""

import gzip
import io
import os
import subprocess
import tarfile
import tempfile
from pathlib import Path
from typing import NamedTuple

from gptjax.files.atomic_folder import appearing
from gptjax.files.plain_json import dumps

BUNDLE = "source.json"  # {"commit", "changed"}, as git says there: for train/record/provenance.py
SHOWN = 5  # changed files that a refusal lists


class Source(NamedTuple):
    """What is sent."""

    checkout: Path
    commit: str
    tree: str  # git's hash of all that is sent: the same files, the same hash
    changed: str  # the tree, where it is not that of the commit; else ""

    @property
    def name(self) -> str:
        return f"source-{self.tree[:12]}"

    def __str__(self) -> str:
        return f"commit {self.commit[:12]}{' with changes' if self.changed else ''}, tree {self.tree[:12]}"


def source_of(checkout: Path, dirty: bool) -> Source:
    """The commit that is checked out; if `dirty`, with all that lies there beside it and is not ignored.

    Raises ValueError where there is no commit, or where there are changes and they were not asked for.
    """
    try:
        commit = _git(checkout, "rev-parse", "HEAD").decode().strip()
    except (OSError, subprocess.CalledProcessError) as error:
        raise ValueError(f"{checkout}: no git checkout with a commit, which is what is sent; clone it anew") from error
    tree = _git(checkout, "rev-parse", "HEAD^{tree}").decode().strip()
    listed = _git(checkout, "status", "--porcelain", "--untracked-files=all", "--", ".").decode().splitlines()
    if not listed:
        return Source(checkout, commit, tree, "")
    if not dirty:
        files = ", ".join(line[3:] for line in listed[:SHOWN])
        more = f" and {len(listed) - SHOWN} more" if len(listed) > SHOWN else ""
        raise ValueError(
            f"{checkout}: changed since the commit {commit[:12]}: {files}{more}; commit them, or send them as they are "
            "with --dirty"
        )
    with tempfile.TemporaryDirectory() as folder:  # an index of its own: that of the checkout stays as it is
        index = {"GIT_INDEX_FILE": str(Path(folder) / "index")}
        _git(checkout, "read-tree", "HEAD", **index)
        _git(checkout, "add", "--all", "--", ".", **index)
        written = _git(checkout, "write-tree", **index).decode().strip()
    return Source(checkout, commit, written, "" if written == tree else written)


def archive(source: Source) -> bytes:
    """The bundle as .tar.gz: the same tree gives the same bytes."""
    told, buffer = (dumps({"commit": source.commit, "changed": source.changed}) + "\n").encode(), io.BytesIO()
    packed = io.BytesIO(_git(source.checkout, "archive", "--format=tar", source.tree))
    with tarfile.open(fileobj=packed) as tar, tarfile.open(fileobj=buffer, mode="w") as made:
        for entry in tar:
            entry.mtime = 0  # git says when it was asked
            made.addfile(entry, tar.extractfile(entry) if entry.isreg() else None)
        entry = tarfile.TarInfo(BUNDLE)
        entry.size = len(told)
        made.addfile(entry, io.BytesIO(told))
    return gzip.compress(buffer.getvalue(), mtime=0)


def unpack(source: Source, folder: Path) -> Path:
    """Puts the source into a folder below, if it is not there yet; returns that folder."""
    target = folder / source.name
    if not target.exists():
        with appearing(target) as (hidden, appear), tarfile.open(fileobj=io.BytesIO(archive(source))) as tar:
            tar.extractall(hidden, filter="data")
            appear()
    return target


def _git(checkout: Path, *arguments: str, **environment: str) -> bytes:
    command = ["git", "-C", str(checkout), *arguments]
    return subprocess.run(command, capture_output=True, check=True, env=os.environ | environment).stdout
