"""The thread that owns the engine, and how a server's event loop talks with it.

Requests wait here, fairly among clients, until the engine has a row for them; what it says of them comes back to the
event loop in one message a turn.
"""

import asyncio
import contextlib
import dataclasses
import functools
import logging
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from queue import Empty, SimpleQueue

from gptjax.decoding.engine import Ended, Engine, Event, Failed, Request, Ticket
from gptjax.inference.language_model import LanguageModel
from gptjax.serving.fair_queue import FairQueue, QueueFull
from gptjax.serving.grammar import FormGrammar
from gptjax.serving.metrics import Metrics, Timing

log = logging.getLogger(__name__)


class Unavailable(Exception):  # noqa: N818  a state more than a mistake
    """No request is taken or finished: the server is not ready yet, is about to end, or its engine has died."""


class Worker:
    """Answers requests, `rows` at once, while up to `queue` others wait.

    `context`: tokens that there is room for in a row, None = as many as the model can read. `model`: what new requests
    are for. `dead`: what the engine died of. `programs`: how many were compiled before it was ready.

    `start`, `wait` and `swap` are for any thread, all else is for that of the event loop.

    Raises ValueError where the engine cannot have such rows, or such a context.
    """

    def __init__(self, model: LanguageModel, *, rows: int = 8, queue: int = 256, context: int | None = None):
        self.model, self.context = model, context
        self.ready, self.draining, self.programs = False, False, 0
        self.dead: BaseException | None = None
        self.metrics = Metrics(
            running=lambda: self.running, waiting=lambda: len(self._waiting), slots=lambda: self.rows
        )
        engine = Engine(model, rows=rows, context=context)
        self.rows = engine.rows  # as many as the mesh divides
        self._engines = [engine]  # the last has the new requests
        self._waiting: FairQueue[_Job] = FairQueue(queue)
        # of requests that have not ended; both threads change it, each time by one operation that Python does whole
        self._jobs: set[_Job] = set()
        self._inbox: SimpleQueue[Callable[[], object]] = SimpleQueue()  # what is to be done in the engine's thread
        self._heard: list[tuple[_Job, Event]] = []  # in this turn
        self._ending, self._begun = False, 0
        self._settled = threading.Event()  # ready or dead
        self._thread = threading.Thread(target=self._work, name="engine", daemon=True)

    @property
    def running(self) -> int:
        """Requests that have a row."""
        return sum(engine.running + engine.waiting for engine in self._engines)

    def start(self) -> None:
        """Begins to compile what will be needed; then requests are taken, and `ready` is true."""
        self._thread.start()

    def wait(self) -> None:
        """Until it is ready. Raises what it died of."""
        self._settled.wait()
        if self.dead is not None:
            raise self.dead

    @contextlib.contextmanager
    def begun(self) -> Iterator[None]:
        """A request has begun of which texts are still to come: until this ends, draining waits."""
        self._begun += 1
        try:
            yield
        finally:
            self._begun -= 1

    def events(self, request: Request, client: str, *, begun: bool = False) -> "Answer":
        """Takes a request: what becomes of it, event after event, the last of them Ended or Failed.

        `client`: with whom it takes turns is told by this name. `begun`: it belongs to what has begun, so that it is
        taken while the server drains, and is not counted where it must come again. A prompt that the engine refuses is
        a Failed with a ValueError.

        Raises QueueFull or Unavailable, at once.
        """
        self._refuse_if_unavailable(begun)
        job = _Job(request, client, asyncio.get_running_loop(), Timing(self.metrics, len(request.prompt)))
        self._jobs.add(job)
        try:
            self._waiting.put(client, job)
        except QueueFull:
            self._jobs.discard(job)
            if not begun:
                self.metrics.rejected.labels("queue_full").inc()
            raise
        self._inbox.put(_nothing)
        if self.dead is not None or self._ending:  # meanwhile
            self._jobs.discard(job)
            self._refuse_if_unavailable(begun)
        return Answer(job, lambda: self._inbox.put(lambda: self._cancel(job)))

    def swap(self, model: LanguageModel) -> None:
        """From now on new requests go to this model; what is under way finishes on the one that it was for.

        Raises ValueError where the model is of another shape or has other tokens.
        """
        if model.config != self.model.config or model.tokenizer.content != self.model.tokenizer.content:
            raise ValueError("swap: this model has another shape or other tokens than the one that is served")
        engine = Engine(model, rows=self.rows, context=self.context)
        engine.warm_up()

        def adopt() -> None:
            self._engines.append(engine)
            self.model = model

        self._inbox.put(adopt)

    async def drain(self, seconds: float | int) -> int:
        """Takes no more requests, and ends: when all are answered, or after so many seconds with a Failed for the rest.

        Returns how many were cut.
        """
        self.draining = True
        until = asyncio.get_running_loop().time() + seconds
        while (self._jobs or self._begun) and self.dead is None and asyncio.get_running_loop().time() < until:
            await asyncio.sleep(0.02)
        cut = len(self._jobs)

        def end() -> None:
            self._ending = True
            self._fail_all(Unavailable("the server is shutting down"))

        self._inbox.put(end)
        if self._thread.is_alive():
            await asyncio.to_thread(self._thread.join)
        return cut

    def _refuse_if_unavailable(self, begun: bool = False) -> None:
        if self.dead is not None:
            why, reason = "the engine has died; the server must be started anew", "dead"
        elif self._ending or (self.draining and not begun):
            why, reason = "the server is shutting down", "draining"
        elif not self.ready:
            why, reason = "the server is not ready yet", "not_ready"
        else:
            return
        if not begun:
            self.metrics.rejected.labels(reason).inc()
        raise Unavailable(why)

    # From here on all is done in the engine's thread.

    def _work(self) -> None:
        try:
            self._engines[0].warm_up()
            self.programs = self.metrics.compiled
            self.ready = True
            self._settled.set()
            idle = False
            while not self._ending:
                self._read_inbox(wait=idle)
                self._seat()
                busy = [engine.turn() for engine in self._engines]
                idle = not any(busy)
                self._deliver()
                *older, newest = self._engines
                self._engines = [*(one for one in older if one.running or one.waiting), newest]
        except BaseException as error:  # whatever it is, those who wait must hear of it
            log.critical("the engine has died", exc_info=error)
            self.dead, self.ready = error, False
            self._fail_all(error if isinstance(error, Exception) else Unavailable("the engine has died"))
            self._settled.set()

    def _read_inbox(self, wait: bool) -> None:
        try:
            while True:
                self._inbox.get(block=wait)()
                wait = False
        except Empty:
            return

    def _seat(self) -> None:
        """Gives the engine as many requests as it has rows for: the others wait where they can take turns."""
        engine = self._engines[-1]
        while engine.running + engine.waiting < self.rows and (job := self._waiting.get()) is not None:
            job.timing.seated()
            job.engine = engine
            try:
                job.ticket = engine.submit(job.request, functools.partial(self._hear, job))
            except ValueError as error:
                self._hear(job, Failed(error))

    def _hear(self, job: "_Job", event: Event) -> None:
        job.timing.heard(event)
        self._heard.append((job, event))
        if isinstance(event, Ended | Failed):
            self._jobs.discard(job)
            job.engine = job.ticket = None  # which holds the job in turn
            if isinstance(job.request.grammar, FormGrammar):
                job.request.grammar.close()

    def _cancel(self, job: "_Job") -> None:
        if job not in self._jobs:
            return
        self.metrics.disconnects.inc()
        if job.engine is not None and job.ticket is not None:
            job.engine.cancel(job.ticket)
        elif self._waiting.remove(job.client, job):
            self._hear(job, Ended("cancelled"))

    def _fail_all(self, error: Exception) -> None:
        """Ends every request with an error; there will be no further turn."""
        while self._waiting.get() is not None:
            pass
        for job in list(self._jobs):
            self._hear(job, Failed(error))
        self._deliver()

    def _deliver(self) -> None:
        heard, self._heard = self._heard, []
        by_loop: dict[asyncio.AbstractEventLoop, list[tuple[_Job, Event]]] = {}
        for job, event in heard:
            by_loop.setdefault(job.loop, []).append((job, event))
        for loop, events in by_loop.items():
            _call(loop, functools.partial(_hand_over, events))


class Answer(AsyncIterator[Event]):
    """The events of one request, in order. To close it, to drop it, or to cancel who waits for it cancels the request.

    It never makes the engine wait: events that nobody has read yet are kept.
    """

    def __init__(self, job: "_Job", cancel: Callable[[], object]):
        self._job, self._cancel = job, cancel
        self._over = False

    async def __anext__(self) -> Event:
        if self._over:
            raise StopAsyncIteration
        try:
            event = await self._job.events.get()
        except asyncio.CancelledError:
            self._close()
            raise
        self._over = isinstance(event, Ended | Failed)
        return event

    async def aclose(self) -> None:
        self._close()

    def __del__(self):
        self._close()

    def _close(self) -> None:
        if not self._over:
            self._over = True
            self._cancel()


@dataclasses.dataclass(eq=False)
class _Job:
    """A request on its way."""

    request: Request
    client: str
    loop: asyncio.AbstractEventLoop
    timing: Timing
    events: asyncio.Queue[Event] = dataclasses.field(default_factory=asyncio.Queue)
    engine: Engine | None = None  # once it has left the queue
    ticket: Ticket | None = None


def _hand_over(events: list[tuple[_Job, Event]]) -> None:
    for job, event in events:
        job.events.put_nowait(event)


def _call(loop: asyncio.AbstractEventLoop, function: Callable[[], object]) -> None:
    """In the loop's thread; a loop that has ended has nobody left to tell."""
    try:
        loop.call_soon_threadsafe(function)
    except RuntimeError:
        if not loop.is_closed():
            raise


def _nothing() -> None:
    """Wakes the engine's thread."""
