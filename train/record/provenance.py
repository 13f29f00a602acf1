"""What a run directory says of itself: model, tokenizer, recipe, machine, code, and whose text it learnt."""

import contextlib
import dataclasses
import functools
import hashlib
import importlib.metadata
import json
import math
import os
import platform
import shlex
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import jax

from data.description import read_description, read_prepared
from data.preparation.prepared_folder import content
from gptjax.config import ModelConfig, load_model_config, save_model_config
from gptjax.files.atomic_file import write_whole
from gptjax.files.places import standing
from gptjax.files.plain_json import dumps
from gptjax.runs.manifest import manifest, steps
from gptjax.runs.rundir import CREDIT, GENERATION
from gptjax.text.tokenizer import Tokenizer
from train.assemble import Text
from train.launch.source_bundle import BUNDLE
from train.recipe import Change, Recipe, changes, from_json, to_json
from train.record.older import check_same_tasks, with_token_marks
from train.updates.optimizer import cooldown_start, learning_rate

ROOT = Path(__file__).resolve().parents[2]
BEFORE_A_RUN = ("lease", "failures.json")  # may lie in a folder that is no run yet
PLACES = (  # variables that say where a process is, which may differ from one to the next
    "JAX_COORDINATOR_ADDRESS", "JAX_COORDINATOR_BIND_ADDRESS", "JAX_PROCESS_ID", "JAX_LOCAL_DEVICE_IDS",
    "JAX_COMPILATION_CACHE_DIR",
)  # fmt: skip
PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "tensorflow-datasets", "tokenizers", "numpy")


def changed_fields(run: Path, recipe: Recipe, accept: bool) -> list[Change]:
    """Where a recipe differs from that of the run directory, which it goes on with; last, what becomes of its rate.

    Raises ValueError, field by field, where the run could not go on with it, or, unless told to `accept` that, would
    read other rows or make other updates than the run it continues; and where the directory is something else.
    """
    if not (run / "recipe.json").exists():
        if run.exists() and any(path.name not in BEFORE_A_RUN for path in run.iterdir()):
            raise ValueError(f"run={run}: not empty and not a run of gptjax; choose another folder with --run")
        return []
    then = (run / "recipe.json").read_text(encoding="utf-8")
    check_same_tasks(json.loads(then), f"run={run}")
    found = changes(then, to_json(recipe))
    found += _change_of_rate(run, then, recipe) if found else []
    impossible = [change for change in found if change.kind == "impossible"]
    refused = impossible if accept else [change for change in found if change.kind != "harmless"]
    if refused:
        remedy = "repeat the old command to continue this one" + ("" if impossible else ", or add --accept-changes")
        raise ValueError(
            f"run={run} was started with another recipe:\n  " + "\n  ".join(map(str, refused)) + "\n"
            f"start a new run with --run runs/another-name, or {remedy}"
        )
    return found


def _change_of_rate(run: Path, then: str, recipe: Recipe) -> list[Change]:
    """What the learning rate of the next step was to be and will be, where a changed recipe lays it out otherwise."""
    step = max(steps(run), default=0)
    try:
        before, cooled_at = from_json(then), manifest(run, step)["health"]["cooled_at"]
    except (ValueError, TypeError, KeyError):  # nothing saved, or by another gptjax, of which `changes` tells more
        return []
    was, now = (
        float(learning_rate(spec, count)(step, cooldown_start(spec, count) if cooled_at is None else cooled_at))
        for spec, count in ((one.optimizer, one.steps) for one in (before, recipe))
    )
    if math.isclose(was, now, rel_tol=1e-6):
        return []
    ratio = f" ({now / was:.3g} times that)" if was else ""
    return [Change(f"learning rate of the next step, {step + 1}", f"{was:.3g}", f"{now:.3g}{ratio}", "inexact")]


def check_disk(recipe: Recipe, config: ModelConfig) -> None:
    """Raises ValueError unless the run may be written and the checkpoints that will exist at once fit the disk."""
    folder = standing(recipe.run)  # a folder that is there may lie on another disk than the one that it lies in
    trees = 3 if recipe.optimizer.ema is None else 4  # parameters, their average, at most two moments: float32
    kept = recipe.checkpoint.keep + 2  # the best one, and the one that is being written
    there = sum(path.stat().st_size for path in (recipe.run / "checkpoints").rglob("*") if path.is_file())
    needed = config.parameters * trees * 4 * kept - there
    if not folder.is_dir():
        raise ValueError(f"run={recipe.run}: {folder} is a file; choose another folder with --run")
    if not os.access(folder, os.W_OK):
        raise ValueError(f"run={recipe.run}: {folder} may not be written to; choose another folder with --run")
    disk = standing(recipe.run / "checkpoints")
    free = shutil.disk_usage(disk).free
    if free < needed:
        raise ValueError(
            f"disk: {kept} checkpoints of {config.parameters / 1e6:.1f}M parameters need "
            f"{needed / 1e9:.1f} GB, {disk} has {free / 1e9:.1f} GB free; free some, or set --run on another disk"
        )


def describe_run(run: Path, recipe: Recipe, config: ModelConfig, text: Text) -> dict[str, Any]:
    """Writes what describes a run, if that was not done; returns the hashes of its tokenizer and its text.

    Raises ValueError where the directory has another model, tokenizer or text.
    """
    description = read_prepared(text.prepared)
    for name, source in description["sources"].items():
        source["rate"] = text.rows.rates[name]  # rows out of every 1024
    found = {"tokenizer": text.tokenizer.fingerprint, "text": description["content"]}
    if (run / "model.json").exists():
        had = with_token_marks(load_model_config(run / "model.json"), config)
        if told := _other_heads(had, config):
            raise ValueError(f"run={run} has other output heads: {told}; choose another folder with --run")
        was, now = dataclasses.asdict(had), dataclasses.asdict(config)
        if listed := ", ".join(f"{name}: {was[name]!r} -> {now[name]!r}" for name in was if was[name] != now[name]):
            raise ValueError(f"run={run} holds another model ({listed}); choose another folder with --run")
        began = read_description(run / "data.json")
        held = {"tokenizer": Tokenizer.load(run / "tokenizer.json").fingerprint, "text": began["content"]}
        now_held = found | {"text": content(text.prepared, began)}
        for what in held:
            if held[what] != now_held[what]:
                raise ValueError(
                    f"run={run} was trained with another {what} (SHA-256 {held[what][:12]} -> {now_held[what][:12]}): "
                    "the sources have changed since; restore them, or choose another folder with --run"
                )
    elif jax.process_index() == 0:
        run.mkdir(parents=True, exist_ok=True)
        write_whole(run / "recipe.json", to_json(recipe))  # first: marks the folder as a run
        write_whole(run / "environment.json", dumps(environment(), indent=1) + "\n")
        write_whole(run / CREDIT, attribution(description["sources"]))
        write_whole(run / "data.json", dumps(description, indent=1) + "\n")
        text.tokenizer.save(run / "tokenizer.json")
        if text.generation_config.chat_template is not None:  # else it talks as all runs do
            text.generation_config.save(run / GENERATION, text.tokenizer)
        save_model_config(config, run / "model.json")  # last: marks the description as whole
    return found


def _other_heads(was: ModelConfig, now: ModelConfig) -> str:
    """In which heads, and classes of them, two models differ; "" if in none."""
    old, new = ({head.name: head.classes for head in config.class_heads} for config in (was, now))
    told = [f"no {name!r} any more" for name in old.keys() - new.keys()]
    told += [f"{name!r} is new" for name in new.keys() - old.keys()]
    for name in old.keys() & new.keys():
        signs = (("-", set(old[name]) - set(new[name])), ("+", set(new[name]) - set(old[name])))
        changed = [f"{sign} {label!r}" for sign, labels in signs for label in sorted(labels)]
        told += [f"classes of {name!r}: {', '.join(changed)}"] if changed else []
    return ", ".join(told)


def provenance(recipe: Recipe) -> dict[str, Any]:
    """Where numbers come from, as far as it is known before the text: the same in every process of a run."""
    about = environment()
    flags = {name: value for name, value in sorted(os.environ.items()) if name.startswith(("XLA_", "LIBTPU_", "JAX_"))}
    for name in PLACES:
        flags.pop(name, None)
    return {
        **{name: about[name] for name in ("git", "changed", "python", *PACKAGES, "devices")},
        "flags": flags,
        "recipe": json.loads(to_json(recipe)),
    }


def environment() -> dict[str, str]:
    """What a reader needs to repeat the run; `changed` is the hash of what git says is not in its revision, or ""."""
    device = jax.devices()[0]
    return {
        "started": time.strftime("%Y-%m-%d %H:%M:%S %z"),
        "command": shlex.join(["python", "-m", "train", *sys.argv[1:]]),
        "folder": os.getcwd(),  # that relative paths of the recipe begin in
        **_revision(),
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


def _revision() -> dict[str, str]:
    """`git` and `changed` of `environment`: of the bundle that a launcher sent here, or of this checkout."""
    with contextlib.suppress(OSError, ValueError, KeyError):  # a bundle may lie in a checkout: it is asked first
        sent = json.loads((ROOT / BUNDLE).read_text(encoding="utf-8"))
        return {"git": sent["commit"], "changed": sent["changed"]}
    return {
        "git": _git("rev-parse", "HEAD") or "not a git checkout",
        "changed": _hash(_git("status", "--porcelain") + _git("diff", "HEAD")),
    }


@functools.cache  # asked twice at a start, and what runs is what was imported
def _git(*arguments: str) -> str:
    """What git says of this checkout; "" where there is none."""
    command = ["git", "-C", str(ROOT), *arguments]
    try:
        return subprocess.run(command, capture_output=True, check=True).stdout.decode(errors="replace").strip()
    except (OSError, subprocess.CalledProcessError):
        return ""


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest() if text else ""
