"""A model as StableHLO, with its weights, tokenizer and a loader, in a folder that appears whole and proven, or never.

The files are written in a hidden folder beside the target. Their own loader then runs them in a process that cannot
import gptjax (`consumer`), and its scores and greedy text are compared with the source's.
"""

import errno
import importlib.metadata
import os
import shutil
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
import safetensors
from jax import export
from safetensors.numpy import save_file

from gptjax.exchange.programs.consumer import prove
from gptjax.exchange.programs.program import (
    PLATFORMS,
    SLOTS_MULTIPLE,
    cache_of,
    check_platforms,
    exported_programs,
    weights_of,
)
from gptjax.files.atomic_folder import absent, appearing
from gptjax.files.file_digest import describe
from gptjax.files.plain_json import dumps
from gptjax.inference.language_model import LanguageModel
from gptjax.runs.rundir import CREDIT, Run

FORMAT = 1  # of the folder: manifest.json, what the programs take and return
MANIFEST, RUN, TOKENIZER, WEIGHTS = "manifest.json", "run.py", "tokenizer.json", "weights.safetensors"
LOADER = Path(__file__).with_name("run_stablehlo.py")
README = """# A language model as StableHLO

{parameters:,} parameters, a context of {T} tokens{step}; exported by gptjax with JAX {jax}, for {platforms}.
{left_out}
    pip install jax numpy tokenizers
    python run.py "The capital of France is" 20

`run.py` is the whole loader; gptjax is not needed. `manifest.json` says what the two programs take and return, how the
export was compared with the model that it was made from, and the SHA-256 of every other file.
"""


def check_exportable(model: LanguageModel | Run) -> None:
    """Raises ValueError where no program can say what the model does; of a run before its weights are read."""
    if model.config.lora is not None:
        raise ValueError("export: the model has adapters beside its weights; gptjax.load merges them")
    if model.generation_config.encodes_prompt:
        raise ValueError(
            "export: this model reads a conversation from both sides before it answers, and the programs read "
            "forwards; a Hugging Face folder says so to gptjax"
        )


def export_stablehlo(
    model: LanguageModel, folder: str | os.PathLike[str], platforms: Sequence[str] = PLATFORMS
) -> dict[str, Any]:
    """Writes the folder, and returns its manifest.

    Output heads are left out; the manifest names them.
    Raises ValueError where the folder exists, a platform is not known, the model reads from both sides, or what was
    written computes something else; OSError where the disk lacks room. Then nothing appears and nothing is left.
    """
    platforms, target = check_platforms(platforms), absent(folder)
    check_exportable(model)
    weights = {name: np.asarray(x, np.float32) for name, x in weights_of(model.params).items()}
    with appearing(target) as (aside, appear):
        check_room(aside, weights)
        programs = exported_programs(model.config, model.params, platforms)
        for name, program in programs.items():
            (aside / f"{name}.jax_export").write_bytes(program.serialize())
        readme = README.format(
            parameters=model.config.parameters, T=model.config.T, jax=jax.__version__, platforms=", ".join(platforms),
            step="" if model.step is None else f", step {model.step}", left_out=left_out(model),
        )  # fmt: skip
        write_small(aside, model, LOADER, readme)
        _save(weights, aside / WEIGHTS)
        manifest = description(model) | _versions(programs["step"])
        (aside / MANIFEST).write_text(dumps(manifest), encoding="utf-8")  # the loader reads it
        try:
            manifest["proof"] = prove(aside, model, missing=("gptjax", "flax", "safetensors"))
        except ValueError as error:
            raise ValueError(f"export: {error}; nothing was written") from error
        manifest["files"] = {path.name: describe(path) for path in sorted(aside.iterdir()) if path.name != MANIFEST}
        (aside / MANIFEST).write_text(dumps(manifest, indent=1) + "\n", encoding="utf-8")
        describe(aside / MANIFEST)  # on the disk before the folder has its name
        appear()
    return manifest


def description(model: LanguageModel) -> dict[str, Any]:
    """What a loader has to know of the model: its context, its cache, how its texts begin and end."""
    config, generation_config = model.config, model.generation_config
    cache = cache_of(config, 1, SLOTS_MULTIPLE)
    return {
        "format": FORMAT,
        "gptjax": importlib.metadata.version("gptjax"),
        "step": model.step,
        "exported": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "parameters": config.parameters,
        "context": config.T,
        "vocabulary": config.vocabulary,
        "begins_with": [model.tokenizer.bos] if generation_config.begins_with_bos else [],
        "ends": sorted(generation_config.ends),
        "cache": {"names": list(cache), "shape": next(iter(cache.values())).shape, "dtype": "float32"},
        "programs": {
            "prefill": "(weights, tokens i32 [b,t], slot i32 [b], length i32 [b], cache) -> (logits f32 [b,V], cache)",
            "step": "(weights, token i32 [b], slot i32 [b], cache) -> (logits f32 [b,V], cache)",
        },
        "left_out": [head.name for head in config.class_heads],
    }


def in_words(manifest: dict[str, Any]) -> str:
    """What a manifest says of the proof, and of what is left out."""
    logits, left = manifest["proof"]["logits"], manifest["left_out"]
    said = (
        f"scores of up to {logits['largest']:.4g} within {logits['largest_difference']:.2g} over {logits['tokens']} "
        "tokens, greedy text the same"
    )
    return f"{said}\nleft out, for tokens alone are scored: the output heads {', '.join(left)}" if left else said


def check_room(folder: Path, weights: dict[str, np.ndarray]) -> None:
    """Raises OSError where the disk has no room for the weights."""
    needed, free = sum(x.nbytes for x in weights.values()), shutil.disk_usage(folder).free
    if needed > free:
        said = f"an export of {needed / 1e6:,.0f} MB does not fit, the disk has {free / 1e6:,.0f} MB left"
        raise OSError(errno.ENOSPC, said, str(folder.parent))


def _versions(program: export.Exported) -> dict[str, Any]:
    return {
        "jax": jax.__version__,
        "calling_convention": program.calling_convention_version,
        "platforms": list(program.platforms),
    }


def left_out(model: LanguageModel) -> str:
    """A sentence on the output heads, which programs do not have."""
    heads = ", ".join(head.name for head in model.config.class_heads)
    return f"Its output heads are not in it: {heads}." if heads else ""


def write_small(folder: Path, model: LanguageModel, loader: Path, readme: str) -> None:
    """Tokenizer, loader, README, and whose texts it has read."""
    rules = model.tokenizer.for_others(model.generation_config.begins_with_bos)
    (folder / TOKENIZER).write_text(rules, encoding="utf-8")
    shutil.copyfile(loader, folder / RUN)
    (folder / "README.md").write_text(readme, encoding="utf-8")
    if model.credit is not None:
        (folder / CREDIT).write_text(model.credit, encoding="utf-8")


def _save(weights: dict[str, np.ndarray], path: Path) -> None:
    try:
        save_file({name: np.ascontiguousarray(x) for name, x in weights.items()}, path)
    except safetensors.SafetensorError as error:  # how it reports a full disk
        raise OSError(f"{path}: {error}") from error
    shutil.copymode(path.parent / TOKENIZER, path)  # it lets nobody else read what it writes
