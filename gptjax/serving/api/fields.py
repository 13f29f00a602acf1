"""The fields of a JSON request, read one by one; what is wrong with one is a 400 that names it."""

import itertools
import math
import re
from collections.abc import Callable, Collection
from typing import Any

from gptjax.files.plain_json import loads
from gptjax.serving.errors import ApiError
from gptjax.spelling import did_you_mean, nearest

DEEPEST = 64  # how far objects and lists may be nested
COMPARED = 200  # names of a request that are held against one that is missing
SHOWN = 60  # characters of a wrong value that an error shows
_MARKS = re.compile(rb'"(?:[^"\\]|\\.)*+"?|[\[{]|[\]}]', re.DOTALL)  # reads on from where it ended, never twice

type Read[T] = Callable[[Any, str], T]  # (value, its name) -> what it stands for; raises ApiError


def parsed(body: bytes) -> Any:
    """The JSON in a request's body. Raises ApiError where it is none, or none that two programs read alike."""
    depth = 0
    for mark in _MARKS.finditer(body):
        first = body[mark.start()]
        depth += (first in b"[{") - (first in b"]}")
        if depth > DEEPEST:
            raise ApiError(f"the request is nested deeper than {DEEPEST} levels")
    try:
        return loads(body.decode(), object_pairs_hook=_without_twins, parse_constant=_no_number)
    except UnicodeDecodeError as error:
        raise ApiError(f"the request is not UTF-8: byte {error.start} is 0x{body[error.start]:02x}") from None
    except ValueError as error:
        raise ApiError(f"the body of the request: {error}") from None


def _without_twins(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        seen: set[str] = set()
        twin = next(name for name, _ in pairs if name in seen or seen.add(name))
        raise ApiError(f"the request holds {twin[:SHOWN]!r} twice", twin[:SHOWN])
    return found


def _no_number(name: str) -> Any:
    raise ApiError(f"the request holds {name}, which is no number of JSON")


class Fields:
    """An object of a request. Fields are taken by name; `finish` refuses those that nobody took.

    `where`: its own name, "" for the request itself. null stands for a field that is not there, as with OpenAI.
    """

    def __init__(self, value: Any, where: str = ""):
        if not isinstance(value, dict):
            raise ApiError(f"{where or 'the request'} must be an object, not {kind(value)}", where or None)
        self._left, self._where = dict(value), where
        self._known: list[str] = []

    def name(self, field: str) -> str:
        return f"{self._where}.{field}" if self._where else field

    def take[T, Default](self, field: str, read: Read[T], default: Default = None) -> T | Default:
        """What the field stands for; the default where it is not there."""
        self._known.append(field)
        value = self._left.pop(field, None)
        return default if value is None else read(value, self.name(field))

    def need[T](self, field: str, read: Read[T]) -> T:
        """The same of a field that must be there."""
        if self._left.get(field) is None:
            few = [one[:SHOWN] for one in itertools.islice(self._left, COMPARED)]
            raise ApiError(f"{self.name(field)} is missing{nearest(field, few)}", self.name(field))
        self._known.append(field)
        return read(self._left.pop(field), self.name(field))

    def finish(self, ignored: Collection[str] = ()) -> None:
        """Raises ApiError for a field that is left, which is not one of those that may be there to no effect."""
        for field in self._left:
            if field not in ignored:
                name = self.name(field[:SHOWN])
                hint = did_you_mean(field[:SHOWN], self._known)
                raise ApiError(f"{name} is no field that this server knows{hint}", name, code="unknown_parameter")


def kind(value: Any) -> str:
    """What an error calls a value; a text may be anybody's, and is not shown."""
    match value:
        case None:
            return "null"
        case bool() | int() | float():
            return repr(value)[:SHOWN]
        case str():
            return "text"
        case list():
            return "a list"
        case _:
            return "an object"


def text(value: Any, name: str) -> str:
    if not isinstance(value, str):
        raise ApiError(f"{name} must be text, not {kind(value)}", name)
    return value


def flag(value: Any, name: str) -> bool:
    if not isinstance(value, bool):
        raise ApiError(f"{name} must be true or false, not {kind(value)}", name)
    return value


def anything(value: Any, name: str) -> Any:
    return value


def whole(least: int, most: int) -> Read[int]:
    """A whole number within bounds, both allowed."""

    def read(value: Any, name: str) -> int:
        if isinstance(value, bool) or not isinstance(value, int):
            raise ApiError(f"{name} must be a whole number, not {kind(value)}", name)
        if not least <= value <= most:
            raise ApiError(f"{name} is {kind(value)}; must be from {least} to {most}", name)
        return value

    return read


def real(least: float | int, most: float | int, *, above: bool = False) -> Read[float]:
    """A number within bounds, both allowed; with `above`, the lower one is not."""

    def read(value: Any, name: str) -> float:
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise ApiError(f"{name} must be a number, not {kind(value)}", name)
        if not least <= value <= most or not math.isfinite(value) or (above and value == least):
            wanted = f"above {least:g} and at most {most:g}" if above else f"from {least:g} to {most:g}"
            raise ApiError(f"{name} is {kind(value)}; must be {wanted}", name)
        return float(value)

    return read


def one_of(*values: str) -> Read[str]:
    def read(value: Any, name: str) -> str:
        if value not in values:
            wanted = " or ".join(repr(one) for one in values)
            found = repr(value[:SHOWN]) if isinstance(value, str) else kind(value)
            raise ApiError(f"{name} must be {wanted}, not {found}", name)
        return value

    return read


def listed[T](read: Read[T], most: int, least: int = 0) -> Read[list[T]]:
    """A list of such values; an error names the place in it."""

    def read_all(value: Any, name: str) -> list[T]:
        if not isinstance(value, list):
            raise ApiError(f"{name} must be a list, not {kind(value)}", name)
        if not least <= len(value) <= most:
            raise ApiError(f"{name} has {len(value)} entries; must have from {least} to {most}", name)
        return [read(one, f"{name}[{place}]") for place, one in enumerate(value)]

    return read_all
