"""A model behind a real port, and a plain client of it."""

import contextlib
import dataclasses
import functools
import http.client
import json
import re
import socket
import threading
from collections.abc import Iterator
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
import uvicorn

from gptjax.batch import ClassHead
from gptjax.inference.language_model import LanguageModel
from gptjax.serving.app import application
from gptjax.serving.bounded_http import BoundedProtocol
from gptjax.serving.settings import Settings
from gptjax.serving.worker import Worker
from tests.tiny_run import random_model

T = 512  # the model's context
HEADS = (
    ClassHead(name="mood", classes=("good", "bad", "so")),
    ClassHead(name="pairs", classes=("x", "y"), pair=True),
    ClassHead(name="stars", classes=("stars",)),  # tells a number, as heads did before there were values
    ClassHead(name="colours", classes=("red", "blue"), kind="labels", pool="mean", length=12),
    ClassHead(name="same", classes=("yes", "no"), two=True),
)
SECONDS = 60  # in which a test's server must answer


@functools.cache
def model() -> LanguageModel:
    """One for all tests that serve, so that its programs are compiled once."""
    bare = random_model(T=T)
    config = dataclasses.replace(bare.config, class_heads=HEADS)
    bank = np.random.default_rng(0).normal(size=(len(HEADS), config.D, config.C)).astype(np.float32)
    bias = np.zeros((len(HEADS), config.C), np.float32)
    params = {**bare.params, "class_heads": jnp.asarray(bank), "class_heads_bias": jnp.asarray(bias)}
    return LanguageModel(config, bare.tokenizer, params)


class Answer(NamedTuple):
    status: int
    headers: dict[str, str]
    text: str

    @property
    def json(self) -> Any:
        return json.loads(self.text)

    @property
    def error(self) -> Any:
        return self.json["error"]

    @property
    def events(self) -> list[Any]:
        """What the events of a stream hold; [DONE] is one of them."""
        events = [line.removeprefix("data: ") for line in self.text.split("\n\n") if line.startswith("data: ")]
        return [event if event == "[DONE]" else json.loads(event) for event in events]


class Client:
    """`model`: what all requests ask for."""

    def __init__(self, port: int, worker: Worker):
        self.port, self.worker = port, worker

    def get(self, path: str, method: str = "GET", **headers: str) -> Answer:
        return self._ask(method, path, None, headers)

    def post(self, path: str, fields: Any, **headers: str) -> Answer:
        """`fields`: JSON, or the bytes of a body."""
        body = fields if isinstance(fields, bytes) else json.dumps(fields).encode()
        return self._ask("POST", path, body, {"content_type": "application/json", **headers})

    def chat(self, *turns: str, **fields: Any) -> Answer:
        """The last of the turns is answered greedily, unless the fields say otherwise."""
        messages = [{"role": ("user", "assistant")[place % 2], "content": turn} for place, turn in enumerate(turns)]
        return self.post("/v1/chat/completions", {"model": "tiny", "messages": messages, "temperature": 0, **fields})

    def complete(self, prompt: Any, **fields: Any) -> Answer:
        return self.post("/v1/completions", {"model": "tiny", "prompt": prompt, "temperature": 0, **fields})

    def count(self, what: str) -> int:
        """`running` or `waiting` requests, as the metrics have it."""
        found = re.search(rf"^gptjax_num_requests_{what} (.*)$", self.get("/metrics").text, re.MULTILINE)
        assert found is not None
        return int(float(found[1]))

    def socket(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.port), timeout=SECONDS)

    def _ask(self, method: str, path: str, body: bytes | None, headers: dict[str, str]) -> Answer:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=SECONDS)
        with contextlib.closing(connection):
            connection.request(method, path, body, {name.replace("_", "-"): one for name, one in headers.items()})
            answer = connection.getresponse()
            return Answer(answer.status, dict(answer.getheaders()), answer.read().decode())


@contextlib.contextmanager
def served(model: LanguageModel, *, rows: int = 4, queue: int = 64, **settings: Any) -> Iterator[Client]:
    worker = Worker(model, rows=rows, queue=queue)
    worker.start()
    worker.wait()
    app = application(worker, Settings(name="tiny", **settings))
    config = uvicorn.Config(app, port=0, http=BoundedProtocol, ws="none", log_config=None, access_log=False)
    started = threading.Event()

    class Server(uvicorn.Server):
        async def startup(self, sockets: Any = None) -> None:
            await super().startup(sockets)
            started.set()

    server = Server(config)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    assert started.wait(SECONDS)
    yield Client(server.servers[0].sockets[0].getsockname()[1], worker)
    server.should_exit = True
    thread.join(SECONDS)
    assert not thread.is_alive()
