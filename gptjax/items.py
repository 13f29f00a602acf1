"""The items of an evaluation: read from files, checked, and made prompts of. Does not import JAX.

What is wrong with an item is a ValueError that gives its number, from 0, or its file and line.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from gptjax.spelling import did_you_mean

Item = Mapping[str, Any]
TEXT, CONTEXT, QUESTION = "{text}", "{context}", "{question}"  # templates: fields of an item in braces
DELIMITER = " "  # between a prompt and a choice
TOKENS = 32  # of an answer
STOP = ("\n",)  # what ends an answer


def read_items(files: Sequence[str]) -> Iterator[dict[str, Any]]:
    """The lines of .jsonl files, empty ones left out; any other file is one item, {"text": all of it}."""
    for path in map(Path, files):
        try:
            if path.suffix.lower() == ".jsonl":
                yield from _lines(path)
            else:
                yield {"text": path.read_text(encoding="utf-8")}
        except UnicodeDecodeError as error:
            raise ValueError(
                f"{path}: byte {error.start + 1} is not UTF-8; convert the file, with iconv for one"
            ) from None


def _lines(path: Path) -> Iterator[dict[str, Any]]:
    with path.open(encoding="utf-8") as file:
        for number, line in enumerate(file, start=1):
            if not line.strip():
                continue
            try:
                item = json.loads(line)
            except json.JSONDecodeError as error:
                raise ValueError(f"{path}:{number}: not JSON: {error.msg} at character {error.pos + 1}") from None
            if not isinstance(item, dict):
                raise ValueError(
                    f'{path}:{number}: a {type(item).__name__}; a line is an object such as {{"text": "..."}}'
                )
            yield item


def prompts(items: Sequence[Item], template: str) -> list[str]:
    """The template with the fields of each item put in."""
    found = []
    for number, item in enumerate(items):
        try:
            found.append(template.format_map(item))
        except (KeyError, ValueError, IndexError, AttributeError, TypeError) as error:
            raise ValueError(
                f"item {number}: the template {template!r} does not fit ({error}); the item has {sorted(item)}"
            ) from None
    return found


def field(item: Item, number: int, name: str) -> Any:
    if name not in item:
        raise ValueError(f"item {number}: has no field {name!r}{did_you_mean(name, item)}")
    return item[name]


def texts_of(item: Item, number: int, name: str) -> list[str]:
    """A field that lists at least one text."""
    texts = field(item, number, name)
    if not isinstance(texts, list) or not texts or not all(isinstance(text, str) for text in texts):
        raise ValueError(f"item {number}: {name}={texts!r} must be a list of texts, at least one")
    return texts


def right_choice(item: Item, number: int, choices: Sequence[str]) -> int:
    """The number of the choice that `answer` names, by number or as text."""
    answer = field(item, number, "answer")
    if answer in choices:
        return list(choices).index(answer)
    if isinstance(answer, int) and not isinstance(answer, bool) and 0 <= answer < len(choices):
        return answer
    raise ValueError(
        f"item {number}: answer={answer!r} is none of its choices, nor a number from 0 to {len(choices) - 1}"
    )


def label_of(item: Item, number: int, labels: Sequence[str]) -> int:
    """The number of the label that the item has, a text or a whole number that is written like one."""
    label = str(field(item, number, "label"))
    if label not in labels:
        raise ValueError(f"item {number}: its label {label!r} is none of {', '.join(map(repr, labels[:10]))}")
    return list(labels).index(label)
