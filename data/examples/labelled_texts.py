"""Texts and what a head is to tell of them, out of a source: records of files or of a TensorFlow dataset, or documents
of a corpus of ours that are labelled."""

import re
from collections.abc import Iterator, Mapping
from typing import Any, Literal, NamedTuple

from data.corpora import corpus as ours
from data.examples.dialogues import Rejected, corpus_records, is_corpus, records_of
from data.examples.head_spec import HeadSpec
from data.preparation import sources
from gptjax.spelling import did_you_mean
from gptjax.text.record_files import column
from gptjax.text.told import label_name, number_in, split_labels

Target = str | tuple[str, ...] | float  # a class, labels, or a number


class UnsaidError(ValueError):
    """What a column holds may be meant in two ways, and --as does not say in which."""


class LabelledText(NamedTuple):
    """A text, or two, and what is to be told of it."""

    text: str
    second: str | None
    target: Target
    where: str  # file:line, file:record N
    document: str  # the text as pretraining knows it


def check_labelled(source: str, spec: HeadSpec) -> None:
    """Raises ValueError for a source that cannot exist, or a corpus without the label: quickly, reading no text."""
    sources.check(source)
    if is_corpus(source):
        corpus_label(source, spec)


def labelled_texts(source: str, spec: HeadSpec, bad: Literal["stop", "skip"]) -> Iterator[LabelledText | Rejected]:
    """The labelled texts of a source, in the order of its files.

    A record that is none raises ValueError, or with `skip` comes as Rejected; a document of a corpus of ours without a
    label, as Rejected always. A file that cannot be read, a column that the records have not, and one that may be meant
    in two ways raise always.
    """
    if is_corpus(source):
        target = corpus_label(source, spec)
        if spec.second is not None:
            raise ValueError(f"--second {spec.second}: {source!r} is a corpus of ours, which has no second text")
        for where, record in corpus_records(source):
            if record[target]:
                yield _labelled(
                    {**record, "text": record["text"].removesuffix("\n")}, record["text"], where, spec, target
                )
            else:
                yield Rejected(where, f"has no {target}")
        return
    for where, record in records_of(source):
        columns = {"--text": spec.text or "text", "--second": spec.second, _flag(spec): spec.target_column}
        for said, path in columns.items():
            if path is not None:
                _has(record, path, where, said)
        try:
            yield _labelled(record, None, where, spec, spec.target_column)
        except UnsaidError:
            raise
        except ValueError as error:
            if bad == "stop":
                raise
            reason = str(error).removeprefix(f"{where}: ").partition("; ")[0]
            yield Rejected(where, re.sub(r"=.*?( is no number)", r"\1", reason))


def corpus_label(source: str, spec: HeadSpec) -> str:
    """Which of its labels a corpus of ours is read for. Raises ValueError where it has none, or not that one."""
    labels = ours.corpus(ours.corpora()[source][0]).labels
    if not labels:
        raise ValueError(f"examples.sources: the documents of {source!r} have no labels; those of others have")
    target = spec.target or (labels[0] if len(labels) == 1 else None)
    if target is None or target not in labels:
        raise ValueError(f"--label {target}: of {source!r}{did_you_mean(str(target), labels)}")
    return target


def _flag(spec: HeadSpec) -> str:
    return {"classes": "--label", "labels": "--labels", "values": "--value"}[spec.tells]


def _has(record: Mapping[str, Any], path: str, where: str, said: str) -> None:
    """Raises ValueError where a record has no such column, with the option that names another."""
    try:
        column(record, path, where)
    except ValueError as error:
        raise ValueError(f"{error}; name the column with {said}, of {', '.join(map(str, record))}") from None


def _labelled(record: Mapping[str, Any], document: str | None, where: str, spec: HeadSpec, target: str) -> LabelledText:
    text = _text(column(record, spec.text or "text", where), spec.text or "text", where)
    second = None
    if spec.second is not None:
        second = _text(column(record, spec.second, where), spec.second, where)
    told = column(record, target, where)
    read = {"classes": _class, "labels": _labels, "values": _value}[spec.tells]
    return LabelledText(text, second, read(told, f"{where}: {target}", spec), where, document or text)


def _text(value: Any, name: str, where: str) -> str:
    if value is None or (isinstance(value, str) and not value.strip()):
        raise ValueError(f"{where}: {name} is empty, so there is nothing to read; leave the record out")
    if not isinstance(value, str):
        raise ValueError(f"{where}: {name} is a {type(value).__name__} where a text must be")
    return value


def _class(value: Any, where: str, spec: HeadSpec) -> str:
    """A class by its name. A number may be a class as well as a value: whoever has some must say which."""
    if spec.kind is None and isinstance(value, list):
        raise UnsaidError(f"{where} is a list: say --as labels, or name a column with one class")
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if spec.kind is None and (is_number or (isinstance(value, str) and number_in(value) is not None)):
        raise UnsaidError(
            f"{where}={value!r} is a number: give --as classes if it is the name of a class, or --as values if it is "
            "more or less of something"
        )
    return _name(value, where, "class")


def _labels(value: Any, where: str, spec: HeadSpec) -> tuple[str, ...]:
    """Any number of labels. None is a list of none."""
    try:
        found = split_labels(value)
    except ValueError as error:
        raise ValueError(f"{where} {error}") from None
    return tuple(dict.fromkeys(_name(one, where, "label") for one in found))


def _value(value: Any, where: str, spec: HeadSpec) -> float:
    found = number_in(value)
    if found is None:
        raise ValueError(
            f"{where}={value!r} is no number; --as classes tells words apart, --examples.bad skip drops it"
        )
    return found


def _name(value: Any, where: str, what: str) -> str:
    try:
        return label_name(value)
    except ValueError as error:
        raise ValueError(f"{where} {error}, no {what}; leave the record out, or give it one") from None
