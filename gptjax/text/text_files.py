"""Text files as people have them: .txt, one text each, and .jsonl, an object a line. The one reader of both.

They are UTF-8, and a byte order mark is no text; line ends of any system stay as they are. What is wrong with a file is
a ValueError that names the file, the line and what to do.
"""

import codecs
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from gptjax.files.plain_json import loads

SUFFIXES = (".txt", ".jsonl")
HEAD = 4096  # bytes in which NULs are counted
UNPACK = {".gz": "gunzip", ".bz2": "bunzip2", ".xz": "unxz", ".zst": "unzstd", ".zip": "unzip"}
MARKS = (  # of UTF-32 first: the mark of UTF-16 begins one of them
    (codecs.BOM_UTF32_LE, "UTF-32"), (codecs.BOM_UTF32_BE, "UTF-32"),
    (codecs.BOM_UTF16_LE, "UTF-16"), (codecs.BOM_UTF16_BE, "UTF-16"),
)  # fmt: skip


def check_kind(path: Path) -> None:
    """Raises ValueError for a file that is known by its name to be no text, and says how to make it one."""
    kind = path.suffix.lower()
    if kind == ".json":
        raise ValueError(f"{path}: one object a line is read, from a .jsonl file; `jq -c '.[]'` makes it of a list")
    if kind in UNPACK:
        raise ValueError(f"{path}: is packed; unpack it first, with `{UNPACK[kind]} {shlex.quote(str(path))}`")


def read_text(path: Path) -> str:
    """All of a file."""
    return decoded(path.read_bytes(), path, 1)


def json_lines(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """(file:line, the object in that line) of a .jsonl file; empty lines are left out."""
    with path.open("rb") as file:
        for number, content in enumerate(file, start=1):
            line = decoded(content, path, number).removeprefix("\ufeff")  # of a file that was joined to another
            if line.strip():
                yield f"{path}:{number}", _object(line, f"{path}:{number}")


def _object(line: str, where: str) -> dict[str, Any]:
    try:
        found = loads(line, parse_constant=_no_number)
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from None
    if not isinstance(found, dict):
        raise ValueError(f'{where}: a {type(found).__name__}; a line is an object such as {{"text": "..."}}')
    return found


def _no_number(name: str) -> None:
    raise ValueError(f"{name} is no number of JSON; write null")


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
    name, new = shlex.quote(str(path)), shlex.quote(f"{path}.new")
    return f"`iconv -f {encoding} -t UTF-8 {name} > {new} && mv {new} {name}`"
