"""What a run directory says of itself: model, tokenizer, recipe, machine, code, and whose text it learnt."""

import dataclasses
import importlib.metadata
import json
import os
import platform
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax

from gptjax.checkpoint import write_whole
from gptjax.config import ModelConfig, load_model_config, save_model_config
from gptjax.tokenizer import Tokenizer
from train.recipe import Recipe, changes, to_json

PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "tensorflow-datasets", "tokenizers", "numpy")


def check_continues(run: Path, recipe: Recipe) -> None:
    """Raises ValueError, field by field, where the run directory holds a run of another recipe, or something else."""
    if not (run / "recipe.json").exists():
        if run.exists() and any(run.iterdir()):
            raise ValueError(f"run={run}: not empty and not a run of gptjax; choose another folder with --run")
        return
    if differing := changes((run / "recipe.json").read_text(encoding="utf-8"), to_json(recipe)):
        raise ValueError(
            f"run={run} was started with another recipe:\n  " + "\n  ".join(differing) + "\n"
            "start a new run with --run runs/another-name, or repeat the old command to continue this one"
        )


def check_disk(recipe: Recipe, config: ModelConfig) -> None:
    """Raises ValueError unless the run may be written and the checkpoints that will exist at once fit the disk."""
    folder = next(parent for parent in recipe.run.absolute().parents if parent.is_dir())
    needed = config.parameters * 3 * 4 * (recipe.checkpoint.keep + 1)  # parameters and two moments, float32
    if not os.access(folder, os.W_OK):
        raise ValueError(f"run={recipe.run}: {folder} may not be written to; choose another folder with --run")
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise ValueError(
            f"disk: {recipe.checkpoint.keep + 1} checkpoints of {config.parameters / 1e6:.1f}M parameters need "
            f"{needed / 1e9:.1f} GB, {folder} has {free / 1e9:.1f} GB free; free some, or set --run on another disk"
        )


def describe_run(
    run: Path, recipe: Recipe, config: ModelConfig, tokenizer: Tokenizer, prepared: Path, rates: Mapping[str, int]
) -> None:
    """Writes what describes a run; `rates` are rows out of every 1024, by source.

    Raises ValueError where the directory has another model, tokenizer or text.
    """
    description = json.loads((prepared / "prepared.json").read_text(encoding="utf-8"))
    for name, source in description["sources"].items():
        source["rate"] = rates[name]
    if (run / "model.json").exists():
        was, now = dataclasses.asdict(load_model_config(run / "model.json")), dataclasses.asdict(config)
        if listed := ", ".join(f"{name}: {was[name]!r} -> {now[name]!r}" for name in was if was[name] != now[name]):
            raise ValueError(f"run={run} holds another model ({listed}); choose another folder with --run")
        held = {
            "tokenizer": Tokenizer.load(run / "tokenizer.json").fingerprint,
            "text": json.loads((run / "data.json").read_text(encoding="utf-8"))["content"],
        }
        found = {"tokenizer": tokenizer.fingerprint, "text": description["content"]}
        for what in held:
            if held[what] != found[what]:
                raise ValueError(
                    f"run={run} was trained with another {what} (SHA-256 {held[what][:12]} -> {found[what][:12]}): "
                    "the sources have changed since; restore them, or choose another folder with --run"
                )
    if jax.process_index() != 0 or (run / "model.json").exists():
        return
    run.mkdir(parents=True, exist_ok=True)
    write_whole(run / "recipe.json", to_json(recipe))  # first: marks the folder as a run
    write_whole(run / "environment.json", json.dumps(environment(), indent=1) + "\n")
    write_whole(run / "ATTRIBUTION.md", attribution(description["sources"]))
    write_whole(run / "data.json", json.dumps(description, indent=1) + "\n")
    tokenizer.save(run / "tokenizer.json")
    save_model_config(config, run / "model.json")  # last: marks the description as whole


def environment() -> dict[str, str]:
    """What a reader needs to repeat the run; the git revision ends in '+' where files were changed."""
    device = jax.devices()[0]
    return {
        "started": time.strftime("%Y-%m-%d %H:%M:%S %z"),
        "command": "python -m train " + " ".join(sys.argv[1:]),
        "git": _revision(),
        "python": platform.python_version(),
        **{name: importlib.metadata.version(name) for name in PACKAGES},
        "devices": f"{jax.device_count()} x {device.device_kind} ({device.platform}), {jax.process_count()} host(s)",
        "system": platform.platform(),
    }


def attribution(sources: dict[str, Any]) -> str:
    """ATTRIBUTION.md: every source with its licence, and the credit that a licence demands."""
    lines = ["# The text this model learnt from", ""]
    for name, source in sources.items():
        lines += [f"## {name}", "", f"Licence: {source['licence']}", ""]
        if source["attribution"]:
            lines += [source["attribution"], ""]
    return "\n".join(lines)


def _revision() -> str:
    root = Path(__file__).resolve().parent.parent

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(root), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    try:
        return git("rev-parse", "HEAD") + ("+" if git("status", "--porcelain") else "")
    except (OSError, subprocess.CalledProcessError):
        return "not a git checkout"
