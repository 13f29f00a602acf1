"""A folder, or a file, that appears whole or not at all. Does not import JAX."""

import contextlib
import hashlib
import os
import re
import secrets
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

from gptjax.files.atomic_file import sync_folder
from gptjax.files.locks import locked
from gptjax.files.places import expanded, standing

LONGEST_NAME = 200  # bytes, that a hidden name repeats; file systems have room for 255


def absent(folder: str | os.PathLike[str]) -> Path:
    """The folder's absolute path. Raises ValueError where there is something already, or where none can be made."""
    target = Path(os.path.abspath(expanded(folder)))
    if os.path.lexists(target):
        raise ValueError(f"{target}: exists already; use another name, or remove it first")
    above = standing(target)
    if not above.is_dir() or not os.access(above, os.W_OK):
        raise ValueError(f"{target}: {above} is {'not writable' if above.is_dir() else 'a file'}; use another folder")
    return target


@contextlib.contextmanager
def appearing(target: Path) -> Iterator[tuple[Path, Callable[..., None]]]:
    """A hidden folder beside the target to write in, and what to call to make it, or a file in it, the target.

    It is removed where that is not called, and so are the folders that were made to hold it. Those that dead processes
    left are removed first: an owner holds a lock on its folder, which the system takes back when the process dies.
    Where the file system has no locks nobody can tell, and they stay.
    """
    made = [path for path in target.parents if not path.exists()]
    target.parent.mkdir(parents=True, exist_ok=True)
    short = len(os.fsencode(target.name)) <= LONGEST_NAME
    name = target.name if short else hashlib.sha256(os.fsencode(target.name)).hexdigest()
    prefix = f".{name}.unfinished-"
    aside = target.parent / f"{prefix}{secrets.token_hex(4)}"

    def appear(what: Path = aside) -> None:
        sync_folder(aside)
        what.rename(absent(target))  # made meanwhile by somebody else?
        sync_folder(target.parent)

    with contextlib.ExitStack() as stack:
        stack.callback(_remove, aside, made)
        with locked(target.parent):  # nobody takes a new folder for a dead one's before it is locked
            for old in target.parent.iterdir():
                if re.fullmatch(re.escape(prefix) + "[0-9a-f]{8}", old.name):
                    with contextlib.suppress(OSError), locked(old, wait=False) as dead:
                        if dead:
                            shutil.rmtree(old)
            aside.mkdir()
            stack.enter_context(locked(aside, wait=False))
        yield aside, appear


def _remove(aside: Path, made: list[Path]) -> None:
    """What is left of an attempt; folders that were made for it, from the deepest on, if they are empty."""
    shutil.rmtree(aside, ignore_errors=True)
    for path in made:
        with contextlib.suppress(OSError):
            path.rmdir()
