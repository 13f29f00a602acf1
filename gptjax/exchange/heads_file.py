"""Class heads beside an exported model, where a plain loader does not look: names in JSON, weights in safetensors."""

import dataclasses
import json
import os
from pathlib import Path
from typing import Any

import numpy as np

from gptjax.config import ClassHead, ModelConfig
from gptjax.exchange.safetensors_file import read_tensors
from gptjax.files.bounded_files import naming, read_json

NAMES, WEIGHTS = "class_heads.json", "class_heads.safetensors"
MOST_HEADS = 64


def names_text(heads: tuple[ClassHead, ...]) -> str:
    """The JSON file: the fields of each head by its name, in the order of the bank."""
    fields = {head.name: dataclasses.asdict(head) for head in heads}
    for head in fields.values():
        del head["name"]
    return json.dumps(fields, indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def weights(heads: tuple[ClassHead, ...], params: Any) -> dict[str, np.ndarray]:
    """By head, `NAME.weight` [classes, D] and `NAME.bias` [classes], as torch's Linear has them."""
    bank, biases = np.asarray(params["class_heads"]), np.asarray(params["class_heads_bias"])
    tensors = {}
    for number, head in enumerate(heads):
        count = len(head.classes)
        tensors[f"{head.name}.weight"] = np.ascontiguousarray(bank[number, :, :count].T)
        tensors[f"{head.name}.bias"] = np.ascontiguousarray(biases[number, :count])
    return tensors


def read_heads(folder: Path) -> tuple[ClassHead, ...]:
    """The heads that a folder names, none where it has no such file. Raises ValueError as a reader."""
    if not os.path.lexists(folder / NAMES):
        return ()
    listed = read_json(folder / NAMES)
    with naming(folder / NAMES):
        if not 1 <= len(listed) <= MOST_HEADS:
            raise ValueError(f"names {len(listed)} heads; from 1 to {MOST_HEADS} are read")
        return tuple(_head(name, fields) for name, fields in listed.items())


def read_class_heads(folder: Path, config: ModelConfig) -> dict[str, np.ndarray]:
    """The part of our tree that holds the heads of a folder; nothing without heads. Raises ValueError as a reader."""
    heads = config.class_heads
    if not heads:
        return {}
    found = read_tensors(folder / WEIGHTS)
    with naming(folder / WEIGHTS):
        sound = []
        for head in heads:
            count = len(head.classes)
            weight_CD = _sound(found, f"{head.name}.weight", (count, config.D))
            sound.append((weight_CD.T, _sound(found, f"{head.name}.bias", (count,))))
        if found:
            raise ValueError(f"tensor {min(found)!r} is of no head in {NAMES}")
    bank = np.zeros((len(heads), config.D, config.C), np.float32)  # not before the tensors have shown the sizes
    biases = np.zeros((len(heads), config.C), np.float32)
    for number, (weight_DC, bias_C) in enumerate(sound):
        bank[number, :, : len(bias_C)], biases[number, : len(bias_C)] = weight_DC, bias_C
    return {"class_heads": bank, "class_heads_bias": biases}


def _sound(found: dict[str, np.ndarray], name: str, shape: tuple[int, ...]) -> np.ndarray:
    """Takes a tensor out, if it is what the names say."""
    array = found.pop(name, None)
    if array is None or array.shape != shape or array.dtype != np.float32 or not np.isfinite(array).all():
        raise ValueError(f"tensor {name!r} is missing, or is not float32 {list(shape)} of finite values")
    return array


def _head(name: str, fields: Any) -> ClassHead:
    if not isinstance(fields, dict) or fields.keys() != {"classes", "pair"}:
        raise ValueError(f"head {name!r}: must have the fields classes and pair, found {str(fields)[:80]}")
    classes, pair = fields["classes"], fields["pair"]
    if not isinstance(classes, list) or not classes or not all(isinstance(text, str) for text in classes):
        raise ValueError(f"head {name!r}: classes must be a list of texts, found {str(classes)[:80]}")
    if not isinstance(pair, bool):
        raise ValueError(f"head {name!r}: pair must be true or false, found {pair!r}")
    return ClassHead(name=name, classes=tuple(classes), pair=pair)
