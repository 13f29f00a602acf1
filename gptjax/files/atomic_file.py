"""A file whose content is the old one or all of the new, whatever ends the program. Does not import JAX."""

import contextlib
import os
from collections.abc import Iterable
from pathlib import Path, PurePath
from typing import Any

from gptjax.files.places import named


def write_whole(
    path: PurePath,
    content: str | bytes | memoryview | Iterable[str | bytes],
    *,
    aside: str = "unfinished",
    sync: bool = True,
) -> None:
    """Writes a file so that a reader, or a crash, finds the old content or all of the new; text as UTF-8.

    It is written beside, under its name and `aside`, and then renamed; what fails leaves nothing there. Writers that do
    not know of each other need different `aside`. `sync`: waits until the content outlasts a power cut; the new name
    does so once `sync_folder` has returned.
    """
    unfinished: Any = path.with_name(f"{path.name}.{aside}")  # a Path, or one of etils with the same methods
    parts = [content] if isinstance(content, str | bytes | memoryview) else content
    try:
        with named(unfinished), unfinished.open("wb") as file:
            for part in parts:
                file.write(part.encode() if isinstance(part, str) else part)
            file.flush()
            if sync:
                os.fsync(file.fileno())
        unfinished.replace(path)
    except BaseException:
        with contextlib.suppress(OSError):
            unfinished.unlink(missing_ok=True)
        raise


def sync_folder(folder: Path) -> None:
    """Makes the names in a folder outlast a power cut."""
    opened = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(opened)
    finally:
        os.close(opened)
