"""A written GGUF file scored as a stranger would: plain NumPy in float64, by the names that llama.cpp gives tensors.

It is the witness of `gptjax.exchange.gguf_export`. Of what writes it shares nothing: neither names, nor the order of
rotary rows, nor the model; it reads through `gptjax.exchange.gguf_file`, and computes as `reread` beside it.
Axes: n blocks of a tensor.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from gptjax.exchange.gguf_file import read_file
from gptjax.exchange.witness import reread

PRODUCTS = {
    "attn_q": ("query", "self_attn.q_proj"),
    "attn_k": ("key", "self_attn.k_proj"),
    "attn_v": ("value", "self_attn.v_proj"),
    "attn_output": ("attention_out", "self_attn.o_proj"),
    "ffn_gate": ("gate", "mlp.gate_proj"),
    "ffn_up": ("up", "mlp.up_proj"),
    "ffn_down": ("down", "mlp.down_proj"),
}
NORMS = {
    "attn_norm": ("attention_norm", "input_layernorm", "ln_1"),
    "ffn_norm": ("feed_forward_norm", "post_attention_layernorm", "ln_2"),
    "attn_q_norm": ("query_norm", "self_attn.q_norm", ""),
    "attn_k_norm": ("key_norm", "self_attn.k_norm", ""),
}
GPT2_PRODUCTS = {
    "attn_qkv": "attn.c_attn",
    "attn_output": "attn.c_proj",
    "ffn_up": "mlp.c_fc",
    "ffn_down": "mlp.c_proj",
}
LEAST = 2.0**-25  # half of float16's smallest step


def first_difference(path: Path, params: Mapping[str, np.ndarray], vocabulary: int) -> str | None:
    """What is wrong with the first tensor that is not, within half a step of its type, the part of our parameters that
    its name says: bit for bit where it is F32.

    `params`: our parameters by path, such as "layers/query" [L, in, out]. None = all tensors are right, and all
    parameters are in one of them.
    """
    settings, tensors = read_file(path)
    used: set[str] = set()

    def part(name: str, layer: int | None = None) -> np.ndarray:
        used.add(name)
        return params[name] if layer is None else params[name][layer]

    for name, array in tensors.items():
        wanted = _wanted(name, part, vocabulary)
        if (heads := _neighbours(name, settings)) is not None:
            wanted = wanted[np.argsort(_order(len(wanted), heads))]
        if wanted.shape != array.shape:
            return f"tensor {name!r} has shape {list(array.shape)}, the source {list(wanted.shape)}"
        beyond = np.abs(array.astype(np.float64) - wanted) > _allowed(tensors.kinds[name], wanted)
        if beyond.any() or not np.isfinite(array).all():
            return (
                f"tensor {name!r} differs from the source by up to {np.abs(array - wanted).max():.3g}, "
                f"in {beyond.sum()} values by more than {tensors.kinds[name]} explains"
            )
    left = sorted(params.keys() - used)
    return f"the source's {left[0]!r} is in no tensor" if left else None


def _allowed(kind: str, wanted: np.ndarray) -> np.ndarray:
    """How far a value may lie from the source: what rounding to its type, and of its block's scale, can do."""
    x = np.abs(wanted.astype(np.float64))
    match kind:
        case "F32":
            return np.zeros_like(x)
        case "F16":
            return x * 2.0**-11 + LEAST
        case "BF16":
            return x * 2.0**-8
    blocks = wanted.astype(np.float64).reshape(-1, 32)
    largest_n, width_n = np.abs(blocks).max(1, keepdims=True), np.ptp(blocks, axis=1, keepdims=True)
    bound_n = {
        "Q8_0": largest_n * (0.5 / 127 + 2.0**-11) + 127 * LEAST,
        "Q4_0": largest_n * (1 / 8 + 2.0**-11) + 8 * LEAST,  # what would be +8 becomes +7
        "Q4_1": width_n * (0.5 / 15 + 2.0**-11) + largest_n * 2.0**-11 + 16 * LEAST,
    }[kind]
    return np.broadcast_to(bound_n * (1 + 1e-5), blocks.shape).reshape(x.shape)


def logits(path: Path, texts: Sequence[Sequence[int]]) -> list[np.ndarray]:
    """Scores of every next token after every token of every text: f64 [T, V] a text.

    Raises ValueError naming a tensor that the settings ask for and that is missing, or that they have no use for.
    """
    settings, tensors = read_file(path)
    arch = settings["general.architecture"]
    found: dict[str, np.ndarray] = {}
    for name, array in tensors.items():
        heads = _neighbours(name, settings)
        array = array if heads is None else array[_order(len(array), heads)]
        of_layer_of_gpt2 = arch == "gpt2" and name.startswith("blk.") and array.ndim == 2
        found[_as_folder(name, arch)] = array.T if of_layer_of_gpt2 else array
    return reread.scores(_config(settings, tensors.shapes), found, texts)


def _config(settings: Mapping[str, Any], shapes: Mapping[str, Any]) -> dict[str, Any]:
    arch = settings["general.architecture"]
    own = {key.removeprefix(f"{arch}."): value for key, value in settings.items()}
    config = {"model_type": arch, "tie_word_embeddings": "output.weight" not in shapes}
    if arch == "gpt2":
        config |= {"n_head": own["attention.head_count"], "n_embd": own["embedding_length"]}
        return config | {"n_layer": own["block_count"], "layer_norm_epsilon": own["attention.layer_norm_epsilon"]}
    rope = {"rope_type": own.get("rope.scaling.type", "default"), "rope_theta": own["rope.freq_base"]}
    return config | {
        "num_attention_heads": own["attention.head_count"],
        "num_key_value_heads": own["attention.head_count_kv"],
        "head_dim": own["attention.key_length"],
        "rms_norm_eps": own["attention.layer_norm_rms_epsilon"],
        "num_hidden_layers": own["block_count"],
        "attention_bias": "blk.0.attn_output.bias" in shapes,
        "mlp_bias": "blk.0.ffn_down.bias" in shapes,
        "rope_parameters": rope | {"factor": own.get("rope.scaling.factor")},
    }


def _neighbours(name: str, settings: Mapping[str, Any]) -> int | None:
    """Heads of a tensor whose rotary pairs lie side by side."""
    if settings["general.architecture"] != "llama":
        return None
    if ".attn_q." in name:
        return settings["llama.attention.head_count"]
    return settings["llama.attention.head_count_kv"] if ".attn_k." in name else None


def _order(rows: int, heads: int) -> list[int]:
    """Where, in the file, the rows lie whose pairs are (i, i + H/2)."""
    H = rows // heads
    return [head * H + place for head in range(heads) for place in (*range(0, H, 2), *range(1, H, 2))]


def _as_folder(name: str, arch: str) -> str:
    """Hugging Face's name, by which `reread` computes."""
    of_gpt2 = arch == "gpt2"
    match name.split("."):
        case ["token_embd", kind]:
            return f"transformer.wte.{kind}" if of_gpt2 else f"model.embed_tokens.{kind}"
        case ["position_embd", kind]:
            return f"transformer.wpe.{kind}"
        case ["output_norm", kind]:
            return f"transformer.ln_f.{kind}" if of_gpt2 else f"model.norm.{kind}"
        case ["output", kind]:
            return f"lm_head.{kind}"
        case ["blk", layer, part, kind] if of_gpt2 and part in NORMS.keys() | GPT2_PRODUCTS.keys():
            return f"transformer.h.{layer}.{GPT2_PRODUCTS.get(part) or NORMS[part][2]}.{kind}"
        case ["blk", layer, part, kind] if part in NORMS.keys() | PRODUCTS.keys():
            return f"model.layers.{layer}.{(PRODUCTS if part in PRODUCTS else NORMS)[part][1]}.{kind}"
    raise ValueError(f"tensor {name!r} is none of a model's")


def _wanted(name: str, part: Callable[..., np.ndarray], vocabulary: int) -> np.ndarray:
    """What of our parameters a tensor must be, by its name, in our order of rows."""
    match name.split("."):
        case ["token_embd", "weight"]:
            return part("embedding")[:vocabulary]
        case ["output", "weight"]:
            return part("head")[:vocabulary]
        case ["position_embd", "weight"]:
            return part("position_embedding")
        case ["output_norm", kind]:
            return part(f"final_norm/{'scale' if kind == 'weight' else kind}")
        case ["blk", layer, norm, kind] if norm in NORMS:
            return part(f"layers/{NORMS[norm][0]}/{'scale' if kind == 'weight' else kind}", int(layer))
        case ["blk", layer, "attn_qkv", kind]:
            ending = "_bias" if kind == "bias" else ""
            three = [part(f"layers/{x}{ending}", int(layer)) for x in ("query", "key", "value")]
            return np.concatenate(three, -1).T
        case ["blk", layer, product, kind] if product in PRODUCTS:
            return part(f"layers/{PRODUCTS[product][0]}{'_bias' if kind == 'bias' else ''}", int(layer)).T
    raise ValueError(f"tensor {name!r} is none of a model's")
