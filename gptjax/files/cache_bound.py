"""How much the copies of what lies on buckets may take: what was not used for longest goes first.

Only what was fetched to be read is counted, and goes: the copies that runs are trained in are their owners'. Does not
import JAX.
"""

import os
import shutil
import time
from pathlib import Path

from gptjax.files.places import cache_root

BOUND_GB = 100.0  # where $GPTJAX_CACHE_GB says nothing
RECENT = 3600.0  # seconds within which something was used that nobody may take away


def used(folder: Path) -> None:
    """Notes that a fetched step is read now."""
    os.utime(folder)


def evict() -> None:
    """Deletes the fetched steps that were not used for longest, until the rest is within the bound."""
    given = os.environ.get("GPTJAX_CACHE_GB") or str(BOUND_GB)
    try:
        bound = float(given) * 1e9
    except ValueError:
        raise ValueError(f"GPTJAX_CACHE_GB={given!r}: must be a number of gigabytes, such as 100") from None
    steps = [folder for folder in (cache_root() / "read").glob("**/checkpoints/*") if folder.is_dir()]
    oldest = sorted((folder.stat().st_mtime, _size(folder), folder) for folder in steps)
    total, now = sum(size for _, size, _ in oldest), time.time()
    for when, size, folder in oldest:
        if total <= bound or now - when < RECENT:
            return
        shutil.rmtree(folder, ignore_errors=True)
        total -= size


def _size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
