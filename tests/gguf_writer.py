"""Writes small GGUF files, whole or spoilt: the tests' own writer, after the format's document."""

import json
import re
import struct
from pathlib import Path
from typing import Any

import numpy as np

from gptjax.exchange.gguf_model import OF_LAYER, OUTSIDE
from gptjax.exchange.hf_config import model_of
from tests.hf_models import weights
from tests.tiny_run import bpe

TYPE_OF = {bool: 7, int: 4, float: 6, str: 8}  # of a setting: BOOL, UINT32, FLOAT32, STRING
FORMS = {7: "<?", 4: "<I", 6: "<f"}
ALIGNMENT = 32


def text(value: str) -> bytes:
    return struct.pack("<Q", len(value.encode())) + value.encode()


def setting(value: Any) -> bytes:
    """Type and value."""
    if isinstance(value, list):
        items = [setting(item) for item in value]
        kind = struct.unpack("<I", items[0][:4])[0] if items else 4
        return struct.pack("<IIQ", 9, kind, len(items)) + b"".join(item[4:] for item in items)
    kind = TYPE_OF[type(value)]
    return struct.pack("<I", kind) + (text(value) if kind == 8 else struct.pack(FORMS[kind], value))


def gguf_bytes(settings: dict[str, Any], tensors: dict[str, tuple[int, tuple[int, ...], bytes]]) -> bytes:
    """`tensors`: type number, shape and content by name."""
    head = b"GGUF" + struct.pack("<IQQ", 3, len(tensors), len(settings))
    head += b"".join(text(key) + setting(value) for key, value in settings.items())
    data = b""
    for name, (kind, shape, content) in tensors.items():
        head += text(name) + struct.pack(f"<I{len(shape)}Q", len(shape), *reversed(shape))
        head += struct.pack("<IQ", kind, len(data))
        data += content + bytes(-len(content) % ALIGNMENT)
    return head + bytes(-len(head) % ALIGNMENT) + data


def settings_of(fields: dict[str, Any]) -> dict[str, Any]:
    """Those of a model with these fields of config.json and the tests' tokenizer."""
    config, _ = model_of(fields)
    arch = fields["model_type"]
    tokenizer = bpe()
    rules = tokenizer._rules
    vocabulary = sorted(rules.get_vocab().items(), key=lambda item: item[1])
    merges = json.loads(rules.to_str())["model"]["merges"]
    linear = config.rope_scaling
    scaling = {"rope.scaling.type": "linear", "rope.scaling.factor": linear.factor} if linear else {}
    own = {
        "context_length": config.T, "embedding_length": config.D, "block_count": config.L,
        "feed_forward_length": config.F, "attention.head_count": config.N, "attention.head_count_kv": config.K,
        "attention.key_length": config.H, "attention.layer_norm_rms_epsilon": config.norm_epsilon,
        "rope.freq_base": config.rope_theta, "rope.dimension_count": config.H, **scaling,
    }  # fmt: skip
    return {
        "general.architecture": arch,
        "general.name": "a random model",
        **{f"{arch}.{key}": value for key, value in own.items()},
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "gpt-2",
        "tokenizer.ggml.tokens": [name for name, _ in vocabulary],
        "tokenizer.ggml.token_type": [3 if id in tokenizer.special_ids else 1 for _, id in vocabulary],
        "tokenizer.ggml.merges": [" ".join(pair) for pair in merges],
        "tokenizer.ggml.bos_token_id": tokenizer.bos,
        "tokenizer.ggml.eos_token_id": tokenizer.eos,
        "tokenizer.ggml.add_bos_token": True,
    }


def tensors_of(fields: dict[str, Any]) -> dict[str, tuple[int, tuple[int, ...], bytes]]:
    """The weights of tests.hf_models under the names, and for llama in the rotary order, of GGUF; F32."""
    config, _ = model_of(fields)
    parts = {theirs: ours for ours, theirs in OF_LAYER.items()}
    found = {}
    for name, array in weights(fields).items():
        layer = re.fullmatch(r"model\.layers\.(\d+)\.(.+)\.(\w+)", name)
        heads = config.N if "q_proj" in name else config.K if "k_proj" in name else None
        if heads is not None and fields["model_type"] == "llama":
            array = neighbours(array, heads)
        if layer is None:
            part, _, kind = name.rpartition(".")
            ours = f"{ {theirs: ours for ours, theirs in OUTSIDE.items()}[part] }.{kind}"
        else:
            ours = f"blk.{layer[1]}.{parts[layer[2]]}.{layer[3]}"
        found[ours] = (0, array.shape, array.astype("<f4").tobytes())
    return found


def neighbours(rows: np.ndarray, heads: int) -> np.ndarray:
    """Rows (i, i + H/2) of each head put side by side, one after another."""
    H = len(rows) // heads
    order = [head * H + pair + half for head in range(heads) for pair in range(H // 2) for half in (0, H // 2)]
    return rows[order]


def write_gguf(path: Path, fields: dict[str, Any], **changes: Any) -> Path:
    """The model of these fields; `changes` are to its settings, with __ for a dot and None for one left out."""
    renamed = {key.replace("__", "."): value for key, value in changes.items()}
    settings = {key: value for key, value in (settings_of(fields) | renamed).items() if value is not None}
    path.write_bytes(gguf_bytes(settings, tensors_of(fields)))
    return path
