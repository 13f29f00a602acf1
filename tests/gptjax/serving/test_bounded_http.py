"""Heads of requests, connections and readers within bounds, over real sockets."""

import contextlib
import json
import socket
import threading
import time

import pytest
import uvicorn

from gptjax.serving import bounded_http
from gptjax.serving.bounded_http import HEAD_BYTES, HEAD_LINES, BoundedProtocol

BODY, BLOCKS = b"x" * 2**16, 300  # more than the buffers of both sides hold


async def app(scope, receive, send):
    """Says that it is there; at /long at length."""
    await receive()
    await send({"type": "http.response.start", "status": 200, "headers": []})
    for _ in range(BLOCKS if scope["path"] == "/long" else 0):
        await send({"type": "http.response.body", "body": BODY, "more_body": True})
    await send({"type": "http.response.body", "body": b"here"})


@pytest.fixture(scope="module")
def server():
    found = uvicorn.Server(
        uvicorn.Config(app, http=BoundedProtocol, ws="none", lifespan="off", log_config=None, access_log=False)
    )
    listening = socket.create_server(("127.0.0.1", 0))
    found.port = listening.getsockname()[1]
    thread = threading.Thread(target=found.run, args=([listening],), daemon=True)
    thread.start()
    yield found
    found.should_exit = True
    thread.join(20)


@contextlib.contextmanager
def connected(server):
    with socket.create_connection(("127.0.0.1", server.port), timeout=20) as sock:
        yield sock


def read(sock):
    """(status, body) of all that comes until the server closes; (None, "") where it says nothing."""
    raw = bytearray()
    with contextlib.suppress(ConnectionError):
        while part := sock.recv(2**16):
            raw += part
    head, _, body = bytes(raw).partition(b"\r\n\r\n")
    return (int(head.split()[1]), body.decode()) if head else (None, "")


def answer(server, raw):
    with connected(server) as sock:
        with contextlib.suppress(ConnectionError):
            sock.sendall(raw)
        return read(sock)


def head(*lines, path="/"):
    return "\r\n".join([f"GET {path} HTTP/1.1", "host: localhost", "connection: close", *lines, "", ""]).encode()


def test_a_request_within_bounds_is_answered(server):
    lines = [f"x-{number}: y" for number in range(HEAD_LINES - 2)]
    assert answer(server, head(*lines)) == (200, "4\r\nhere\r\n0\r\n\r\n")


@pytest.mark.parametrize(
    ("raw", "status", "said"),
    [
        (head(*[f"x-{number}: y" for number in range(10_000)]), 431, f"more than {HEAD_LINES} headers"),
        (head("x: " + "y" * 10 * HEAD_BYTES), 431, "more than 64 KiB"),
        (head("x: " + "y" * HEAD_BYTES), 431, "more than 64 KiB"),  # all of it is read at once
        (head(path="/" + "y" * 10 * HEAD_BYTES), 431, "more than 64 KiB"),
        (b"complete nonsense\r\n\r\n", 400, "no HTTP"),
        (b"GET / HTTP/1.1\r\nhost: a\r\ncontent-length: -1\r\n\r\n", 400, "no HTTP"),
        (b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\n", 400, "no HTTP"),
    ],
)
def test_a_head_beyond_them_is_refused_in_json(server, raw, status, said):
    code, body = answer(server, raw)
    assert code == status
    assert said in json.loads(body)["error"]["message"]


def test_a_head_that_never_ends_is_given_up(server, monkeypatch):
    """At a connection's beginning, and within a request; a whole one is answered meanwhile."""
    monkeypatch.setattr(bounded_http, "HEAD_SECONDS", 0.3)
    for begun in (b"", b"GET / HTTP/1.1\r\nhost: a\r\n"):
        with connected(server) as sock:
            sock.sendall(begun)
            assert answer(server, head())[0] == 200
            status, body = read(sock)
            assert status == 408
            assert "did not come within" in json.loads(body)["error"]["message"]


@pytest.mark.parametrize("more", [b"\r\n", b"y"])
def test_a_connection_whose_answer_is_over_is_not_held_by_what_is_no_request(server, monkeypatch, more):
    """Neither by an empty line nor by a further piece of a body that was not read; a new request is answered."""
    monkeypatch.setattr(bounded_http, "HEAD_SECONDS", 0.5)
    length = f"content-length: {100 if more == b'y' else 1}"
    asked = f"POST / HTTP/1.1\r\nhost: a\r\n{length}\r\n\r\nx".encode()
    with connected(server) as sock:
        sock.settimeout(4)
        sock.sendall(asked)
        assert sock.recv(2**16).endswith(b"here\r\n0\r\n\r\n")
        sock.sendall(more)
        if more == b"\r\n":
            sock.sendall(asked)
            assert sock.recv(2**16).endswith(b"here\r\n0\r\n\r\n")
            sock.sendall(more)
        assert read(sock)[0] == 408


def test_connections_beyond_the_bound_are_refused_and_the_others_are_not(server, monkeypatch):
    monkeypatch.setattr(bounded_http, "CONNECTIONS", 2)
    with connected(server) as first, connected(server) as second:
        first.sendall(b"GET")
        second.sendall(b"GET")
        status, body = answer(server, head())
        assert status == 503
        assert "connections" in json.loads(body)["error"]["message"]
        first.sendall(head()[3:])
        assert read(first)[0] == 200
    assert answer(server, head())[0] == 200


def test_a_client_that_does_not_read_is_left(server, monkeypatch):
    """Its connection is gone soon after the buffers are full; one that reads gets all."""
    monkeypatch.setattr(bounded_http, "UNREAD_SECONDS", 0.5)
    assert len(answer(server, head(path="/long"))[1]) > BLOCKS * len(BODY)
    with connected(server) as sock:
        sock.sendall(head(path="/long"))
        seen = [False]
        for _ in range(400):
            seen.append(bool(server.server_state.connections))
            if seen[-2:] == [True, False]:
                break
            time.sleep(0.025)
        assert seen[-2:] == [True, False]
        assert len(read(sock)[1]) < BLOCKS * len(BODY)
