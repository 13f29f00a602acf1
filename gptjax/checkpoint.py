"""What survives a crash: steps under `checkpoints/`, each usable only once its manifest is written.

`checkpoints/<step>/params` and `checkpoints/<step>/training` are plain trees that orbax writes; `manifest.json`,
written last, lists the size and SHA-256 of every file. A step without a manifest was cut short and does not count.
"""

import hashlib
import json
import logging
import os
import shutil
import time
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import jax
import orbax.checkpoint as ocp

logging.getLogger("absl").setLevel(logging.ERROR)  # orbax misses, aloud, a file that our layout does without

FORMAT = 1
MANIFEST = "manifest.json"


def steps(run: Path) -> list[int]:
    """Usable steps of a run, oldest first."""
    found = (run / "checkpoints").glob(f"*/{MANIFEST}")
    return sorted(int(path.parent.name) for path in found if path.parent.name.isdigit())


def manifest(run: Path, step: int) -> dict[str, Any]:
    """The manifest of a usable step."""
    path = _folder(run, step) / MANIFEST
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(
            f"step {step}: {path} is damaged ({error}); resume from another step of {steps(run)}"
        ) from error


def verify(run: Path, step: int) -> None:
    """Raises ValueError naming a step's first file that is missing, or differs in size or SHA-256 from its manifest."""
    for name, wanted in manifest(run, step)["files"].items():
        path = _folder(run, step) / name
        if not path.is_file():
            raise ValueError(
                f"step {step}: {path} is missing; restore the file, or resume from another step of {steps(run)}"
            )
        if (found := _describe(path)) != wanted:
            raise ValueError(
                f"step {step}: {path} has {found}, its manifest says {wanted}; resume from another step of {steps(run)}"
            )


def restore(run: Path, step: int, name: str, abstract: Any) -> Any:
    """The tree `name` ("params" or "training") of a verified step, as `abstract` gives shapes, dtypes and shardings.

    Raises ValueError where the trees or their shapes differ.
    """
    arguments = ocp.args.PyTreeRestore(
        item=abstract, restore_args=ocp.checkpoint_utils.construct_restore_args(abstract)
    )  # pyright: ignore[reportCallIssue]
    with ocp.PyTreeCheckpointer() as checkpointer:
        folder = _folder(run, step).resolve() / name
        kept = jax.tree.leaves_with_path(
            checkpointer.metadata(folder).item_metadata.tree, is_leaf=lambda node: hasattr(node, "shape")
        )
        shapes = {jax.tree_util.keystr(path): leaf.shape for path, leaf in kept}
        for path, wanted in jax.tree.leaves_with_path(abstract):
            where = jax.tree_util.keystr(path)
            if shapes.get(where, wanted.shape) != wanted.shape:  # orbax looks only where a sharding is given
                raise ValueError(
                    f"step {step}: {name}{where} has shape {shapes[where]}, this model wants {wanted.shape}; "
                    f"use the run's model.json"
                )
        return checkpointer.restore(folder, args=arguments)


class CheckpointWriter:
    """Saves steps in the background, one at a time, and keeps the newest `keep`."""

    def __init__(self, run: Path, keep: int):
        if keep < 1:
            raise ValueError(f"keep={keep} checkpoints: must be at least 1")
        self._run = run
        self._keep = keep
        self._commit: Future[None] | None = None
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="checkpoint")
        self._checkpointer = ocp.AsyncCheckpointer(ocp.CompositeCheckpointHandler())
        folder = run / "checkpoints"
        folder.mkdir(parents=True, exist_ok=True)
        if jax.process_index() == 0:
            for unfinished in folder.iterdir():
                ours = (
                    unfinished.is_dir() and unfinished.name.split(".")[0].isdigit()
                )  # orbax adds a suffix while it writes
                if ours and not (unfinished / MANIFEST).exists():
                    shutil.rmtree(unfinished)  # never announced as saved

    def save(self, step: int, params: Any, training: Any, notes: Mapping[str, Any]) -> None:
        """Copies the trees and returns; they are written behind. Raises here if the save before this one failed."""
        self.wait()
        trees = ocp.args.Composite(params=ocp.args.PyTreeSave(params), training=ocp.args.PyTreeSave(training))  # pyright: ignore[reportCallIssue]
        if jax.process_index() == 0:  # a run resumed from an earlier step comes by again
            (_folder(self._run, step) / MANIFEST).unlink(missing_ok=True)
        self._checkpointer.save(_folder(self._run, step).resolve(), args=trees, force=True)
        self._commit = self._thread.submit(self._finish, step, dict(notes))

    def wait(self) -> None:
        """Returns when the save under way is usable; raises what it raised."""
        if self._commit is not None:
            commit, self._commit = self._commit, None
            commit.result()

    def close(self) -> None:
        try:
            self.wait()
        finally:
            self._thread.shutdown()
            self._checkpointer.close()

    def _finish(self, step: int, notes: dict[str, Any]) -> None:
        self._checkpointer.wait_until_finished()
        if jax.process_index() != 0:
            return
        folder = _folder(self._run, step)
        files = {str(path.relative_to(folder)): _describe(path) for path in sorted(folder.rglob("*")) if path.is_file()}
        content = {
            "format": FORMAT,
            "step": step,
            "saved": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
            **notes,
            "files": files,
        }
        write_whole(folder / MANIFEST, json.dumps(content, indent=1) + "\n")
        for old in set(steps(self._run)[: -self._keep]) - {step}:  # it may be older than a damaged one that stays
            (_folder(self._run, old) / MANIFEST).unlink()  # first, so that a half-deleted step never looks usable
            shutil.rmtree(_folder(self._run, old))


def write_whole(path: Path, text: str) -> None:
    """Writes a file so that a reader, or a crash, finds the old content or all of the new."""
    unfinished = path.with_name(path.name + ".unfinished")
    with unfinished.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    unfinished.replace(path)


def _folder(run: Path, step: int) -> Path:
    return run / "checkpoints" / str(step)


def _describe(path: Path) -> dict[str, Any]:
    with path.open("rb") as file:
        return {"bytes": path.stat().st_size, "sha256": hashlib.file_digest(file, "sha256").hexdigest()}
