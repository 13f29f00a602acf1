"""Records out of files as people have them, for pretraining, fine-tuning and evaluation alike: the one reader of all.

| ending           | a record                                                                    |
|------------------|-----------------------------------------------------------------------------|
| .jsonl           | the object in a line                                                        |
| .json            | an object of the list that the file is, or of the only one in its object    |
| .csv, .tsv       | a row under the names in the first; all fields are text                     |
| .parquet         | a row                                                                       |
| .txt, any other  | {"text": all of the file}                                                   |

Each may be packed: .jsonl.gz, .csv.zst. All but .json and .txt are read piece by piece. What is wrong with a file is a
ValueError that names the file, the line or record and what to do.
"""

import csv
import io
import shlex
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from gptjax.files.plain_json import loads
from gptjax.spelling import did_you_mean
from gptjax.text.text_files import PACKED, UNPACK, arrow, check_arrow, decoded, opened

KINDS = (".txt", ".jsonl", ".json", ".csv", ".tsv", ".parquet")
SUFFIXES = tuple(kind + packed for kind in KINDS for packed in ("", *PACKED))
KNOWN = f"{', '.join(KINDS)}, each also {' or '.join(PACKED)}"  # as errors say it
DELIMITERS = {".csv": ",", ".tsv": "\t"}
FIELD = 100_000_000  # characters of a field of .csv; the module's own bound, 131,072, is less than a long text
ROWS = 64  # of .parquet at once

Record = dict[str, Any]


def kind_of(path: Path) -> str:
    """The ending that says what is in a file, `.csv` of x.csv.gz; "" = none."""
    inner = path.with_suffix("") if path.suffix.lower() in PACKED else path
    return inner.suffix.lower()


def check_kind(path: Path) -> None:
    """Raises ValueError for a file that is known by its name to be none that can be read, and says what to do."""
    kind = path.suffix.lower()
    if kind in UNPACK:
        raise ValueError(f"{path}: is packed; unpack it first, with `{UNPACK[kind]} {shlex.quote(str(path))}`")
    if kind == ".zst" or kind_of(path) == ".parquet":
        check_arrow(path)


def records(path: Path) -> Iterator[tuple[str, Record]]:
    """(where it stands, record) of each record of a file: `file:line`, `file:record N` from 1, or the file alone."""
    check_kind(path)
    kind = kind_of(path)
    with opened(path) as file:
        if kind == ".jsonl":
            yield from _lines(file, path)
        elif kind == ".json":
            yield from _list(file, path)
        elif kind in DELIMITERS:
            yield from _rows(file, path, DELIMITERS[kind])
        elif kind == ".parquet":
            yield from _parquet(file, path)
        else:
            yield str(path), {"text": decoded(file.read(), path, 1)}


def column(record: Mapping[str, Any], path: str, where: str) -> Any:
    """The field at a dotted path: `answers.text.0` leads through objects by name, through lists by number from 0.

    A field that has the whole path as its name goes first. Raises ValueError if there is none.
    """
    if path in record:
        return record[path]
    value, passed = record, ""
    for name in path.split("."):
        if isinstance(value, Mapping) and name in value:
            value = value[name]
        elif isinstance(value, list) and name.isdecimal() and int(name) < len(value):
            value = value[int(name)]
        else:
            raise ValueError(f"{where}: no field {path!r}{_missing(value, passed, name)}")
        passed = f"{passed}.{name}" if passed else name
    return value


def _missing(value: Any, passed: str, name: str) -> str:
    """What there is where a path leads no further."""
    if not passed:
        return did_you_mean(name, value)
    if isinstance(value, Mapping):
        return f", for {passed!r} has no {name!r}{did_you_mean(name, value)}"
    if isinstance(value, list):
        return f", for {passed!r} is a list of {len(value)}, which are numbered from 0"
    return f", for {passed!r} is a {type(value).__name__}, which has no fields"


def _lines(file: io.BufferedIOBase, path: Path) -> Iterator[tuple[str, Record]]:
    """An object a line; empty lines are left out."""
    for number, content in enumerate(file, start=1):
        line = decoded(content, path, number).removeprefix("\ufeff")  # of a file that was joined to another
        if line.strip():
            yield f"{path}:{number}", _object(_parsed(line, f"{path}:{number}"), f"{path}:{number}", "line")


def _list(file: io.BufferedIOBase, path: Path) -> Iterator[tuple[str, Record]]:
    """The objects of a list, or of the only list of objects in an object."""
    text = decoded(file.read(), path, 1)
    found = _parsed(text, str(path))
    if isinstance(found, dict):
        lists = {name: value for name, value in found.items() if _objects(value)}
        if len(lists) != 1:
            has = f"{len(lists)} of them: {', '.join(lists)}" if lists else f"only {', '.join(found) or 'nothing'}"
            raise ValueError(
                f"{path}: a .json file holds a list of objects, or an object with one such list; it has {has}. "
                "Leave it out by a pattern such as 'folder/*.jsonl', or write an object a line, in a .jsonl file"
            )
        (found,) = lists.values()
    if not isinstance(found, list):
        raise ValueError(f"{path}: a {type(found).__name__}; a .json file holds a list of objects")
    for number, value in enumerate(found, start=1):
        where = f"{path}:record {number}"
        yield where, _object(value, where, "record")


def _objects(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(one, dict) for one in value)


def _parsed(text: str, where: str) -> Any:
    try:
        return loads(text, parse_constant=_no_number)
    except ValueError as error:
        lines = "; an object a line is a .jsonl file: call it so" if "Extra data" in str(error) and "\n" in text else ""
        raise ValueError(f"{where}: {error}{lines}") from None


def _object(value: Any, where: str, what: str) -> Record:
    if not isinstance(value, dict):
        raise ValueError(f'{where}: a {type(value).__name__}; a {what} is an object such as {{"text": "..."}}')
    return value


def _no_number(name: str) -> None:
    raise ValueError(f"{name} is no number of JSON; write null")


def _rows(file: io.BufferedIOBase, path: Path, delimiter: str) -> Iterator[tuple[str, Record]]:
    """The rows after the first, which names the fields; empty lines are left out. Quotes are those of CSV in both."""
    csv.field_size_limit(FIELD)
    lines = (decoded(content, path, number) for number, content in enumerate(file, start=1))
    rows = csv.reader(lines, delimiter=delimiter, strict=True)
    names: list[str] = []
    while True:
        where = f"{path}:{rows.line_num + 1}"
        try:
            row = next(rows, None)
        except csv.Error as error:
            raise ValueError(
                f"{where}: not {kind_of(path)}: {error}; a field with quotes, a line end or {delimiter!r} in it stands "
                'in quotes, and each of its own quotes is written twice: "so ""quoted"" it is"'
            ) from None
        if row is None:
            return
        if not row:
            continue
        if not names:
            names = row
            if twice := sorted({name for name in names if names.count(name) > 1}):
                raise ValueError(f"{where}: the first row names the fields, and {twice[0]!r} twice; rename one")
        elif len(row) != len(names):
            raise ValueError(
                f"{where}: {len(row)} fields, but the first row names {len(names)}; "
                f"a field that holds {delimiter!r} stands in quotes"
            )
        else:
            yield where, dict(zip(names, row, strict=True))


def _parquet(file: io.BufferedIOBase, path: Path) -> Iterator[tuple[str, Record]]:
    parquet, pyarrow = arrow("pyarrow.parquet", path), arrow("pyarrow", path)
    with tempfile.TemporaryFile() as unpacked:
        if path.suffix.lower() in PACKED:  # it is read from its end
            shutil.copyfileobj(file, unpacked)
            file = unpacked  # pyright: ignore[reportAssignmentType]
        try:
            table = parquet.ParquetFile(file, buffer_size=1 << 20)
            batches = table.iter_batches(batch_size=ROWS, use_threads=False)
            rows = (row for batch in batches for row in batch.to_pylist())
            for number, row in enumerate(rows, start=1):
                yield f"{path}:record {number}", row
        except pyarrow.ArrowException as error:
            raise ValueError(f"{path}: is damaged, or no .parquet file ({error}); fetch it again") from None
