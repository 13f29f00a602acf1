"""Conversations out of a source: records of files or of a TensorFlow dataset, or a corpus of ours of dialogues."""

import importlib
import re
from collections.abc import Iterator, Mapping
from typing import Any, Literal, NamedTuple

from etils import epath

from data import dump
from data.corpora import corpus as ours
from data.examples.forms import Conversation, Learn, check_form, conversation, recognised
from data.preparation import sources
from data.preparation.sources import SourceCard
from gptjax.spelling import nearest
from gptjax.text.record_files import records
from gptjax.text.tokenizer import SPEAKERS

DOMAIN = "dialogue"  # of corpora whose documents are lines of two speakers in turn


class Rejected(NamedTuple):
    """A record that is no conversation."""

    where: str  # file:line, file:record N
    reason: str  # without the number of the turn, so that reasons can be counted


def check(source: str) -> None:
    """Raises ValueError for a source that cannot exist, or that holds no conversations: quickly, reading no text."""
    sources.check(source)
    if is_corpus(source) and source not in (known := dialogue_corpora()):
        raise ValueError(
            f"{source!r} is no corpus of conversations{nearest(source, known)}; those are {', '.join(known)}; "
            "or write 'files:talks.jsonl' for examples of your own"
        )


def dialogue_corpora() -> list[str]:
    """The names of our corpora that hold conversations."""
    return [name for name, (corpus, _) in ours.corpora().items() if ours.corpus(corpus).domain == DOMAIN]


def source_of(source: str) -> SourceCard:
    """The terms under which a source may be read."""
    return sources.describe(source, epath.Path())  # nothing is kept of those that are described


def form_of(source: str, form: str | None, columns: Mapping[str, str]) -> str | None:
    """The form of a source's records: the one given, else that of the first record; None of a corpus of ours.

    Raises ValueError where there is no such form, no record, or a form or columns for what has its own.
    """
    check(source)
    if form is not None:
        check_form(form, columns)
    if is_corpus(source):
        if form is not None or columns:
            raise ValueError(f"{source!r} is a corpus of conversations: leave out the form and its columns")
        return None
    if form is not None:
        return form
    if columns:
        raise ValueError(f"{source!r}: columns={dict(columns)} need the form whose parts they name: name it too")
    for where, record in records_of(source):
        return recognised(record, where)
    raise ValueError(f"{source!r}: there is no record")


def examples(
    source: str, *, form: str | None, columns: Mapping[str, str], learn: Learn, bad: Literal["stop", "skip"]
) -> Iterator[Conversation | Rejected]:
    """The conversations of a source in the order of its files, all of one form, which `form_of` tells.

    `columns` and `learn` as `forms.conversation` takes them. A record that is none raises ValueError, or with `skip`
    comes as Rejected; a file that cannot be read raises ValueError always.
    """
    form = form_of(source, form, columns)
    if form is None:
        yield from (_of_lines(record["text"], where) for where, record in corpus_records(source))
        return
    for where, record in records_of(source):
        try:
            yield conversation(record, where, form, columns, learn)
        except ValueError as error:
            if bad == "stop":
                raise
            yield Rejected(where, re.sub(r"^turn \d+: ", "", str(error).removeprefix(f"{where}: ")))


def is_corpus(source: str) -> bool:
    return source.partition(":")[0] not in ("files", "tfds")


def records_of(source: str) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """(where, record) of files, or of the train split of a TensorFlow dataset."""
    if source.startswith("files:"):
        for path in sources.files_of(source).files:
            yield from records(path)
    else:
        found = dump.examples(source, "train", (), epath.Path())
        yield from ((f"{source}: example {number}", example) for number, example in enumerate(found, start=1))


def corpus_records(source: str) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """(where, record) of the documents of a corpus of ours: text, as pretraining reads it, and labels."""
    corpus, config = ours.corpora()[source]
    sources.load_tfds()  # silent, and without an accelerator, before the builder imports it
    builder = importlib.import_module(f"data.corpora.{corpus}.{corpus}_dataset_builder").Builder
    for path in ours.corpus(corpus).paths(config):
        for id, example in builder.examples(path):
            yield f"{source}: {id}", example


def _of_lines(text: str, where: str) -> Conversation:
    """The conversation that `dialogue_text` wrote; its group is the text, by which pretraining knows the document."""
    lines = text.removesuffix("\n").split("\n")
    turns = []
    for number, line in enumerate(lines):
        speaker = f"{SPEAKERS[number % 2]}: "
        assert line.startswith(speaker), (where, number, line)
        turns.append({"role": ("user", "assistant")[number % 2], "content": line.removeprefix(speaker)})
    return conversation({"messages": turns}, where, "messages", {}, "all")._replace(group=text)
