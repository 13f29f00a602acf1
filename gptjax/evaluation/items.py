"""The items of an evaluation: read from files, checked, and made prompts of. Does not import JAX.

What is wrong with an item is a ValueError that gives its number, from 0, or its file and line.
"""

import numbers
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from gptjax.files.places import expanded
from gptjax.spelling import did_you_mean
from gptjax.text.record_files import KNOWN, column, records
from gptjax.text.source_files import find
from gptjax.text.told import label_name, number_in, split_labels

Item = Mapping[str, Any]
TEXT, CONTEXT, QUESTION = "{text}", "{context}", "{question}"  # templates: fields of an item in braces
SECOND = "{second}"  # the same of the second text, for what reads two
DELIMITER = " "  # between a prompt and a choice
TOKENS = 32  # of an answer
STOP = ("\n",)  # what ends an answer


class FileItem(dict[str, Any]):
    """An item that knows where it was read."""

    place: str  # file:line, file:record N


def name_of(item: Item, number: int) -> str:
    """How errors call it."""
    return item.place if isinstance(item, FileItem) else f"item {number}"


def read_items(files: Sequence[str]) -> Iterator[FileItem]:
    """The records of files, folders and patterns of files; a file of text is one item, {"text": all of it}."""
    for path in map(expanded, files):
        for file in find(path).files or [path]:  # where there is none, opening it says why
            try:
                yield from (_placed(item, place) for place, item in records(file))
            except OSError as error:
                raise ValueError(f"{file}: {error.strerror}; give one that can be read: {KNOWN}") from None


def left_out(files: Sequence[str]) -> Iterator[str]:
    """What beside the items of folders and patterns of files is not read."""
    for path in map(expanded, files):
        if remark := find(path).remark():
            yield f"{path}: {remark}"


def _placed(fields: Mapping[str, Any], place: str) -> FileItem:
    item = FileItem(fields)
    item.place = place
    return item


class _Fields:
    """Those of an item, for a template; one that is null has no text."""

    def __init__(self, item: Item):
        self._item = item

    def __getitem__(self, name: str) -> Any:
        if name not in self._item:
            raise ValueError(f"no field {name!r}")
        if self._item[name] is None:
            raise ValueError(f"{name} is null")
        return self._item[name]


def prompts(items: Sequence[Item], template: str) -> list[str]:
    """The template with the fields of each item put in."""
    found = []
    for number, item in enumerate(items):
        try:
            found.append(template.format_map(_Fields(item)))
        except (LookupError, ValueError, AttributeError, TypeError, OverflowError, MemoryError) as error:
            raise ValueError(
                f"{name_of(item, number)}: the template {template!r} does not fit ({error or 'too long'}); "
                f"the item has {sorted(item)}"
            ) from None
    return found


def field(item: Item, number: int, name: str) -> Any:
    if name not in item:
        raise ValueError(f"{name_of(item, number)}: has no field {name!r}{did_you_mean(name, item)}")
    return item[name]


def texts_of(item: Item, number: int, name: str) -> list[str]:
    """A field that lists at least one text."""
    texts = field(item, number, name)
    if not isinstance(texts, list | tuple) or not texts or not all(isinstance(text, str) for text in texts):
        raise ValueError(f"{name_of(item, number)}: {name}={texts!r} must be a list of texts, at least one")
    return list(texts)


def right_choice(item: Item, number: int, choices: Sequence[str]) -> int:
    """The number of the choice that `answer` names, by number or as text."""
    answer = field(item, number, "answer")
    if isinstance(answer, str) and answer in choices:
        return list(choices).index(answer)
    if isinstance(answer, numbers.Integral) and not isinstance(answer, bool) and int(answer) in range(len(choices)):
        return int(answer)
    raise ValueError(
        f"{name_of(item, number)}: answer={answer!r} is none of its choices, nor a number from 0 to {len(choices) - 1}"
    )


def labels_of(item: Item, number: int, labels: Sequence[str], name: str = "labels") -> list[int]:
    """The numbers of the labels that the item has, none or more: a list of texts, or one text that parts them."""
    given = column(item, name, name_of(item, number))
    try:
        found = split_labels(given)
    except ValueError as error:
        raise ValueError(f"{name_of(item, number)}: {name}={given!r} {error}") from None
    return [_place(one, name_of(item, number), labels) for one in found]


def value_of(item: Item, number: int, name: str = "value") -> float:
    """The number that the item has, which may be written as text."""
    given = column(item, name, name_of(item, number))
    if (value := number_in(given)) is None:
        raise ValueError(f"{name_of(item, number)}: {name}={given!r} is no number; leave the item out, or give it one")
    return value


def label_of(item: Item, number: int, labels: Sequence[str], name: str = "label") -> int:
    """The number of the label that the item has, as it is written or as training reads it."""
    return _place(column(item, name, name_of(item, number)), name_of(item, number), labels)


def _place(label: Any, name: str, labels: Sequence[str]) -> int:
    if label is None:
        raise ValueError(f"{name}: its label is null; leave the item out, or give it one of {list(labels[:10])}")
    if str(label) in labels:
        return labels.index(str(label))
    try:
        return labels.index(label_name(label))
    except ValueError:
        known = ", ".join(map(repr, labels[:10])) + (f" and {len(labels) - 10} more" if labels[10:] else "")
        raise ValueError(f"{name}: its label {str(label)!r} is none of {known}") from None


def word_of_label(pairs: Iterable[tuple[Any, Any]]) -> dict[str, str]:
    """Label -> word, as they are written. Raises ValueError for a label that is empty or given twice."""
    found: dict[str, str] = {}
    for number, (label, word) in enumerate(pairs):
        if not str(label):
            raise ValueError(f"labels: label {number} is empty; give it a name")
        if str(label) in found:
            raise ValueError(f"labels: {str(label)!r} is given twice; each label has one word")
        found[str(label)] = str(word)
    return found


def unescaped(text: str) -> str:
    """A setting typed in a shell, in which \\n is a line break."""
    return text.replace("\\n", "\n")
