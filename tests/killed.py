"""`python -m tests.killed LOG POINT NUMBER VERB ...`: `python -m train VERB ...` that kills itself on the way.

SIGKILL comes at the NUMBER-th time that the program reaches POINT, seen from outside through Python's audit events; at
the point `never` it does not. Each stage of each save is added to LOG when it is reached.
"""

import itertools
import os
import signal
import sys
import threading
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

# Every point of a save, in order, and up to which of its occurrences in one process to kill.
POINTS = {
    "begin": 3,
    "write": 3,
    "mid data": 3,  # some data files are there, others are not
    "written": 3,
    "manifest": 3,
    "before renaming": 3,
    "after renaming": 3,
    "committed": 3,
    "clean": 2,
    "mid clean-up": 30,  # each file that is deleted is one
    "end": 3,
    "report": 1,
}


class Killer:
    """An audit hook. What it is told is told in the thread that acts, which waits for it."""

    def __init__(self, log: Path, point: str, number: int, run: Path):
        self._log = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        self._point, self._number, self._folder = point, number, run / "checkpoints"
        self._seen: Counter[str] = Counter()
        self._stage = "end"

    def __call__(self, event: str, arguments: Sequence[object]) -> None:
        if event == "gptjax.save":
            self._stage, step = map(str, arguments)
            os.write(self._log, f"{self._stage} {step}\n".encode())
            self._reached(self._stage)
            if self._stage == "write":
                threading.Thread(target=self._watch_data, args=[step], daemon=True).start()
        elif event == "os.rename" and self._stage == "manifest" and ".unfinished-" in str(arguments[0]):
            self._reached("before renaming")
        elif event == "open" and self._stage == "manifest" and str(arguments[0]) == str(self._folder):
            self._reached("after renaming")
        elif event == "os.remove" and self._stage == "clean":
            self._reached("mid clean-up")
        elif event == "open" and "report.html" in str(arguments[0]):
            self._reached("report")

    def _watch_data(self, step: str) -> None:
        while not any(self._folder.glob(f"{step}.unfinished-*/**/d/*")):
            if self._stage != "write":
                return
            time.sleep(0.001)
        self._reached("mid data")

    def _reached(self, point: str) -> None:
        self._seen[point] += 1
        if point == self._point and self._seen[point] == self._number:
            os.kill(os.getpid(), signal.SIGKILL)


def main() -> int:
    log, point, number, *arguments = sys.argv[1:]
    run = next(value for option, value in itertools.pairwise(arguments) if option == "--run")
    sys.addaudithook(Killer(Path(log), point, int(number), Path(run)))
    from train.__main__ import main  # after the hook, which is to hear all of it

    return main(arguments)


if __name__ == "__main__":
    sys.exit(main())
