"""A folder that appears whole or not at all. Does not import JAX."""

import contextlib
import fcntl
import os
import secrets
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

from gptjax.manifest import sync_folder


def absent(folder: str | os.PathLike[str]) -> Path:
    """The folder's absolute path. Raises ValueError where there is something already."""
    target = Path(os.path.abspath(folder))
    if os.path.lexists(target):
        raise ValueError(f"{target}: exists already; use another name, or remove it first")
    return target


@contextlib.contextmanager
def appearing(target: Path) -> Iterator[tuple[Path, Callable[[], None]]]:
    """A hidden folder beside the target to write in, and what to call to make it the target.

    It is removed where that is not called. Those that dead processes left are removed first: an owner holds a lock on
    its folder, which the system takes back when the process dies.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    prefix = f".{target.name}.unfinished-"
    for old in [path for path in target.parent.iterdir() if path.name.startswith(prefix)]:
        with contextlib.suppress(OSError), _locked(old):
            shutil.rmtree(old)
    aside = target.parent / f"{prefix}{secrets.token_hex(4)}"

    def appear() -> None:
        sync_folder(aside)
        aside.rename(absent(target))  # made meanwhile by somebody else?
        sync_folder(target.parent)

    try:
        aside.mkdir()
        with _locked(aside):
            yield aside, appear
    finally:
        shutil.rmtree(aside, ignore_errors=True)


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Holds the folder's lock. Raises BlockingIOError where a living process does."""
    opened = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(opened, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    finally:
        os.close(opened)
