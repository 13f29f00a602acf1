"""GGUF files: settings, and tensors that are unpacked to float32 when asked for; both written. Does not import JAX.

Source: github.com/ggml-org/ggml, docs/gguf.md.
"""

import math
import struct
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from gptjax.exchange.gguf_blocks import OTHERS, TYPES, packed, unpacked
from gptjax.files.bounded_files import check_regular, naming

VERSIONS = (2, 3)
MOST_ENTRIES = 100_000  # settings, and likewise tensors
MOST_VALUES = 4_000_000  # in all arrays of settings together; a vocabulary of 250,000 tokens and its merges are 750,000
LONGEST_NAME = 64  # bytes of a tensor's name, says the format
STRING, ARRAY = 8, 9
SCALARS = dict(enumerate(["<B", "<b", "<H", "<h", "<I", "<i", "<f", "<?"])) | {10: "<Q", 11: "<q", 12: "<d"}


ALIGNMENT = 32  # bytes, of every tensor that is written
UINT32, INT32, FLOAT32, BOOL = 4, 5, 6, 7


class Tensors(Mapping[str, np.ndarray]):
    """A file's tensors by name, made anew as float32 whenever one is asked for; `shapes` costs nothing."""

    def __init__(self, raw: np.ndarray, places: Mapping[str, tuple[str, tuple[int, ...], int, int]]):
        self._raw, self._places = raw, places
        self.shapes = {name: shape for name, (_, shape, _, _) in places.items()}
        self.kinds = {name: kind for name, (kind, _, _, _) in places.items()}

    def __getitem__(self, name: str) -> np.ndarray:
        kind, shape, begin, size = self._places[name]
        return unpacked(kind, self._raw[begin : begin + size]).reshape(shape)

    def __iter__(self) -> Iterator[str]:
        return iter(self._places)

    def __len__(self) -> int:
        return len(self._places)


def read_file(path: Path) -> tuple[dict[str, Any], Tensors]:
    """The settings by key, and the tensors. Raises ValueError naming the file and what in it is damaged."""
    with naming(path):
        check_regular(path)
        raw = np.memmap(path, np.uint8, "r")
        cursor = _Cursor(raw)
        if bytes(raw[:4]) != b"GGUF":
            raise ValueError("is no GGUF file: it does not begin with GGUF")
        cursor.at = 4
        if (version := cursor.scalar("<I")) not in VERSIONS:
            raise ValueError(f"is GGUF of version {version}; {' and '.join(map(str, VERSIONS))} can be read")
        tensor_count, setting_count = cursor.count("tensors", MOST_ENTRIES), cursor.count("settings", MOST_ENTRIES)
        settings: dict[str, Any] = {}
        for _ in range(setting_count):
            key = cursor.text()
            if key in settings:
                raise ValueError(f"setting {key!r} is there twice")
            settings[key] = cursor.value(key, cursor.scalar("<I"))
        entries = {}
        for _ in range(tensor_count):
            name, *entry = _entry(cursor)
            if name in entries:
                raise ValueError(f"tensor {name!r} is there twice")
            entries[name] = entry
        alignment = settings.get("general.alignment", 32)
        if type(alignment) is not int or not 8 <= alignment <= 2**20 or alignment % 8:
            raise ValueError(f"general.alignment is {alignment!r}; must be a multiple of 8")
        start = -(-cursor.at // alignment) * alignment
        return settings, Tensors(raw, _places(entries, start, alignment, len(raw)))


def write_file(
    path: Path,
    settings: Mapping[str, Any],
    entries: Sequence[tuple[str, str, tuple[int, ...]]],
    tensors: Iterable[tuple[str, np.ndarray]],
) -> None:
    """Writes a file of version 3. `entries`: name, type and shape of every tensor, which `tensors` yields in turn.

    Raises ValueError naming a tensor whose values its type cannot hold.
    """
    numbers = {name: number for number, (name, _, _) in TYPES.items()}
    head = b"GGUF" + struct.pack("<IQQ", VERSIONS[-1], len(entries), len(settings))
    head += b"".join(_text(key) + _setting(value) for key, value in settings.items())
    offset = 0
    for name, kind, shape in entries:
        head += _text(name) + struct.pack(f"<I{len(shape)}Q", len(shape), *reversed(shape))
        head += struct.pack("<IQ", numbers[kind], offset)
        size = content_bytes(kind, shape)
        offset += size + -size % ALIGNMENT
    with path.open("wb") as file:
        file.write(head + bytes(-len(head) % ALIGNMENT))
        for (name, kind, shape), (found, values) in zip(entries, tensors, strict=True):
            assert (found, values.shape) == (name, shape), (found, values.shape, name, shape)
            try:
                raw = packed(kind, values)
            except ValueError as error:
                raise ValueError(f"tensor {name!r}: {error}") from error
            file.write(raw)
            file.write(bytes(-raw.nbytes % ALIGNMENT))


def content_bytes(kind: str, shape: tuple[int, ...]) -> int:
    """How long a tensor's values are."""
    values, size = next((values, size) for name, values, size in TYPES.values() if name == kind)
    return math.prod(shape) // values * size


def _text(value: str) -> bytes:
    raw = value.encode()
    return struct.pack("<Q", len(raw)) + raw


def _setting(value: Any) -> bytes:
    """Type and value: a truth, a whole number, a decimal, a text, or a list of texts or of whole numbers."""
    match value:
        case bool():
            return struct.pack("<I?", BOOL, value)
        case int():
            return struct.pack("<II", UINT32, value)
        case float():
            return struct.pack("<If", FLOAT32, value)
        case str():
            return struct.pack("<I", STRING) + _text(value)
    if value and isinstance(value[0], int):
        return struct.pack(f"<IIQ{len(value)}i", ARRAY, INT32, len(value), *value)
    return struct.pack("<IIQ", ARRAY, STRING, len(value)) + b"".join(map(_text, value))


def _entry(cursor: "_Cursor") -> tuple[str, str, tuple[int, ...], int, int]:
    """Name, type, shape, offset and bytes of the next tensor. The file gives the last axis first."""
    name = cursor.text(LONGEST_NAME)
    rank = cursor.scalar("<I")
    if not 1 <= rank <= 4:
        raise ValueError(f"tensor {name!r} has {rank} axes; from 1 to 4 are possible")
    shape = tuple(reversed([cursor.scalar("<Q") for _ in range(rank)]))
    number, offset = cursor.scalar("<I"), cursor.scalar("<Q")
    if number not in TYPES:
        raise ValueError(
            f"tensor {name!r} is of type {OTHERS.get(number, number)}; only "
            f"{', '.join(known for known, _, _ in TYPES.values())} are read"
        )
    kind, values, size = TYPES[number]
    if shape[-1] % values:
        raise ValueError(f"tensor {name!r}: rows of {shape[-1]} are not whole blocks of {values} values")
    return name, kind, shape, offset, math.prod(shape) // values * size


def _places(
    entries: Mapping[str, Any], start: int, alignment: int, end: int
) -> dict[str, tuple[str, tuple[int, ...], int, int]]:
    """Type, shape, first byte and bytes of every tensor, once none reaches beyond the file or into another."""
    places, at = {}, start
    for name, (kind, shape, offset, size) in sorted(entries.items(), key=lambda item: item[1][2]):
        begin = start + offset
        if offset % alignment or begin < at:
            raise ValueError(
                f"tensor {name!r} begins at byte {begin}, within another or not at a multiple of {alignment}"
            )
        at = begin + size
        if at > end:
            raise ValueError(f"tensor {name!r} ends at byte {at} of {end}: the file was cut short")
        places[name] = (kind, shape, begin, size)
    return places


class _Cursor:
    """Reads one value after another, none of them beyond the file's end."""

    def __init__(self, raw: np.ndarray):
        self.at = 0
        self._raw, self._buffer = raw, memoryview(raw)
        self._values = 0

    def scalar(self, form: str) -> Any:
        [value] = struct.unpack(form, self._take(struct.calcsize(form)))
        return value

    def count(self, what: str, most: int) -> int:
        number = self.scalar("<Q")
        if number > most:
            raise ValueError(f"says that it has {number} {what}; at most {most} are read")
        return number

    def text(self, longest: int = 2**20) -> str:
        size = self.count("bytes in a text", longest)
        return bytes(self._take(size)).decode("utf-8", errors="replace")

    def value(self, key: str, kind: int) -> Any:
        if kind == STRING:
            return self.text()
        if kind in SCALARS:
            return self.scalar(SCALARS[kind])
        if kind != ARRAY:
            raise ValueError(f"setting {key!r} is of unknown type {kind}")
        kind, count = self.scalar("<I"), self.count("values in an array", MOST_VALUES)
        self._values += count
        if self._values > MOST_VALUES:
            raise ValueError(f"setting {key!r}: the arrays have more than {MOST_VALUES} values together")
        if kind == STRING:
            return [self.text() for _ in range(count)]
        if kind not in SCALARS:
            raise ValueError(f"setting {key!r} is an array of unknown type {kind}")
        form = SCALARS[kind]
        return list(struct.unpack(f"<{count}{form[1]}", self._take(count * struct.calcsize(form))))

    def _take(self, size: int) -> memoryview:
        if self.at + size > len(self._raw):
            raise ValueError(f"is cut short: {size} more bytes were expected at byte {self.at} of {len(self._raw)}")
        self.at += size
        return self._buffer[self.at - size : self.at]
