"""The text in files: UTF-8, where a byte order mark is no text and line ends of any system stay as they are.

Files packed with gzip or Zstandard are read as what is in them. What is wrong with a file is a ValueError that names
the file, the line and what to do.
"""

import codecs
import contextlib
import gzip
import importlib
import importlib.util
import io
import shlex
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

HEAD = 4096  # bytes in which NULs are counted
PACKED = (".gz", ".zst")
UNPACK = {".bz2": "bunzip2", ".xz": "unxz", ".zip": "unzip"}  # what is not read, and what makes it readable
MARKS = (  # of UTF-32 first: the mark of UTF-16 begins one of them
    (codecs.BOM_UTF32_LE, "UTF-32"), (codecs.BOM_UTF32_BE, "UTF-32"),
    (codecs.BOM_UTF16_LE, "UTF-16"), (codecs.BOM_UTF16_BE, "UTF-16"),
)  # fmt: skip


@contextlib.contextmanager
def opened(path: Path) -> Iterator[io.BufferedIOBase]:
    """The bytes of a file, unpacked as they are read. Raises ValueError while they are, if it is packed and damaged."""
    kind = path.suffix.lower()
    with path.open("rb") as file:
        if kind not in PACKED:
            yield file
            return
        try:
            yield gzip.GzipFile(fileobj=file) if kind == ".gz" else _zstandard(file, path)
        except (EOFError, zlib.error, OSError) as error:
            if isinstance(error, OSError) and error.errno is not None:  # of the disk, not of what is in the file
                raise
            raise ValueError(f"{path}: is damaged, cut short, or no {kind} file ({error}); fetch it again") from None


def _zstandard(file: io.BufferedIOBase, path: Path) -> io.BufferedIOBase:
    pyarrow = arrow("pyarrow", path)
    return io.BufferedReader(pyarrow.CompressedInputStream(pyarrow.PythonFile(file, mode="r"), "zstd"))


def arrow(module: str, path: Path) -> Any:
    """A module of pyarrow, which the library does not need but for these files."""
    check_arrow(path)
    return importlib.import_module(module)


def check_arrow(path: Path) -> None:
    """Raises ValueError if pyarrow, which a file needs, is not installed."""
    if importlib.util.find_spec("pyarrow") is None:
        raise ValueError(
            f"{path}: {path.suffix} files are read by pyarrow, which is not installed: `pip install pyarrow`"
        )


def decoded(content: bytes, path: Path, line: int) -> str:
    """The text of bytes that begin at a line of a file, without the mark that the file may begin with."""
    if line == 1 and (encoding := _wide(content)):
        raise ValueError(f"{path}: is {encoding}, or no text; only UTF-8 is read: {_convert(encoding, path)}")
    try:
        return content.decode("utf-8-sig" if line == 1 else "utf-8")
    except UnicodeDecodeError as error:
        before = error.object[: error.start]  # without the mark
        name, encoding = ("UTF-16", "UTF-16LE") if b"\0" in content else ("Latin-1", "LATIN1")
        raise ValueError(
            f"{path}:{line + before.count(b'\n')}: byte {error.start - before.rfind(b'\n')} of the line "
            f"(0x{error.object[error.start]:02x}) is not UTF-8; if the file is {name}: {_convert(encoding, path)}"
        ) from None


def _wide(content: bytes) -> str | None:
    """UTF-16 or UTF-32, as iconv calls it, where a file begins with its mark or is full of NULs; None = neither."""
    for mark, encoding in MARKS:
        if content.startswith(mark):
            return encoding
    head = content[:HEAD]
    if 50 * head.count(0) <= len(head):
        return None
    nuls, half = [head[place::4].count(0) for place in range(4)], len(head) / 8
    if min(nuls[2:]) > half:
        return "UTF-32LE"
    if min(nuls[:2]) > half:
        return "UTF-32BE"
    return "UTF-16LE" if nuls[1] + nuls[3] > nuls[0] + nuls[2] else "UTF-16BE"


def _convert(encoding: str, path: Path) -> str:
    if path.suffix.lower() in PACKED:
        return f"unpack it, then {_convert(encoding, path.with_suffix(''))}"
    name, new = shlex.quote(str(path)), shlex.quote(f"{path}.new")
    return f"`iconv -f {encoding} -t UTF-8 {name} > {new} && mv {new} {name}`"
