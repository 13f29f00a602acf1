"""Which steps of a run are usable, and what proves it: manifests, read and checked. Does not import JAX.

`checkpoints/<step>/manifest.json` lists size and SHA-256 of the step's other files and carries a digest of itself.
A folder is a step by its plain number, 7 and not 007; without a manifest it was copied in part and is not usable.
Files that a manifest does not list are ignored: Orbax finds what it reads through files that it does list, and a
folder that a file browser has looked into is not damaged.
"""

import contextlib
import hashlib
import json
import os
import re
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path, PurePosixPath
from typing import Any

from gptjax.files.atomic_file import sync_folder, write_whole
from gptjax.files.file_digest import sha256
from gptjax.files.plain_json import dumps

FORMAT = 2  # format 1 had no digest of its own; from 2 on, every format checks itself as `_own_digest` does
MANIFEST = "manifest.json"
TREE, ARRAYS = "_METADATA", "manifest.ocdbt"  # within a tree's folder: Orbax's tables of its leaves, of their data


def steps(run: Path) -> list[int]:
    """Steps that were saved, oldest first; whether their files are still whole, `verify` says."""
    return [step for step in numbered(run) if (folder_of(run, step) / MANIFEST).is_file()]


def numbered(run: Path) -> list[int]:
    """Steps that have a folder, usable or not, oldest first."""
    folders = [path.name for path in (run / "checkpoints").glob("*") if path.is_dir()]
    return sorted(step for step in map(numbered_name, folders) if step is not None)


def numbered_name(name: str) -> int | None:
    """The step that a folder of this name is of; None = of none."""
    return int(name) if re.fullmatch("0|[1-9][0-9]*", name) else None


def manifest(run: Path, step: int) -> dict[str, Any]:
    """The manifest of a step, itself verified. Raises ValueError, in one line, where it is missing or damaged."""
    path = folder_of(run, step) / MANIFEST
    with _naming(step, MANIFEST):
        if not path.is_file():
            raise ValueError("is missing; the step was copied in part")
        content = _parse(path.read_bytes())
        if content["step"] != step:
            raise ValueError(f"is of step {content['step']}")
    return content


def check_sizes(run: Path, step: int) -> dict[str, Any]:
    """The manifest of a step that has every file it lists, in its size, and lists what a restore begins with.

    Hashes none. Raises as `verify` does.
    """
    content = manifest(run, step)
    files = content["files"]
    for name, wanted in files.items():
        with _naming(step, name):
            path = _inside(folder_of(run, step), name)
            if not path.is_file():
                raise ValueError("is missing")
            if (size := path.stat().st_size) != wanted["bytes"]:
                raise ValueError(f"has {size} bytes, its manifest says {wanted['bytes']}")
    for tree in (name.removesuffix(f"/{TREE}") for name in files if name.endswith(f"/{TREE}")):
        if f"{tree}/{ARRAYS}" not in files:  # an older gptjax in a folder named like a pattern
            raise ValueError(f"step {step}: {tree}/{ARRAYS}: was never written, so nothing can be restored")
    return content


def verify(run: Path, step: int) -> None:
    """Raises ValueError, in one line, naming a step's first file that is missing or not what its manifest says."""
    files = check_sizes(run, step)["files"]
    with ThreadPoolExecutor() as threads:
        hashes = {name: threads.submit(sha256, folder_of(run, step) / name) for name in files}
        for name, found in hashes.items():
            with _naming(step, name):
                if found.result() != files[name]["sha256"]:
                    raise ValueError(f"sha256 is {found.result()}, its manifest says {files[name]['sha256']}")


def newest_good(run: Path, say: Callable[[str], object], set_bad_aside: bool) -> int | None:
    """The newest step that verifies; None where nothing was saved yet. Says one line of each newer one that does not.

    `set_bad_aside`: rename those, which only the run's owner may do, in one process.
    Raises ValueError where there are steps and none verifies; they stay where they are.
    """
    bad: dict[int, ValueError] = {}
    while left := [step for step in numbered(run) if step not in bad]:  # anew: a reader may meet a run at work
        try:
            verify(run, left[-1])
            break
        except ValueError as error:
            bad[left[-1]] = error
    for step, error in bad.items():
        kept = f"; kept as checkpoints/{set_aside(run, step).name}" if set_bad_aside and left else ""
        say(f"not used: {error}{kept}")
    if bad and not left:
        raise ValueError(f"{run}: every checkpoint is damaged; restore one from a copy, or start anew in another run")
    return left[-1] if left else None


def to_load(run: Path, say: Callable[[str], object]) -> int | None:
    """The step whose model is taken where none is named: the newest good one, or of a run that is judged by a figure
    the best so far, which its newest manifest names as `load`. Raises ValueError as `newest_good` does."""
    newest = newest_good(run, say, set_bad_aside=False)
    named = None if newest is None else manifest(run, newest).get("load")
    if named is None or named == newest:
        return newest
    try:
        verify(run, named)
    except ValueError as error:
        say(f"not used: {error}")
        return newest
    return named


def set_aside(run: Path, step: int) -> Path:
    """Renames a step's folder to <step>.damaged, or .damaged-2 and so on, and returns where it is now."""
    folder = folder_of(run, step)
    aside, number = folder.with_name(f"{step}.damaged"), 2
    while aside.exists():
        aside, number = folder.with_name(f"{step}.damaged-{number}"), number + 1
    folder.rename(aside)
    sync_folder(aside.parent)
    return aside


def write_manifest(folder: Path, step: int, notes: Mapping[str, Any], files: Mapping[str, Any]) -> None:
    """`files`: {"bytes": ..., "sha256": ...} by name within the folder. `notes`: any JSON beside them."""
    ours = {"sha256": "0" * 64, "format": FORMAT, "step": step, "saved": time.strftime("%Y-%m-%dT%H:%M:%S%z")}
    if clash := sorted({*ours, "files"} & notes.keys()):
        raise ValueError(f"notes of step {step}: {clash} are names of the manifest's own; use others")
    text = dumps({**ours, **notes, "files": files}, indent=1) + "\n"
    write_whole(folder / MANIFEST, text.replace("0" * 64, _own_digest(text.encode()), 1))


def folder_of(run: Path, step: int) -> Path:
    return run / "checkpoints" / str(step)


@contextlib.contextmanager
def _naming(step: int, name: str) -> Iterator[None]:
    """Puts step and file in front of what is wrong with it."""
    try:
        yield
    except (ValueError, OSError, RecursionError) as error:
        why = error.strerror if isinstance(error, OSError) else error
        raise ValueError(f"step {step}: {name}: {why}") from error


def _inside(folder: Path, name: str) -> Path:
    """The file of a manifest's entry. Raises ValueError where that is not within the folder, links followed."""
    outside = PurePosixPath(name).is_absolute() or ".." in PurePosixPath(name).parts
    if outside or not Path(os.path.realpath(folder / name)).is_relative_to(os.path.realpath(folder)):
        raise ValueError("lies outside the step's folder, where no manifest of ours lists files")
    return folder / name


def _parse(raw: bytes) -> dict[str, Any]:
    """A manifest's content. Raises ValueError saying what is wrong with it."""
    content = json.loads(raw)
    if not isinstance(content, dict) or not {"format", "step", "saved", "files"} <= content.keys():
        raise ValueError("is no manifest: it lacks format, step, saved or files")
    if content["format"] != 1 and content.get("sha256") != (digest := _own_digest(raw)):
        raise ValueError(f"is damaged: its sha256 is {digest}, it says {content.get('sha256')}")
    if content["format"] not in range(1, FORMAT + 1):
        raise ValueError(f"was written by a newer gptjax (format {content['format']}, this one reads up to {FORMAT})")
    entries = content["files"].values() if isinstance(content["files"], dict) else [None]
    if not all(isinstance(entry, dict) and entry.keys() == {"bytes", "sha256"} for entry in entries):
        raise ValueError("is no manifest: its files are not listed as bytes and sha256 by name")
    return content


def _own_digest(raw: bytes) -> str:
    """SHA-256 of a manifest's bytes as they are with its own digest, the first one in it, written as zeros."""
    zeroed = re.sub(rb'(?<="sha256": ")[0-9a-f]{64}', b"0" * 64, raw, count=1)
    return hashlib.sha256(zeroed).hexdigest()
