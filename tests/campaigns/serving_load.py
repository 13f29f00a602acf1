"""`python -m tests.campaigns.serving_load MODEL [-- what gptjax serve is given]`: a real server under load.

200 prompts are each asked alone, and their answers kept. Then hundreds of streams at once ask the same, as chats and
completions, streamed and whole; among them are clients that leave in the midst, that read slowly, and that send what is
malformed or too large. Every token of every answer must be that of the lone one, every refusal have its status, and
nothing may be left of any of it: no request, no file descriptor, no memory, no program compiled.

Linux only, for it reads /proc.
"""

import argparse
import asyncio
import collections
import contextlib
import dataclasses
import itertools
import json
import random
import re
import socket
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from tests.campaigns.server_process import (
    HOST,
    NAME,
    Connection,
    Server,
    connected,
    head,
    metrics,
    posted,
    serving,
)

PROMPTS = 200
SLOW = 20  # of the streams
CANCELLED, MALFORMED, OVERSIZED = 0.10, 0.05, 0.02
CHAT, COMPLETIONS = "/v1/chat/completions", "/v1/completions"
SECONDS = 600  # in which anything must be answered
MEMORY = 1.02  # of what it was before
WORDS = re.findall(
    r"\w+",
    """The old house by the river had a garden where apples grew, and children played until the sun went down behind the
    hills; then their mother called them in, and they sat at a long table with bread, soup and cheese, and told what
    they had seen that day: a fox, a red boat, two strangers with a map, or nothing at all""",
)


class Question(NamedTuple):
    path: str
    fields: dict[str, Any]


class Said(NamedTuple):
    """What a model answered: the same question must come to the same."""

    tokens: tuple[str, ...]
    text: str
    reason: str | None
    drawn: int

    def begins(self, whole: "Said") -> bool:
        return whole.tokens[: len(self.tokens)] == self.tokens and whole.text.startswith(self.text)


def questions() -> list[Question]:
    """Of distinct prompts; every twenty begin alike, for more tokens than one piece has. One in five is drawn."""
    found = []
    for number in range(PROMPTS):
        beginning = random.Random(number // 20).choices(WORDS, k=70)
        text = " ".join([*beginning, *random.Random(1000 + number).choices(WORDS, k=3 + number % 17)])
        drawn = {"temperature": 0.9, "top_p": 0.95, "seed": number} if number % 5 == 4 else {"temperature": 0}
        fields = {"model": NAME, "max_tokens": 8 + number % 25, **drawn}
        if number % 2:
            fields |= {"messages": [{"role": "user", "content": text}], "logprobs": True}
        else:
            fields |= {"prompt": text, "logprobs": 0}
        found.append(Question(CHAT if number % 2 else COMPLETIONS, fields))
    return found


def request(question: Question, *, stream: bool) -> bytes:
    streamed = {"stream": True, "stream_options": {"include_usage": True}} if stream else {}
    return posted(question.path, question.fields | streamed)


def names(choice: dict[str, Any]) -> list[str]:
    """A choice's tokens."""
    scores = choice["logprobs"] or {}
    return scores["tokens"] if "tokens" in scores else [token["token"] for token in scores.get("content", ())]


async def streamed(connection: Connection, *, leave: int | None = None, pause: float = 0.0) -> Said:
    """The stream's answer, as far as `leave` events. Raises AssertionError for one that is not well formed."""
    tokens, text, reason, drawn, ended = [], "", None, -1, False
    left = -1 if leave is None else leave
    async with contextlib.aclosing(connection.events()) as events:
        async for event in events:
            assert not ended, f"{event} behind [DONE]"
            if left == 0:
                break
            left -= 1
            if event == "[DONE]":
                ended = True
                continue
            assert "error" not in event, event
            if event["usage"] is not None:
                drawn = event["usage"]["completion_tokens"]
            for choice in event["choices"]:
                text += choice["delta"].get("content", "") if "delta" in choice else choice["text"]
                tokens += names(choice)
                reason = choice["finish_reason"] or reason
            await asyncio.sleep(pause)
    assert ended or leave is not None, "no [DONE]"
    return Said(tuple(tokens), text, reason, drawn)


async def complete(connection: Connection) -> Said:
    reply = json.loads(await connection.body())
    (choice,) = reply["choices"]
    text = choice["message"]["content"] if "message" in choice else choice["text"]
    return Said(tuple(names(choice)), text, choice["finish_reason"], reply["usage"]["completion_tokens"])


class Bad(NamedTuple):
    """What must be refused; status 0 = nobody is left to answer, for the client breaks off."""

    name: str
    raw: bytes
    status: int


def malformed() -> list[Bad]:
    good = {"model": NAME, "prompt": "the", "max_tokens": 4}
    spoilt = {
        "a wrong type": {"temperature": "hot"},
        "an unknown field": {"temprature": 1},
        "a negative number": {"max_tokens": -1},
        "an empty list": {"prompt": []},
        "a token that there is not": {"prompt": [2**30]},
        "a broken schema": {"response_format": {"type": "json_schema", "json_schema": {"name": "a", "schema": 5}}},
        "a broken expression": {"regex": "(a"},
    }
    deep = b'{"model": ' + b"[" * 5000 + b"]" * 5000 + b"}"
    whole = posted(COMPLETIONS, good)
    return [
        *(Bad(name, posted(COMPLETIONS, good | fields), 400) for name, fields in spoilt.items()),
        Bad("another model", posted(COMPLETIONS, good | {"model": "none"}), 404),
        Bad("no message", posted(CHAT, {"model": NAME, "messages": []}), 400),
        Bad("no JSON", posted(COMPLETIONS, b'{"model": "a", '), 400),
        Bad("no UTF-8", posted(COMPLETIONS, b'{"model": "\xff"}'), 400),
        Bad("NaN", posted(COMPLETIONS, b'{"model": "a", "temperature": NaN}'), 400),
        Bad("a name twice", posted(COMPLETIONS, b'{"model": "a", "model": "b"}'), 400),
        Bad("deep JSON", posted(COMPLETIONS, deep), 400),
        Bad("no content type", head("POST", COMPLETIONS, "content-length: 2") + b"{}", 415),
        Bad("another method", head("GET", COMPLETIONS), 405),
        Bad("another path", head("GET", "/v2/completions"), 404),
        Bad("another host", whole.replace(b"host: 127.0.0.1", b"host: example.org"), 403),
        Bad("another site", posted(COMPLETIONS, good, "origin: http://example.org"), 403),
        Bad("no HTTP", b"\x16\x03\x01 hello\r\n\r\n", 400),
        Bad("a head that breaks off", whole[:40], 0),
        Bad("a body that breaks off", whole[:-9], 0),
    ]


def oversized() -> list[Bad]:
    good = {"model": NAME, "prompt": "the", "max_tokens": 4}
    large = b" " * (3 * 2**20)
    chunk = b"10000\r\n" + large[:0x10000] + b"\r\n"
    chunked = head("POST", COMPLETIONS, "transfer-encoding: chunked", "content-type: application/json") + chunk * 48
    return [
        Bad("a body of 3 MiB", posted(COMPLETIONS, large), 413),
        Bad("chunks of 3 MiB", chunked + b"0\r\n\r\n", 413),
        Bad("a header of 80 KiB", head("GET", "/v1/models", "x-long: " + "x" * 80_000), 431),
        Bad("200 header lines", head("GET", "/v1/models", *(f"x-{n}: 1" for n in range(200))), 431),
        Bad("a prompt beyond the context", posted(COMPLETIONS, good | {"prompt": "the river " * 20_000}), 400),
        Bad("too many tokens", posted(COMPLETIONS, good | {"max_tokens": 10**6}), 400),
        Bad("too many samples", posted(COMPLETIONS, good | {"n": 10**5}), 400),
    ]


@dataclasses.dataclass(frozen=True)
class Load:
    """Clients of one server, and what became of what they asked."""

    server: Server
    asked: list[Question]
    lone: list[Said]
    outcomes: collections.Counter[str] = dataclasses.field(default_factory=collections.Counter)
    wrong: list[str] = dataclasses.field(default_factory=list)
    open: list[int] = dataclasses.field(default_factory=lambda: [0, 0])  # streams: now, most

    async def run(self, plan: Iterator["Asked"], streams: int, until: float = float("inf")) -> None:
        """Clients that stream, `streams` beside the slow ones, and others for all else; until that moment at most."""
        kept: dict[bool, collections.deque[Asked]] = {True: collections.deque(), False: collections.deque()}

        def of(stream: bool) -> Iterator[Asked]:
            while time.monotonic() < until:
                while not kept[stream]:
                    if (found := next(plan, None)) is None:
                        return
                    kept[found.stream].append(found)
                yield kept[stream].popleft()

        async with asyncio.TaskGroup() as group:
            for number in range(streams + SLOW):
                group.create_task(self._client(of(True), random.Random(number), slow=number < SLOW))
            for number in range(streams // 4):
                group.create_task(self._client(of(False), random.Random(-number - 1), slow=False))

    async def _client(self, plan: Iterator["Asked"], rng: random.Random, *, slow: bool) -> None:
        connection = None
        for kind, number, stream in plan:
            try:
                async with asyncio.timeout(SECONDS):
                    if kind in ("malformed", "oversized"):
                        if connection is not None:  # it would be idle meanwhile
                            await connection.close()
                            connection = None
                        await self._refused(kind, number)
                        continue
                    connection = connection or (await slowly(self.server.port) if slow else await self._connected())
                    stays = await self._ask(connection, kind, number, rng, stream=stream, slow=slow)
                    if not stays:
                        await connection.close()
                        connection = None
            except (OSError, AssertionError, KeyError, ValueError, EOFError) as error:
                self.wrong.append(f"{kind}, prompt {number}: {type(error).__name__} {error}"[:300])
                if connection is not None:
                    connection.abort()
                connection = None
        if connection is not None:
            await connection.close()

    async def _connected(self) -> Connection:
        return await connected(self.server.port)

    async def _ask(
        self, connection: Connection, kind: str, number: int, rng: random.Random, *, stream: bool, slow: bool
    ) -> bool:
        """Whether the connection can be used again."""
        leaves = kind == "cancelled"
        how = "streamed" if stream else "whole"
        lone = self.lone[number]
        await connection.send(request(self.asked[number], stream=stream))
        if leaves and (not stream or rng.random() < 0.2):  # also before the first byte, and while it waits
            await asyncio.sleep(rng.random() * 0.5)
            connection.abort()
            self.outcomes[f"left, {how}, before a byte was read"] += 1
            return False
        self.open[0] += stream
        self.open[1] = max(self.open)
        try:
            if (status := await connection.head()) != 200:
                raise AssertionError(f"status {status}: {(await connection.body())[:200]}")
            if leaves:
                said = await streamed(connection, leave=rng.randrange(len(lone.tokens) + 1))
                connection.abort()
                self._check(said.begins(lone), number, said)
                self.outcomes[f"left, {how}, in the midst"] += 1
                return False
            pause = rng.uniform(0.05, 0.5) if slow else 0.0
            said = await (streamed(connection, pause=pause) if stream else complete(connection))
        finally:
            self.open[0] -= stream
        self._check(said == lone, number, said)
        path = "chat" if self.asked[number].path == CHAT else "completion"
        self.outcomes[f"answered, {how}, {path}" + (", read slowly" if slow else "")] += 1
        # a slow reader's connection may be closed before it has read to the end: idle ones are, after some seconds
        return connection.stays and not slow and rng.random() < 0.7

    def _check(self, right: bool, number: int, said: Said) -> None:
        if not right:
            self.wrong.append(f"prompt {number}: {said} instead of {self.lone[number]}")

    async def _refused(self, kind: str, number: int) -> None:
        sort = malformed if kind == "malformed" else oversized
        bad = (found := sort())[number % len(found)]
        connection = await self._connected()
        if bad.status == 0:
            await connection.send(bad.raw)
            await connection.close()
            self.outcomes[f"{kind}: {bad.name}"] += 1
            return
        told = "connection reset"
        with contextlib.suppress(ConnectionError):  # many a client still writes when the server has refused
            with contextlib.suppress(ConnectionError):
                await connection.send(bad.raw)
            told = str(await connection.head())
            await connection.body()
        await connection.close()
        if told != str(bad.status) and not (told == "connection reset" and bad.status == 431):
            self.wrong.append(f"{kind}, {bad.name}: {told} instead of {bad.status}")
        self.outcomes[f"{kind}: {bad.name}: {told}"] += 1


async def slowly(port: int) -> Connection:
    """A connection whose client holds little that it has not read."""
    own = socket.socket()
    own.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    own.setblocking(False)
    await asyncio.get_running_loop().sock_connect(own, (HOST, port))
    return Connection(*await asyncio.open_connection(sock=own, limit=2048))


class Asked(NamedTuple):
    kind: str
    number: int  # of the prompt, or of what is wrong
    stream: bool


def plan(requests: int, seed: int) -> Iterator[Asked]:
    """Of those that can be streamed four in five are."""
    rng = random.Random(seed)
    weights = (1 - CANCELLED - MALFORMED - OVERSIZED, CANCELLED, MALFORMED, OVERSIZED)
    for kind in rng.choices(("answered", "cancelled", "malformed", "oversized"), weights, k=requests):
        yield Asked(kind, rng.randrange(PROMPTS), kind in ("answered", "cancelled") and rng.random() < 0.8)


class State(NamedTuple):
    """What must be after as it was before."""

    files: list[str]  # what its file descriptors are
    megabytes: float
    metrics: dict[str, float]


async def settled(server: Server) -> State:
    """Once nothing runs or waits, and no connection is left."""
    for _ in range(600):
        found = await metrics(server.port)
        if not found["gptjax_num_requests_running"] and not found["gptjax_num_requests_waiting"]:
            break
        await asyncio.sleep(0.1)
    await asyncio.sleep(12)  # a client that was refused may be listened to for ten seconds
    return State(server.files, server.megabytes, await metrics(server.port))


def compare(before: State, after: State) -> Iterator[tuple[str, float, float, bool]]:
    """(what, before, after, whether that is right)."""
    for name, what in {"running": "requests that are decoded", "waiting": "requests that wait"}.items():
        count = after.metrics[f"gptjax_num_requests_{name}"]
        yield what, before.metrics[f"gptjax_num_requests_{name}"], count, count == 0
    first, last = (one.metrics["gptjax_compilations_total"] for one in (before, after))
    yield "programs compiled", first, last, first == last
    yield "file descriptors", len(before.files), len(after.files), len(after.files) <= len(before.files)
    yield "resident memory, MiB", before.megabytes, after.megabytes, after.megabytes <= before.megabytes * MEMORY


async def campaign(server: Server, options: argparse.Namespace) -> int:
    questions_ = questions()
    lone = []
    for question in questions_:
        connection = await connected(server.port)
        await connection.send(request(question, stream=True))
        assert await connection.head() == 200, await connection.body()
        lone.append(await streamed(connection))
        await connection.close()
    print(f"{PROMPTS} lone answers, {sum(said.drawn for said in lone)} tokens, "
          f"{len({said.tokens for said in lone})} distinct", flush=True)  # fmt: skip
    warm = Load(server, questions_, lone)
    each = [Asked(kind, number, False) for kind in ("malformed", "oversized") for number in range(25)]
    await warm.run(itertools.chain(each, plan(2 * options.streams, 1)), options.streams)
    before = await settled(server)
    load = Load(server, questions_, lone)
    begun = time.monotonic()
    until = float("inf") if options.minutes is None else begun + 60 * options.minutes
    await load.run(plan(options.requests, 2), options.streams, until)
    seconds = time.monotonic() - begun
    after = await settled(server)
    wrong = [*warm.wrong, *load.wrong]
    print(f"\n{sum(load.outcomes.values())} requests, {load.open[1]} streams open at once, {seconds:.0f} s\n")
    for outcome, count in sorted(load.outcomes.items()):
        print(f"{count:7}  {outcome}")
    print(f"\n{'':32}{'before':>10}{'after':>10}")
    for what, first, last, right in compare(before, after):
        print(f"{what:32}{first:10.10g}{last:10.10g}{'' if right else '  WRONG'}")
        if not right:
            wrong.append(f"{what}: {first:g} before, {last:g} after")
    read, cached = (after.metrics[f"gptjax_prompt_tokens{of}_total"] for of in ("", "_cached"))
    drawn = after.metrics["gptjax_generation_tokens_total"]
    print(f"\n{drawn:.0f} tokens were drawn; of {read:.0f} of prompts {cached:.0f} had been read before")
    if mistakes := [line for line in server.log.read_text().splitlines() if "Traceback" in line or "Error" in line]:
        wrong.append(f"the server's log: {mistakes[:5]}")
    if len(after.files) > len(before.files):
        wrong.append(f"more file descriptors: {sorted(set(after.files) - set(before.files))[:10]}")
    if server.process.poll() is not None:
        wrong.append(f"the server ended with status {server.process.returncode}")
    print(f"\n{len(wrong)} wrong", *wrong[:20], sep="\n  ")
    return 1 if wrong else 0


def main() -> int:
    words = sys.argv[1:]
    own, given = (words[: (place := words.index("--"))], words[place + 1 :]) if "--" in words else (words, [])
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path, help="a run, a folder of Hugging Face's layout, or a .gguf file")
    parser.add_argument("--requests", type=int, default=10_000)
    parser.add_argument("--streams", type=int, default=500)
    parser.add_argument("--minutes", type=float, help="no request begins after so many")
    options = parser.parse_args(own)
    queue = 4 * (options.streams + SLOW)  # one client may have half of the places
    words = ("--slots", "16", "--queue", str(queue), *given)
    with serving(options.model, *words) as server:
        return asyncio.run(campaign(server, options))


if __name__ == "__main__":
    sys.exit(main())
