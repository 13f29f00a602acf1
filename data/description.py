"""What `prepared.json` says of a prepared folder, and `data.json` of a run's text: typed, written and read here."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NotRequired, TypedDict, cast

from gptjax.files.atomic_file import write_whole
from gptjax.files.bounded_files import naming, read_json
from gptjax.files.plain_json import dumps

NAME = "prepared.json"
HEADS = "heads.json"  # of a folder of labelled texts: the head that they are for, as model.json has it
FORMAT = 5  # 4 counted the tokenizer's sample in characters
BY_NUMBER = 3  # the format of folders whose shares are of documents; runs that began with one go on with it
FORMATS = (FORMAT, 4, BY_NUMBER)  # that hold the same tables, newest first
SINCE_4 = {"documents", "left_out", "share", "warning"}  # what a folder or source of format 3 need not say
_SAID = ", ".join(map(str, FORMATS))
AGAIN = "remove the folder and prepare the text again, with `python -m data.prepare`"


class Split(TypedDict):
    """Totals of the training or the validation text of a source."""

    documents: int
    bytes: int
    tokens: int


class LeftOut(TypedDict):
    """Documents that would train, but hold held-out text."""

    documents: int
    bytes: int


class Source(TypedDict):
    """A source; up to `domain` and `warning`, see data.preparation.sources.SourceCard."""

    licence: str
    attribution: str | None
    citation: str | None
    language: str | None
    domain: str | None
    warning: str | None
    folder: str  # within the prepared folder
    share: float  # of the rows, as written
    documents: int  # that are kept
    duplicates: int  # that were dropped
    left_out: LeftOut
    labels: dict[str, list[str]]  # field -> its classes
    splits: dict[str, Split]
    rate: NotRequired[int]  # rows out of every 1024; only in `data.json`
    whole: NotRequired[bool]  # its documents are examples: a row holds whole ones; left out = running text


class Description(TypedDict):
    """A prepared folder."""

    format: int
    fingerprint: str  # of settings and what was read: see data.prepare.fingerprint
    # the same without the records of `tfds:` sources, which may be gone when the folder is looked for
    without_records: NotRequired[str]
    tokenizer: str  # its fingerprint
    vocabulary: int
    mixture: str
    share: float  # that was to be held out
    content: str  # see data.preparation.prepared_folder.content_hash
    sources: dict[str, Source]


def is_prepared(folder: Path) -> bool:
    """Whether a folder was prepared to the end."""
    return (folder / NAME).exists()


def read_prepared(folder: Path) -> Description:
    """The description of a prepared folder. Raises ValueError that names the file and what is wrong with it."""
    found = read_description(folder / NAME)
    if (format := found["format"]) not in FORMATS:
        raise ValueError(f"{folder / NAME}: format={format!r}: this gptjax reads {_SAID}; {AGAIN}")
    return found


def read_description(path: Path) -> Description:
    """A `prepared.json`, or the `data.json` of a run, which may be of an older format and then lack fields.

    Raises ValueError that names the file and what is wrong with it.
    """
    content = read_json(path)
    with naming(path):
        if not isinstance(format := content.get("format"), int) or format > FORMAT:
            raise ValueError(f"format={format!r}: this gptjax reads {_SAID}; use the gptjax that wrote it, or {AGAIN}")
        if format in FORMATS:
            _check(content, Description, "", optional := SINCE_4 if format == BY_NUMBER else set())
            for name, source in content["sources"].items():
                _check(source, Source, f"source {name!r} ", optional)
    return cast(Description, content)


def write_description(folder: Path, description: Description) -> None:
    write_whole(folder / NAME, dumps(description, indent=1, ensure_ascii=False) + "\n")


def _check(content: Any, wanted: Any, where: str, optional: set[str]) -> None:
    if not isinstance(content, Mapping):
        raise ValueError(f"{where}is a {type(content).__name__}, not a table of fields")
    if missing := sorted(wanted.__required_keys__ - content.keys() - optional):
        raise ValueError(f"{where}has no {', '.join(missing)}; {AGAIN}")
