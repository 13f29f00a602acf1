"""Files of a run that grow a line at a time: cut back when a run goes on, and never the reason why it ends."""

import contextlib
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

from gptjax.files.atomic_file import write_whole
from gptjax.files.plain_json import dumps


class JsonlLog:
    """A .jsonl file of records.

    What it holds already is dropped unless it `stays`: the run does it again. `writes` is False on all hosts but one.
    If the file cannot be written, on a full disk for one, `warn` is called once, and what follows is lost.
    """

    def __init__(
        self,
        path: Path,
        stays: Callable[[dict[str, Any]], bool],
        warn: Callable[[str], None],
        writes: bool = True,
    ):
        self._path, self._warn, self._file = path, warn, None
        try:
            self._file = _opened(path, stays) if writes else None
        except OSError as error:
            self._give_up(error)

    def note(self, record: dict[str, Any]) -> None:
        self._safely(lambda file: file.write(dumps(record) + "\n"))

    def flush(self) -> None:
        """Hands the records to the system."""
        self._safely(lambda file: file.flush())

    def sync(self) -> None:
        """Returns when the records are on the disk; before a save, so that they are never behind a checkpoint."""
        self._safely(lambda file: (file.flush(), os.fsync(file.fileno())))

    def close(self) -> None:
        self._safely(lambda file: file.close())

    def _safely(self, act: Callable[[IO[str]], object]) -> None:
        if self._file is None:
            return
        try:
            act(self._file)
        except OSError as error:
            with contextlib.suppress(OSError):
                self._file.close()
            self._give_up(error)

    def _give_up(self, error: OSError) -> None:
        self._file = None
        self._warn(f"{self._path} cannot be written ({error}): training goes on without it")


def _opened(path: Path, stays: Callable[[dict[str, Any]], bool]) -> IO[str]:
    lines = [(line, _parsed(line)) for line in whole_lines(path)]
    keep = [line for line, record in lines if record is not None and stays(record)]
    write_whole(path, "".join(keep))
    return path.open("a", encoding="utf-8")


def _parsed(line: str) -> dict[str, Any] | None:
    """A record; None for what a power cut left of one, and for what else is none."""
    try:
        record = json.loads(line)
    except ValueError:
        return None
    return record if isinstance(record, dict) else None


def whole_lines(path: Path) -> list[str]:
    """Lines of a file that end in a line break: a killed run may leave half a line behind."""
    return _lines(path.read_bytes()) if path.is_file() else []


def _lines(content: bytes) -> list[str]:
    text = content.decode(errors="replace")
    return [f"{line}\n" for line in text.split("\n")[:-1]]  # splitlines() also breaks where a sample has U+2028


def records_of(path: Path) -> list[dict[str, Any]]:
    """The records of a file; none where there is no file."""
    return records_in(path.read_bytes()) if path.is_file() else []


def records_in(content: bytes) -> list[dict[str, Any]]:
    """The same of a file's content."""
    return [record for record in map(_parsed, _lines(content)) if record is not None]
