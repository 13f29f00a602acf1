"""Tensors of safetensors files, checked before they are believed, and read where they lie. Does not import JAX.

Source: the format's README, github.com/huggingface/safetensors, section "Format".
"""

import contextlib
import json
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"
LARGEST_HEADER = 16 * 2**20  # bytes of JSON; a model of 100,000 tensors needs as much
DTYPES = {
    "F64": np.float64, "F32": np.float32, "F16": np.float16, "BF16": ml_dtypes.bfloat16,
    "I64": np.int64, "I32": np.int32, "I16": np.int16, "I8": np.int8,
    "U64": np.uint64, "U32": np.uint32, "U16": np.uint16, "U8": np.uint8, "BOOL": np.bool_,
}  # fmt: skip


def read_weights(folder: Path) -> dict[str, np.ndarray]:
    """All tensors of a Hugging Face folder by name, of its one file or of the several that its index lists.

    The arrays are read-only views of the files. Raises ValueError naming the file that is missing, damaged or none.
    """
    if not (folder / INDEX).is_file():
        if not (folder / SINGLE).is_file():
            raise ValueError(f"{folder}: has neither {SINGLE} nor {INDEX}{_pickled(folder)}")
        return read_tensors(folder / SINGLE)
    where = _index(folder / INDEX)
    by_file = {file: read_tensors(folder / file) for file in sorted(set(where.values()))}
    for file, tensors in by_file.items():
        listed = {name for name, place in where.items() if place == file}
        if listed != tensors.keys():
            name = min(listed ^ tensors.keys())
            raise ValueError(
                f"{folder / file}: tensor {name!r} is "
                f"{'missing, though ' + INDEX + ' lists it' if name in listed else 'not listed in ' + INDEX}"
            )
    return {name: by_file[file][name] for name, file in where.items()}


def read_tensors(path: Path) -> dict[str, np.ndarray]:
    """The tensors of one file. Raises ValueError naming the file and what is wrong with its header."""
    with naming(path):
        size = path.stat().st_size
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            if size < 10 or length > size - 8:
                raise ValueError(f"is no safetensors file, or cut short: a header of {length} bytes in {size}")
            if length > LARGEST_HEADER:
                raise ValueError(f"its header has {length} bytes; at most {LARGEST_HEADER} are read")
            header = parse_json(file.read(length))
        header.pop("__metadata__", None)
        places = _checked(header, size - 8 - length)
        raw = np.memmap(path, np.uint8, "r") if places else np.zeros(0, np.uint8)
        return {
            name: np.ndarray(shape, DTYPES[dtype], raw, offset=8 + length + begin)
            for name, (dtype, shape, begin) in places.items()
        }


def parse_json(raw: bytes) -> dict[str, Any]:
    """A JSON object. Raises ValueError where it is something else, or holds a name twice."""
    try:
        content = json.loads(raw.decode("utf-8"), object_pairs_hook=_without_twins)
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise ValueError(f"is no JSON: {error}") from error
    except RecursionError as error:
        raise ValueError("is JSON nested too deeply") from error
    if not isinstance(content, dict):
        raise ValueError(f"is no JSON object but a {type(content).__name__}")
    return content


@contextlib.contextmanager
def naming(path: Path) -> Iterator[None]:
    """Puts the file in front of what is wrong with it."""
    try:
        yield
    except (ValueError, OSError) as error:
        why = error.strerror if isinstance(error, OSError) else str(error)
        raise ValueError(f"{path}: {why:.500}") from error  # a hostile file may have names of a megabyte


def _checked(header: Mapping[str, Any], size: int) -> dict[str, tuple[str, tuple[int, ...], int]]:
    """(dtype, shape, first byte) of every tensor. They follow one another without a gap through all `size` bytes."""
    places, ends = {}, {}
    for name, entry in header.items():
        if not isinstance(entry, dict) or entry.keys() != {"dtype", "shape", "data_offsets"}:
            raise ValueError(f"tensor {name!r}: its entry is not dtype, shape and data_offsets")
        dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
        if not isinstance(dtype, str) or dtype not in DTYPES:
            raise ValueError(f"tensor {name!r}: dtype {dtype!r} is none of {', '.join(DTYPES)}")
        if not _whole_numbers(shape) or len(shape) > 8:
            raise ValueError(f"tensor {name!r}: shape {str(shape)[:80]} is no list of at most 8 whole numbers")
        if not _whole_numbers(offsets) or len(offsets) != 2:
            raise ValueError(f"tensor {name!r}: data_offsets {str(offsets)[:80]} are not two whole numbers")
        begin, end = offsets
        bytes_wanted = math.prod(shape) * np.dtype(DTYPES[dtype]).itemsize
        if end - begin != bytes_wanted or end > size:
            raise ValueError(
                f"tensor {name!r}: data_offsets {offsets} of {size} bytes do not hold {dtype} {shape}, "
                f"{bytes_wanted} bytes"
            )
        places[name], ends[name] = (dtype, tuple(shape), begin), end
    at = 0
    for name in sorted(places, key=lambda name: (places[name][2], ends[name])):
        if places[name][2] != at:
            raise ValueError(f"tensor {name!r} begins at byte {places[name][2]}, but the one before it ends at {at}")
        at = ends[name]
    if at != size:
        raise ValueError(f"its tensors end at byte {at} of {size}")
    return places


def _whole_numbers(value: Any) -> bool:
    return isinstance(value, list) and all(type(number) is int and 0 <= number < 2**63 for number in value)


def _index(path: Path) -> dict[str, str]:
    """The file of every tensor. Files lie beside the index."""
    with naming(path):
        where = parse_json(path.read_bytes()).get("weight_map")
        if not isinstance(where, dict) or not all(isinstance(file, str) for file in where.values()):
            raise ValueError("has no weight_map from tensors to files")
        for name, file in where.items():
            if not file.endswith(".safetensors") or Path(file).name != file:
                raise ValueError(f"weight_map: tensor {name!r} lies in {file!r}; must be a .safetensors file beside it")
            if not (path.parent / file).is_file():
                raise ValueError(f"weight_map: tensor {name!r} lies in {file!r}, which is missing")
    return where


def _pickled(folder: Path) -> str:
    """A hint, where a folder holds weights that only running them as a program would read."""
    found = [path.name for path in sorted(folder.glob("*")) if path.suffix in (".bin", ".pt", ".pth", ".ckpt", ".pkl")]
    return f"; {found[0]} is a pickle, which can run any program and is not read: convert it first" if found else ""


def _without_twins(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in pairs:
        if name in found:
            raise ValueError(f"holds {name!r} twice")
        found[name] = value
    return found
