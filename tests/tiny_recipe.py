"""A recipe that trains in seconds, and the text for it."""

import contextlib
import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path

import jax
import pytest
from rich.console import Console

from data.spec import DataSpec
from gptjax.config import Architecture
from tests.tiny_text import sentences
from train.recipe import BatchSpec, CheckpointSpec, ComputeSpec, MeshSpec, OptimizerSpec, Recipe, ValidationSpec
from train.run import run


def write_text(folder: Path) -> Path:
    """Puts two sources of a few sentences each into a folder; returns it."""
    (folder / "one.txt").write_text("".join(sentences(300)))
    (folder / "two.txt").write_text("".join(sentences(200, seed=1)))
    return folder


def recipe(text: Path, run: str, **changes) -> Recipe:
    made = Recipe(
        data=DataSpec(
            sources=(f"files:{text / 'one.txt'}=3", f"files:{text / 'two.txt'}"),
            validation="tail 0.1", tokenizer="characters", vocabulary=400, prepared=text / "prepared",
        ),
        model=Architecture(T=32, D=32, L=2, N=4, K=2, head_width=8, F=48, dropout=0.1),
        optimizer=OptimizerSpec(learning_rate=1e-2, warmup=2),
        batch=BatchSpec(rows=8, micro_batches=2),
        mesh=MeshSpec(data=2, fsdp=2, tensor=2),
        compute=ComputeSpec(dtype="float32"),
        validation=ValidationSpec(every=6, rows=4),
        checkpoint=CheckpointSpec(every=5, keep=3),
        samples=2, steps=12, run=text / run,
    )  # fmt: skip
    return dataclasses.replace(made, **changes)


@contextlib.contextmanager
def one_device() -> Iterator[None]:
    """Meanwhile a run sees one of the eight fake devices: what is not about meshes costs a third less on it.

    A recipe then asks for `mesh=MeshSpec()`, which is all the devices that are there.
    """
    (first, *_) = jax.devices()
    with pytest.MonkeyPatch.context() as patch:
        for name in ("devices", "local_devices"):
            patch.setattr(jax, name, lambda *_, **__: [first])
        for name in ("device_count", "local_device_count"):
            patch.setattr(jax, name, lambda *_: 1)
        yield


def steps_alone(settings: Recipe, console: Console | None = None, **arguments) -> Path:
    """A run without what follows its last step, which costs more than the steps.

    The peak, of which the MFU is a share, is a number of no meaning.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("train.record.meter.measured_flops", lambda _: 1e12)
        return run(settings, console=console or Console(quiet=True), **arguments)


def records(run: Path, kind: str) -> list[dict]:
    lines = (run / "metrics.jsonl").read_text().splitlines()
    return [record for record in map(json.loads, lines) if record["kind"] == kind]
