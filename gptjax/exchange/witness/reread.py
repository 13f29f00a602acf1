"""An exported folder read again as a stranger would: plain NumPy in float64, by Hugging Face's names alone.

It is the witness of `gptjax.exchange.export` and shares nothing with what writes: neither the table of names, nor the
model, nor the library that writes safetensors. Slow and short on purpose.
Axes: T position  S key position  D residual  N query heads  K kv heads  H head width  h pairs of it
F mlp width  V vocabulary.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from gptjax.exchange.safetensors_file import read_weights

LLAMA_NORMS = {"input_layernorm": "attention_norm", "post_attention_layernorm": "feed_forward_norm"}
PROJECTIONS = {
    "q_proj": "query", "k_proj": "key", "v_proj": "value", "o_proj": "attention_out",
    "gate_proj": "gate", "up_proj": "up", "down_proj": "down",
}  # fmt: skip


def first_difference(folder: Path, params: Mapping[str, np.ndarray], vocabulary: int) -> str | None:
    """What is wrong with the first tensor that is not, bit for bit, the part of our parameters that its name says.

    `params`: our parameters by path, such as "layers/query" [L, in, out]. None = all tensors are right, and all
    parameters are in one of them.
    """
    used: set[str] = set()

    def part(path: str, layer: int | None = None) -> np.ndarray:
        used.add(path)
        return params[path] if layer is None else params[path][layer]

    for name, array in read_weights(folder).items():
        wanted = _wanted(name, part, vocabulary)
        if wanted.shape != array.shape:
            return f"tensor {name!r} has shape {list(array.shape)}, the source {list(wanted.shape)}"
        if not np.array_equal(array, wanted):
            return f"tensor {name!r} differs from the source by up to {np.abs(array - wanted).max():.3g}"
    left = sorted(params.keys() - used)
    return f"the source's {left[0]!r} is in no tensor" if left else None


def logits(folder: Path, texts: Sequence[Sequence[int]]) -> list[np.ndarray]:
    """Scores of every next token after every token of every text: f64 [T, V] a text.

    Raises ValueError naming a tensor that the config asks for and that is missing, or that it has no use for.
    """
    return scores(json.loads((folder / "config.json").read_text(encoding="utf-8")), read_weights(folder), texts)


def scores(
    config: Mapping[str, Any], weights: Mapping[str, np.ndarray], texts: Sequence[Sequence[int]]
) -> list[np.ndarray]:
    """`logits`, of the fields of a config.json and tensors by Hugging Face's names."""
    left = dict(weights)

    def take(name: str) -> np.ndarray:
        if name not in left:
            raise ValueError(f"tensor {name!r} is missing")
        return left.pop(name).astype(np.float64)

    # the texts lie one behind another in one row; a token looks at earlier ones of its own text, as far as a window is
    lengths = [len(ids) for ids in texts]
    ids_T, text_T = np.concatenate(texts), np.repeat(np.arange(len(texts)), lengths)
    place_T = np.concatenate([np.arange(length) for length in lengths])
    look_TS = (text_T[:, None] == text_T) & (place_T[:, None] >= place_T)
    if config.get("sliding_window") and (config["model_type"] == "mistral" or config.get("use_sliding_window")):
        look_TS &= place_T[:, None] - place_T < config["sliding_window"]
    forward = _gpt2 if config["model_type"] == "gpt2" else _llama
    hidden_TD, embedding_VD = forward(config, take, ids_T, place_T, look_TS)
    logits_TV = hidden_TD @ (embedding_VD if config["tie_word_embeddings"] else take("lm_head.weight")).T
    if left:
        raise ValueError(f"tensor {min(left)!r} is of no use to this config")
    return np.split(logits_TV, np.cumsum(lengths)[:-1])


def _llama(config, take, ids_T, place_T, look_TS):
    N, K, H, eps = (config[name] for name in ("num_attention_heads", "num_key_value_heads", "head_dim", "rms_norm_eps"))
    angle_T1h = place_T[:, None, None] * _frequencies(config, H)
    cos_T1h, sin_T1h = np.cos(angle_T1h), np.sin(angle_T1h)

    def norm(x, name):
        return x / np.sqrt((x**2).mean(-1, keepdims=True) + eps) * take(f"{name}.weight")

    def linear(x, name, biased):
        return x @ take(f"{name}.weight").T + (take(f"{name}.bias") if biased else 0)

    def turn(x_TNH):
        left, right = x_TNH[..., : H // 2], x_TNH[..., H // 2 :]
        return np.concatenate([left * cos_T1h - right * sin_T1h, right * cos_T1h + left * sin_T1h], -1)

    embedding_VD = take("model.embed_tokens.weight")
    x_TD = embedding_VD[ids_T]
    of_qwen2, out_biased = config["model_type"] == "qwen2", config.get("attention_bias", False)
    for layer in range(config["num_hidden_layers"]):
        at = f"model.layers.{layer}."
        attention, mlp, biased = f"{at}self_attn.", f"{at}mlp.", out_biased or of_qwen2
        y_TD = norm(x_TD, f"{at}input_layernorm")
        q_TNH, k_TKH, v_TKH = (
            linear(y_TD, f"{attention}{name}", biased).reshape(len(ids_T), -1, H)
            for name in ("q_proj", "k_proj", "v_proj")
        )
        if config["model_type"] == "qwen3":
            q_TNH, k_TKH = norm(q_TNH, f"{attention}q_norm"), norm(k_TKH, f"{attention}k_norm")
        if config.get("no_rope_layers", {layer: 1})[layer]:
            q_TNH, k_TKH = turn(q_TNH), turn(k_TKH)
        k_TNH, v_TNH = np.repeat(k_TKH, N // K, axis=1), np.repeat(v_TKH, N // K, axis=1)
        x_TD = x_TD + linear(_attend(q_TNH, k_TNH, v_TNH, look_TS), f"{attention}o_proj", out_biased)
        y_TD, biased = norm(x_TD, f"{at}post_attention_layernorm"), config.get("mlp_bias", False)
        gate_TF = linear(y_TD, f"{mlp}gate_proj", biased)
        gate_TF = gate_TF / (1 + np.exp(-gate_TF))
        x_TD = x_TD + linear(gate_TF * linear(y_TD, f"{mlp}up_proj", biased), f"{mlp}down_proj", biased)
    return norm(x_TD, "model.norm"), embedding_VD


def _frequencies(config: Mapping[str, Any], H: int) -> np.ndarray:
    """Radians a position, of every pair of a head."""
    rope = config["rope_parameters"]
    slow = 1 / rope["rope_theta"] ** (np.arange(0, H, 2) / H)
    match rope["rope_type"]:
        case "default":
            return slow
        case "linear":
            return slow / rope["factor"]
        case "llama3":
            waves = rope["original_max_position_embeddings"] / (2 * np.pi / slow)  # of each pair in the first context
            low, high = rope["low_freq_factor"], rope["high_freq_factor"]
            kept = (waves - low) / (high - low)
            between = (1 - kept) * slow / rope["factor"] + kept * slow
            return np.where(waves < low, slow / rope["factor"], np.where(waves > high, slow, between))
    raise ValueError(f"rope_type {rope['rope_type']!r} is unknown")


def _gpt2(config, take, ids_T, place_T, look_TS):
    N, D = config["n_head"], config["n_embd"]

    def norm(x_TD, name):
        x_TD = x_TD - x_TD.mean(-1, keepdims=True)
        x_TD = x_TD / np.sqrt((x_TD**2).mean(-1, keepdims=True) + config["layer_norm_epsilon"])
        return x_TD * take(f"{name}.weight") + take(f"{name}.bias")

    def conv1d(x, name):
        return x @ take(f"{name}.weight") + take(f"{name}.bias")

    embedding_VD = take("transformer.wte.weight")
    x_TD = embedding_VD[ids_T] + take("transformer.wpe.weight")[place_T]
    for layer in range(config["n_layer"]):
        at = f"transformer.h.{layer}."
        joined_T3D = conv1d(norm(x_TD, f"{at}ln_1"), f"{at}attn.c_attn")
        heads_TNH = (x.reshape(len(ids_T), N, D // N) for x in np.split(joined_T3D, 3, axis=-1))
        x_TD = x_TD + conv1d(_attend(*heads_TNH, look_TS), f"{at}attn.c_proj")
        up_TF = conv1d(norm(x_TD, f"{at}ln_2"), f"{at}mlp.c_fc")
        up_TF = up_TF / 2 * (1 + np.tanh(np.sqrt(2 / np.pi) * (up_TF + 0.044715 * up_TF**3)))
        x_TD = x_TD + conv1d(up_TF, f"{at}mlp.c_proj")
    return norm(x_TD, "transformer.ln_f"), embedding_VD


def _attend(q_TNH, k_SNH, v_SNH, look_TS):
    return np.einsum("NTS,SNH->TNH", _shares(q_TNH, k_SNH, look_TS), v_SNH, optimize=True).reshape(len(q_TNH), -1)


def _shares(q_TNH, k_SNH, look_TS):
    """What each token takes of the others: a row sums to 1."""
    scores_NTS = np.einsum("TNH,SNH->NTS", q_TNH, k_SNH, optimize=True) / np.sqrt(q_TNH.shape[-1])
    scores_NTS = np.where(look_TS, scores_NTS, -np.inf)
    raised_NTS = np.exp(scores_NTS - scores_NTS.max(-1, keepdims=True))
    return raised_NTS / raised_NTS.sum(-1, keepdims=True)


def _wanted(name: str, part: Callable[..., np.ndarray], vocabulary: int) -> np.ndarray:
    """What of our parameters a tensor must be, by its name."""
    match name.split("."):
        case [*_, "embed_tokens" | "wte", "weight"]:
            return part("embedding")[:vocabulary]
        case ["lm_head", "weight"]:
            return part("head")[:vocabulary]
        case ["transformer", "wpe", "weight"]:
            return part("position_embedding")
        case ["model", "norm", "weight"] | ["transformer", "ln_f", "weight"]:
            return part("final_norm/scale")
        case ["transformer", "ln_f", "bias"]:
            return part("final_norm/bias")
        case ["model", "layers", layer, block, "weight"] if block in LLAMA_NORMS:
            return part(f"layers/{LLAMA_NORMS[block]}/scale", int(layer))
        case ["model", "layers", layer, "self_attn", "q_norm" | "k_norm" as norm, "weight"]:
            return part(f"layers/{'query' if norm[0] == 'q' else 'key'}_norm/scale", int(layer))
        case ["model", "layers", layer, _, projection, "weight"] if projection in PROJECTIONS:
            return part(f"layers/{PROJECTIONS[projection]}", int(layer)).T
        case ["model", "layers", layer, _, projection, "bias"] if projection in PROJECTIONS:
            return part(f"layers/{PROJECTIONS[projection]}_bias", int(layer))
        case ["transformer", "h", layer, "ln_1" | "ln_2" as norm, "weight" | "bias" as kind]:
            norm = "attention_norm" if norm == "ln_1" else "feed_forward_norm"
            return part(f"layers/{norm}/{'scale' if kind == 'weight' else kind}", int(layer))
        case ["transformer", "h", layer, "attn", "c_attn", kind]:
            ending = "_bias" if kind == "bias" else ""
            return np.concatenate([part(f"layers/{x}{ending}", int(layer)) for x in ("query", "key", "value")], -1)
        case ["transformer", "h", layer, block, "c_proj" | "c_fc" as product, kind]:
            ours = "attention_out" if block == "attn" else "up" if product == "c_fc" else "down"
            return part(f"layers/{ours}{'_bias' if kind == 'bias' else ''}", int(layer))
    raise ValueError(f"tensor {name!r} is none of a model's")
