"""Proof, on the user's own recipe and machine, that a run killed and resumed is the run that never was."""

import itertools
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from rich.console import Console

from gptjax.runs.checkpoint import restore, saved_shapes
from gptjax.runs.manifest import manifest, steps
from train.recipe import Recipe
from train.record.ledger import read_ledger
from train.record.metrics import NAN, Hosts, Record, SourceRecord, TaskRecord, Train, Version, read_metrics

ROOT = Path(__file__).resolve().parents[2]
# What a manifest says of one run alone: its files, when and how fast they were written, and where it came from.
OWN = {"sha256", "format", "saved", "files", "save_seconds", "provenance"}


def verify_resume(arguments: Sequence[str], recipe: Recipe, half: int, console: Console) -> bool:
    """Trains 2 x `half` steps, and again with a SIGKILL after half of them and a new process; True if all is equal.

    `arguments` are those of `pretrain` for the recipe. Compared bit by bit: parameters, their average, the optimizer's
    state; of every step the rows, loss and gradient norm; every score of held-out text, of sources and of tasks, and
    every other record but its times; and what the manifests keep of health, losses and conflicts.
    """
    least = recipe.batch.micro_rows
    console.print(f"{2 * half} steps straight, then {half}, a SIGKILL, and a new process for the rest")
    with tempfile.TemporaryDirectory(prefix="verify-resume-") as folder:
        straight, broken = Path(folder) / "straight", Path(folder) / "broken"
        command = [
            sys.executable, "-P", "-m", "train", "pretrain", *arguments, "--stop.step", str(2 * half),
            "--checkpoint.every", str(half), "--checkpoint.keep", "9", "--validation.every", str(half),
            "--validation.rows", str(least), "--validation.final-rows", str(least), "--samples", "0",
        ]  # fmt: skip
        _finish(_start(command, straight), "the straight run")
        killed = _start(command, broken)
        while half not in steps(broken) and killed.poll() is None:
            time.sleep(0.01)
        if killed.poll() is None:
            killed.kill()
            killed.wait()
        else:
            _finish(killed, "the run to be killed")
        if max(steps(broken), default=0) != half:
            raise ValueError(f"the run was not killed in time: saved are {steps(broken)}; give more --steps")
        console.print(f"killed with step {max(steps(broken))} saved; a new process goes on")
        _finish(_start(command, broken), "the resumed run")
        differences = list(differing(straight, broken))
    for line in differences[:20]:
        console.print(f"differs: {line}", highlight=False, markup=False)
    if differences:
        console.print(f"[bold]not exact:[/] {len(differences)} differences; on a GPU, some kernels add up in any order")
    else:
        console.print(f"[bold]exact:[/] {half} + {half} steps are {2 * half} steps, bit for bit")
    return not differences


def differing(straight: Path, broken: Path) -> Iterator[str]:
    """In what the newest checkpoints, the row hashes and the records of two runs differ, a line each."""
    step = max(steps(straight), default=None)
    if step is None or step != max(steps(broken), default=None):
        yield f"the newest steps are {steps(straight)} and {steps(broken)}"
        return
    for name in sorted(path.name for path in (straight / "checkpoints" / str(step)).iterdir() if path.is_dir()):
        ours, theirs = (flat(restore(run, step, name, saved_shapes(run, step, name))) for run in (straight, broken))
        for leaf in sorted(ours.keys() | theirs.keys()):
            if leaf not in ours or leaf not in theirs:
                yield f"{name}{leaf}: only one of them has it"
            elif ours[leaf].tobytes() != theirs[leaf].tobytes():
                largest = np.max(np.abs(ours[leaf].astype(np.float64) - theirs[leaf].astype(np.float64)))
                yield f"{name}{leaf}: by at most {largest:.3g}"
    for a, b in itertools.zip_longest(read_ledger(straight), read_ledger(broken)):
        if a != b:
            yield f"ledger: {a} and {b}"
    for a, b in itertools.zip_longest(_records(straight), _records(broken)):
        if a != b:
            yield f"{_called(a or b)}: {a} and {b}"
    ours, theirs = (manifest(run, step) for run in (straight, broken))
    for name in sorted((ours.keys() | theirs.keys()) - OWN):
        if ours.get(name) != theirs.get(name):
            yield f"{name}: {ours.get(name)} and {theirs.get(name)}"


def flat(tree: Any) -> dict[str, np.ndarray]:
    """The leaves of a tree by their path."""
    return {jax.tree_util.keystr(path): np.asarray(leaf) for path, leaf in jax.tree_util.tree_leaves_with_path(tree)}


def _records(run: Path) -> list[Record]:
    """Every record, without the times that no two runs share, those of processes among them, and the file's version."""
    timeless = {"tokens_per_second": NAN, "mfu": NAN, "seconds": NAN}
    records = [record for record in read_metrics(run / "metrics.jsonl") if not isinstance(record, Version | Hosts)]
    return [record._replace(**timeless) if isinstance(record, Train) else record for record in records]


def _called(record: Record | None) -> str:
    """What kind of record differs."""
    return "held-out text" if isinstance(record, SourceRecord | TaskRecord) else type(record).__name__.lower()


def _start(command: Sequence[str], run: Path) -> subprocess.Popen[bytes]:
    """A run in a process of its own; what it prints goes beside its folder."""
    with run.with_suffix(".log").open("ab") as log:
        return subprocess.Popen(
            [*command, "--run", str(run)], env={**os.environ, "PYTHONPATH": str(ROOT)}, stdout=log, stderr=log
        )


def _finish(process: subprocess.Popen[bytes], which: str) -> None:
    """Waits for a run. Raises ValueError with its last words where it failed."""
    if process.wait():
        log = Path(str(process.args[-1])).with_suffix(".log")  # pyright: ignore
        said = log.read_text(encoding="utf-8", errors="replace")
        raise ValueError(f"{which} ended with exit status {process.returncode}:\n{said[-2000:]}")
