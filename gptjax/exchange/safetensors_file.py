"""Tensors of safetensors files, checked before they are believed, and read where they lie. Does not import JAX.

Source: the format's README, github.com/huggingface/safetensors, section "Format".
"""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from gptjax.files.bounded_files import LARGEST, check_regular, naming, parse_json, read_json

SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"
DTYPES = {
    "F64": np.float64, "F32": np.float32, "F16": np.float16, "BF16": ml_dtypes.bfloat16,
    "I64": np.int64, "I32": np.int32, "I16": np.int16, "I8": np.int8,
    "U64": np.uint64, "U32": np.uint32, "U16": np.uint16, "U8": np.uint8, "BOOL": np.bool_,
}  # fmt: skip


def read_weights(folder: Path) -> dict[str, np.ndarray]:
    """All tensors of a Hugging Face folder by name, of its one file or of the several that its index lists.

    The arrays are read-only views of the files. Raises ValueError naming the file that is missing, damaged or none.
    """
    single = (folder / SINGLE).exists()
    if not (folder / INDEX).exists():
        if not single:
            raise ValueError(f"{folder}: has neither {SINGLE} nor {INDEX}{_pickled(folder)}")
        return read_tensors(folder / SINGLE)
    where = _index(folder / INDEX)
    if single and SINGLE not in where.values():
        raise ValueError(f"{folder}: has {SINGLE}, but {INDEX} lists other files; remove the one or the others")
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
        check_regular(path)
        size = path.stat().st_size
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            if size < 10 or length > size - 8:
                raise ValueError(f"is no safetensors file, or cut short: a header of {length} bytes in {size}")
            if length > LARGEST:
                raise ValueError(f"its header has {length} bytes; at most {LARGEST} are read")
            header = parse_json(file.read(length))
        header.pop("__metadata__", None)
        places = _checked(header, size - 8 - length)
        raw = np.memmap(path, np.uint8, "r") if places else np.zeros(0, np.uint8)
        return {
            name: np.ndarray(shape, DTYPES[dtype], raw, offset=8 + length + begin)
            for name, (dtype, shape, begin) in places.items()
        }


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
    where = read_json(path).get("weight_map")
    with naming(path):
        if not isinstance(where, dict) or not all(isinstance(file, str) for file in where.values()):
            raise ValueError("has no weight_map from tensors to files")
        for file, name in {file: name for name, file in where.items()}.items():
            if not file.endswith(".safetensors") or Path(file).name != file:
                raise ValueError(f"weight_map: tensor {name!r} lies in {file!r}; must be a .safetensors file beside it")
            if not (path.parent / file).is_file():
                raise ValueError(f"weight_map: tensor {name!r} lies in {file!r}, which is missing")
    return where


def _pickled(folder: Path) -> str:
    """A hint, where a folder holds weights that only running them as a program would read."""
    found = [path.name for path in sorted(folder.glob("*")) if path.suffix in (".bin", ".pt", ".pth", ".ckpt", ".pkl")]
    return f"; {found[0]} is a pickle, which can run any program and is not read: convert it first" if found else ""
