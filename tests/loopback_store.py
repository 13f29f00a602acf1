"""An object store on the loopback, that speaks as much of S3 and of Google Cloud Storage as TensorStore asks for.

Writes and deletions honour preconditions (If-Match, If-None-Match, ifGenerationMatch), which emulators from PyPI do in
part at best. A test can count requests, have some of them fail, and be called at each of them. All objects are in
memory; times are the store's own: `clock_ahead` seconds beside this machine's.
"""

import contextlib
import email.utils
import functools
import hashlib
import json
import os
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, NamedTuple
from urllib.parse import parse_qs, unquote, urlsplit
from xml.sax.saxutils import escape

NO_BUCKET = {
    True: b'{"error": {"code": 404, "message": "The specified bucket does not exist.", "errors": []}}',
    False: b"<Error><Code>NoSuchBucket</Code><Message>The specified bucket does not exist</Message></Error>",
}
PAGE = 1000  # keys of one answer to a listing


class Asked(NamedTuple):
    """One request, as a test's `fault` sees it before it is answered."""

    number: int  # counted from 1
    method: str
    bucket: str
    key: str  # "" for a listing, or for the bucket itself


class Fault(NamedTuple):
    """What becomes of a request instead of what should."""

    status: int | None = None  # answered with this
    drop: bool = False  # the connection is closed without an answer
    cut: int | None = None  # an answer's body ends after so many bytes, as the connection does
    wait: float = 0.0  # seconds before it is answered at all
    after: bool = False  # what was asked is done, and then answered wrongly


@functools.cache
def everyday_store() -> "LoopbackStore":
    """The store of all tests of a process, with a bucket for each: TensorStore takes note of its address once."""
    store = LoopbackStore().__enter__()
    os.environ.update(store.environment)
    return store


class LoopbackStore:
    """Serves until the context ends. `fault` may be set at any time; it gives None for what is to be answered as is."""

    def __init__(self, *buckets: str, clock_ahead: float = 0.0):
        self.objects: dict[str, dict[str, tuple[bytes, int]]] = {bucket: {} for bucket in buckets}
        self.careless: set[str] = set()  # buckets that write whatever the condition is
        self.read_only: set[str] = set()  # buckets that may not be written to
        self.fault: Callable[[Asked], Fault | None] = lambda asked: None
        self.asked: list[Asked] = []
        self.clock_ahead = clock_ahead
        self.lock = threading.Lock()
        self._generation = 1_700_000_000_000_000
        handler = type("Handler", (_Handler,), {"store": self})
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self._server.daemon_threads = True

    def bucket(self, name: str = "bucket") -> str:
        """A new bucket, of a name of its own."""
        with self.lock:
            made = f"{name}-{len(self.objects)}"
            self.objects[made] = {}
        return made

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    @property
    def environment(self) -> dict[str, str]:
        """Variables by which a process takes this for S3, and for Google's storage."""
        return {
            "AWS_ENDPOINT_URL": self.address, "AWS_ACCESS_KEY_ID": "anybody", "AWS_SECRET_ACCESS_KEY": "anything",
            "AWS_REGION": "us-east-1", "AWS_EC2_METADATA_DISABLED": "true", "TENSORSTORE_GCS_HTTP_URL": self.address,
            "NO_GCE_CHECK": "true",
        }  # fmt: skip

    def keys(self, bucket: str) -> list[str]:
        with self.lock:
            return sorted(self.objects[bucket])

    def __enter__(self) -> "LoopbackStore":
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    def next_generation(self) -> int:
        self._generation += 1
        return self._generation


def etag(content: bytes) -> str:
    return f'"{hashlib.md5(content).hexdigest()}"'


class _Handler(BaseHTTPRequestHandler):
    store: LoopbackStore
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: Any) -> None:
        pass

    def date_time_string(self, timestamp: float | None = None) -> str:
        return email.utils.formatdate((timestamp or time.time()) + self.store.clock_ahead, usegmt=True)

    def _handle(self) -> None:
        split = urlsplit(self.path)
        query = {name: values[0] for name, values in parse_qs(split.query, keep_blank_values=True).items()}
        parts = split.path.lstrip("/").split("/")
        google = parts[:2] == ["storage", "v1"] or parts[:3] == ["upload", "storage", "v1"]
        if google:
            after = parts[parts.index("b") + 1 :]  # bucket, "o", key
            bucket, key = after[0], unquote(query.get("name") or "/".join(after[2:]))
        else:
            bucket, key = parts[0], unquote("/".join(parts[1:]))
        body = self._body()
        with self.store.lock:
            asked = Asked(len(self.store.asked) + 1, self.command, bucket, key)
            self.store.asked.append(asked)
        fault = self.store.fault(asked) or Fault()
        time.sleep(fault.wait)
        answer = (500, {}, b"") if fault.status and not fault.after else self._answer(google, bucket, key, query, body)
        if fault.drop:
            self.close_connection = True
            return
        status, headers, content = answer
        self._send(fault.status or status, headers, content, fault.cut)

    do_GET = do_PUT = do_POST = do_DELETE = do_HEAD = _handle

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding", "") == "chunked":
            parts = []
            while size := int(self.rfile.readline().split(b";")[0], 16):
                parts.append(self.rfile.read(size))
                self.rfile.readline()
            self.rfile.readline()
            return b"".join(parts)
        return self.rfile.read(int(self.headers.get("Content-Length", 0)))

    def _send(self, status: int, headers: dict[str, str], content: bytes, cut: int | None) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content[:cut])
        if cut is not None:
            self.close_connection = True

    def _answer(self, google: bool, bucket: str, key: str, query: dict[str, str], body: bytes) -> Any:
        objects = self.store.objects.get(bucket)
        if objects is None:
            return 404, {}, NO_BUCKET[google]
        if not key:
            if self.command == "HEAD":
                return 200, {"x-amz-bucket-region": "us-east-1"}, b""
            return self._listing(google, bucket, query)
        with self.store.lock:
            if self.command in ("PUT", "POST", "DELETE"):
                if bucket in self.store.read_only:
                    return 403, {}, b"<Error><Code>AccessDenied</Code><Message>Access Denied</Message></Error>"
                return self._change(google, bucket, key, query, body)
            return self._get(google, objects, key, query)

    def _change(self, google: bool, bucket: str, key: str, query: dict[str, str], body: bytes) -> Any:
        objects = self.store.objects[bucket]
        found = objects.get(key)
        if google:
            wanted = query.get("ifGenerationMatch")
            fits = wanted is None or int(wanted) == (0 if found is None else found[1])
        else:
            match, none = self.headers.get("If-Match"), self.headers.get("If-None-Match")
            fits = (match is None or (found is not None and etag(found[0]) == match)) and (none is None or not found)
        if not fits and bucket not in self.store.careless:
            return 412, {}, b"<Error><Code>PreconditionFailed</Code><Message>no</Message></Error>"
        if self.command == "DELETE":
            objects.pop(key, None)
            return (204 if found or not google else 404), {}, b""
        generation = self.store.next_generation()
        objects[key] = (body, generation)
        if google:
            about = {"name": key, "generation": str(generation), "size": str(len(body))}
            return 200, {"Content-Type": "application/json"}, json.dumps(about).encode()
        return 200, {"ETag": etag(body)}, b""

    def _get(self, google: bool, objects: dict[str, tuple[bytes, int]], key: str, query: dict[str, str]) -> Any:
        if key not in objects:
            return 404, {}, b"<Error><Code>NoSuchKey</Code><Message>no such key</Message></Error>"
        content, generation = objects[key]
        headers = {"x-goog-generation": str(generation), "ETag": etag(content)}
        same = query.get("ifGenerationNotMatch") == str(generation) or self.headers.get("If-None-Match") == etag(
            content
        )
        if same:
            return 304, headers, b""
        span = self.headers.get("Range")
        if span is None or not content:
            return 200, headers, content
        first, _, last = span.removeprefix("bytes=").partition("-")
        begin = int(first) if first else max(0, len(content) - int(last))
        end = min(len(content), int(last) + 1) if first and last else len(content)
        if begin >= len(content):
            return 416, headers, b""
        headers["Content-Range"] = f"bytes {begin}-{end - 1}/{len(content)}"
        return 206, headers, content[begin:end]

    def _listing(self, google: bool, bucket: str, query: dict[str, str]) -> Any:
        prefix = query.get("prefix", "")
        after = query.get("startOffset") or query.get("start-after") or ""
        token = query.get("pageToken") or query.get("continuation-token") or ""
        before = query.get("endOffset")
        keys = [key for key in self.store.keys(bucket) if key.startswith(prefix) and key >= after and key > token]
        keys = [key for key in keys if before is None or key < before]
        page, more = keys[:PAGE], len(keys) > PAGE
        if google:
            about: dict[str, Any] = {"kind": "storage#objects", "items": [{"name": key} for key in page]}
            about |= {"nextPageToken": page[-1]} if more else {}
            return 200, {"Content-Type": "application/json"}, json.dumps(about).encode()
        rows = "".join(f"<Contents><Key>{escape(key)}</Key><Size>0</Size></Contents>" for key in page)
        following = f"<NextContinuationToken>{escape(page[-1])}</NextContinuationToken>" if more else ""
        text = (
            '<?xml version="1.0" encoding="UTF-8"?><ListBucketResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/">'
            f"<Name>{bucket}</Name><Prefix>{escape(prefix)}</Prefix><KeyCount>{len(page)}</KeyCount>"
            f"<MaxKeys>{PAGE}</MaxKeys><IsTruncated>{str(more).lower()}</IsTruncated>{following}{rows}</ListBucketResult>"
        )
        return 200, {"Content-Type": "application/xml"}, text.encode()


@contextlib.contextmanager
def failing(store: LoopbackStore, fault: Callable[[Asked], Fault | None]) -> Iterator[None]:
    """In here, requests meet the fault."""
    before, store.fault = store.fault, fault
    try:
        yield
    finally:
        store.fault = before
