"""Who is let in, how much of anything there may be, and what is left when a client goes."""

import asyncio
import contextlib
import json
import logging
import re
import socket
import time

import pytest

from gptjax.serving import guard
from gptjax.serving.api import bodies
from gptjax.serving.app import application
from gptjax.serving.settings import Settings
from tests import served as tiny
from tests.served import Client, T, served

KEYS = ("sk-0123456789abcdef", "sk-fedcba9876543210")
SECRET = "my secret words"


@pytest.fixture(scope="module")
def client():
    """Four slots, three places to wait, of which one client may have two."""
    with served(tiny.model(), rows=4, queue=3, body_bytes=20_000, body_seconds=0.5, requests=12) as client:
        yield client


@pytest.fixture(scope="module")
def locked(client):
    """The same with keys: another application before the same worker."""
    app = application(client.worker, Settings(name="tiny", keys=KEYS))
    return lambda path, method="GET", headers=(): asyncio.run(asgi(app, path, method, headers))


async def asgi(app, path, method, headers):
    """The status that an application answers with, without a port."""
    scope = {
        "type": "http",
        "method": method,
        "path": path,
        "query_string": b"key=" + KEYS[0].encode(),
        "headers": [(b"host", b"localhost"), *headers],
        "client": ("127.0.0.1", 1),
    }
    sent = []

    async def receive():
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message):
        sent.append(message)

    await app(scope, receive, send)
    return sent[0]["status"]


def until(true, seconds=20):
    """Whether it was true once, within so many seconds."""
    begun = time.monotonic()
    while not (found := true()) and time.monotonic() < begun + seconds:
        time.sleep(0.02)
    return found


def long(**fields):
    """A request that takes long: nothing ends it early."""
    return {"model": "tiny", "prompt": "fox", "max_tokens": T - 8, "logit_bias": {"2": -100}, "stream": True, **fields}


def idle(client):
    return client.count("running") == client.count("waiting") == 0


def cancelled(client):
    """How many texts were cancelled since the server began."""
    found = re.search(r'finish_reason="cancelled"} (.*)$', client.get("/metrics").text, re.MULTILINE)
    return 0 if found is None else float(found[1])


@contextlib.contextmanager
def asked(client: Client, body: bytes):
    """A connection with a request on it whose answer nobody reads."""
    with client.socket() as connection:
        head = f"POST /v1/completions HTTP/1.1\r\nhost: localhost\r\ncontent-length: {len(body)}\r\n"
        connection.sendall(f"{head}content-type: application/json\r\n\r\n".encode() + body)
        yield connection


def every_path(app):
    return [(route.path.replace("{name:path}", "tiny"), method) for route in app.routes for method in route.methods]


def test_every_path_but_the_page_and_the_probes_needs_a_key(client, locked):
    """Also paths that there are not, and ways of writing them; a key in the address is none."""
    app = application(client.worker, Settings(name="tiny", keys=KEYS))
    paths = [*every_path(app), ("/nothing", "GET"), ("//v1/models", "GET"), ("/V1/models", "GET"), ("/health/", "GET")]
    paths += [("/v1/models", "OPTIONS"), ("/v1/models", "HEAD"), ("/v1/completions", "DELETE")]
    for path, method in paths:
        assert (locked(path, method) == 401) == (path not in ("/", "/healthz", "/readyz", "/health")), path
    assert locked("/v1/models", headers=[(b"authorization", f"Bearer {KEYS[1]}".encode())]) == 200


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ([f"Bearer {KEYS[0]}"], 200),
        ([f"bearer   {KEYS[1]} "], 200),
        ([f"BEARER {KEYS[1]}"], 200),
        ([KEYS[0]], 401),
        ([f"Basic {KEYS[0]}"], 401),
        ([f"Bearer {KEYS[0][:-1]}"], 401),
        ([f"Bearer {KEYS[0]}x"], 401),
        (["Bearer"], 401),
        (["Bearer "], 401),
        ([""], 401),
        (["Bearer \xe9\xff"], 401),
        ([f"Bearer {KEYS[0]}", f"Bearer {KEYS[0]}"], 401),
        ([], 401),
    ],
)
def test_a_key_is_one_of_those_in_the_file(locked, headers, status):
    given = [(b"authorization", header.encode("latin-1")) for header in headers]
    assert locked("/v1/models", headers=given) == status


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"host": "localhost:8000"}, 200),
        ({"host": "127.0.0.1"}, 200),
        ({"host": "[::1]:80"}, 200),
        ({"host": "LocalHost"}, 200),
        ({"host": "evil.example"}, 403),
        ({"host": "127.0.0.1.evil.example"}, 403),
        ({"host": "localhost.evil.example:8000"}, 403),
        ({"host": ""}, 403),
        ({"host": "localhost:8000", "origin": "http://localhost:8000"}, 200),
        ({"host": "localhost:8000", "origin": "http://localhost:9000"}, 403),
        ({"host": "localhost:8000", "origin": "https://evil.example"}, 403),
        ({"host": "localhost:8000", "origin": "null"}, 403),
    ],
)
def test_pages_of_strangers_cannot_use_a_server_on_this_machine(client: Client, headers, status):
    """Neither by a name of their own that points here, nor across sites."""
    answer = client.get("/v1/models", **headers)
    assert answer.status == status
    assert status == 200 or answer.error["type"] == "permission_error"


def test_an_address_for_others_may_have_any_name(client):
    app = application(client.worker, Settings(name="tiny", keys=KEYS, hosts=None))
    headers = [(b"authorization", f"Bearer {KEYS[0]}".encode())]
    assert asyncio.run(asgi(app, "/v1/models", "GET", headers)) == 200


@pytest.mark.parametrize("kind", ["text/plain", "application/x-www-form-urlencoded", "application/json; charset=x"])
def test_a_request_says_that_it_is_json(client: Client, kind):
    assert client.post("/v1/completions", long(), content_type=kind).status == 415
    assert client.post("/v1/completions", long(), content_encoding="gzip").status == 415
    assert client.post("/v1/completions", {}, content_type="application/json; charset=utf-8").status == 400


def test_a_body_that_is_too_large_is_refused_and_the_answer_can_be_read(client: Client):
    """With a length that says so and without one; also by a client that sends all of it first."""
    answer = client.post("/v1/completions", b" " * 5_000_000)
    assert answer.status == 413
    assert answer.error["message"] == "the request has more than 20000 bytes"
    assert answer.headers["connection"] == "close"  # else the rest of it would be read, however long it is
    with client.socket() as connection:
        head = b"POST /v1/completions HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"
        connection.sendall(head + b"transfer-encoding: chunked\r\n\r\n")
        for _ in range(100):
            connection.sendall(b"1000\r\n" + b" " * 4096 + b"\r\n")
        connection.sendall(b"0\r\n\r\n")
        assert connection.recv(100).startswith(b"HTTP/1.1 413 ")
    assert client.post("/v1/completions", b'{"model": "tiny"' + b" " * 19_000 + b"}").error["param"] == "prompt"


def test_a_body_that_comes_too_slowly_is_refused(client: Client, monkeypatch):
    monkeypatch.setattr(bodies, "LINGER_SECONDS", 0.2)
    with client.socket() as connection:
        head = b"POST /v1/completions HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"
        connection.sendall(head + b"content-length: 100\r\n\r\n{")
        answer = connection.makefile("rb").read()
    assert answer.startswith(b"HTTP/1.1 408 ")
    assert b"did not come within 0.5 s" in answer


@pytest.mark.parametrize("stream", [True, False])
def test_a_client_that_goes_leaves_nothing_behind(client: Client, stream):
    before = cancelled(client)
    with asked(client, json_bytes(long(stream=stream, n=6))):
        assert until(lambda: client.count("running") == 4)
    assert until(lambda: idle(client))
    assert cancelled(client) >= before + 4


def test_a_client_that_goes_while_it_waits_is_forgotten(client: Client):
    with asked(client, json_bytes(long(n=4))):
        assert until(lambda: client.count("running") == 4)
        before = cancelled(client)
        with asked(client, json_bytes(long())):
            assert until(lambda: client.count("waiting") == 1)
        assert until(lambda: cancelled(client) == before + 1)
    assert until(lambda: idle(client))


def test_a_client_that_never_reads_holds_no_slot(client: Client):
    """Its text is written to the end, and its slot free, though nobody takes it."""
    with client.socket() as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
        body = json_bytes(long(max_tokens=400, logprobs=20))
        head = f"POST /v1/completions HTTP/1.1\r\nhost: localhost\r\ncontent-length: {len(body)}\r\n"
        connection.sendall(f"{head}content-type: application/json\r\n\r\n".encode() + body)
        assert until(lambda: client.count("running") == 1)
        assert until(lambda: idle(client))
    assert client.complete("fox", max_tokens=1).status == 200


def test_a_full_queue_says_when_to_come_back(client: Client):
    """At once, as 429; those that were taken are answered, and further texts of one request wait for their turn."""
    with asked(client, json_bytes(long(n=12))):
        assert until(lambda: client.count("waiting") == 2)
        # one may come just as a text has ended and the next has not moved up
        answers = (client.complete("fox", max_tokens=1) for _ in range(50))
        refused = next(answer for answer in answers if answer.status != 200)
        assert refused.status == 429
        assert refused.headers["retry-after"] == "1"
        assert (refused.error["type"], refused.error["code"]) == ("rate_limit_error", "rate_limit_exceeded")
    assert until(lambda: idle(client))
    many = client.complete("fox", n=8, max_tokens=3, temperature=1, seed=1)
    assert len(many.json["choices"]) == 8


def test_requests_under_way_are_bounded(client: Client):
    with contextlib.ExitStack() as stack:
        for _ in range(12):
            connection = stack.enter_context(client.socket())
            head = b"POST /v1/completions HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"
            connection.sendall(head + b"content-length: 100\r\n\r\n")
        assert until(lambda: client.get("/v1/models").status == 503, 0.4)
        assert client.get("/readyz").status == 200
    assert until(lambda: client.get("/v1/models").status == 200)


def test_a_waiting_client_hears_that_it_waits(client: Client, monkeypatch):
    """By comments, which every client of server-sent events skips."""
    monkeypatch.setattr("gptjax.serving.api.choices.QUIET_SECONDS", 0.02)
    with asked(client, json_bytes(long(n=4, max_tokens=100))):
        assert until(lambda: client.count("running") == 4)
        answer = client.complete("fox", max_tokens=3, stream=True)
    assert ": ping\n\n" in answer.text
    assert answer.text.endswith("data: [DONE]\n\n")
    assert all(isinstance(event, dict) for event in answer.events[:-1])


def test_a_mistake_of_ours_is_a_500_and_no_text_is_logged(client: Client, monkeypatch, caplog):
    """Whole answers and streams, which end with an error and without [DONE]; the log names the request."""

    def broken(*args):
        raise TypeError(SECRET)

    with caplog.at_level(logging.DEBUG):
        monkeypatch.setattr("gptjax.serving.app.fingerprint", broken)
        answer = client.complete(SECRET)
        monkeypatch.undo()
        monkeypatch.setattr("gptjax.serving.api.replies.CompletionStyle.streamed", broken)
        stream = client.complete(SECRET, max_tokens=3, stream=True)
    assert answer.status == 500
    assert answer.error["type"] == "server_error"
    number = answer.headers["x-request-id"]
    assert number in answer.error["message"]
    assert f"{number}: TypeError" in caplog.text
    assert (stream.status, "[DONE]" in stream.text) == (200, False)
    assert stream.events[-1]["error"]["type"] == "server_error"
    assert SECRET not in caplog.text + answer.text + stream.text + client.get("/metrics").text
    monkeypatch.undo()
    assert client.complete(SECRET, max_tokens=1).status == 200
    assert until(lambda: idle(client))


def test_a_poisoned_text_is_the_only_one_that_fails(client: Client, monkeypatch):
    """The engine gives up one request; the other, in the row beside it, is what it is alone."""
    from gptjax.decoding.text_stream import TextStream

    wanted = client.complete("dog", max_tokens=100).json["choices"][0]["text"]
    push, poisoned = TextStream.push, []

    def failing(self, id):
        poisoned.append(self)
        if self is poisoned[0] and poisoned.count(self) == 5:
            raise ValueError("poison")
        return push(self, id)

    with asked(client, json_bytes(long())) as connection:
        monkeypatch.setattr(TextStream, "push", failing)
        assert client.complete("dog", max_tokens=100).json["choices"][0]["text"] == wanted
        monkeypatch.undo()
        connection.settimeout(5)
        assert b'data: {"error":{"message":"poison"' in read(connection)
    assert client.get("/healthz").status == 200


def test_keys_are_compared_without_an_early_end(monkeypatch):
    """Every known key is compared, by its digest."""
    compared = []
    monkeypatch.setattr(guard.hmac, "compare_digest", lambda one, other: compared.append((one, other)) or one == other)
    guard.Keys(KEYS).of(guard.Headers({"authorization": f"Bearer {KEYS[0]}"}))
    assert len(compared) == len(KEYS)
    assert {len(one) for pair in compared for one in pair} == {32}


def read(connection):
    found = b""
    while b'"error"' not in found and (data := connection.recv(65536)):
        found += data
    return found


def json_bytes(fields):

    return json.dumps(fields).encode()
