"""`gptjax serve` as a process of its own, and an HTTP client that shows all that goes over the wire, for campaigns."""

import asyncio
import contextlib
import json
import re
import resource
import subprocess
import sys
import tempfile
from collections.abc import AsyncGenerator, Iterator
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).resolve().parents[2]
HOST = "127.0.0.1"
NAME = "served"  # of a model, unless it is to have its folder's


class Server(NamedTuple):
    process: subprocess.Popen
    port: int
    log: Path  # what it prints

    @property
    def address(self) -> str:
        return f"http://{HOST}:{self.port}"

    @property
    def files(self) -> list[str]:
        """What its file descriptors are."""
        return [str(one.readlink()) for one in Path(f"/proc/{self.process.pid}/fd").iterdir()]

    @property
    def megabytes(self) -> float:
        """Resident memory."""
        return self._status("VmRSS")

    @property
    def most_megabytes(self) -> float:
        return self._status("VmHWM")

    def _status(self, field: str) -> float:
        found = re.search(rf"{field}:\s+(\d+) kB", Path(f"/proc/{self.process.pid}/status").read_text())
        assert found is not None
        return int(found[1]) / 1024


@contextlib.contextmanager
def serving(model: Path, *words: str, port: int = 0, name: str | None = NAME) -> Iterator[Server]:
    """A server that is ready. Raises SystemExit where it does not come to that.

    `name`: of its model; None = its folder's.

    This process may then have as many connections as the system lets it.
    """
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder) / "log.txt"
        command = [sys.executable, "-m", "gptjax.cli", "serve", str(model), "--port", str(port), *words]
        command += [] if name is None else ["--name", name]
        with log.open("w") as written:
            process = subprocess.Popen(command, cwd=ROOT, stdout=written, stderr=subprocess.STDOUT)
        try:
            while (ready := re.search(r":(\d+): a chat page.*ready: ", log.read_text())) is None:
                if process.poll() is not None:
                    raise SystemExit(f"the server ended with status {process.returncode}:\n{log.read_text()}")
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(0.05)
            yield Server(process, int(ready[1]), log)
        finally:
            process.kill()
            process.wait()


class Connection:
    """One HTTP/1.1 connection, on which one request follows another."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter):
        self._reader, self._writer = reader, writer
        self.status = 0
        self.headers: dict[str, str] = {}

    async def send(self, raw: bytes) -> None:
        self._writer.write(raw)
        await self._writer.drain()

    async def head(self) -> int:
        """The status of the answer that comes."""
        first, *lines = (await self._reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")[:-2]
        self.headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
        self.status = int(first.split()[1])
        return self.status

    async def parts(self) -> AsyncGenerator[bytes]:
        """The answer's body as it comes. Raises IncompleteReadError where it is cut."""
        if self.headers.get("transfer-encoding") != "chunked":
            yield await self._reader.readexactly(int(self.headers["content-length"]))
            return
        while size := int(await self._line(), 16):
            yield await self._reader.readexactly(size)
            await self._line()
        await self._line()

    async def body(self) -> bytes:
        return b"".join([part async for part in self.parts()])

    async def events(self) -> AsyncGenerator[Any]:
        """Those of a stream, read from JSON; "[DONE]" as it is."""
        left = b""
        async for part in self.parts():
            *whole, left = (left + part).split(b"\n\n")
            for one in whole:
                if one.startswith(b"data: "):
                    yield "[DONE]" if one == b"data: [DONE]" else json.loads(one[6:])
        assert not left, left

    @property
    def stays(self) -> bool:
        return self.headers.get("connection") != "close"

    def abort(self) -> None:
        self._writer.transport.abort()

    async def close(self) -> None:
        self._writer.close()
        with contextlib.suppress(OSError):
            await self._writer.wait_closed()

    async def _line(self) -> bytes:
        line = await self._reader.readline()
        if not line.endswith(b"\n"):
            raise asyncio.IncompleteReadError(line, None)
        return line


async def connected(port: int) -> Connection:
    return Connection(*await asyncio.open_connection(HOST, port))


def posted(path: str, fields: Any, *lines: str) -> bytes:
    """A request as it goes over the wire; `fields`: JSON, or the bytes of the body."""
    body = fields if isinstance(fields, bytes) else json.dumps(fields).encode()
    return head("POST", path, f"content-length: {len(body)}", "content-type: application/json", *lines) + body


def head(method: str, path: str, *lines: str) -> bytes:
    return "\r\n".join([f"{method} {path} HTTP/1.1", f"host: {HOST}", *lines, "", ""]).encode()


async def asked(port: int, raw: bytes) -> tuple[int, bytes]:
    """The answer to one request, on a connection of its own."""
    connection = await connected(port)
    try:
        await connection.send(raw)
        return await connection.head(), await connection.body()
    finally:
        await connection.close()


async def metrics(port: int) -> dict[str, float]:
    """Those without labels."""
    _, page = await asked(port, head("GET", "/metrics"))
    return {name: float(value) for name, value in re.findall(r"^(\w+) (\S+)$", page.decode(), re.MULTILINE)}
