"""Adapters in the layout of PEFT: adapter_config.json, adapter_model.safetensors, and beside them which base is theirs.

Output heads, which were trained whole, lie beside as in exported models (class_heads.json, class_heads.safetensors):
PEFT, whose `modules_to_save` they are, knows no head of a causal model, and reads the adapters without them.
Axes: L layers  X width in  Y width out  r rank. Source: huggingface/peft, 0.21.2, tuners/lora.
"""

import dataclasses
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from safetensors.numpy import save_file

from gptjax.batch import ClassHead
from gptjax.config import Lora, ModelConfig
from gptjax.exchange import heads_file
from gptjax.exchange.hf_config import fields_of
from gptjax.exchange.hf_params import names, sound, table
from gptjax.exchange.safetensors_file import read_tensors
from gptjax.files.atomic_folder import absent, appearing
from gptjax.files.bounded_files import naming, read_json
from gptjax.files.file_digest import describe
from gptjax.files.plain_json import dumps
from gptjax.spelling import did_you_mean

CONFIG, WEIGHTS, BASE = "adapter_config.json", "adapter_model.safetensors", "gptjax_base.json"
PREFIX, PARTS = "base_model.model.", {".lora_A.weight": "a", ".lora_B.weight": "b"}
# Fields that are read; that say nothing of what is computed; and the only values that others may have, as more than
# the adapters would change.
READ = {"peft_type", "r", "lora_alpha", "lora_dropout", "use_rslora", "rank_pattern", "alpha_pattern"}
HARMLESS = {
    "task_type", "auto_mapping", "peft_version", "base_model_name_or_path", "revision", "inference_mode",
    "target_modules", "exclude_modules", "layers_to_transform", "layers_pattern", "megatron_core", "eva_config",
    "qalora_group_size", "runtime_config",
}  # fmt: skip
ONLY = {
    "bias": ("none",),
    "init_lora_weights": (True, False, "gaussian", "eva", "orthogonal"),
}  # others change the base


class Adapter(NamedTuple):
    """What a folder holds."""

    folder: Path
    lora: Lora
    heads: tuple[ClassHead, ...]  # output heads that were trained beside it
    bank: dict[str, np.ndarray]  # their part of our tree
    leaves: Any  # {"layers": {"query_lora_a": [L, X, r], "query_lora_b": [L, r, Y], ...}}, NumPy, float32


def write_adapter(folder: Any, params: Any, config: ModelConfig, base_fingerprint: str) -> None:
    """Makes the folder, which PEFT loads onto the exported base; it appears whole or not at all.

    `params` may be the whole model, whose output heads go with them, or the adapters alone; `base_fingerprint` is
    gptjax.nn.fingerprint's of the weights beside them. Raises ValueError where the folder exists, there are no
    adapters, or PEFT has no name for a layer.
    """
    target, lora = check_writable(folder, config)
    alpha = int(lora.alpha) if lora.alpha == int(lora.alpha) else lora.alpha
    modules = {place: at for place, at in _modules(config).items() if at[0] in config.adapted}
    described = {
        "peft_type": "LORA", "task_type": "CAUSAL_LM", "r": lora.rank, "lora_alpha": alpha,
        "lora_dropout": lora.dropout, "use_rslora": lora.rank_stabilised, "bias": "none", "inference_mode": True,
        "target_modules": sorted({place.rsplit(".", 1)[1] for place in modules}), "base_model_name_or_path": None,
    }  # fmt: skip
    layers = {name: np.asarray(leaf, np.float32) for name, leaf in params["layers"].items() if "_lora_" in name}
    tensors = {
        f"{PREFIX}{place}{ending}": np.ascontiguousarray(layers[f"{name}_lora_{part}"][layer].T)
        for place, (name, layer) in modules.items()
        for ending, part in PARTS.items()
    }
    heads = config.class_heads if "class_heads" in params else ()
    with appearing(target) as (aside, appear):
        (aside / CONFIG).write_text(dumps(described, indent=1) + "\n", encoding="utf-8")
        (aside / BASE).write_text(dumps({"fingerprint": base_fingerprint}) + "\n", encoding="utf-8")
        save_file(tensors, aside / WEIGHTS, metadata={"format": "pt"})
        shutil.copymode(aside / CONFIG, aside / WEIGHTS)  # it lets nobody else read what it writes
        if heads:
            (aside / heads_file.NAMES).write_text(heads_file.names_text(heads), encoding="utf-8")
            save_file(heads_file.weights(heads, params), aside / heads_file.WEIGHTS, metadata={"format": "pt"})
            shutil.copymode(aside / CONFIG, aside / heads_file.WEIGHTS)
        written = read_adapter(aside, config)
        for name, leaf in written.leaves["layers"].items():
            if not np.array_equal(leaf, layers[name]):
                raise ValueError(f"export: layers/{name} was not written as it is; nothing was written")
        if wrong := heads_file.first_difference(heads, written.bank, params):
            raise ValueError(f"export: {wrong}; nothing was written")
        for path in aside.iterdir():
            describe(path)  # on the disk before the folder has its name
        appear()


def check_writable(folder: Any, config: ModelConfig) -> tuple[Path, Lora]:
    """The folder's absolute path, and the adapters' kind. Raises ValueError as `write_adapter` does."""
    target = absent(folder)
    if config.lora is None:
        raise ValueError("export: this model was trained without adapters, so there are none to write")
    refuse_unnamed(config)
    fields_of(config)  # raises where no class of Hugging Face computes the base
    return target, config.lora


def read_adapter(folder: Any, config: ModelConfig) -> Adapter:
    """The adapter in a folder of PEFT's, for a base of this config.

    Layers and ranks that a module lacks are 0; where modules differ in scale, the
    difference is in B: the product is the same. Raises ValueError naming the file, and the field that asks for what is
    not supported, or the tensor that is none of this base's, has another shape or holds NaN.
    """
    folder = Path(folder)
    refuse_unnamed(config)
    if not (folder / CONFIG).is_file():
        raise ValueError(f"{folder}: is no adapter: it has no {CONFIG}")
    fields = read_json(folder / CONFIG)
    with naming(folder / CONFIG):
        _refuse_unsupported(fields)
        rank, alpha = int(_number(fields, "r", 8)), _number(fields, "lora_alpha", 8)
        dropout, stabilised = _number(fields, "lora_dropout", 0), bool(fields.get("use_rslora"))
        usual = Lora(rank=rank, alpha=alpha, dropout=dropout, rank_stabilised=stabilised)
        ranks, alphas = _pattern(fields, "rank_pattern"), _pattern(fields, "alpha_pattern")
    tensors = read_tensors(folder / WEIGHTS)
    with naming(folder / WEIGHTS):
        modules = _modules(config)
        found = _found(tensors, modules)
        kinds = {
            place: dataclasses.replace(
                usual, rank=int(_of(place, ranks, usual.rank)), alpha=_of(place, alphas, usual.alpha)
            )
            for place in found
        }
        targets = tuple(name for name in config.projections if name in {modules[place][0] for place in found})
        widest = max(kind.rank for kind in kinds.values())
        found_alphas = {kind.alpha for kind in kinds.values()}
        alpha = found_alphas.pop() if len(found_alphas) == 1 else usual.alpha
        lora = dataclasses.replace(usual, rank=widest, alpha=alpha, targets=targets)
        layers: dict[str, np.ndarray] = {}
        for name in targets:
            X, Y = config.projections[name]
            layers[f"{name}_lora_a"] = np.zeros((config.L, X, widest), np.float32)
            layers[f"{name}_lora_b"] = np.zeros((config.L, widest, Y), np.float32)
        for place, kind in kinds.items():
            name, layer = modules[place]
            (X, Y), r = config.projections[name], kind.rank
            a_name, b_name = (f"{PREFIX}{place}{ending}" for ending in PARTS)
            layers[f"{name}_lora_a"][layer, :, :r] = sound(a_name, tensors[a_name], (r, X)).T
            b_rY = sound(b_name, tensors[b_name], (Y, r)).T.astype(np.float32)
            layers[f"{name}_lora_b"][layer, :r] = b_rY if kind.scale == lora.scale else b_rY * (kind.scale / lora.scale)
    heads = heads_file.read_heads(folder)
    bank = heads_file.read_class_heads(folder, dataclasses.replace(config, class_heads=heads))
    return Adapter(folder, lora, heads, bank, {"layers": layers})


def check_base(folder: Any, found: str) -> None:
    """Raises ValueError where an adapter says that it belongs to weights of another fingerprint than this.

    One that says nothing, as PEFT's do, may be of any base with its shapes.
    """
    if (path := Path(folder) / BASE).is_file():
        wanted = read_json(path).get("fingerprint")
        if wanted != found:
            raise ValueError(
                f"{path}: this adapter is for a base with fingerprint {str(wanted)[:64]}, this one has {found}; load "
                "the model that it was trained on"
            )


def refuse_unnamed(config: ModelConfig) -> None:
    """Raises ValueError for GPT-2, of which PEFT adapts query, key and value as one."""
    if config.family == "gpt2":
        raise ValueError(
            "adapter: in Hugging Face's GPT-2, query, key and value are one matrix, c_attn, so adapters of ours cannot "
            "be written for it, nor PEFT's read; export the merged model instead"
        )


def _modules(config: ModelConfig) -> dict[str, tuple[str, int]]:
    """Our name and the layer of every linear layer by Hugging Face's, such as "model.layers.0.self_attn.q_proj"."""
    ours = {f"layers/{name}": name for name in config.projections}
    return {
        place.removesuffix(".weight"): (ours[tensor.ours], layer)
        for tensor in table(config)
        if tensor.ours in ours
        for layer, place in enumerate(names(tensor, config))
    }


def _found(tensors: Mapping[str, Any], modules: Mapping[str, Any]) -> list[str]:
    """Modules that have an adapter, in the order of the model. Raises ValueError for a tensor of none, or alone."""
    places: dict[str, set[str]] = {}
    for name in tensors:
        ending = next((ending for ending in PARTS if name.endswith(ending)), "")
        place = name.removeprefix(PREFIX).removesuffix(ending)
        if not ending or place not in modules or not name.startswith(PREFIX):
            raise ValueError(
                f"tensor {name!r} is no adapter of a linear layer of this model, such as {next(iter(modules))!r}"
            )
        places.setdefault(place, set()).add(ending)
    if not places:
        raise ValueError("holds no tensor")
    for place, endings in places.items():
        if lacking := PARTS.keys() - endings:
            raise ValueError(f"tensor {PREFIX + place + lacking.pop()!r} is missing")
    return [place for place in modules if place in places]


def _refuse_unsupported(fields: Mapping[str, Any]) -> None:
    if fields.get("peft_type") != "LORA":
        raise ValueError(f"field 'peft_type' is {fields.get('peft_type')!r}; only 'LORA' is supported")
    for name, value in fields.items():
        if name in ONLY:
            if value not in ONLY[name]:
                raise ValueError(f"field {name!r} is {str(value)[:60]!r}; only {ONLY[name][0]!r} is supported")
        elif name not in READ | HARMLESS and value not in (None, False, {}, []):
            known = READ | HARMLESS | ONLY.keys()
            raise ValueError(f"field {name!r}, here {str(value)[:60]!r}, is not supported{did_you_mean(name, known)}")


def _number(fields: Mapping[str, Any], name: str, usual: int) -> float:
    value = fields.get(name, usual)
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError(f"field {name!r} is {str(value)[:60]!r}; must be a number")
    return float(value)


def _pattern(fields: Mapping[str, Any], name: str) -> dict[re.Pattern[str], float]:
    """Numbers by what names of modules end in, as PEFT matches them: in this order, the first that does."""
    value = fields.get(name) or {}
    if not isinstance(value, dict):
        raise ValueError(f"field {name!r} is {str(value)[:60]!r}; must be an object from patterns to numbers")
    try:
        return {re.compile(rf"(.*\.)?({pattern})$"): _number(value, pattern, 0) for pattern in value}
    except re.error as error:
        raise ValueError(f"field {name!r}: {error.pattern!r} is no regular expression ({error})") from error


def _of(place: str, patterns: Mapping[re.Pattern[str], float], usual: float | int) -> float:
    return next((value for pattern, value in patterns.items() if pattern.match(place)), float(usual))
