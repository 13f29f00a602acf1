"""Vectors and classes of texts, computed beside the engine, so that no text that is written waits for them."""

import asyncio
import threading
from collections.abc import Callable, Sequence
from typing import Any

from gptjax.inference.language_model import LanguageModel
from gptjax.serving.errors import ApiError

MOST_WAITING = 32  # requests
MOST_TOKENS = 2**18  # of one request


class Computing:
    """One request at a time, in a thread: programs for lengths that are new are compiled there too."""

    def __init__(self):
        self._turn, self._waiting = asyncio.Semaphore(1), 0

    async def of(self, model: LanguageModel, texts: Sequence[Sequence[int]], function: Callable[..., Any]) -> Any:
        """function(model, texts, progress=...). Ends between two batches when this is cancelled. Raises ApiError."""
        if (tokens := sum(map(len, texts))) > MOST_TOKENS:
            raise ApiError(f"input has {tokens} tokens; at most {MOST_TOKENS} are read at once: send fewer", "input")
        if self._waiting >= MOST_WAITING:
            raise ApiError(f"the queue is full: {self._waiting} such requests are waiting", status=429)
        cancelled = threading.Event()

        def progress(done: int, batches: int) -> None:
            if cancelled.is_set():
                raise InterruptedError

        self._waiting += 1
        try:
            await self._turn.acquire()
            work = asyncio.ensure_future(asyncio.to_thread(function, model, texts, progress=progress))
            work.add_done_callback(self._over)
            return await asyncio.shield(work)  # its thread has its turn until it ends, whoever waits for it
        finally:
            cancelled.set()
            self._waiting -= 1

    def _over(self, work: asyncio.Future) -> None:
        self._turn.release()
        if not work.cancelled():
            work.exception()  # was seen, even where nobody waits any more
