"""Prepared text on a bucket, and the copies of it on machines that read it. Imports neither TensorFlow nor JAX.

A copy lies where `gptjax.files.places` has it, and is read as any prepared folder. On the bucket a folder is whole once
the list of its files is there, which is written last, with sizes and hashes that copies are checked by. Folders of one
name hold the same bytes, so that of several machines which prepare at once the first keeps its own, and all go on.
"""

import contextlib
import json
import shutil
import sys
from collections.abc import Collection
from pathlib import Path
from typing import Any

from data.description import NAME, is_prepared
from gptjax.files.atomic_folder import appearing
from gptjax.files.buckets import MISSING, Bucket, BucketError, at_once, within
from gptjax.files.cache_bound import evict, used
from gptjax.files.file_digest import describe
from gptjax.files.places import url_of
from gptjax.files.plain_json import dumps

LIST = "files.json"
LARGEST = 5 * 10**9  # bytes that S3 takes at once


def bucket_of(root: Path) -> Bucket | None:
    """The bucket that a folder of prepared text is the copy of; None for a folder of its own."""
    url = url_of(root, ("text",))
    return None if url is None else Bucket(url)


def bring(root: Path, names: Collection[str], without_records: str | None = None) -> None:
    """Onto this machine what the bucket has under these names, where `root` is the copy of one; makes room for it.

    `without_records`: and what is described so (see data.description).

    Raises BucketError where the bucket cannot be read, ValueError where it holds something else than was written.
    """
    bucket = bucket_of(root)
    if bucket is None:
        return
    whole = [key.removesuffix(f"/{LIST}") for key in bucket.listed() if key.endswith(f"/{LIST}")]
    wanted = set(names)
    if without_records is not None:
        wanted |= {name for name in whole if _said(bucket, name) == without_records}
    for name in wanted:
        if name in whole and not is_prepared(root / name):
            _fetch(bucket, name, root / name)
        used(root / name)  # the last to go
    evict()


def still_used(folder: Path) -> None:
    """To be called now and then while a prepared folder is read: then it is none of those that make room."""
    if bucket_of(folder.parent) is not None:
        used(folder)


def check_keeps(root: Path) -> None:
    """Raises BucketError where `root` is the copy of a bucket that cannot be written: before text is prepared."""
    bucket = bucket_of(root)
    if bucket is not None:
        bucket.check_writable()


def keep(folder: Path) -> Path:
    """The prepared folder, which is on its bucket from now on, if it is below the copy of one, and used.

    One with a file that is too large for a store stays here, and that is said. Raises BucketError where the bucket
    cannot be written, or holds other bytes under this name.
    """
    bucket = bucket_of(folder.parent)
    if bucket is None:
        return folder
    used(folder)
    if bucket.read(f"{folder.name}/{LIST}") is None:
        names = [path.relative_to(folder).as_posix() for path in sorted(folder.rglob("*")) if path.is_file()]
        if large := [name for name in names if (folder / name).stat().st_size > LARGEST]:
            said = f"{large[0]} has more than 5 GB, which a store does not take at once"
            print(f"{folder}: not sent to {bucket.url}: {said}; other machines prepare this text too", file=sys.stderr)
            return folder
        at_once(lambda name: _create(bucket, f"{folder.name}/{name}", (folder / name).read_bytes()), names)
        files = {name: describe(folder / name) for name in names}
        _create(bucket, f"{folder.name}/{LIST}", dumps({"files": files}, indent=1).encode())
    return folder


def _create(bucket: Bucket, key: str, content: bytes) -> None:
    if bucket.write_if(key, content, MISSING) is None:
        raise BucketError(
            f"{bucket.url}/{key}: holds other bytes than were prepared here; delete {key.split('/')[0]} there"
        )


def _said(bucket: Bucket, name: str) -> Any:
    """What a prepared folder is called without its records; None where it has none, or says nothing."""
    with contextlib.suppress(ValueError):
        return json.loads(bucket.read(f"{name}/{NAME}") or b"{}").get("without_records")
    return None


def _fetch(bucket: Bucket, name: str, folder: Path) -> None:
    """Several processes may do so at once, of which one makes the folder."""
    try:
        files = json.loads(bucket.read(f"{name}/{LIST}") or b"")["files"]
        with appearing(folder) as (aside, appear):
            if folder.is_dir() and not is_prepared(folder):  # what was left of one that was deleted
                shutil.rmtree(folder)

            def fetch(file: str) -> None:
                said = files[file]
                bucket.fetch(f"{name}/{file}", aside / within(file), said["bytes"], said["sha256"])

            at_once(fetch, files)
            if not is_prepared(folder):
                appear()
    except (ValueError, KeyError, TypeError, FileExistsError) as error:
        if not is_prepared(folder):  # else another process was quicker
            raise ValueError(f"{bucket.url}/{name}: is not what was prepared ({error}); delete it there") from error
