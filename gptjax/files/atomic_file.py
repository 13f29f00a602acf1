"""A file whose content is the old one or all of the new, whatever ends the program. Does not import JAX."""

import os
from pathlib import Path

from gptjax.files.places import named


def write_whole(path: Path, text: str) -> None:
    """Writes a file so that a reader, or a crash, finds the old content or all of the new."""
    unfinished = path.with_name(path.name + ".unfinished")
    with named(unfinished), unfinished.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    unfinished.replace(path)


def sync_folder(folder: Path) -> None:
    """Makes the names in a folder outlast a power cut."""
    opened = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(opened)
    finally:
        os.close(opened)
