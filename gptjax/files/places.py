"""Paths as people type them, and where on this machine the copy of what a bucket holds lies. Does not import JAX.

A run on a bucket has a working copy here, in which it is trained and read as any other. A copy's path says which bucket
it is of: CACHE/read/s3/bucket/runs/big for who only reads, CACHE/own/s3/bucket/runs/big for who trains. Prepared text
has CACHE/text/s3/bucket/prepared. CACHE is $GPTJAX_CACHE, or ~/.cache/gptjax.
"""

import contextlib
import os
import re
from collections.abc import Collection, Iterator
from pathlib import Path, PurePath
from typing import Literal

from gptjax.spelling import did_you_mean

SCHEMES = ("gs", "s3")  # object stores whose runs can be trained and read
URL = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+):/+(.*)")  # a Path makes one slash of two


def expanded(path: str | os.PathLike[str]) -> Path:
    """The path, with the home folder for a `~` at its beginning: in `--run=~/x` no shell sees to that.

    The name of a user whom nobody knows stays, as in a shell. Raises ValueError where nobody knows the home folder, and
    for the URL of a bucket, where only runs and prepared text can lie.
    """
    if (found := URL.fullmatch(str(path))) and found[1] in SCHEMES:
        raise ValueError(
            f"{_url(found)}: only runs and prepared text can lie on a bucket; copy this to a disk, as with "
            "`gcloud storage cp -r` or `aws s3 cp --recursive`, and give the path of the copy"
        )
    full = Path(os.path.expanduser(path))
    if full.parts[:1] == ("~",) and Path(path).parts[:1] == ("~",):
        raise ValueError(f"{path}: ~ stands for no folder, as HOME is not set; write the whole path, or set HOME")
    return full


def place_of_run(path: str | os.PathLike[str], use: Literal["read", "own"] = "read") -> Path:
    """As `expanded`; of the URL of a bucket, such as s3://bucket/runs/big, the folder of the run's copy here.

    Raises as `place_of_text`.
    """
    return _place(path, use, "runs/big")


def place_of_text(path: str | os.PathLike[str]) -> Path:
    """As `expanded`; of the URL of a bucket, such as s3://bucket/prepared, the folder of the copies of prepared text.

    Raises ValueError for a URL without a name behind the bucket's, and for one of another kind of store.
    """
    return _place(path, "text", "prepared")


def _place(path: str | os.PathLike[str], use: str, example: str) -> Path:
    found = URL.fullmatch(str(path))
    if found is None or found[1] in ("hf", "http", "https"):  # of these, whoever looks for a run there says more
        return expanded(path)
    scheme, rest = found[1], found[2].strip("/")
    if scheme not in SCHEMES:
        raise ValueError(f"{_url(found)}: no kind of bucket is called {scheme!r}{did_you_mean(scheme, SCHEMES)}")
    parts = rest.split("/")
    if len(parts) < 2 or any(part in ("", ".", "..") for part in parts):
        raise ValueError(
            f"{_url(found)}: give a bucket and a name in it, such as {scheme}://{parts[0] or 'bucket'}/{example}"
        )
    return cache_root() / use / scheme / rest


def cache_root() -> Path:
    """Where copies of what lies on buckets are kept."""
    return Path(os.path.abspath(expanded(os.environ.get("GPTJAX_CACHE") or "~/.cache/gptjax")))


def url_of(path: Path, uses: Collection[str] = ("read", "own", "text")) -> str | None:
    """The URL of what a folder is the copy of; None for a folder that is no copy, or none of these uses."""
    with contextlib.suppress(ValueError):
        use, scheme, *rest = path.relative_to(cache_root()).parts
        if use in uses and scheme in SCHEMES and len(rest) > 1:
            return f"{scheme}://{'/'.join(rest)}"
    return None


def shown(path: Path) -> str:
    """A run's path as its owner typed it."""
    return url_of(path) or str(path)


def _url(found: re.Match[str]) -> str:
    return f"{found[1]}://{found[2]}"


def standing(path: Path) -> Path:
    """The path if there is something, else the nearest folder above it that there is: a mounted one, a linked one."""
    path = path.absolute()
    return next(place for place in (path, *path.parents) if place.exists())


@contextlib.contextmanager
def named(path: PurePath) -> Iterator[None]:
    """Puts the path into an error of the system that says none, as writing to a full disk does."""
    try:
        yield
    except OSError as error:
        if error.errno is not None and error.filename is None:
            error.filename = str(path)
        raise
