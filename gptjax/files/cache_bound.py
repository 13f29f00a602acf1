"""How much the copies of what lies on buckets may take: what was not used for longest goes first.

Only steps that were fetched to be read, and prepared text, are counted, and go: the copies that runs are trained in are
their owners'. Does not import JAX.
"""

import contextlib
import os
import secrets
import shutil
from pathlib import Path

from gptjax.files.places import cache_root

BOUND_GB = 100.0  # where $GPTJAX_CACHE_GB says nothing
RECENT = 3600.0  # seconds within which something was used that nobody may take away


def used(folder: Path) -> None:
    """Notes that a step or text is read now, or fetched into; one that is gone meanwhile is no error."""
    with contextlib.suppress(FileNotFoundError):
        os.utime(folder)


def evict() -> None:
    """Deletes the steps and texts that were not used for longest, until the rest is within the bound."""
    given = os.environ.get("GPTJAX_CACHE_GB") or str(BOUND_GB)
    try:
        bound = float(given) * 1e9
    except ValueError:
        raise ValueError(f"GPTJAX_CACHE_GB={given!r}: must be a number of gigabytes, such as 100") from None
    oldest = []
    steps, texts = (cache_root() / "read").glob("**/checkpoints/*"), (cache_root() / "text").glob("**/prepared.json")
    for folder in (*steps, *(path.parent for path in texts)):
        with contextlib.suppress(FileNotFoundError):  # another reader may do the same at once
            if folder.is_dir():
                oldest.append((folder.stat().st_mtime, _size(folder), folder))
    oldest.sort()
    if not oldest:
        return
    os.utime(cache_root())
    now = cache_root().stat().st_mtime  # by the clock that the others are dated by
    total = sum(size for _, size, _ in oldest)
    for when, size, folder in oldest:
        if total <= bound or now - when < RECENT:
            return
        with contextlib.suppress(OSError):  # another reader may do the same at once
            gone = folder.rename(folder.with_name(f".{folder.name}.gone-{secrets.token_hex(4)}"))  # whole, or not there
            shutil.rmtree(gone, ignore_errors=True)
        total -= size


def _size(folder: Path) -> int:
    """Bytes of a folder's files, of those that are there when they are looked at."""
    size = 0
    for path in folder.rglob("*"):
        with contextlib.suppress(FileNotFoundError):
            size += path.stat().st_size if path.is_file() else 0
    return size
