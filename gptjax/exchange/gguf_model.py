"""The model of a GGUF file: its settings and tensors under Hugging Face's names, both ways; its tokenizer. Without JAX.

Source: github.com/ggml-org/ggml, docs/gguf.md, sections "Standardized key-value pairs" and "Standardized tensor names".
"""

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from gptjax.config import ModelConfig
from gptjax.exchange.gguf_file import Tensors, read_file
from gptjax.exchange.gguf_tokenizer import TOKENIZER_KEYS, token_id, tokenizer_of
from gptjax.exchange.hf_config import GPT2, LLAMA, MODEL_TYPES, QWEN2, QWEN3, class_of, fields_of, model_of
from gptjax.exchange.hf_params import names, read_params, shape_of, table, written
from gptjax.exchange.imported_model import ImportedModel, check_one_model
from gptjax.files.bounded_files import naming
from gptjax.inference.chat import LINES
from gptjax.inference.generation_config import GenerationConfig

CLASSES = {"llama": LLAMA, "qwen2": QWEN2, "qwen3": QWEN3, "gpt2": GPT2}  # by general.architecture
# Keys behind the architecture's name -> fields of config.json; all but the optional ones must be there.
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
GPT2_FIELDS = {
    "context_length": "n_positions",
    "embedding_length": "n_embd",
    "block_count": "n_layer",
    "feed_forward_length": "n_inner",
    "attention.head_count": "n_head",
    "attention.layer_norm_epsilon": "layer_norm_epsilon",
}
OPTIONAL = ("attention.head_count_kv", "attention.key_length")
ROPE = ("rope.freq_base", "rope.dimension_count", "rope.scaling.type", "rope.scaling.factor")
CHECKED = ("vocab_size", "attention.value_length")
HARMLESS = ("rope.scaling.original_context_length", "rope.scaling.finetuned")
ATTRIBUTION = "gptjax.attribution"  # a key of ours: what the model's texts ask to be said of them
# Names of tensors -> Hugging Face's, without the model's and the layer's.
OUTSIDE = {"token_embd": "model.embed_tokens", "output_norm": "model.norm", "output": "lm_head"}
GPT2_OUTSIDE = {
    "token_embd": "transformer.wte", "position_embd": "transformer.wpe", "output_norm": "transformer.ln_f",
    "output": "lm_head",
}  # fmt: skip
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
GPT2_OF_LAYER = {
    "attn_norm": "ln_1",
    "attn_qkv": "attn.c_attn",
    "attn_output": "attn.c_proj",
    "ffn_norm": "ln_2",
    "ffn_up": "mlp.c_fc",
    "ffn_down": "mlp.c_proj",
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
            chat_template=None if template in (LINES, "") else template,
            names={f"{role}_token": name for role, name in tokenizer.roles.items()},
        )
        check_one_model(config, tokenizer, generation_config)
        return ImportedModel(
            config=config,
            tokenizer=tokenizer,
            generation_config=generation_config,
            params=read_params(config, _Renamed(tensors, config)),
            credit=settings.get(ATTRIBUTION),
        )


def config_fields(settings: Mapping[str, Any], shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Any]:
    """The `config.json` of a file. Raises ValueError naming a key that is missing or asks for what is not supported."""
    arch = settings.get("general.architecture")
    if arch not in list(CLASSES):
        raise ValueError(f"general.architecture is {arch!r}; only {', '.join(map(repr, CLASSES))} are read")
    needed = GPT2_FIELDS if arch == "gpt2" else FIELDS
    others = ("vocab_size",) if arch == "gpt2" else (*ROPE, *CHECKED, *HARMLESS)
    known = {f"{arch}.{key}" for key in (*needed, *others)} | TOKENIZER_KEYS | {ATTRIBUTION}
    for key, value in settings.items():
        if key not in known and not key.startswith(("general.", "quantize.")):
            raise ValueError(f"setting {key!r}, here {str(value)[:60]!r}, is not supported")
    if settings.get("general.type", "model") != "model":
        raise ValueError(f"general.type is {settings['general.type']!r}; only 'model' is read")
    own = {key.removeprefix(f"{arch}."): value for key, value in settings.items() if key.startswith(f"{arch}.")}
    for key in needed:
        if key not in OPTIONAL and key not in own:
            raise ValueError(f"setting '{arch}.{key}' is missing")
    if not isinstance(settings.get(ATTRIBUTION), str | None):
        raise ValueError(f"setting {ATTRIBUTION!r} is {str(settings[ATTRIBUTION])[:60]!r}, not a text")
    if "token_embd.weight" not in shapes:
        raise ValueError("tensor 'token_embd.weight' is missing")
    fields = {theirs: _decimal(own[key]) for key, theirs in needed.items() if key in own}
    fields |= {
        "architectures": [CLASSES[arch]],
        "model_type": MODEL_TYPES[CLASSES[arch]],
        "vocab_size": shapes["token_embd.weight"][0],
        "tie_word_embeddings": "output.weight" not in shapes,
    }
    if arch != "gpt2":
        fields |= _rotary_fields(arch, own, shapes)
    config, _ = model_of(fields)
    for key, wanted in {
        "vocab_size": config.vocabulary, "rope.dimension_count": config.H, "attention.value_length": config.H,
    }.items():  # fmt: skip
        if own.get(key, wanted) != wanted:
            raise ValueError(f"setting '{arch}.{key}' is {own[key]!r}; only {wanted}, as the rest has it, is supported")
    return fields


def _rotary_fields(arch: str, own: Mapping[str, Any], shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Any]:
    """What all but `gpt2` have besides."""
    fields = {
        "rope_theta": _decimal(own.get("rope.freq_base", 10_000.0)),
        "num_key_value_heads": own.get("attention.head_count_kv", own["attention.head_count"]),
    }
    if CLASSES[arch] != QWEN2:  # whose queries, keys and values always have one, and nothing else
        fields["attention_bias"] = "blk.0.attn_q.bias" in shapes
    if CLASSES[arch] == LLAMA:
        fields["mlp_bias"] = "blk.0.ffn_up.bias" in shapes
    # a factor without a type is linear, as llama.cpp has it
    scaling = own.get("rope.scaling.type", "linear" if "rope.scaling.factor" in own else "none")
    if scaling != "none":
        fields["rope_scaling"] = {"rope_type": scaling, "factor": own.get("rope.scaling.factor")}
    return fields


class _Renamed(Mapping[str, np.ndarray]):
    """The tensors by Hugging Face's names, in its order of rotary rows and of axes."""

    def __init__(self, tensors: Tensors, config: ModelConfig):
        self._tensors, self._config = tensors, config
        self._theirs = {_renamed(name, config.family): name for name in tensors}

    def __getitem__(self, name: str) -> np.ndarray:
        array = self._tensors[self._theirs[name]]
        if _is_turned(name, array.shape):
            return array.T
        heads = _rotary_heads(name, self._config)
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


def neighbours(rows: np.ndarray, heads: int) -> np.ndarray:
    """What `halves` undoes."""
    return rows.reshape(heads, 2, -1, *rows.shape[1:]).swapaxes(1, 2).reshape(rows.shape)


def _rotary_heads(name: str, config: ModelConfig) -> int | None:
    """Of a tensor by Hugging Face's name, whose rows the files have as neighbours; None of all others."""
    if class_of(config) != LLAMA:
        return None
    return config.N if ".q_proj." in name else config.K if ".k_proj." in name else None


def _is_turned(name: str, shape: tuple[int, ...]) -> bool:
    """Whether Hugging Face has a tensor [in, out], as it has GPT-2's products; the files have all [out, in]."""
    return name.startswith("transformer.h.") and len(shape) == 2


def _tables(family: str) -> tuple[dict[str, str], dict[str, str], str]:
    """Names outside of layers, names in them, and what stands before a layer's number."""
    if family == "gpt2":
        return GPT2_OUTSIDE, GPT2_OF_LAYER, "transformer.h"
    return OUTSIDE, OF_LAYER, "model.layers"


def _renamed(name: str, family: str) -> str:
    """Hugging Face's name of a tensor; itself where there is none."""
    outside, of_layer, layers = _tables(family)
    if found := re.fullmatch(r"blk\.(0|[1-9]\d*)\.(\w+)\.(weight|bias)", name):
        layer, part, kind = found.groups()
        return f"{layers}.{layer}.{of_layer[part]}.{kind}" if part in of_layer else name
    part, _, kind = name.rpartition(".")
    return f"{outside[part]}.{kind}" if part in outside else name


def _named(name: str, family: str) -> str:
    """What `_renamed` undoes."""
    outside, of_layer, layers = _tables(family)
    if found := re.fullmatch(re.escape(layers) + r"\.(\d+)\.(.+)\.(\w+)", name):
        layer, part, kind = found.groups()
        return f"blk.{layer}.{ {theirs: ours for ours, theirs in of_layer.items()}[part] }.{kind}"
    part, _, kind = name.rpartition(".")
    return f"{ {theirs: ours for ours, theirs in outside.items()}[part] }.{kind}"


def settings_of(config: ModelConfig) -> dict[str, Any]:
    """The settings of a model of ours. Raises ValueError naming what of it the architectures do not compute."""
    kind = class_of(config)
    fields = fields_of(config)
    for name, value in {"window": config.reach, "nope_layers": config.nope_layers}.items():
        if value:
            raise ValueError(f"export: model.{name}={value!r} is not written to GGUF; a folder can have it")
    if kind == QWEN2 and config.N * config.H != config.D:
        raise ValueError(
            f"export: N x H = {config.N} x {config.H} is not D = {config.D}, which llama.cpp takes for granted "
            "in qwen2; a folder can have it"
        )
    arch = next(arch for arch, theirs in CLASSES.items() if theirs == kind)
    found = {key: fields[theirs] for key, theirs in (GPT2_FIELDS if arch == "gpt2" else FIELDS).items()}
    found["vocab_size"] = config.vocabulary
    if arch != "gpt2":
        found |= {"rope.freq_base": float(config.rope_theta), "rope.dimension_count": config.H}
        found["attention.value_length"] = config.H
    if kind == QWEN3 and config.attention_bias:
        raise ValueError("export: llama.cpp's qwen3 has no biases (model.attention_bias=True); a folder can have them")
    if (scaling := config.rope_scaling) is not None:
        if scaling.kind != "linear":
            raise ValueError(
                f"export: model.rope_scaling.kind={scaling.kind!r} is not written to GGUF, only 'linear'; a folder can "
                f"have it"
            )
        found |= {"rope.scaling.type": "linear", "rope.scaling.factor": float(scaling.factor)}
    return {"general.architecture": arch, **{f"{arch}.{key}": value for key, value in found.items()}}


def shapes_of(config: ModelConfig) -> dict[str, tuple[int, ...]]:
    """Every tensor that a file of this model has."""
    found = {}
    for tensor in table(config):
        shape = shape_of(tensor, config)
        for name in names(tensor, config):
            found[_named(name, config.family)] = shape[::-1] if _is_turned(name, shape) else shape
    return found


def tensors_of(config: ModelConfig, params: Any) -> Iterator[tuple[str, np.ndarray]]:
    """Name and values of each, in that order, made one after another."""
    for name, array in written(config, params):
        heads = _rotary_heads(name, config)
        array = array.T if _is_turned(name, array.shape) else array if heads is None else neighbours(array, heads)
        yield _named(name, config.family), array


def _decimal(value: Any) -> Any:
    """A float32 setting as the shortest decimal that has its value: 1e-5, not 9.99999974e-06."""
    return float(str(np.float32(value))) if isinstance(value, float) else value
