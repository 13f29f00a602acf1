"""Random models in Hugging Face's layout, the same on every machine: their config.json, weights and tokenizer."""

import json
import zlib
from pathlib import Path
from typing import Any

import jax
import numpy as np
from safetensors.numpy import save_file

from gptjax.exchange.hf_config import model_of
from gptjax.exchange.hf_params import HEAD, names, read_params, shape_of, table
from tests.tiny_run import bpe

LLAMA = {
    "architectures": ["LlamaForCausalLM"], "model_type": "llama", "vocab_size": 301, "max_position_embeddings": 48,
    "hidden_size": 24, "num_hidden_layers": 3, "num_attention_heads": 4, "num_key_value_heads": 2,
    "intermediate_size": 37, "rms_norm_eps": 3e-3, "hidden_act": "silu", "tie_word_embeddings": False,
    "rope_theta": 700.0, "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip
QWEN3 = {**LLAMA, "architectures": ["Qwen3ForCausalLM"], "model_type": "qwen3", "hidden_size": 18, "head_dim": 6}
QWEN2 = {**LLAMA, "architectures": ["Qwen2ForCausalLM"], "model_type": "qwen2", "use_mrope": False}
MISTRAL = {**LLAMA, "architectures": ["MistralForCausalLM"], "model_type": "mistral", "sliding_window": 9}
SMOLLM3 = {
    **LLAMA, "architectures": ["SmolLM3ForCausalLM"], "model_type": "smollm3", "no_rope_layers": [1, 0, 1, 1],
    "pad_token_id": 0,
}  # fmt: skip
WINDOWED = {"use_sliding_window": True, "sliding_window": 6, "max_window_layers": 0}
GPT2 = {
    "architectures": ["GPT2LMHeadModel"], "model_type": "gpt2", "vocab_size": 301, "n_positions": 48, "n_embd": 20,
    "n_layer": 3, "n_head": 4, "layer_norm_epsilon": 3e-3, "activation_function": "gelu_new", "bos_token_id": 1,
    "eos_token_id": 2,
}  # fmt: skip
LLAMA3 = {
    "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
    "original_max_position_embeddings": 24,
}  # fmt: skip
CASES: dict[str, dict[str, Any]] = {
    "llama": LLAMA,
    "llama tied, heads of 8, linear": {
        **LLAMA, "tie_word_embeddings": True, "head_dim": 8, "rope_scaling": {"type": "linear", "factor": 3.0},
    },
    "llama biases, no groups, llama3": {
        **LLAMA, "attention_bias": True, "mlp_bias": True, "num_key_value_heads": None, "rope_scaling": LLAMA3,
    },
    "qwen3": QWEN3,
    "qwen3 tied, biases, llama3 by its new name": {
        **QWEN3, "tie_word_embeddings": True, "attention_bias": True, "num_key_value_heads": 1, "rope_theta": None,
        "rope_parameters": {**LLAMA3, "rope_theta": 90.0},
    },
    "qwen3, a window": {**QWEN3, **WINDOWED},
    "qwen2": QWEN2,
    "mistral": MISTRAL,
    "smollm3": SMOLLM3,
    "smollm3 tied, biases, a window in the one layer that it has": {
        **{name: value for name, value in SMOLLM3.items() if name not in ("tie_word_embeddings", "rope_theta")},
        **WINDOWED, "attention_bias": True, "mlp_bias": True, "no_rope_layers": None, "no_rope_layer_interval": 1,
        "num_hidden_layers": 1,
    },
    "gpt2": GPT2,
    "gpt2 untied, width of 33": {**GPT2, "tie_word_embeddings": False, "n_inner": 33},
}  # fmt: skip
PROMPT = [1, *np.random.default_rng(7).integers(0, 301, 30).tolist()]


def drawn(name: str, shape: tuple[int, ...]) -> np.ndarray:
    """From the normal distribution, always the same for a name; float32."""
    return np.random.default_rng(zlib.crc32(name.encode())).standard_normal(shape, np.float32)


def weights(fields: dict[str, Any]) -> dict[str, np.ndarray]:
    """By name, float32. Loud enough that logits deviate by more than 3."""
    config, _ = model_of(fields)
    found = {}
    for tensor in table(config):
        shape = shape_of(tensor, config)
        for name in names(tensor, config):
            draw = drawn(name, shape)
            is_norm = tensor.ours.endswith("scale")
            scale = 0.3 if len(shape) == 1 else 1.0 if tensor.axes[0] in "VT" else 1.5 * shape[-1] ** -0.5
            found[name] = scale * draw + is_norm
    return found


def write_folder(folder: Path, fields: dict[str, Any], tensors: dict[str, np.ndarray] | None = None) -> Path:
    """A folder as Hugging Face would have it, with a tokenizer of 290 ids."""
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(fields))
    (folder / "tokenizer.json").write_text(bpe().for_others(begins_with_bos=True))
    (folder / "tokenizer_config.json").write_text(json.dumps({"bos_token": "<|bos|>", "eos_token": "<|eos|>"}))
    save_file(weights(fields) if tensors is None else tensors, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def without_head(tensors: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {name: array for name, array in tensors.items() if name != HEAD}


def parameters(fields):
    """Our parameters of them, by path."""
    config, _ = model_of(fields)
    leaves = jax.tree.leaves_with_path(read_params(config, weights(fields)))
    return {jax.tree_util.keystr(path, simple=True, separator="/"): leaf for path, leaf in leaves}
