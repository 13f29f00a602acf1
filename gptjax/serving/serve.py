"""The server from a model to its end: warmed up, listening, followed, drained."""

import asyncio
import logging
import os
import signal
import socket
import time
from types import FrameType

import uvicorn

from gptjax.command.serve_verb import Serve, is_loopback
from gptjax.files.places import place_of_run
from gptjax.inference.language_model import LanguageModel
from gptjax.serving.app import application
from gptjax.serving.bounded_http import CONNECTIONS, BoundedProtocol
from gptjax.serving.follow import follow
from gptjax.serving.settings import LOOPBACK, Settings
from gptjax.serving.worker import Worker

FLUSH_SECONDS = 5  # for answers that have ended to be read, once the server ends
SPARE_FILES = 128


def serve(asked: Serve, model: LanguageModel, listening: socket.socket, keys: tuple[str, ...]) -> int:
    """Until it is told to end. Returns the exit code: 1 where the engine had died."""
    logging.basicConfig(format="gptjax: %(message)s", level=logging.WARNING)
    allow_files(CONNECTIONS + SPARE_FILES)
    begun = time.monotonic()
    worker = Worker(model, rows=asked.slots, queue=asked.queue, context=asked.context)
    worker.start()
    worker.wait()
    path = place_of_run(asked.directory)
    name = asked.name or path.resolve().name.removesuffix(".gguf")
    host, port = listening.getsockname()[:2]
    address = f"http://{f'[{host}]' if ':' in host else host}:{port}"
    ready = (
        f"{address}: a chat page, and the API at /v1; ready: {name}, {model.dtype}, {worker.rows} slots, "
        f"{worker.programs} programs in {time.monotonic() - begun:.1f} s"
    )
    if asked.follow:
        follow(worker, path, lambda step: asked.loaded(step, model.dtype))
    ours = not keys and is_loopback(asked.host)
    settings = Settings(name=name, keys=keys, hosts=LOOPBACK | {asked.host.lower()} if ours else None)
    config = uvicorn.Config(
        application(worker, settings),
        http=BoundedProtocol,
        ws="none",
        log_config=None,
        log_level="error",
        access_log=False,
        server_header=False,
        proxy_headers=False,  # who asks is who connects: keys tell clients behind a proxy apart
        timeout_graceful_shutdown=FLUSH_SECONDS,
    )
    Server(config, worker, asked.drain, ready).run([listening])
    return 0 if worker.dead is None else 1


class Server(uvicorn.Server):
    """uvicorn's, which at SIGTERM or Ctrl-C answers what it has begun, and at the second one ends at once."""

    def __init__(self, config: uvicorn.Config, worker: Worker, drain: float, ready: str):
        super().__init__(config)
        self._worker, self._drain, self._ready = worker, drain, ready
        self._ending: asyncio.Task[None] | None = None

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        self._loop = asyncio.get_running_loop()
        await super().startup(sockets)
        print(self._ready, flush=True)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        if self._ending is not None:
            os._exit(128 + sig)
        waits = "" if not self._drain else f", within {self._drain:g} s; a second signal ends it at once"
        print(f"{signal.Signals(sig).name}: answers under way are finished{waits}", flush=True)
        self._ending = self._loop.create_task(self._end())
        self._loop.call_soon_threadsafe(lambda: None)  # it may be waiting for something else

    async def _end(self) -> None:
        if cut := await self._worker.drain(self._drain):
            print(f"{cut} answers were cut", flush=True)
        self.should_exit = True


def allow_files(count: int) -> None:
    """As many open files as connections need, as far as the system lets us."""
    try:
        import resource
    except ImportError:
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < count:
        resource.setrlimit(
            resource.RLIMIT_NOFILE, (count if hard == resource.RLIM_INFINITY else min(count, hard), hard)
        )
