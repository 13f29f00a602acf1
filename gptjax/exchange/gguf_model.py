"""The model of a GGUF file: its settings and tensors under Hugging Face's names, and its tokenizer. Without JAX.

Source: github.com/ggml-org/ggml, docs/gguf.md, sections "Standardized key-value pairs" and "Standardized tensor names".
"""

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from gptjax.exchange.gguf_file import Tensors, read_file
from gptjax.exchange.gguf_tokenizer import TOKENIZER_KEYS, token_id, tokenizer_of
from gptjax.exchange.hf_config import LLAMA, MODEL_TYPES, QWEN3, model_of
from gptjax.exchange.hf_params import read_params
from gptjax.exchange.imported_model import ImportedModel, check_one_model
from gptjax.files.bounded_files import naming
from gptjax.inference.generation_config import GenerationConfig

CLASSES = {"llama": LLAMA, "qwen3": QWEN3}  # by general.architecture
# Keys behind the architecture's name -> fields of config.json; all but the last two must be there.
FIELDS = {
    "context_length": "max_position_embeddings",
    "embedding_length": "hidden_size",
    "block_count": "num_hidden_layers",
    "feed_forward_length": "intermediate_size",
    "attention.head_count": "num_attention_heads",
    "attention.layer_norm_rms_epsilon": "rms_norm_eps",
    "attention.head_count_kv": "num_key_value_heads",
    "attention.key_length": "head_dim",
}
OPTIONAL = ("attention.head_count_kv", "attention.key_length")
ROPE = ("rope.freq_base", "rope.dimension_count", "rope.scaling.type", "rope.scaling.factor")
CHECKED = ("vocab_size", "attention.value_length")
HARMLESS = ("rope.scaling.original_context_length", "rope.scaling.finetuned")
OUTSIDE = {"token_embd": "model.embed_tokens", "output_norm": "model.norm", "output": "lm_head"}
OF_LAYER = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "attn_q_norm": "self_attn.q_norm",
    "attn_k_norm": "self_attn.k_norm",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}


def read_gguf(path: Path) -> ImportedModel:
    """Raises ValueError, in one line, naming the file and what in it is missing, damaged or not supported."""
    settings, tensors = read_file(path)
    with naming(path):
        config, _ = model_of(config_fields(settings, tensors.shapes))
        tokenizer, begins_with_bos = tokenizer_of(settings)
        ends = {tokenizer.eos, token_id(settings, "eot"), token_id(settings, "eom")} - {None}
        template = settings.get("tokenizer.chat_template")
        if not isinstance(template, str | None):
            raise ValueError(f"tokenizer.chat_template is {str(template)[:60]!r}, not a text")
        generation_config = GenerationConfig(
            ends=frozenset(ends),
            begins_with_bos=begins_with_bos,
            chat_template=template or None,
            names={f"{role}_token": name for role, name in tokenizer.roles.items()},
        )
        check_one_model(config, tokenizer, generation_config)
        renamed = _Renamed(tensors, {"q_proj": config.N, "k_proj": config.K} if not config.qk_norm else {})
        return ImportedModel(
            config=config, tokenizer=tokenizer, generation_config=generation_config, params=read_params(config, renamed)
        )


def config_fields(settings: Mapping[str, Any], shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Any]:
    """The `config.json` of a file. Raises ValueError naming a key that is missing or asks for what is not supported."""
    arch = settings.get("general.architecture")
    if arch not in list(CLASSES):
        raise ValueError(f"general.architecture is {arch!r}; only {', '.join(map(repr, CLASSES))} are read")
    known = {f"{arch}.{key}" for key in (*FIELDS, *ROPE, *CHECKED, *HARMLESS)} | TOKENIZER_KEYS
    for key, value in settings.items():
        if key not in known and not key.startswith(("general.", "quantize.")):
            raise ValueError(f"setting {key!r}, here {str(value)[:60]!r}, is not supported")
    if settings.get("general.type", "model") != "model":
        raise ValueError(f"general.type is {settings['general.type']!r}; only 'model' is read")
    own = {key.removeprefix(f"{arch}."): value for key, value in settings.items() if key.startswith(f"{arch}.")}
    for key in FIELDS:
        if key not in OPTIONAL and key not in own:
            raise ValueError(f"setting '{arch}.{key}' is missing")
    if "token_embd.weight" not in shapes:
        raise ValueError("tensor 'token_embd.weight' is missing")
    fields = {theirs: _decimal(own[key]) for key, theirs in FIELDS.items() if key in own}
    fields |= {
        "architectures": [CLASSES[arch]],
        "model_type": MODEL_TYPES[CLASSES[arch]],
        "vocab_size": shapes["token_embd.weight"][0],
        "tie_word_embeddings": "output.weight" not in shapes,
        "attention_bias": "blk.0.attn_q.bias" in shapes,
        "rope_theta": _decimal(own.get("rope.freq_base", 10_000.0)),
        "num_key_value_heads": own.get("attention.head_count_kv", own["attention.head_count"]),
    }
    if CLASSES[arch] == LLAMA:
        fields["mlp_bias"] = "blk.0.ffn_up.bias" in shapes
    # a factor without a type is linear, as llama.cpp has it
    scaling = own.get("rope.scaling.type", "linear" if "rope.scaling.factor" in own else "none")
    if scaling != "none":
        fields["rope_scaling"] = {"rope_type": scaling, "factor": own.get("rope.scaling.factor")}
    config, _ = model_of(fields)
    for key, wanted in {
        "vocab_size": config.vocabulary, "rope.dimension_count": config.H, "attention.value_length": config.H,
    }.items():  # fmt: skip
        if own.get(key, wanted) != wanted:
            raise ValueError(f"setting '{arch}.{key}' is {own[key]!r}; only {wanted}, as the rest has it, is supported")
    return fields


class _Renamed(Mapping[str, np.ndarray]):
    """The tensors by Hugging Face's names, rotary rows in its order."""

    def __init__(self, tensors: Tensors, heads: Mapping[str, int]):
        self._tensors, self._heads = tensors, heads
        self._theirs = {_renamed(name): name for name in tensors}

    def __getitem__(self, name: str) -> np.ndarray:
        array = self._tensors[self._theirs[name]]
        heads = next((count for part, count in self._heads.items() if f".{part}." in name), None)
        return array if heads is None or len(array) % (2 * heads) else halves(array, heads)

    def __iter__(self) -> Iterator[str]:
        return iter(self._theirs)

    def __len__(self) -> int:
        return len(self._theirs)


def halves(rows: np.ndarray, heads: int) -> np.ndarray:
    """Rows of every head with the pairs that rotary positions turn as (i, i + H/2), from neighbours (2i, 2i + 1).

    The files have neighbours for `llama`: see `permute` in llama.cpp's convert_hf_to_gguf.py.
    """
    return rows.reshape(heads, -1, 2, *rows.shape[1:]).swapaxes(1, 2).reshape(rows.shape)


def _renamed(name: str) -> str:
    """Hugging Face's name of a tensor; itself where there is none."""
    if found := re.fullmatch(r"blk\.(0|[1-9]\d*)\.(\w+)\.(weight|bias)", name):
        layer, part, kind = found.groups()
        return f"model.layers.{layer}.{OF_LAYER[part]}.{kind}" if part in OF_LAYER else name
    part, _, kind = name.rpartition(".")
    return f"{OUTSIDE[part]}.{kind}" if part in OUTSIDE else name


def _decimal(value: Any) -> Any:
    """A float32 setting as the shortest decimal that has its value: 1e-5, not 9.99999974e-06."""
    return float(str(np.float32(value))) if isinstance(value, float) else value
