"""uvicorn's HTTP protocol with bounds that it lacks: on the head of a request, and on clients that do not read."""

import asyncio
import functools
from typing import Any

from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from gptjax.serving.errors import ApiError

HEAD_BYTES = 64 * 2**10  # of a request's first line and headers
HEAD_LINES = 100
HEAD_SECONDS = 20.0  # from a request's first byte, or the connection, to the end of its headers
UNREAD_SECONDS = 60.0  # for a client to read what was sent, when the buffers are full
CONNECTIONS = 1024  # at once


class BoundedProtocol(HttpToolsProtocol):
    """One connection."""

    _deadline: asyncio.TimerHandle | None = None  # for the head of a request
    _stalled: asyncio.TimerHandle | None = None  # for the client to read
    _in_head = True
    _head_bytes = _head_lines = 0  # what has come of a head, lines that were read of it
    _head_read = 0  # bytes of its address and headers: all of it may come at once, and be read at once

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        self._await_head()
        if len(self.connections) > CONNECTIONS:
            self._refuse(ApiError(f"the server has {CONNECTIONS} connections already", status=503))

    def connection_lost(self, exc: Exception | None) -> None:
        for timer in (self._deadline, self._stalled):
            if timer is not None:
                timer.cancel()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self._in_head:
            self._head_bytes += len(data)
        super().data_received(data)  # stops the timer for idle connections, whatever came
        if self._deadline is None and (self.cycle is None or self.cycle.response_complete):
            self._await_head()
        if self._in_head and self._head_bytes > HEAD_BYTES and not self.transport.is_closing():
            self._refuse(too_large())

    def on_message_begin(self) -> None:
        self._in_head, self._head_lines, self._head_read = True, 0, 0
        if self._deadline is None:
            self._await_head()
        super().on_message_begin()

    def on_url(self, url: bytes) -> None:
        self._read(url)
        super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        self._head_lines += 1
        self._read(name + value)
        super().on_header(name, value)

    def on_headers_complete(self) -> None:
        self._in_head, self._head_bytes = False, 0
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None
        super().on_headers_complete()

    def send_400_response(self, msg: str) -> None:
        if self.transport.is_closing():
            return
        if self._head_lines > HEAD_LINES:
            self._refuse(ApiError(f"the request has more than {HEAD_LINES} headers", status=431))
        elif self._head_read > HEAD_BYTES:
            self._refuse(too_large())
        else:
            self._refuse(ApiError("the request is no HTTP that can be read"))

    def pause_writing(self) -> None:
        super().pause_writing()
        self._stalled = self.loop.call_later(UNREAD_SECONDS, self.transport.abort)

    def resume_writing(self) -> None:
        super().resume_writing()
        if self._stalled is not None:
            self._stalled.cancel()
            self._stalled = None

    def _read(self, part: bytes) -> None:
        self._head_read += len(part)
        if self._head_lines > HEAD_LINES or self._head_read > HEAD_BYTES:
            raise ValueError("too much of a head")  # the parser ends, and send_400_response is called

    def _await_head(self) -> None:
        late = ApiError(f"the request's headers did not come within {HEAD_SECONDS:.0f} s", status=408)
        self._deadline = self.loop.call_later(HEAD_SECONDS, functools.partial(self._refuse, late))

    def _refuse(self, error: ApiError) -> None:
        """Answers and closes; in the midst of another answer it only closes."""
        if self.transport.is_closing():
            return
        if self.cycle is None or self.cycle.response_complete:
            headers = {
                "content-type": "application/json",
                "content-length": str(len(error.body)),
                "connection": "close",
            }
            lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
            self.transport.write(STATUS_LINE[error.status] + lines.encode() + b"\r\n" + error.body)
        self.transport.close()


def too_large() -> ApiError:
    return ApiError(f"the request's headers have more than {HEAD_BYTES >> 10} KiB", status=431)
