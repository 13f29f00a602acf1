"""Text that a chat template may inspect and rewrite, and in which it stays known who wrote each character.

In what somebody typed, the first character of every name of an added token is replaced by a private one, which no
operation of a template can lose; whatever looks for something in such a text, or compares it, sees what was typed.
So a template decides as it would of plain text, and only the template's own text spells special tokens. What escapes
this, such as sorting, may decide otherwise; it makes no token of typed text, but for a template that itself writes the
first character of a name in front of the rest.
"""

import itertools
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Any

from gptjax.text.tokenizer import SHIELD, shield_place

FIRST, LAST = 0xF0000, 0xFFFFD  # a plane of Unicode without characters of its own


class TypedText(str):
    """A text with private characters in it, which reads as `_plain`, character by character."""

    _plain: str

    def __new__(cls, text: str, plain: str | None = None):
        made = super().__new__(cls, text)
        made._plain = text if plain is None else plain
        return made

    def _part(self, begin: int, end: int) -> "TypedText":
        return TypedText(str.__getitem__(self, slice(begin, end)), self._plain[begin:end])

    def _parts(self, parts: Sequence[str], gap: int | None) -> list[Any]:
        """Parts of the plain text, in order, as parts of this: `gap` characters between them, or None = white space."""
        found, at = [], 0
        for part in parts:
            at = self._plain.index(part, at) if gap is None else at
            found.append(self._part(at, at + len(part)))
            at += len(part) + (gap or 0)
        return found

    def __str__(self):
        return self

    def __repr__(self):
        """As Python's of the plain text, with private characters as they are: lists and objects are printed so."""
        quote = repr(self._plain)[0]
        escaped = (f"\\{quote}" if plain == quote else repr(plain)[1:-1] for plain in self._plain)
        return "".join(
            own if own != plain else shown
            for own, plain, shown in zip(str.__iter__(self), self._plain, escaped, strict=True)
        ).join((quote, quote))

    def __hash__(self):
        return hash(self._plain)

    def __eq__(self, other: object) -> bool:
        return self._plain == plain_of(other)

    def __ne__(self, other: object) -> bool:
        return self._plain != plain_of(other)

    def __lt__(self, other: str) -> bool:
        return self._plain < plain_of(other)

    def __le__(self, other: str) -> bool:
        return self._plain <= plain_of(other)

    def __gt__(self, other: str) -> bool:
        return self._plain > plain_of(other)

    def __ge__(self, other: str) -> bool:
        return self._plain >= plain_of(other)

    def __contains__(self, part: object) -> bool:
        return plain_of(part) in self._plain

    def __getitem__(self, key: Any) -> "TypedText":
        return TypedText(super().__getitem__(key), self._plain[key])

    def __iter__(self) -> Iterator[str]:
        return (self[place] for place in range(len(self)))

    def __add__(self, other: str) -> "TypedText":
        return TypedText(super().__add__(other), self._plain + plain_of(other))

    def __radd__(self, other: str) -> "TypedText":
        return TypedText(str.__add__(other, self), plain_of(other) + self._plain)

    def strip(self, chars: str | None = None, /):
        return self.lstrip(chars).rstrip(chars)

    def lstrip(self, chars: str | None = None, /):
        return self._part(len(self) - len(self._plain.lstrip(plain_of(chars))), len(self))

    def rstrip(self, chars: str | None = None, /):
        return self._part(0, len(self._plain.rstrip(plain_of(chars))))

    def removeprefix(self, prefix: str, /):
        return self._part(len(prefix) if prefix and self.startswith(prefix) else 0, len(self))

    def removesuffix(self, suffix: str, /):
        return self._part(0, len(self) - (len(suffix) if suffix and self.endswith(suffix) else 0))

    def split(self, sep: str | None = None, maxsplit: Any = -1):
        return self._parts(self._plain.split(plain_of(sep), maxsplit), None if sep is None else len(sep))

    def rsplit(self, sep: str | None = None, maxsplit: Any = -1):
        return self._parts(self._plain.rsplit(plain_of(sep), maxsplit), None if sep is None else len(sep))

    def splitlines(self, keepends: bool = False):
        lines = self._parts(self._plain.splitlines(keepends=True), 0)
        return lines if keepends else [line._part(0, len(line._plain.splitlines()[0])) for line in lines]

    def partition(self, sep: str, /):
        head, found, tail = self._parts(self._plain.partition(plain_of(sep)), 0)
        return head, found, tail

    def rpartition(self, sep: str, /):
        head, found, tail = self._parts(self._plain.rpartition(plain_of(sep)), 0)
        return head, found, tail

    def replace(self, old: str, new: str, count: Any = -1, /):
        if not old:
            return TypedText(super().replace(old, new, count), self._plain.replace(old, plain_of(new), count))
        head, *parts = self.split(old, count)
        for part in parts:
            head = head + new + part
        return head


def plain_of(value: Any) -> Any:
    """What a text reads as; any other value as it is."""
    return value._plain if isinstance(value, TypedText) else value


def _searching(name: str) -> Callable[..., Any]:
    search = getattr(str, name)

    def method(self: TypedText, wanted: Any, *places: Any) -> Any:
        wanted = tuple(map(plain_of, wanted)) if isinstance(wanted, tuple) else plain_of(wanted)
        return search(self._plain, wanted, *places)

    method.__name__ = name
    return method


for _name in ("startswith", "endswith", "find", "rfind", "index", "rindex", "count"):
    setattr(TypedText, _name, _searching(_name))


class Guard:
    """Makes the texts of one rendering.

    `names`: of all added tokens; `special`: those of them that are special; `used`: all that is rendered, so that the
    private characters are none of it.

    In what the assistant said only the names of special tokens are typed: the others are in the text of its replies,
    where the model wrote those very tokens; a special token never is.
    """

    def __init__(self, names: Collection[str], special: Collection[str], used: Collection[str]):
        self._names, self._special = {name for name in names if name.strip()}, set(special)
        firsts = sorted({name[0] for name in self._names})
        taken = set().union(*used)
        free = (chr(code) for code in range(FIRST, LAST + 1) if chr(code) not in taken)
        self._typed = dict(zip(firsts, free, strict=False))
        self._said = dict(zip(firsts, free, strict=False))
        self.marks = tuple(itertools.islice(free, 3))  # for places in what a template writes
        self._used: dict[str, str] = {}  # private character -> what it reads as, of those that are in some text

    def typed(self, value: Any, by_assistant: bool = False) -> Any:
        """The texts in messages or the like, wherever they are in it."""
        if isinstance(value, str):
            text = plain = value.replace(SHIELD, "")
            for first, private in (self._said if by_assistant else self._typed).items():
                if first in plain:
                    text = text.replace(first, private)
                    self._used[private] = first
            return plain if text == plain else TypedText(text, plain)
        if isinstance(value, Mapping):
            return {self.typed(key, by_assistant): self.typed(one, by_assistant) for key, one in value.items()}
        return [self.typed(one, by_assistant) for one in value] if isinstance(value, list | tuple) else value

    def seen(self, value: Any) -> Any:
        """A result in a template: a text with private characters is a TypedText again."""
        if not self._used or not isinstance(value, str):
            return value
        text = "".join([value])
        plain = self._read(text)
        return TypedText(text, plain) if text != plain else value

    def _read(self, text: str) -> str:
        """What a text with private characters reads as."""
        for private, first in self._used.items():
            text = text.replace(private, first)
        return text

    def unescaped(self, text: str) -> str:
        """JSON in ASCII, with private characters as they are."""
        for private in self._used if "\\" in text else ():
            high, low = divmod(ord(private) - 0x10000, 0x400)
            text = text.replace(f"\\u{0xD800 + high:04x}\\u{0xDC00 + low:04x}", private)
        return text

    def shielded(self, text: str) -> str:
        """The text as it reads, with a SHIELD in every name that was typed: see Tokenizer.shielded."""
        text = "".join([text])  # as it is, whatever it reads as
        plain, said = self._read(text), set(self._said.values())
        if plain == text:
            return text
        marks: set[int] = set()
        for name in self._names:
            at = plain.find(name)
            while at >= 0:
                if text[at] != plain[at] and (text[at] not in said or name in self._special):
                    marks.add(at + shield_place(name))
                at = plain.find(name, at + 1)
        places = [0, *sorted(marks), len(plain)]
        return SHIELD.join(plain[begin:end] for begin, end in itertools.pairwise(places))


def texts_in(value: Any) -> Iterator[str]:
    """Every text in messages or the like."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for key, one in value.items():
            yield from texts_in(key)
            yield from texts_in(one)
    elif isinstance(value, list | tuple):
        for one in value:
            yield from texts_in(one)
