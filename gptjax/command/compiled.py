"""Where what was compiled once is read by later starts: on a CPU half of their time. Does not import JAX."""

import os
from pathlib import Path

from gptjax.files.places import standing


def keep_compiled(*, short: bool = False) -> None:
    """To be called before JAX is imported; what the environment says already counts instead.

    `short`: also programs that take less than a second to compile, of which a server has many.
    """
    if (folder := _folder()) is not None:
        os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(folder))
    if short:
        os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")


def _folder() -> Path | None:
    """Where the user keeps caches; None = nowhere, for a container's user may have no home."""
    caches = Path(os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache"))
    usable = caches.is_absolute() and os.access(standing(caches), os.W_OK)
    return caches / "gptjax" / "compiled" if usable else None
