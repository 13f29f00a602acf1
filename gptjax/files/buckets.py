"""Objects in a bucket of Google Cloud Storage or of S3, through TensorStore, which Orbax brings. Does not import JAX.

TensorStore has the credentials (application default credentials; AWS's usual chain), repeats what fails in passing, and
writes on condition: `ifGenerationMatch` of Google's, `If-Match` and `If-None-Match` of S3. AWS_ENDPOINT_URL names
another store that speaks S3, TENSORSTORE_GCS_HTTP_URL one that speaks Google's.
"""

import contextlib
import hashlib
import os
import re
import secrets
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path, PurePosixPath
from typing import Any

# What fails in passing (5xx, 429, a connection that breaks) is asked again, after twice as long each time: about 30 s.
RETRIES = {"max_retries": 6, "initial_delay": "500ms", "max_delay": "16s"}
PATIENCE = 120.0  # seconds that an answer may take, its repetitions included, and
SLOWEST = 2**20  # bytes a second beyond that
STALL = 30  # seconds without a byte, after which a transfer is begun again
PIECE = 64 * 2**20  # bytes that are read at once
AT_ONCE = 4  # objects that are under way, of which those that are written are in memory
MISSING = b"\x02"  # the generation, as TensorStore calls it, of no object
TABLE = {  # as Orbax configures the tables of arrays that it writes
    "max_inline_value_bytes": 1024,
    "max_decoded_node_bytes": 100_000_000,
    "manifest_kind": "single",
}

_CODE = r"(?:HTTP (?:response code: )?|http_response_code=')"  # numbers elsewhere may be of a name
_HINTS = (
    (rf"{_CODE}403", "these credentials may not do that; grant it, or use others"),
    (rf"{_CODE}401|^UNAUTHENTICATED|credentials (?:file|provider|from provider)|without credentials",
     "no usable credentials; for gs:// `gcloud auth application-default login`, for s3:// `aws configure`, or "
     "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"),
    (r"^PERMISSION_DENIED", "these credentials may not do that; grant it, or use others"),
    (rf"{_CODE}404|^NOT_FOUND", "there is no such bucket; make it, or mend its name"),
    (r"parse response metadata", "there is no such bucket, or these credentials may not list what it holds"),
    (rf"{_CODE}5\d\d|CURL|retry attempts", "the store does not answer; it was asked again and again"),
)  # fmt: skip


class BucketError(OSError):
    """What a bucket refused or could not do, with its URL."""


class Bucket:
    """The objects whose names begin with a URL's path, such as s3://bucket/runs/big; keys are what follows it."""

    def __init__(self, url: str):
        self.url = url
        scheme, _, rest = url.partition("://")
        bucket, _, path = rest.partition("/")
        self._spec: dict[str, Any] = {"driver": {"gs": "gcs", "s3": "s3"}[scheme], "bucket": bucket}
        self._spec["path"] = f"{path}/" if path else ""
        if scheme == "s3" and (endpoint := os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")):
            region = os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION") or "us-east-1"
            self._spec |= {"endpoint": endpoint, "aws_region": region}
        if scheme == "s3" and os.environ.get("AWS_ACCESS_KEY_ID"):
            # so that no file of AWS's is looked for, and missed aloud
            self._spec["aws_credentials"] = {"type": "environment"}
        self._opened: Any = None
        self._context: Any = None  # of what is opened

    def read(self, key: str) -> bytes | None:
        """An object's content; None where there is none."""
        return self.look(key)[0]

    def look(self, key: str, patience: float = PATIENCE) -> tuple[bytes | None, bytes]:
        """(an object's content or None, its generation: what `write_if` wants)."""
        with self._naming(key):
            found = self._store().read(key).result(timeout=patience)
            return (None if found.state == "missing" else bytes(found.value)), found.stamp.generation

    def write(self, key: str, content: bytes) -> None:
        """Writes an object: readers find the old content or all of the new."""
        with self._naming(key):
            self._store().write(key, content).result(timeout=PATIENCE + len(content) / SLOWEST)

    def write_if(self, key: str, content: bytes, generation: bytes, patience: float = PATIENCE) -> bytes | None:
        """Writes an object that still has this generation, MISSING for one that there must not be.

        Returns its new generation; None where somebody else has changed it. The content must be of this writer alone:
        by it an answer that was lost is told from a refusal. BucketError after `patience` seconds without an answer
        leaves open whether it was written, or will be.
        """
        with self._naming(key):
            asked = self._store().write(key, content, if_equal=generation)
            stamp = asked.result(timeout=patience + len(content) / SLOWEST)
        if stamp.generation:
            return stamp.generation
        found, now = self.look(key, patience)
        return now if found == content else None

    def delete(self, key: str) -> None:
        """Deletes an object; one that is gone is no error. On condition TensorStore deletes nothing in S3."""
        with self._naming(key):
            self._store().write(key, None).result(timeout=PATIENCE)

    def listed(self, prefix: str = "") -> list[str]:
        """Keys that begin with a prefix, in order."""
        import tensorstore

        after = prefix[:-1] + chr(ord(prefix[-1]) + 1) if prefix else ""
        with self._naming(prefix):
            found = self._store().list(tensorstore.KvStore.KeyRange(prefix, after)).result(timeout=PATIENCE)
        return sorted(key.decode() for key in found)

    def fetch(self, key: str, target: Path, size: int, sha256: str) -> None:
        """Writes an object to a file, which appears only if it has this size and this SHA-256.

        Raises ValueError, without the key, where it is missing or something else.
        """
        target.parent.mkdir(parents=True, exist_ok=True)
        aside = target.with_name(f"{target.name}.fetching-{secrets.token_hex(4)}")
        digest, found = hashlib.sha256(), 0
        try:
            with aside.open("wb") as file:
                for begin in range(0, max(size, 1), PIECE):
                    piece = self._piece(key, slice(begin, min(begin + PIECE, size)) if size else None)
                    file.write(piece)
                    digest.update(piece)
                    found += len(piece)
            if found != size:
                raise ValueError(f"has {found} bytes, its manifest says {size}")
            if digest.hexdigest() != sha256:
                raise ValueError(f"sha256 is {digest.hexdigest()}, its manifest says {sha256}")
            aside.replace(target)
        finally:
            aside.unlink(missing_ok=True)

    def _piece(self, key: str, span: slice | None) -> bytes:
        try:
            with self._naming(key):
                found = self._store().read(key, byte_range=span).result(timeout=PATIENCE + PIECE / SLOWEST)
        except BucketError as error:
            if "OUT_OF_RANGE" in str(error):
                raise ValueError("has fewer bytes than its manifest says") from error
            raise
        if found.state == "missing":
            raise ValueError("is missing")
        return bytes(found.value)

    def merge(self, folder: str, parts: Iterable[str]) -> None:
        """Makes a table of arrays of those in folders within this one, to whose data it refers: none is copied.

        As Orbax does on a disk, whose tables these are. Raises BucketError where one of them is empty, as TensorStore
        takes a folder to be that has lost its table.
        """
        import tensorstore

        with self._naming(folder):
            self._store()
            together = tensorstore.Transaction(atomic=True)
            table = self._table(folder, config=TABLE, assume_config=True).with_transaction(together)
            tables = {part: self._table(f"{folder}{part}") for part in parts}
            for part, one in tables.items():
                if not one.list().result(timeout=PATIENCE):
                    raise ValueError(f"{part} holds no arrays")
            for copy in [one.experimental_copy_range_to(table) for one in tables.values()]:
                copy.result(timeout=PATIENCE)
            together.commit_async().result(timeout=PATIENCE)

    def array(self, folder: str, name: str, index: Any) -> Any:
        """Part of an array of such a table, as NumPy has it."""
        import tensorstore

        with self._naming(f"{folder}{name}"):
            self._store()
            table = {"driver": "ocdbt", "base": self._below(folder), "path": f"{name}/"}
            spec = {"driver": "zarr", "kvstore": table}
            opened = tensorstore.open(spec, open=True, context=self._context).result(timeout=PATIENCE)
            return opened[index].read().result(timeout=PATIENCE + PIECE / SLOWEST)

    def _table(self, folder: str, **more: Any) -> Any:
        import tensorstore

        spec = {"driver": "ocdbt", "base": self._below(folder), **more}
        return tensorstore.KvStore.open(spec, context=self._context).result(timeout=PATIENCE)

    def _below(self, folder: str) -> dict[str, Any]:
        return {**self._spec, "path": f"{self._spec['path']}{folder}"}

    def check_writable(self) -> None:
        """Raises BucketError unless objects can be written, on condition, read and deleted here."""
        key = f"trial-{secrets.token_hex(8)}"
        content = key.encode()
        if self.url.startswith("s3:"):  # where a condition also fails for want of the bucket
            self.listed(key)
        if self.write_if(key, content, MISSING) is None or self.read(key) != content:
            raise BucketError(f"{self.url}: what was written was not found again; use another store")
        if self.write_if(key, content + b"!", MISSING) is not None:  # of S3 TensorStore looks first, and hides it
            raise BucketError(
                f"{self.url}: the store writes although a condition forbids it, so two jobs could write one run; use "
                "another store"
            )
        self.delete(key)

    def _store(self) -> Any:
        if self._opened is None:
            import tensorstore

            # how long a transfer may stand still is taken from the environment alone, when the first one begins
            os.environ.setdefault("TENSORSTORE_CURL_LOW_SPEED_TIME_SECONDS", str(STALL))
            os.environ.setdefault("TENSORSTORE_CURL_LOW_SPEED_LIMIT_BYTES", "1")
            self._context = tensorstore.Context({"s3_request_retries": RETRIES, "gcs_request_retries": RETRIES})
            self._opened = tensorstore.KvStore.open(self._spec, context=self._context).result(timeout=PATIENCE)
        return self._opened

    @contextlib.contextmanager
    def _naming(self, key: str) -> Iterator[None]:
        """Makes one line, with the object's URL, of what TensorStore says in several kinds of errors."""
        try:
            yield
        except TimeoutError as error:
            raise BucketError(f"{self.url}/{key}: no answer in time; is the store reachable?") from error
        except (ValueError, RuntimeError, OSError) as error:
            said = " ".join(str(error).split())
            raise BucketError(f"{self.url}/{key}: {said:.300}{hint(said)}") from error


def hint(said: str) -> str:
    """The way out of what TensorStore says, behind a semicolon; "" where none is known."""
    return next((f"; {way_out}" for sign, way_out in _HINTS if re.search(sign, said)), "")


def at_once(work: Callable[[str], object], names: Iterable[str]) -> None:
    """Does this work on objects of these names, a few of them at a time; raises what the first that failed raised."""
    with ThreadPoolExecutor(AT_ONCE) as threads:
        for done in [threads.submit(work, name) for name in names]:
            done.result()


def within(key: str) -> PurePosixPath:
    """A key as a path in a folder. Raises ValueError where it would lie outside, as no key of ours does."""
    path = PurePosixPath(key)
    if path.is_absolute() or ".." in path.parts or not path.parts:
        raise ValueError(f"{key!r} lies outside of its folder, where no object of ours does")
    return path
