"""How `python -m train pretrain` ends: exit codes, which schedulers and scripts can act on, and its last words.

0    done
1    a fault of ours: a traceback says where
2    a mistake in what was asked: one line says which
3    the numbers went bad; the last good checkpoint is kept
4    the run belongs to another job
70   hung: the watchdog ended it, with every thread's stack; or another process of the run is gone
75   stopped early by SIGTERM or the wall-time limit, and saved: the same command goes on
130  Ctrl-C, and saved: the same command goes on
"""

import contextlib
import ctypes
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator
from typing import NoReturn

DONE = 0
FAULT = 1
MISTAKE = 2
BAD_NUMBERS = 3
TAKEN = 4
HUNG = 70
STOPPED = 75
INTERRUPTED = 130

LAST = 2.0  # seconds that a disk gets
SHOW_CURSOR = b"\x1b[?25h"


def tell(line: str) -> None:
    """To standard error, past Python's buffers and locks: a thread that hangs may hold them."""
    with contextlib.suppress(OSError):
        os.write(2, f"\n{line}\n".encode())


def leave(code: int, last: Callable[[], object], seconds: float = LAST) -> NoReturn:
    """Ends the process now, whatever its threads are at. `last` is called first, and gets so many seconds."""
    try:
        thread = threading.Thread(target=last, daemon=True)  # if the disk hangs, it will too
        thread.start()
        thread.join(seconds)
        for output in (1, 2):
            if os.isatty(output):
                os.write(output, SHOW_CURSOR)  # a progress bar had hidden it
        for child in multiprocessing.active_children():
            child.kill()
    finally:
        os._exit(code)


@contextlib.contextmanager
def on_abort(act: Callable[[], object]) -> Iterator[None]:
    """In here, `act` is called where C++ calls abort(), and is to end the process.

    JAX does so where it misses other processes of a run, after a text of its own, and has no setting for that.
    """
    handler = ctypes.CFUNCTYPE(None, ctypes.c_int)(lambda _: act())
    ctypes.CDLL(None).signal(signal.SIGABRT, handler)  # Python's own handlers wait for a main thread that waits too
    try:
        yield
    finally:
        ctypes.CDLL(None).signal(signal.SIGABRT, None)


class StoppedError(Exception):
    """A run was stopped before its end, and saved: starting it again goes on. `code` is the exit code."""

    def __init__(self, message: str, code: int):
        super().__init__(message)
        self.code = code


class BadNumbersError(ArithmeticError):
    """Loss, gradient or parameters are not numbers, or the loss has left all bounds: going on would help nobody."""
