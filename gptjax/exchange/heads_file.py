"""Class heads beside an exported model, where a plain loader does not look: names in JSON, weights in safetensors."""

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
    fields = {head.name: head.fields() for head in heads}
    return json.dumps(fields, indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def weights(heads: tuple[ClassHead, ...], params: Any) -> dict[str, np.ndarray]:
    """By head, `NAME.weight` [classes, D] and `NAME.bias` [classes], as torch's Linear has them.

    And `NAME.query` [D] of one that reads a learnt mean.
    """
    bank, biases = np.asarray(params["class_heads"]), np.asarray(params["class_heads_bias"])
    tensors = {}
    for number, head in enumerate(heads):
        count = len(head.classes)
        tensors[f"{head.name}.weight"] = np.ascontiguousarray(bank[number, :, :count].T)
        tensors[f"{head.name}.bias"] = np.ascontiguousarray(biases[number, :count])
        if head.pool == "attention":
            tensors[f"{head.name}.query"] = np.ascontiguousarray(np.asarray(params["class_heads_query"])[number])
    return tensors


def read_heads(folder: Path) -> tuple[ClassHead, ...]:
    """The heads that a folder names, none where it has no such file. Raises ValueError as a reader."""
    if not os.path.lexists(folder / NAMES):
        return ()
    listed = read_json(folder / NAMES)
    with naming(folder / NAMES):
        if not 1 <= len(listed) <= MOST_HEADS:
            raise ValueError(f"names {len(listed)} heads; from 1 to {MOST_HEADS} are read")
        return tuple(ClassHead.of(name, fields) for name, fields in listed.items())


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
            bias_C = _sound(found, f"{head.name}.bias", (count,))
            attends = head.pool == "attention"
            query_D = _sound(found, f"{head.name}.query", (config.D,)) if attends else np.zeros(config.D, np.float32)
            sound.append((weight_CD.T, bias_C, query_D))
        if found:
            raise ValueError(f"tensor {min(found)!r} is of no head in {NAMES}")
    bank = np.zeros((len(heads), config.D, config.C), np.float32)  # not before the tensors have shown the sizes
    biases = np.zeros((len(heads), config.C), np.float32)
    for number, (weight_DC, bias_C, _) in enumerate(sound):
        bank[number, :, : len(bias_C)], biases[number, : len(bias_C)] = weight_DC, bias_C
    queries = {"class_heads_query": np.stack([query_D for *_, query_D in sound])} if config.attends else {}
    return {"class_heads": bank, "class_heads_bias": biases, **queries}


def first_difference(heads: tuple[ClassHead, ...], bank: dict[str, np.ndarray], params: Any) -> str | None:
    """What of a bank that was read is not what `params` hold; None = nothing. Room for classes that a head does not
    have, and queries of heads that read no learnt mean, count for nothing."""
    for path, found in bank.items():
        for number, head in enumerate(heads):
            if path == "class_heads_query":
                of_head = (number, slice(None if head.pool == "attention" else 0))
            else:
                of_head = (number, ..., slice(len(head.classes)))
            if not np.array_equal(found[of_head], np.asarray(params[path])[of_head]):
                return f"{path} of head {head.name!r} in {WEIGHTS} differ from the source's"
    return None


def _sound(found: dict[str, np.ndarray], name: str, shape: tuple[int, ...]) -> np.ndarray:
    """Takes a tensor out, if it is what the names say."""
    array = found.pop(name, None)
    if array is None or array.shape != shape or array.dtype != np.float32 or not np.isfinite(array).all():
        raise ValueError(f"tensor {name!r} is missing, or is not float32 {list(shape)} of finite values")
    return array
