"""Ends a run that no longer moves, so that whoever started it can start it again, and says where it stood."""

import contextlib
import faulthandler
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

from train.supervision.exits import tell
from train.supervision.lease import absent

PATIENCE = 10  # times the slowest unit of work that a phase was seen to finish
REPORT = 20.0  # seconds for what touches the disk, which may be what hangs


class Watchdog:
    """Calls `hung(phase, seconds)` once, from a thread of its own, when a phase stops moving.

    A phase may go without progress for `hang_after` seconds, or PATIENCE times its slowest unit of work so far if that
    is more; before it finished one, for PATIENCE times `hang_after`. Phases are entered by one thread.
    """

    def __init__(self, hang_after: float, hung: Callable[[str, float], None]):
        self._hang_after, self._hung = hang_after, hung
        self._tick = min(1.0, hang_after / 40)
        self._clock = 0.0  # seconds, by counting ticks: it stands still while the process does (Ctrl-Z)
        self._phases = ["start"]
        self._now = ("start", 0.0)  # phase and since when; one object, so that no thread sees half of a change
        self._slowest: dict[str, float] = {}  # seconds, by phase
        self._stopped = threading.Event()
        threading.Thread(target=self._watch, name="watchdog", daemon=True).start()

    @property
    def current(self) -> str:
        """The phase now."""
        return self._now[0]

    def limit(self, phase: str) -> float:
        """Seconds without progress after which a phase counts as hung."""
        if phase not in self._slowest:
            return PATIENCE * self._hang_after
        return max(self._hang_after, PATIENCE * self._slowest[phase])

    @contextlib.contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """A part of the run; to have come through it is progress. The phase around it starts anew afterwards."""
        self._phases.append(name)
        self._now = (name, self._clock)
        try:
            yield
            self.progress()
        finally:
            self._phases.pop()
            self._now = (self._phases[-1], self._clock)

    def progress(self) -> None:
        """A unit of the present phase's work is done, a step or a batch: its clock starts anew."""
        phase, since = self._now
        self._slowest[phase] = max(self._slowest.get(phase, 0.0), self._clock - since)
        self._now = (phase, self._clock)

    def stop(self) -> None:
        self._stopped.set()

    def _watch(self) -> None:
        while not self._stopped.wait(self._tick):
            self._clock += self._tick
            phase, since = self._now
            if self._clock - since > self.limit(phase):
                self._hung(phase, self._clock - since)
                return


def report_hang(run: Path, process: int, processes: int, phase: str, seconds: float, limit: float) -> None:
    """Writes every thread's stack to standard error and to `RUN/stacks-<process>.txt`, and says who is absent.

    Returns within REPORT seconds even if it is the disk that hangs.
    """
    faulthandler.dump_traceback(2)
    stacks = run / f"stacks-{process}.txt"
    found: list[str] = []

    def look() -> None:
        with contextlib.suppress(OSError), stacks.open("w") as file:
            faulthandler.dump_traceback(file)
        if processes > 1:
            with contextlib.suppress(OSError):
                found.extend(absent(run, process, processes) or ["every process lives, and is here"])

    looking = threading.Thread(target=look, daemon=True)
    looking.start()
    looking.join(REPORT)
    if looking.is_alive():
        found.append(f"{run}: the disk does not answer")
    said = f'watchdog: no progress for {seconds:.0f} s in phase "{phase}" (limit {limit:.0f} s)'
    tell("\n  ".join([f"{said}; the stacks of all threads are above and in {stacks}", *found]))
