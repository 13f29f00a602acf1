"""Memory that XLA frees on a CPU stays with the process: giving it back and fetching it anew is a third of a step."""

import ctypes
import sys

# Options of mallopt(3), from glibc's malloc.h.
TRIM_THRESHOLD, TOP_PAD, MMAP_MAX, ARENA_MAX = -1, -2, -4, -8
KEPT_BYTES, GROWTH_BYTES = 2**31 - 1, 2**26


def keep_freed_memory() -> None:
    """Tells glibc's malloc to keep freed memory; to be called before JAX allocates. Without glibc it does nothing.

    By default large arrays are mapped afresh, and the kernel zeroes every page of them again (docs/log.md, 2026-11-22).
    """
    if not sys.platform.startswith("linux"):
        return
    libc = ctypes.CDLL(None)
    if hasattr(libc, "gnu_get_libc_version"):
        # one arena: those of threads are given back whole, whatever the threshold
        for option, value in ((MMAP_MAX, 0), (TRIM_THRESHOLD, KEPT_BYTES), (TOP_PAD, GROWTH_BYTES), (ARENA_MAX, 1)):
            libc.mallopt(option, value)
