"""The other processes of a run: where one dies or leaves early, the others say which, and end, instead of waiting.

Where all come to the end, they leave together: whoever is quicker waits for the slowest, and lives meanwhile.
"""

import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import jax
import orbax.checkpoint as ocp

from train.supervision.exits import on_abort
from train.supervision.hosts import part
from train.supervision.lease import HEARTBEAT, absent, has_ended, sign_of

SILENT = 30.0  # seconds without a heartbeat; after 100 JAX ends the run, and names nobody
LEFT = 10.0  # seconds that a process may leave before this one does
MEETING = 7 * 24 * 3600  # seconds: who does not come to the end is missed by the watch, or ended by its own watchdog


@contextlib.contextmanager
def watching(
    run: Path, process: int, processes: int, lost: Callable[[str], object], parting: Callable[[], object] = lambda: None
) -> Iterator[Callable[[], None]]:
    """In here, `lost` is called with a line about the first of the others that is gone; it is to end this process.

    When this is entered, all of them have given a sign of life in the run directory. Yields what each of them calls
    when it has come to the end: it returns when all have, and from then on nobody is missed, or needed. `parting` is
    called in it before the connection between them ends.
    """
    if processes == 1:
        yield lambda: None
        return
    ended = threading.Event()
    peers = [_Peer(run, number) for number in range(processes) if number != process]

    def watch() -> None:
        own = None
        while not ended.wait(HEARTBEAT):
            with contextlib.suppress(OSError):  # a disk that does not answer is for the watchdog
                before, own = own, sign_of(run, process)
                # where our own heartbeat is not written, on a full disk for one, others' silence says nothing
                for said in filter(None, [peer.look(counts=own != before) for peer in peers]):
                    if not ended.is_set():  # else all have come to the end since, and may leave
                        lost(said)
                    return

    def aborted() -> None:  # as all others are at once when process 0 dies
        lost("JAX has lost the other processes of this run:\n  " + "\n  ".join(absent(run, process, processes)))

    def leave_together() -> None:
        ocp.multihost.get_barrier_sync_fn()(key="gptjax-end", timeout_ms=MEETING * 1000)
        ended.set()  # nobody leaves before this one has called the next line
        parting()
        part()

    threading.Thread(target=watch, name="peers", daemon=True).start()
    with on_abort(aborted):
        try:
            yield leave_together
        except jax.errors.JaxRuntimeError:  # such as of a connection that was closed: by whom, the watch finds out
            time.sleep(SILENT + LEFT)
            raise
        finally:
            ended.set()


class _Peer:
    """Another process, as it is seen from here."""

    def __init__(self, run: Path, number: int):
        self._run, self._number = run, number
        self._sign = sign_of(run, number)
        self._silent = 0.0  # seconds, by counting looks: it stands still while this process does (Ctrl-Z)

    def look(self, counts: bool) -> str | None:
        """What became of it since the last look, HEARTBEAT ago; None while it lives. `counts`: so does its silence."""
        sign = sign_of(self._run, self._number)
        self._silent += HEARTBEAT if counts else 0.0
        if sign is not None and sign != self._sign:
            self._sign, self._silent = sign, 0.0
        if sign is None and self._silent >= LEFT:
            return f"{self}: has left the run; its own last words say why"
        if sign is not None and has_ended(sign):
            return f"{self}: died"
        if self._silent >= SILENT:
            return f"{self}: no sign of life for {SILENT:.0f} s"
        return None

    def __str__(self) -> str:
        last = self._sign
        return f"process {self._number}" if last is None else f"{last}, in phase {last.phase!r} at step {last.step}"
