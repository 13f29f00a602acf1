"""Processes for what strangers wrote: they answer a line of JSON with one, within time and memory, or are ended.

A child is `python -m MODULE`, and calls `serve` with what makes an answer. It does not import JAX.
"""

import contextlib
import functools
import json
import signal
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

START_SECONDS = 60.0  # for a process to start, on a machine that is busy
LONGEST = 2**24  # bytes of an answer
LONELY_SECONDS = 10  # of computing, after which a child ends whose parent is not there to end it
TICK_SECONDS = 0.05  # between two looks for those that are late


class EndedError(Exception):
    """The child was late, took too much memory or wrote too much: it is gone. The message says which."""


class Child:
    """One such process. `memory`: bytes beyond what it needs to be there. `said_first`: what it reads at its start."""

    def __init__(self, module: str, memory: int, said_first: Mapping[str, Any] | None = None):
        command = [sys.executable, "-P", "-m", module, str(memory)]
        pipe = subprocess.PIPE
        # its last words may hold what somebody said, and go nowhere
        self._process = subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=subprocess.DEVNULL)
        self._memory, self.deadline, self.late = memory, None, False
        self._finish = weakref.finalize(self, _end, self._process)
        _watched().add(self)
        try:
            self.ask(said_first or {}, START_SECONDS)
        except EndedError as error:
            raise RuntimeError(f"the process {' '.join(command)} does not start") from error

    @property
    def lives(self) -> bool:
        return self._process.poll() is None

    def ask(self, asked: Any, seconds: float) -> Any:
        """Raises EndedError, after which it does not live."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self.deadline = time.monotonic() + seconds
        try:
            self._process.stdin.write(json.dumps(asked, allow_nan=False).encode() + b"\n")
            self._process.stdin.flush()
            line = self._process.stdout.readline(LONGEST)
        except BrokenPipeError:
            line = b""
        self.deadline = None
        if line.endswith(b"\n"):
            return json.loads(line)
        self.end()
        if self.late:
            raise EndedError(f"takes more than {seconds:g} s")
        if len(line) == LONGEST:
            raise EndedError(f"gives more than {LONGEST >> 20} MiB")
        raise EndedError(f"needs more than {self._memory >> 20} MiB of memory")

    def end(self) -> None:
        self._finish()

    def end_if_late(self) -> None:
        if self.deadline is not None and time.monotonic() > self.deadline:
            self.late = True
            self._process.kill()


def serve(answer: Callable[[Any], Any], begin: Callable[[Any], object] = lambda said_first: None) -> None:
    """The life of a child: `begin` gets what is said first, `answer` makes an answer of each line."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C goes to the whole group; the server ends this by itself
    begin(json.loads(sys.stdin.readline()))
    _limit_memory(int(sys.argv[1]))
    print("{}", flush=True)
    for line in sys.stdin:
        _limit_time(LONELY_SECONDS)
        print(json.dumps(answer(json.loads(line)), allow_nan=False), flush=True)


def _limit_memory(more: int) -> None:
    """From now on at most so many bytes more than now; where the system has no such limit, none."""
    try:
        import resource

        pages = int(Path("/proc/self/statm").read_text().split()[0])
    except (ImportError, OSError):
        return
    limit = pages * resource.getpagesize() + more
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def _limit_time(more: int) -> None:
    """The system ends this process after so many more seconds of computing."""
    with contextlib.suppress(ImportError):
        import resource

        used = resource.getrusage(resource.RUSAGE_SELF)
        _, hard = resource.getrlimit(resource.RLIMIT_CPU)
        resource.setrlimit(resource.RLIMIT_CPU, (int(used.ru_utime + used.ru_stime) + 1 + more, hard))


@functools.cache
def _watched() -> "weakref.WeakSet[Child]":
    """Those that a thread of this process looks after."""
    children: weakref.WeakSet[Child] = weakref.WeakSet()

    def watch() -> None:
        while True:
            time.sleep(TICK_SECONDS)
            for child in list(children):
                child.end_if_late()

    threading.Thread(target=watch, name="children", daemon=True).start()
    return children


def _end(process: subprocess.Popen) -> None:
    process.kill()
    for stream in (process.stdin, process.stdout):
        if stream is not None:
            with contextlib.suppress(BrokenPipeError):  # what was written last had nobody to read it
                stream.close()
    process.wait()
