"""`python -m tests.campaigns.serving_faults RUN TALKS`: what strangers, crashes and damage do to a real server.

RUN has two good checkpoints, TALKS learned to talk. After each fault the server must answer as before it, and nothing
may run or wait; what a fault is refused with, and what it may cost, each check says itself.

Linux only, for it reads /proc.
"""

import argparse
import asyncio
import contextlib
import json
import re
import shutil
import signal
import socket
import sys
import tempfile
import time
import traceback
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from gptjax.runs.manifest import folder_of
from tests.campaigns.server_process import (
    HOST,
    NAME,
    Server,
    asked,
    connected,
    head,
    metrics,
    posted,
    serving,
)

COMPLETIONS, CHAT = "/v1/completions", "/v1/chat/completions"
SHORT = {"model": NAME, "prompt": "The old house by the river", "max_tokens": 8, "temperature": 0}
NO_END = {"logit_bias": {"2": -100}}  # no text of these models ends before its time
LONG = {**SHORT, **NO_END, "max_tokens": 200, "stream": True}
WORDS = ("--slots", "4", "--queue", "16", "--dtype", "bfloat16")
OTHER = "127.0.0.2"  # this machine too, but another client
BODY = 2**30  # bytes
SPARE = 48  # MiB that a fault may cost
STRING = {"type": "string"}
BOMBS = {
    "a schema": {"allOf": [{**STRING, "pattern": f".*{chr(97 + n)}.{{{20 + n}}}"} for n in range(20)]},
    "a regular expression": {**STRING, "pattern": "(a?){2000}a{2000}"},
    "nested repetition": {**STRING, "pattern": "((((a{1,100}){1,100}){1,100}){1,100}){1,100}"},
}
LOOPS = "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}"


async def answer(port: int) -> str:
    """What the model says to SHORT."""
    status, body = await asked(port, posted(COMPLETIONS, SHORT))
    assert status == 200, body
    return json.loads(body)["choices"][0]["text"]


def error_of(body: bytes) -> str:
    return json.loads(body)["error"]["message"]


async def idle(port: int, seconds: float = 60) -> None:
    """Until nothing runs or waits."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        found = await metrics(port)
        if found["gptjax_num_requests_running"] == found["gptjax_num_requests_waiting"] == 0:
            return
        await asyncio.sleep(0.1)
    raise AssertionError(f"after {seconds:g} s something still runs or waits")


async def answered_meanwhile[Result](server: Server, fault: Awaitable[Result], within: float = 10) -> Result:
    """What a fault comes to. Raises AssertionError where others wait for it."""
    task = asyncio.ensure_future(fault)
    while not task.done():
        begun = time.monotonic()
        await answer(server.port)
        seconds = time.monotonic() - begun
        assert seconds < within, f"another client had to wait {seconds:.1f} s"
        await asyncio.sleep(0.2)
    return await task


async def body_of_a_gigabyte(server: Server) -> None:
    """In chunks, and with a length that is true: 413 when the first of it has come, and nothing of it is kept."""
    before = server.most_megabytes
    kind = "content-type: application/json"
    chunk = b"100000\r\n" + b" " * 2**20 + b"\r\n"
    for line, piece in {"transfer-encoding: chunked": chunk, f"content-length: {BODY}": b" " * 2**20}.items():

        async def ask(line: str = line, piece: bytes = piece) -> tuple[int, int]:
            connection, sent = await connected(server.port), 0
            await connection.send(head("POST", COMPLETIONS, line, kind))
            heard, told = asyncio.create_task(connection.head()), -1
            with contextlib.suppress(ConnectionError):
                while sent < BODY:  # as many a client does, whatever it was told
                    await connection.send(piece)
                    sent += len(piece)
                    await asyncio.sleep(0)
                    told = sent if heard.done() and told < 0 else told
            status = await heard
            await connection.close()
            return status, told

        status, told = await answered_meanwhile(server, ask())
        assert status == 413, status
        print(f"         {line}: 413 after {told >> 20} MiB")
        assert 0 <= told < 32 * 2**20
    cost = server.most_megabytes - before
    assert cost < SPARE, f"it cost {cost:.0f} MiB"


async def ten_thousand_header_lines(server: Server) -> None:
    raw = head("GET", "/v1/models", *(f"x-{number}: 1" for number in range(10_000)))
    connection = await connected(server.port)
    heard = asyncio.create_task(connection.head())
    with contextlib.suppress(ConnectionError):
        await connection.send(raw)
    assert await heard == 431
    await connection.close()


async def deep_json(server: Server) -> None:
    for raw in (b"[" * 2_000_000, b'{"a":' * 400_000, b"[" * 1_000_000 + b"]" * 1_000_000):
        status, body = await answered_meanwhile(server, asked(server.port, posted(COMPLETIONS, raw)))
        assert status == 400, status
        assert "nested deeper" in error_of(body)


async def bombs_as_schema(server: Server) -> None:
    """Refused, or a text that ends with an error; neither makes others wait."""
    before = server.most_megabytes
    for name, schema in BOMBS.items():
        form = {"type": "json_schema", "json_schema": {"name": "bomb", "schema": schema}}
        raw = posted(COMPLETIONS, SHORT | {"response_format": form, "max_tokens": 64})
        begun = time.monotonic()
        status, body = await answered_meanwhile(server, asked(server.port, raw))
        said = error_of(body) if status != 200 else "answered"
        print(f"         {name}: {status} after {time.monotonic() - begun:.1f} s, {said[:100]}")
        assert status in (200, 400), body
    cost = server.most_megabytes - before
    assert cost < SPARE, f"it cost {cost:.0f} MiB"


async def clients_that_never_read(server: Server) -> None:
    """With answers larger than all buffers: others are answered, and the connections are cut after a minute."""
    files = len(server.files)
    many = {**LONG, "max_tokens": 150, "n": 64, "logprobs": 20}
    held = []
    for _ in range(3):
        own = socket.socket()
        own.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
        own.bind((OTHER, 0))  # with whom others take turns
        own.connect((HOST, server.port))
        own.sendall(posted(COMPLETIONS, many))
        held.append(own)
    while len(server.files) < files + len(held):
        await asyncio.sleep(0.1)
    begun = time.monotonic()
    while (left := len(server.files) - files) > 0 and time.monotonic() < begun + 300:
        await answer(server.port)
        await asyncio.sleep(1)
    print(f"         the last was cut after {time.monotonic() - begun:.0f} s")
    assert left <= 0, f"{left} connections of clients that do not read are still there"
    for own in held:
        read = bytearray()
        with contextlib.suppress(ConnectionError):
            while part := own.recv(2**20):
                read += part
        assert b"[DONE]" not in read, "all of it was in some buffer"
        own.close()


async def full_queue(server: Server) -> None:
    """Those who were taken are answered; the others hear 429, and when to come again."""

    async def ask() -> tuple[int, str, bool]:
        connection = await connected(server.port)
        await connection.send(posted(COMPLETIONS, LONG))
        status = await connection.head()
        if status == 200:
            whole = [event async for event in connection.events()]
            assert whole[-1] == "[DONE]"
        else:
            await connection.body()
        await connection.close()
        return status, connection.headers.get("retry-after", ""), status == 200

    seated = [asyncio.ensure_future(ask()) for _ in range(4)]
    while (await metrics(server.port))["gptjax_num_requests_running"] < 4:
        assert not any(one.done() for one in seated), seated
        await asyncio.sleep(0.01)
    found = await asyncio.gather(*seated, *(ask() for _ in range(100)))
    statuses = [status for status, *_ in found]
    print(f"         of 4, and 100 more at once {statuses.count(200)} were answered, {statuses.count(429)} refused")
    assert set(statuses) == {200, 429}
    assert statuses.count(200) >= 4 + 16 // 2
    assert all(again == "1" for status, again, _ in found if status == 429)


async def heads_that_never_end(server: Server) -> None:
    """Three hundred connections that say nothing, or half: others are answered, and these are closed with a 408."""
    held = [await connected(server.port) for _ in range(300)]
    for number, connection in enumerate(held):
        if number % 2:
            await connection.send(b"POST /v1/completions HTTP/1.1\r\nhost: ")
    heard = asyncio.gather(*(connection.head() for connection in held))
    statuses = await answered_meanwhile(server, heard)
    for connection in held:
        await connection.close()
    assert set(statuses) == {408}, statuses


async def too_many_connections(server: Server) -> None:
    """Beyond 1024: 503 for those, and the others stay."""
    held = [await connected(server.port) for _ in range(1024)]
    refused = [await connected(server.port) for _ in range(20)]
    statuses = [await connection.head() for connection in refused]
    assert set(statuses) == {503}, statuses
    await held[0].send(posted(COMPLETIONS, SHORT))
    assert await held[0].head() == 200
    for connection in (*held, *refused):
        await connection.close()


def kill_in_the_midst(run: Path, talks: Path) -> None:
    """kill -9: every stream breaks off without [DONE], and the next server has the same port and the same answers."""

    async def stream(port: int, begun: Callable[[], None]) -> str:
        connection = await connected(port)
        await connection.send(posted(COMPLETIONS, LONG))
        seen: list[Any] = []
        try:
            assert await connection.head() == 200
            async for event in connection.events():
                seen.append(event)
                if len(seen) == 3:
                    begun()
        except (asyncio.IncompleteReadError, ConnectionError) as error:
            return f"cut: {type(error).__name__}, [DONE] seen: {'[DONE]' in seen}"
        finally:
            connection.abort()
        return "ended as if it were whole"

    async def kill(server: Server) -> tuple[str, list[str]]:
        said, count = await answer(server.port), 0

        def begun() -> None:
            nonlocal count
            count += 1
            if count == 4:
                server.process.kill()

        return said, await asyncio.gather(*(stream(server.port, begun) for _ in range(8)))

    with serving(run, *WORDS) as server:
        said, ends = asyncio.run(kill(server))
        assert all("cut" in end and "seen: False" in end for end in ends), ends
        assert server.process.wait(10) == -signal.SIGKILL
    with serving(run, *WORDS, port=server.port) as again:
        assert asyncio.run(answer(again.port)) == said


def damaged_newest_checkpoint(run: Path, talks: Path) -> None:
    """One bit: the step before is served, and one line says why."""
    with tempfile.TemporaryDirectory() as scratch:
        copy = Path(shutil.copytree(run, Path(scratch) / "run"))
        newest = max(int(step.name) for step in (copy / "checkpoints").iterdir() if step.name.isdigit())
        file = max((folder_of(copy, newest) / "params").rglob("*"), key=lambda path: path.stat().st_size)
        data = bytearray(file.read_bytes())
        data[len(data) // 2] ^= 1
        file.write_bytes(data)
        with serving(copy, *WORDS) as server:
            asyncio.run(answer(server.port))
            lines = [line for line in server.log.read_text().splitlines() if f"step {newest}" in line]
    assert len(lines) == 1, lines
    print(f"         {lines[0]}")


def looping_template(run: Path, talks: Path) -> None:
    """A model's own template that never ends: its chats are refused, completions are answered meanwhile."""
    with tempfile.TemporaryDirectory() as scratch:
        copy = Path(shutil.copytree(talks, Path(scratch) / "run"))
        file = copy / "generation.json"
        file.write_text(json.dumps(json.loads(file.read_text()) | {"chat_template": LOOPS}))

        async def chat(server: Server) -> None:
            raw = posted(CHAT, {"model": NAME, "messages": [{"role": "user", "content": "hello"}]})
            found = await answered_meanwhile(server, asyncio.gather(*(asked(server.port, raw) for _ in range(4))))
            assert {status for status, _ in found} == {400}, found
            assert all("takes more than" in error_of(body) for _, body in found), found

        with serving(copy, *WORDS) as server:
            asyncio.run(chat(server))


def port_that_is_taken(run: Path, talks: Path) -> None:
    with socket.create_server((HOST, 0)) as taken:
        port = taken.getsockname()[1]
        try:
            with serving(run, *WORDS, port=port):
                raise AssertionError("it serves")
        except SystemExit as error:
            lines = str(error).splitlines()
    assert len(lines) == 2, lines
    assert str(port) in lines[1], lines
    print(f"         {lines[1]}")


LIVE: tuple[Callable[[Server], Awaitable[None]], ...] = (
    body_of_a_gigabyte,
    ten_thousand_header_lines,
    deep_json,
    bombs_as_schema,
    full_queue,
    heads_that_never_end,
    too_many_connections,
    clients_that_never_read,
)
LIVES: tuple[Callable[[Path, Path], None], ...] = (
    kill_in_the_midst,
    damaged_newest_checkpoint,
    looping_template,
    port_that_is_taken,
)


async def survived(server: Server, fault: Callable[[Server], Awaitable[None]]) -> None:
    """The fault, and that all is after as it was before."""
    said = await answer(server.port)
    async with asyncio.timeout(400):
        await fault(server)
    await idle(server.port)
    assert await answer(server.port) == said
    log = server.log.read_text()
    assert not re.search("Traceback|Error", log), log[-2000:]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="a run with two checkpoints")
    parser.add_argument("talks", type=Path, help="a run that learned to talk")
    parser.add_argument("--only", default="", help="faults whose name has this in it")
    options = parser.parse_args()
    wrong = 0

    def tell(fault: Callable[..., Any], attempt: Callable[[], object]) -> None:
        nonlocal wrong
        begun = time.monotonic()
        try:
            attempt()
            word, why = "right", ""
        except Exception as error:
            word, why = "WRONG", "".join(traceback.format_exception(error, limit=-2))
            wrong += 1
        print(f"{word}  {fault.__name__.replace('_', ' ')}, {time.monotonic() - begun:.0f} s {why}", flush=True)

    if live := [fault for fault in LIVE if options.only in fault.__name__]:
        with serving(options.run, *WORDS) as server:
            for fault in live:
                tell(fault, lambda fault=fault: asyncio.run(survived(server, fault)))
    for fault in (fault for fault in LIVES if options.only in fault.__name__):
        tell(fault, lambda fault=fault: fault(options.run, options.talks))
    print(f"{wrong} wrong")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
