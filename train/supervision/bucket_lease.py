"""One owner for a run on a bucket, which has no locks: its lease is an object that is written on condition.

`lease/0.json` is what it is on a disk (lease.py): the owner counts up in it, and is dead once the count stood still for
STALE seconds by the clock of whoever looks on. No clock of the store, or of another machine, is read. Each writing says
which generation of the object it replaces, so of two who take the lease at once one is refused, and an owner that only
slept finds out at its next heartbeat, or before it makes a step. On this machine the copy has a lease of its own.
"""

import contextlib
import dataclasses
import shutil
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from gptjax.files.buckets import BucketError
from gptjax.files.places import url_of
from gptjax.files.plain_json import dumps
from gptjax.runs.bucket_run import BucketRun
from train.supervision.exits import tell
from train.supervision.lease import FINISHED, Lease, LeaseLostError, LeaseTakenError, Sign, has_ended, read_sign

KEY = "lease/0.json"
HEARTBEAT = 5.0  # seconds; a store may refuse more than one a second, and each costs a fraction of a cent
LAST_OF_BUCKET = 20.0  # seconds that the records get to reach the bucket where the process ends at once
RELEASED = "released"  # the phase of a lease that was given back
ANSWER = 20.0  # seconds that a heartbeat waits for the store, which may have refused or lost it; the next is another
STALE = 60.0  # seconds: longer than two heartbeats in a row that have no answer, with the pauses before them
TRIES = 3  # heartbeats that may fail before a step is not made for want of one


def lease_of(run: Path, process: int) -> Lease:
    """The lease of a run directory, or of a run on a bucket where the directory is the copy of one."""
    return Lease(run, process) if url_of(run) is None else BucketLease(BucketRun(run), process)


class BucketLease(Lease):
    """The lease of a run's copy, and of the run on its bucket. Of several processes the first has it for all.

    Who has it sends what the run saves and writes down: it is a checkpoint's `mirror`.
    """

    def __init__(self, run: BucketRun, process: int = 0):
        super().__init__(run.copy, process)
        self.on_bucket, self._bucket, self._url = run, run.bucket, run.url
        self.mirror, self.seconds = self, LAST_OF_BUCKET
        self._beats = 0
        self._generation: bytes | None = None  # of our lease on the bucket; None = we have none
        self._written, self._over = threading.Lock(), threading.Event()
        self._beating = threading.Thread(target=self._beat_on, name="bucket lease", daemon=True)

    def begin(self, say: Callable[[str], None]) -> dict[str, Any] | None:
        """Makes this the job that writes to the run, and its copy here what the bucket holds.

        Returns what was known of the dead owner that did not finish and that it was taken from, None = there was none.
        Raises as `take_bucket` does, and ValueError where there are checkpoints and none is whole, or the copy may be
        all that is left of the run.
        """
        self._bucket.check_writable()
        dead = self.take_bucket(say)
        try:
            self.on_bucket.check_not_the_last()
            shutil.rmtree(self.on_bucket.copy / "lease", ignore_errors=True)  # of starts that are over
            self.on_bucket.copy.mkdir(parents=True, exist_ok=True)
            self.on_bucket.fetch_records()
            self.on_bucket.clear(say)
            self.on_bucket.fetch_newest(say, set_bad_aside=True)
        except BaseException:
            self.release_bucket()
            raise
        return None if dead is None or dead.phase in (FINISHED, RELEASED) else dataclasses.asdict(dead)

    def publish(self, step: int, folder: Path) -> None:
        """Makes a step of the bucket of a folder, with the run's records as they are; see BucketRun.publish."""
        self.on_bucket.publish(step, folder, self._surely_owned)

    def follow(self, say: Callable[[str], None]) -> None:
        """Makes this process's copy what the bucket holds, once the owner of the run has begun. Raises as `begin`."""
        self.on_bucket.check_not_the_last()
        shutil.rmtree(self.on_bucket.copy / "lease", ignore_errors=True)
        self.on_bucket.fetch_records()
        self.on_bucket.fetch_newest(say)

    def open_step(self, step: int) -> None:
        """See BucketRun.open_step."""
        self.on_bucket.open_step(step, self._surely_owned)

    def close_step(self, step: int, folder: Path) -> None:
        """See BucketRun.close_step."""
        self.on_bucket.close_step(step, folder, self._surely_owned)

    def send_records(self) -> None:
        """What was written down since the last save. Raises as `check_bucket` does."""
        self.check_bucket()
        self.on_bucket.send_records()

    def withdraw(self, step: int) -> None:
        """Deletes a step of the bucket."""
        self.check_bucket()
        self.on_bucket.withdraw(step)

    def finished(self, step: int) -> None:
        super().finished(step)
        if self._generation is not None:
            with contextlib.suppress(BucketError):
                self.check_bucket()

    def take_bucket(self, say: Callable[[str], None]) -> Sign | None:
        """Takes the lease on the bucket; returns the last sign of whoever had it before, None = nobody had.

        Raises LeaseTakenError where the owner lives, which can take STALE seconds to see, and BucketError where the
        bucket cannot be written.
        """
        while True:
            content, generation = self._bucket.look(KEY)
            owner = read_sign(content)
            free = content is None or (owner is not None and (owner.phase == RELEASED or has_ended(owner)))
            if not free:
                generation = self._silent(generation, owner, say)
            self._generation = self._bucket.write_if(KEY, self._content(), generation)
            if self._generation is not None:
                self._beating.start()
                return owner
            say(f"run={self._url}: another process was quicker to take it; looking at that one")

    def _silent(self, generation: bytes, owner: Sign | None, say: Callable[[str], None]) -> bytes:
        """The generation of a lease whose owner gives no sign of life. Raises LeaseTakenError where it does."""
        if owner is not None and self._is_here(owner):  # has_ended would know
            raise LeaseTakenError(self._taken(owner))
        say(f"run={self._url}: waiting {STALE:.0f} s for a sign of life of {owner or 'whoever wrote a damaged ' + KEY}")
        until = time.monotonic() + STALE
        while time.monotonic() < until:
            time.sleep(min(1.0, STALE / 4))
            now, found = self._bucket.look(KEY)
            sign = read_sign(now)
            if now is None or (sign is not None and sign.phase == RELEASED):
                return found
            if found != generation:
                raise LeaseTakenError(self._taken(sign or owner))
        return generation

    def _taken(self, owner: Sign | None) -> str:
        who = "somebody whom the lease does not name" if owner is None else f"{owner}, since {owner.since},"
        return (
            f"run={self._url}: {who} trains here and lives. Wait until it ends, or stop it; or start another run with "
            "another --run"
        )

    def check_bucket(self) -> None:
        """A heartbeat now. Raises LeaseLostError where another process has the run, BucketError where it fails."""
        with self._written:
            if self._generation is None:
                raise LeaseLostError(self.lost or f"run={self._url}: its lease was given back")
            self._generation = self._replaced(self._generation)
            if self._generation is None:
                self.lost = (
                    f"run={self._url}: another process took it over while this one did not answer; it saves nothing "
                    "more. Leave the run to the other, or stop that and repeat the command"
                )
                raise LeaseLostError(self.lost)

    def _replaced(self, generation: bytes, phase: str | None = None) -> bytes | None:
        """The generation of our lease, once written over the one of this generation; None where another has it.

        It may be that ours was written before, and the answer lost: then over that.
        """
        written = self._bucket.write_if(KEY, self._content(phase), generation, ANSWER)
        if written is None:
            found, now = self._bucket.look(KEY, ANSWER)
            sign = read_sign(found)
            if sign is not None and sign.token == self._sign.token:
                written = self._bucket.write_if(KEY, self._content(phase), now, ANSWER)
        return written

    def _surely_owned(self) -> None:
        """As `check_bucket`, which may fail in passing: a step is worth more than one heartbeat."""
        for left in reversed(range(TRIES)):
            try:
                return self.check_bucket()
            except BucketError:
                if left == 0:
                    raise

    def release(self) -> None:
        """Sends what was written down since the last save, and gives both leases back."""
        super().release()
        if self._generation is not None and self.lost is None:
            try:
                self.send_records()
            except (BucketError, LeaseLostError) as error:
                tell(f"what the run wrote down since its last save did not reach the bucket: {error}")
        self.release_bucket()

    def release_bucket(self) -> None:
        """Gives the lease on the bucket back, unless another has it."""
        self._over.set()
        # one that stays is found to be a dead owner's
        with contextlib.suppress(BucketError, TimeoutError), self._written:
            if self._generation is not None:
                last, self._generation = self._generation, None
                self._replaced(last, RELEASED)  # which, unlike a deletion, can be conditional

    def _beat_on(self) -> None:
        while self.lost is None and not self._over.wait(HEARTBEAT):
            # training may outlive a store that does not answer
            with contextlib.suppress(BucketError, LeaseLostError):
                if not self._over.is_set():
                    self.check_bucket()

    def _content(self, phase: str | None = None) -> bytes:
        self._beats += 1  # so that no two contents are the same
        at, step = self._at
        sign = dataclasses.replace(self._sign, beats=self._beats, phase=phase or at, step=step, folder=None)
        return (dumps(dataclasses.asdict(sign), indent=1) + "\n").encode()
