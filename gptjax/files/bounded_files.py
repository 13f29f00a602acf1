"""Small files of other people, JSON above all: of bounded size, and named when something is wrong with them."""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from gptjax.files.plain_json import loads

POINTER = b"version https://git-lfs.github.com/spec/"  # how a file begins that stands for another one in Git LFS
LARGEST = 16 * 2**20  # bytes of a file of settings; a model of 100,000 tensors needs as much for its index


@contextlib.contextmanager
def naming(path: Path) -> Iterator[None]:
    """Puts the file in front of what is wrong with it."""
    try:
        yield
    except (ValueError, OSError) as error:
        why = (isinstance(error, OSError) and error.strerror) or str(error)
        raise ValueError(f"{path}: {why:.500}") from error  # a hostile file may have names of a megabyte


def read_text(path: Path, most: int = LARGEST) -> str:
    """The text of a regular file. Raises ValueError naming the file if it is none, too large, or not UTF-8."""
    with naming(path):
        return _bytes(path, most).decode("utf-8")


def read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file. Raises ValueError naming the file and what is wrong with it."""
    with naming(path):
        return parse_json(_bytes(path, LARGEST))


def parse_json(raw: bytes) -> dict[str, Any]:
    """A JSON object. Raises ValueError where it is something else, or holds a name twice."""
    try:
        content = loads(raw.decode("utf-8-sig"), object_pairs_hook=_without_twins)
    except UnicodeDecodeError as error:
        raise ValueError(f"is no JSON: {error}") from error
    if not isinstance(content, dict):
        raise ValueError(f"is no JSON object but a {type(content).__name__}")
    return content


def check_regular(path: Path) -> None:
    """Raises ValueError, to be named, where there is no file or another kind of one: a pipe would be waited for.

    Also where it is a pointer of Git LFS, as a clone without it leaves them.
    """
    if not path.is_file():
        raise ValueError("is missing, or is no regular file")
    with path.open("rb") as file:
        refuse_pointer(file.read(len(POINTER)))


def refuse_pointer(content: bytes) -> None:
    """Raises ValueError, to be named, where a file begins as a pointer of Git LFS does."""
    if content.startswith(POINTER):
        raise ValueError(
            "is a Git LFS pointer, not the file itself; run `git lfs pull` in its folder, or download the file"
        )


def _bytes(path: Path, most: int) -> bytes:
    check_regular(path)
    if (size := path.stat().st_size) > most:
        raise ValueError(f"has {size} bytes; at most {most} are read")
    return path.read_bytes()


def _without_twins(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in pairs:
        if name in found:
            raise ValueError(f"holds {name!r} twice")
        found[name] = value
    return found
