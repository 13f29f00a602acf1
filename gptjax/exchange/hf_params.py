"""Parameters of a Hugging Face model <-> ours: one table of names and shapes, read in both directions.

Axes: L layers  V vocabulary, without padding  T positions  D residual  Q query heads x width  K key heads x width
H head width  F mlp width  3 query, key and value of width D side by side.
"""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np

from gptjax.config import ModelConfig

HEAD = "lm_head.weight"
FLOATS = ("float32", "float16", "bfloat16")
# Endings of tensors that older versions stored, and that are computed from the config.
BUFFERS = {"gpt2": (".attn.bias", ".attn.masked_bias"), "llama": (".self_attn.rotary_emb.inv_freq",)}


class Tensor(NamedTuple):
    """One tensor of Hugging Face, or with a `{}` in its name one of every layer."""

    name: str
    axes: str  # its shape, in letters of the legend
    ours: str  # where it lies in our tree; several, with spaces between, are its equal parts along the last axis
    turned: bool = False  # stored [out, in], as torch's Linear does; ours are [in, out]


def table(config: ModelConfig) -> list[Tensor]:
    """Every tensor that a model of this shape has."""
    return _gpt2(config) if config.family == "gpt2" else _llama(config)


def _gpt2(config: ModelConfig) -> list[Tensor]:
    layer = "transformer.h.{}."
    return [
        Tensor("transformer.wte.weight", "VD", "embedding"),
        Tensor("transformer.wpe.weight", "TD", "position_embedding"),
        Tensor(layer + "ln_1.weight", "D", "layers/attention_norm/scale"),
        Tensor(layer + "ln_1.bias", "D", "layers/attention_norm/bias"),
        Tensor(layer + "attn.c_attn.weight", "D3", "layers/query layers/key layers/value"),
        Tensor(layer + "attn.c_attn.bias", "3", "layers/query_bias layers/key_bias layers/value_bias"),
        Tensor(layer + "attn.c_proj.weight", "QD", "layers/attention_out"),
        Tensor(layer + "attn.c_proj.bias", "D", "layers/attention_out_bias"),
        Tensor(layer + "ln_2.weight", "D", "layers/feed_forward_norm/scale"),
        Tensor(layer + "ln_2.bias", "D", "layers/feed_forward_norm/bias"),
        Tensor(layer + "mlp.c_fc.weight", "DF", "layers/up"),
        Tensor(layer + "mlp.c_fc.bias", "F", "layers/up_bias"),
        Tensor(layer + "mlp.c_proj.weight", "FD", "layers/down"),
        Tensor(layer + "mlp.c_proj.bias", "D", "layers/down_bias"),
        Tensor("transformer.ln_f.weight", "D", "final_norm/scale"),
        Tensor("transformer.ln_f.bias", "D", "final_norm/bias"),
        *([] if config.tied else [Tensor(HEAD, "VD", "head")]),
    ]


def _llama(config: ModelConfig) -> list[Tensor]:
    layer = "model.layers.{}."
    products = [
        ("self_attn.q_proj", "QD", "query"),
        ("self_attn.k_proj", "KD", "key"),
        ("self_attn.v_proj", "KD", "value"),
        ("self_attn.o_proj", "DQ", "attention_out"),
        ("mlp.gate_proj", "FD", "gate"),
        ("mlp.up_proj", "FD", "up"),
        ("mlp.down_proj", "DF", "down"),
    ]
    norms = [("input_layernorm", "D", "attention_norm"), ("post_attention_layernorm", "D", "feed_forward_norm")]
    if config.qk_norm:
        norms += [("self_attn.q_norm", "H", "query_norm"), ("self_attn.k_norm", "H", "key_norm")]
    return [
        Tensor("model.embed_tokens.weight", "VD", "embedding"),
        *(Tensor(f"{layer}{name}.weight", axes, f"layers/{ours}/scale") for name, axes, ours in norms),
        *(Tensor(f"{layer}{name}.weight", axes, f"layers/{ours}", turned=True) for name, axes, ours in products),
        *(
            Tensor(f"{layer}{name}.bias", axes[0], f"layers/{ours}_bias")
            for name, axes, ours in products
            if config.biased(ours)
        ),
        Tensor("model.norm.weight", "D", "final_norm/scale"),
        *([] if config.tied else [Tensor(HEAD, "VD", "head")]),
    ]


def names(tensor: Tensor, config: ModelConfig) -> Iterator[str]:
    """The names of an entry, of every layer if it is a layer's."""
    return map(tensor.name.format, range(config.L if "{}" in tensor.name else 1))


def shape_of(tensor: Tensor, config: ModelConfig) -> tuple[int, ...]:
    """The shape of each tensor of an entry."""
    sizes = {"V": config.vocabulary, "T": config.T, "D": config.D, "H": config.H, "F": config.F}
    sizes |= {"Q": config.N * config.H, "K": config.K * config.H, "3": 3 * config.D}
    return tuple(sizes[axis] for axis in tensor.axes)


def read_params(config: ModelConfig, found: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """Our tree of parameters, NumPy in float32, from tensors by Hugging Face's names; padding rows are 0.

    `found` may make an array whenever it is asked for one, and is asked once. Raises ValueError naming the tensor that
    is missing, not expected, of another shape or dtype, or holds NaN or infinity; also a second table that differs
    where the config says that one serves twice.
    """
    if len(found) < config.L:  # before anything is made for each layer
        raise ValueError(f"{len(found)} tensors cannot be a model of {config.L} layers")
    keys = {name: name for name in found if not name.endswith(BUFFERS[config.family])}
    if config.family == "gpt2" and not any(name.startswith("transformer.") for name in keys):  # as GPT-2 itself came
        keys = {name if name == HEAD else f"transformer.{name}": name for name in keys}
    entries = table(config)
    repeated = keys.pop(HEAD, None) if config.tied else None
    # counted one by one: a file of a megabyte may say that it has a million layers
    absent = (name for tensor in entries for name in names(tensor, config) if name not in keys)
    _refuse(absent, "missing")
    _refuse(keys.keys() - {name for tensor in entries for name in names(tensor, config)}, "none of this model's")
    flat: dict[str, np.ndarray] = {}
    for tensor in entries:
        shape, of_layers = shape_of(tensor, config), "{}" in tensor.name
        ours = shape[::-1] if tensor.turned else (config.V, *shape[1:]) if tensor.axes[0] == "V" else shape
        whole = np.zeros(0, np.float32)
        for layer, name in enumerate(names(tensor, config)):
            array = sound(name, found[keys[name]], shape)
            if layer == 0:  # not before a tensor has shown that the config's sizes are true
                whole = np.zeros((config.L, *ours) if of_layers else ours, np.float32)
            array = array.T if tensor.turned else array
            (whole[layer] if of_layers else whole)[: len(array)] = array
        paths = tensor.ours.split()
        flat |= zip(paths, np.split(whole, len(paths), axis=-1), strict=True)
    if repeated and not np.array_equal(found[repeated], flat["embedding"][: config.vocabulary]):
        raise ValueError(f"tensor {HEAD!r} is not the embedding, though the config ties them")
    return _nested(flat)


def written(config: ModelConfig, params: Any) -> Iterator[tuple[str, np.ndarray]]:
    """Every tensor by Hugging Face's name, float32, in the order of the table, made one after another."""
    for tensor in table(config):
        leaves = [np.asarray(_leaf(params, path), np.float32) for path in tensor.ours.split()]
        for layer, name in enumerate(names(tensor, config)):
            parts = [leaf[layer] for leaf in leaves] if "{}" in tensor.name else leaves
            whole = np.concatenate(parts, axis=-1) if len(parts) > 1 else parts[0]
            whole = whole[: config.vocabulary] if tensor.axes[0] == "V" else whole
            yield name, np.ascontiguousarray(whole.T if tensor.turned else whole)


def _refuse(wrong: Iterable[str], which: str) -> None:
    """Raises ValueError naming the first of the tensors that are wrong, if any is, and how many more there are."""
    first, count = "", 0
    for name in wrong:
        first, count = min(first or name, name), count + 1
    if count:
        raise ValueError(f"tensor {first!r} is {which}{f', and {count - 1} more are' if count > 1 else ''}")


def sound(name: str, array: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """The array, if it is what the config says."""
    if array.shape != shape:
        raise ValueError(f"tensor {name!r} has shape {list(array.shape)}; the config makes it {list(shape)}")
    if array.dtype.name not in FLOATS:
        raise ValueError(f"tensor {name!r} is of dtype {array.dtype.name}; must be one of {', '.join(FLOATS)}")
    if not np.isfinite(array).all():
        raise ValueError(f"tensor {name!r} holds {(~np.isfinite(array)).sum()} values that are NaN or infinite")
    return array


def _leaf(tree: Any, path: str) -> Any:
    for key in path.split("/"):
        tree = tree[key]
    return tree


def _nested(flat: Mapping[str, np.ndarray]) -> dict[str, Any]:
    tree: dict[str, Any] = {}
    for path, leaf in flat.items():
        *folders, name = path.split("/")
        node = tree
        for folder in folders:
            node = node.setdefault(folder, {})
        node[name] = leaf
    return tree
