"""Paths as people type them. Does not import JAX."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path, PurePath


def expanded(path: str | os.PathLike[str]) -> Path:
    """The path, with the home folder for a `~` at its beginning: in `--run=~/x` no shell sees to that.

    The name of a user whom nobody knows stays, as in a shell. Raises ValueError where nobody knows the home folder.
    """
    full = Path(os.path.expanduser(path))
    if full.parts[:1] == ("~",) and Path(path).parts[:1] == ("~",):
        raise ValueError(f"{path}: ~ stands for no folder, as HOME is not set; write the whole path, or set HOME")
    return full


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
