"""SIGTERM and Ctrl-C stop a run with nothing lost, whatever other libraries do with signals, and while XLA compiles.

A handler can be replaced by any library that comes later, and a Python one waits until C++ returns. So the signals are
blocked in every thread, and one thread waits for them: no handler, of anybody, is ever called.
"""

import contextlib
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from typing import cast

from train.supervision.exits import INTERRUPTED, LAST, STOPPED, leave, tell

OURS = {signal.SIGTERM, signal.SIGINT, signal.SIGHUP}
AGAIN = 0.5  # seconds; what follows sooner is the same Ctrl-C, passed on by a launcher


def block() -> None:
    """To be called before any thread is started, NumPy's included: threads inherit it. Until `listen`, signals wait."""
    signal.pthread_sigmask(signal.SIG_BLOCK, OURS)


class Signals:
    """Ends the process when a signal asks for it, or leaves that to a caller who is `saving`."""

    def __init__(self):
        self.asked: str | None = None  # the first signal that came while saving: "SIGTERM" or "SIGINT"
        self.doing: Callable[[], str] = lambda: "start"  # the phase that the run is in
        self.leaving: Callable[[], object] = lambda: None  # called before the process ends: gives back the lease
        self.seconds = LAST  # that `leaving` gets
        self._losing: Callable[[], str] | None = None
        self._listens = False
        self._interrupted: float | None = None  # when the first SIGINT came
        self._turn = threading.Lock()
        self._terminals = [output for output in (1, 2) if os.isatty(output)]

    def listen(self) -> None:
        """Starts to answer; to be called by the main thread."""
        listener = threading.Thread(target=self._wait, name="signals", daemon=True)
        listener.start()
        self._listens = True

        def pass_on(number: int, frame: object) -> None:
            signal.pthread_kill(cast(int, listener.ident), number)

        for one in OURS:  # multiprocessing unblocks signals in the thread that first uses it
            signal.signal(one, pass_on)

    @contextlib.contextmanager
    def saving(self, losing: Callable[[], str]) -> Iterator[None]:
        """In here a signal sets `asked`, and the caller saves and leaves; look at it once more afterwards.

        A second SIGINT ends the process at once all the same, with the sentence that `losing` returns. Outside there is
        nothing new to save, and any signal ends the process at once.
        """
        before = signal.pthread_sigmask(signal.SIG_BLOCK, OURS if self._listens else ())  # again: see `listen`
        with self._turn:
            self._losing = losing
        try:
            yield
        finally:
            with self._turn:
                self._losing = None
            signal.pthread_sigmask(signal.SIG_SETMASK, before)

    def _wait(self) -> None:
        while True:
            came = signal.Signals(signal.sigwait(OURS))
            with self._turn:
                self._answer(came)

    def _answer(self, came: signal.Signals) -> None:
        now = time.monotonic()
        if came is signal.SIGHUP:  # the terminal is gone, and writing to it would fail; the run goes on
            for output in self._terminals:
                os.dup2(os.open(os.devnull, os.O_WRONLY), output)
        elif self._losing is None:
            self._end(came, lambda: f"stopped by {came.name} in phase {self.doing()}: nothing new to save")
        elif came is signal.SIGINT and self._interrupted is not None and now - self._interrupted > AGAIN:
            losing = self._losing
            self._end(came, lambda: f"stopped by a second SIGINT: {losing()}")
        else:
            if came is signal.SIGINT and self._interrupted is None:
                self._interrupted = now
            if self.asked is None:
                self.asked = came.name
                tell(f"{came.name}: saving, then stopping" + "; Ctrl-C again stops now" * (came is signal.SIGINT))

    def _end(self, came: signal.Signals, sentence: Callable[[], str]) -> None:
        try:
            tell(sentence())
        finally:
            leave(STOPPED if came is signal.SIGTERM else INTERRUPTED, self.leaving, self.seconds)
