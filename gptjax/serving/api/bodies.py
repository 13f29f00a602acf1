"""Bodies of requests, read within bounds of size and time; and work that ends when its client goes."""

import asyncio
from collections.abc import AsyncGenerator, Coroutine
from contextlib import aclosing
from typing import Any

from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from gptjax.serving.api.fields import parsed
from gptjax.serving.errors import ApiError
from gptjax.serving.settings import Settings

LARGE = 2**16  # bytes of a body, from which on it is read beside the event loop
LINGER_SECONDS = 10.0  # in which a client may still send what nobody reads, so that it comes to read the answer


async def json_of(request: Request, settings: Settings) -> Any:
    """The JSON that a request brings. Raises ApiError."""
    kind, _, rest = request.headers.get("content-type", "").lower().partition(";")
    if kind.strip() != "application/json" or ("charset" in rest and "utf-8" not in rest):
        raise ApiError(
            "the request must be JSON in UTF-8, with the header `Content-Type: application/json`", status=415
        )
    if request.headers.get("content-encoding", "identity").lower() != "identity":
        raise ApiError("the request must not be compressed: leave the header Content-Encoding out", status=415)
    too_large = ApiError(f"the request has more than {settings.body_bytes} bytes", status=413)
    if int(request.headers.get("content-length", "0")) > settings.body_bytes:
        raise too_large
    body = bytearray()
    try:
        async with asyncio.timeout(settings.body_seconds):
            async for part in request.stream():
                body += part
                if len(body) > settings.body_bytes:
                    raise too_large
    except TimeoutError:
        raise ApiError(f"the request did not come within {settings.body_seconds:g} s", status=408) from None
    if len(body) > LARGE:
        return await asyncio.to_thread(parsed, bytes(body))
    return parsed(bytes(body))


async def while_connected[Result](receive: Receive, work: Coroutine[Any, Any, Result]) -> Result:
    """What the work comes to. Raises ClientDisconnect, and ends the work, when the client goes."""

    async def watch() -> None:
        while (await receive())["type"] != "http.disconnect":
            pass

    worker, watcher = asyncio.create_task(work), asyncio.create_task(watch())
    try:
        await asyncio.wait((worker, watcher), return_when=asyncio.FIRST_COMPLETED)
        if not worker.done():
            raise ClientDisconnect
        return worker.result()
    finally:
        for task in (worker, watcher):
            task.cancel()
        await asyncio.gather(worker, watcher, return_exceptions=True)


class EventStream(Response):
    """Server-sent events. They are closed with the answer, also when the client goes."""

    def __init__(self, events: AsyncGenerator[bytes]):
        self._events = events
        self.status_code, self.background = 200, None
        self.init_headers(
            {
                "content-type": "text/event-stream; charset=utf-8",
                "cache-control": "no-cache",
                "x-accel-buffering": "no",  # nginx hands each event on at once
            }
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def write() -> None:
            await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
            async for data in self._events:
                await send({"type": "http.response.body", "body": data, "more_body": True})
            await send({"type": "http.response.body", "body": b"", "more_body": False})

        async with aclosing(self._events):
            await while_connected(receive, write())


class ErrorAnswer(Response):
    """What a request is refused with. Where its body was not read, the connection ends, but not before the client had
    time to read why: many send all of a body first."""

    def __init__(self, error: ApiError):
        super().__init__(error.body, error.status, error.headers, "application/json")
        self._lingers = error.status in (408, 413)
        if self._lingers:
            self.headers["connection"] = "close"

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if not self._lingers:
            await super().__call__(scope, receive, send)
            return
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        await send({"type": "http.response.body", "body": self.body, "more_body": True})
        try:
            async with asyncio.timeout(LINGER_SECONDS):
                while (message := await receive())["type"] == "http.request" and message.get("more_body"):
                    pass
        except TimeoutError:
            pass
        await send({"type": "http.response.body", "body": b"", "more_body": False})
