"""One owner per run directory, on this machine or any other that shares the file system.

`RUN/lease/0.json` is the lease. Its owner counts up in it every HEARTBEAT seconds; where the count stands still for
STALE seconds, by the clock of whoever looks on, the owner is dead. Clocks of two machines are never compared. To take
the lease, and to write what it guards, is done under `RUN/lease/lock`: an owner who only slept finds out in time.
Other processes of a run write `<process>.json` in the same way, so that it can be said which one does not answer.
"""

import contextlib
import dataclasses
import json
import os
import secrets
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from gptjax.files.atomic_file import write_whole
from gptjax.files.locks import locked
from gptjax.files.plain_json import dumps
from train.supervision.exits import LAST

HEARTBEAT = 2.0  # seconds
STALE = 15.0  # seconds
JOBS = ("SLURM_JOB_ID", "PBS_JOBID", "LSB_JOBID", "JOB_NAME")  # where schedulers tell a job its name
FINISHED = "finished"  # the phase of who has trained to the end and saved: what it does after needs nobody


class LeaseTakenError(ValueError):
    """Another process trains in this run directory."""


class LeaseLostError(RuntimeError):
    """Another process took the run directory over from this one."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Sign:
    """A sign of life: what a process says of itself in its file."""

    token: str  # random: tells this process from all others
    process: int
    host: str
    machine: str | None
    pid: int
    started: str | None
    job: str | None
    since: str  # wall clock, for people only
    beats: int
    phase: str
    step: int
    folder: str | None = None  # which lease folder it was written into; None: an older gptjax does not say

    def __str__(self) -> str:
        job = "" if self.job is None else f", {self.job}"
        return f"process {self.process} (pid {self.pid} on host {self.host}{job})"


class Lease:
    """A process's hold on a run directory: process 0 owns it, the others only say that they live."""

    def __init__(self, run: Path, process: int = 0):
        self.mirror: Any = None  # what sends saved steps to a bucket: see bucket_lease.py
        self.signs: Any = None  # what brings the others', where each process has a copy of the run of its own: signs.py
        self.seconds = LAST  # that `release` gets where the process ends at once
        self.lost: str | None = None  # what happened, once a heartbeat finds that another process has the lease
        self._run = run
        self._file = run / "lease" / f"{process}.json"
        self._owns = process == 0
        self._sign = Sign(
            token=secrets.token_hex(16), process=process, host=socket.gethostname(), machine=_machine(),
            pid=os.getpid(), started=_start_of(os.getpid()),
            job=next((f"{name}={os.environ[name]}" for name in JOBS if os.environ.get(name)), None),
            since=time.strftime("%Y-%m-%d %H:%M:%S %z"), beats=0, phase="start", step=0,
        )  # fmt: skip
        self._at = ("start", 0)
        self._entry, self._writing = threading.Lock(), threading.Lock()
        self._inside = 0  # threads that share the lock
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._heartbeat, name="lease", daemon=True)

    def take(self, say: Callable[[str], None]) -> Sign | None:
        """Takes the lease; returns the last sign of the dead owner it was taken from, None where there was none.

        The owner of the directory that this one is a copy of is no owner of this one.
        Raises LeaseTakenError where the owner lives. To see that, or that it does not, can take STALE seconds.
        """
        self._file.parent.mkdir(parents=True, exist_ok=True)
        self._sign = dataclasses.replace(self._sign, folder=_identity(self._file.parent))
        dead = None
        if self._owns:
            while not self._claim(dead := self._dead(say)):
                pass  # another was quicker: look at that one
        else:
            self._write()
        self._thread.start()
        sign = read_sign(dead)
        return None if sign is None or self._copied(sign) else sign

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """What is written in here is written by the owner: nobody can take over meanwhile.

        Raises LeaseLostError where somebody has.
        """
        with self._locked():
            if self._owns and (lost := self._loss()):
                raise LeaseLostError(lost)
            yield

    def beat(self, phase: str, step: int) -> None:
        """Notes what the next heartbeat says."""
        self._at = (phase, step)

    @property
    def phase(self) -> str:
        """What was noted last."""
        return self._at[0]

    def finished(self, step: int) -> None:
        """Says at once that the run is trained and saved: to leave, or to die, is no failure from now on."""
        self.beat(FINISHED, step)
        with contextlib.suppress(OSError), self._locked():
            if not self._owns or self._loss() is None:
                self._write()

    def release(self) -> None:
        """Gives the lease back, unless another has it."""
        self._ended.set()
        self._thread.join()
        with contextlib.suppress(OSError), self._locked():  # a file that stays is found to be a dead owner's
            if self._loss() is None:
                self._file.unlink()

    def _dead(self, say: Callable[[str], None]) -> bytes | None:
        """The file of an owner that is dead, None where there is no owner. Raises LeaseTakenError where it lives."""
        found = _content(self._file)
        sign = read_sign(found)
        if found is None:
            return None
        if sign is not None and self._is_here(sign):
            if has_ended(sign):
                return found
            if not self._copied(sign):
                raise LeaseTakenError(self._refusal(sign))
        who = sign or f"whoever wrote {self._file}, which is damaged"
        say(f"run={self._run}: waiting {STALE:.0f} s for a sign of life of {who}")
        until = time.monotonic() + STALE
        while time.monotonic() < until:
            time.sleep(HEARTBEAT / 4)
            now = _content(self._file)
            if now is None:
                return None
            if now != found:
                raise LeaseTakenError(self._refusal(read_sign(now) or sign))
        return found

    def _is_here(self, sign: Sign) -> bool:
        """Whether a process of this machine wrote it."""
        return sign.machine is not None and sign.machine == self._sign.machine

    def _copied(self, sign: Sign) -> bool:
        """Whether a sign was written into another folder than the one that it lies in, which is then a copy of that.

        Numbers of folders differ between machines, and in some network file systems from one look to the next: so only
        this machine's are compared, and heartbeats have the last word on whether the writer lives.
        """
        return self._is_here(sign) and sign.folder is not None and sign.folder != self._sign.folder

    def _refusal(self, owner: Sign | None) -> str:
        who = f"somebody, whom {self._file} does not name,"
        if owner is not None:
            seen = f"since {owner.since}, last seen in phase {owner.phase!r} at step {owner.step}"
            who = f"{owner}, {seen},"
        return (
            f"run={self._run}: {who} trains here and lives. "
            "Wait until it ends, or stop it; or start another run with --run runs/another-name"
        )

    def _claim(self, dead: bytes | None) -> bool:
        """Whether the lease is ours now: not so if its file is no more that of the dead owner."""
        with self._locked():
            if _content(self._file) not in (None, dead):
                return False
            self._write()
            return True

    def _heartbeat(self) -> None:
        while self.lost is None and not self._ended.wait(HEARTBEAT):
            with contextlib.suppress(OSError), self._locked():  # a full disk, for one: training may outlive it
                if self._owns:
                    self.lost = self.lost or self._loss()  # a bucket's heartbeat may have set it meanwhile
                if self.lost is None:
                    self._write()

    def _loss(self) -> str | None:
        """None while the file is ours. One that is gone is not: whoever took over may have ended since."""
        owner = read_sign(_content(self._file))
        if owner is not None and owner.token == self._sign.token:
            return None
        what = f"{owner} took it over" if owner else f"{self._file} is gone: taken over by a run that ended, or deleted"
        return (
            f"run={self._run}: {what} while this process did not answer; it saves nothing more. "
            "Leave the run to the other, or stop that and repeat the command"
        )

    def _write(self) -> None:
        with self._writing:
            phase, step = self._at
            self._sign = dataclasses.replace(self._sign, beats=self._sign.beats + 1, phase=phase, step=step)
            # a sign of life need not outlast a power cut, and must not wait for a busy disk
            write_whole(self._file, dumps(dataclasses.asdict(self._sign), indent=1) + "\n", sync=False)

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        """No other owner is in here. Threads of this one are, together: it is seen to live while it holds the lease."""
        if not self._owns:
            yield
            return
        with self._entry:
            if self._inside == 0:
                self._lock = _lock(self._file.parent / "lock")
            self._inside += 1
        try:
            yield
        finally:
            with self._entry:
                self._inside -= 1
                if self._inside == 0:
                    self._lock.close()


def absent(run: Path, process: int, processes: int) -> list[str]:
    """Who keeps a process of a run waiting, a line each: those without a sign of life, and those not yet where it is.

    Takes two and a half heartbeats.
    """
    files = [run / "lease" / f"{number}.json" for number in range(processes)]
    before = [read_sign(_content(file)) for file in files]
    time.sleep(2.5 * HEARTBEAT)
    signs = [read_sign(_content(file)) for file in files]
    furthest = max((sign.step for sign in signs if sign), default=0)
    here = signs[process]
    lines = []
    for number, (was, sign) in enumerate(zip(before, signs, strict=True)):
        if sign is None:
            lines.append(f"process {number}: never came, or has left")
        elif sign == was:
            lines.append(f"{sign}: no sign of life; last in phase {sign.phase!r} at step {sign.step}")
        elif sign.step < furthest or (here and sign.phase != here.phase):
            lines.append(f"{sign}: lives, but is in phase {sign.phase!r} at step {sign.step}")
    return lines


def sign_of(run: Path, process: int) -> Sign | None:
    """The newest sign of life of a process of a run; None where it never came, or has left."""
    return read_sign(_content(run / "lease" / f"{process}.json"))


def has_ended(sign: Sign) -> bool:
    """Whether a process is known to have ended: one of this machine. Of another machine's, only silence tells."""
    return sign.machine is not None and sign.machine == _machine() and _start_of(sign.pid) != sign.started


def _content(file: Path) -> bytes | None:
    try:
        return file.read_bytes()
    except FileNotFoundError:
        return None


def read_sign(content: bytes | None) -> Sign | None:
    """None where there is none, or a damaged one."""
    try:
        return None if content is None else Sign(**json.loads(content))
    except (TypeError, ValueError):
        return None


def _lock(path: Path) -> contextlib.ExitStack:
    """Waits for the lock; closing gives it back, and so does dying.

    Without locks, two jobs that start within the same milliseconds are not kept apart; all others are.
    """
    with contextlib.ExitStack() as held:
        held.enter_context(locked(path))
        return held.pop_all()


def _identity(folder: Path) -> str:
    """What a folder keeps when it is renamed, and a copy of it does not have."""
    found = folder.stat()
    return f"{found.st_dev}:{found.st_ino}"


def _machine() -> str | None:
    """Within what a process's number tells whether it lives: this boot, this container, this user. None: unknown."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"boot {boot}, {os.readlink('/proc/self/ns/pid')}, user {os.getuid()}"
    except OSError:  # not Linux: there, heartbeats alone tell
        return None


def _start_of(pid: int) -> str | None:
    """When a process started, in ticks since boot, or None if it does not live: numbers of processes come up again."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_bytes()  # a name may be of any bytes
    except OSError:
        return None
    after_name = stat.rpartition(b")")[2].decode().split()
    return None if after_name[0] in "ZX" else after_name[19]
