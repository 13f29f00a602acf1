"""A run on a bucket and its copy on this machine: the bucket is what counts, the copy is where work is done.

The bucket holds what a run directory holds, under the same names, so that a plain copy of it is a run. A step is one
there once its manifest is, which is written last. No object of a step is ever written over: an owner that slept, and
still writes, meets its successor's objects and fails. Does not import JAX.
"""

import contextlib
import os
import shutil
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from gptjax.files.atomic_file import write_whole
from gptjax.files.buckets import MISSING, Bucket, BucketError, within
from gptjax.files.cache_bound import evict, used
from gptjax.files.places import place_of_run, url_of
from gptjax.runs.manifest import MANIFEST, describe, folder_of, manifest, numbered_name

MODEL = ("model.json", "tokenizer.json", "generation.json", "ATTRIBUTION.md")  # what a model needs beside a step
APART = ("checkpoints/", "lease/")  # what is no record of a run
AT_ONCE = 4  # files of a step that are under way, each of them in memory


class BucketRun:
    """The run that a folder of this machine is the copy of."""

    def __init__(self, copy: Path):
        url = url_of(copy)
        assert url is not None, copy
        self.copy, self.url, self.bucket = copy, url, Bucket(url)
        self._sent: dict[str, tuple[int, int]] = {}  # record -> (size, time of change) when it was last sent

    # what readers and owners do

    def fetch_records(self, names: Iterable[str] | None = None) -> None:
        """The run's records, or those of these names; the copy's others are gone after."""
        there = [key for key in self.bucket.listed() if not key.startswith(APART)]
        wanted = there if names is None else [key for key in there if key in set(names)]
        for key in wanted:
            content = self.bucket.read(key)
            target = self.copy / within(key)
            if content is not None and not (target.is_file() and target.read_bytes() == content):
                target.parent.mkdir(parents=True, exist_ok=True)
                write_whole(target, content, aside=f"fetching-{os.getpid()}", sync=False)
        for path in self._records():
            if path.relative_to(self.copy).as_posix() not in there:
                path.unlink()
        self._sent = self._stamps() if names is None else {}

    def steps(self) -> list[int]:
        """Steps that the bucket has, oldest first; of each the copy has the manifest, and nothing of any other."""
        found = {}
        for key in self.bucket.listed("checkpoints/"):
            _, name, *rest = key.split("/")
            if rest == [MANIFEST] and (step := numbered_name(name)) is not None:
                found[step] = self.bucket.read(key)
        for folder in (self.copy / "checkpoints").glob("*"):
            step = numbered_name(folder.name)
            own = folder / MANIFEST
            if step is not None and (not own.is_file() or own.read_bytes() != found.get(step)):
                shutil.rmtree(folder)  # of a run that the bucket has no more
        for step, raw in found.items():
            folder = folder_of(self.copy, step)
            folder.mkdir(parents=True, exist_ok=True)
            if raw is not None and not (folder / MANIFEST).is_file():
                write_whole(folder / MANIFEST, raw, aside=f"fetching-{os.getpid()}", sync=False)
        return sorted(found)

    def fetch_step(self, step: int) -> None:
        """A step's files onto this machine. Raises ValueError naming the first that is missing or not as saved."""
        files = manifest(self.copy, step)["files"]
        with ThreadPoolExecutor(AT_ONCE) as threads:
            fetched = {name: threads.submit(self._fetch, step, name, files[name]) for name in files}
        for name, done in fetched.items():
            try:
                done.result()
            except ValueError as error:
                raise ValueError(f"step {step}: {name}: {error}") from error
        used(folder_of(self.copy, step))

    def _fetch(self, step: int, name: str, wanted: dict[str, Any]) -> None:
        target = folder_of(self.copy, step) / within(name)
        if not (target.is_file() and describe(target) == wanted):
            self.bucket.fetch(f"checkpoints/{step}/{name}", target, wanted["bytes"], wanted["sha256"])

    def fetch_newest(self, say: Callable[[str], object], set_bad_aside: bool = False) -> int | None:
        """The newest step that is whole, onto this machine, and the one that its manifest has loaded; None = no step.

        Says a line of each newer one that is not whole, whose objects the owner of the run may set aside.
        Raises ValueError where there are steps, and none of them is whole; they stay as they are.
        """
        bad: dict[int, ValueError] = {}
        steps = self.steps()
        for step in reversed(steps):
            try:
                self.fetch_step(step)
                best = manifest(self.copy, step).get("load")
            except ValueError as error:
                bad[step] = error
                continue
            for one, error in bad.items():
                kept = f"; kept as checkpoints/{self._set_aside(one)}" if set_bad_aside else ""
                say(f"not used: {error}{kept}")
                shutil.rmtree(folder_of(self.copy, one))
            if best is not None and best != step and best in steps:
                with contextlib.suppress(ValueError):  # gptjax.runs.manifest.to_load says so
                    self.fetch_step(best)
            return step
        if bad:
            for error in bad.values():
                say(f"not used: {error}")
            raise ValueError(f"{self.url}: every checkpoint is damaged; restore one from a copy, or start another run")
        return None

    # what only the run's owner does

    def clear(self, say: Callable[[str], object]) -> None:
        """Deletes what saves left that were never finished."""
        keys = self.bucket.listed("checkpoints/")
        whole = {key.split("/")[1] for key in keys if key.split("/")[2:] == [MANIFEST]}
        left = [key for key in keys if numbered_name(key.split("/")[1]) is not None and key.split("/")[1] not in whole]
        self._delete(left)
        for name in sorted({key.split("/")[1] for key in left}):
            say(f"removed {self.url}/checkpoints/{name}, which an earlier process had not finished")

    def send_records(self) -> None:
        """The records that have changed since, and deletes those that are gone."""
        now = self._stamps()
        for key, stamp in now.items():
            if self._sent.get(key) != stamp:
                self.bucket.write(key, (self.copy / key).read_bytes())
        self._delete(self._sent.keys() - now.keys())
        self._sent = now

    def publish(self, step: int, folder: Path, still_owned: Callable[[], object]) -> None:
        """Makes a step of the bucket of a folder that holds a manifest and all that it lists; the manifest comes last.

        `still_owned` is called before anything is changed and before the manifest, and raises where another process has
        the run. Raises BucketError where another process writes the same step.
        """
        before = self.bucket.listed(f"checkpoints/{step}/")  # of a run that went on from an earlier step
        still_owned()  # so that none of these is a successor's
        self._delete([key for key in before if key.endswith(f"/{MANIFEST}")])
        self._delete(before)
        self.send_records()
        names = [path.relative_to(folder).as_posix() for path in sorted(folder.rglob("*")) if path.is_file()]
        names.remove(MANIFEST)
        with ThreadPoolExecutor(AT_ONCE) as threads:
            for sent in [threads.submit(self._create, step, folder, name) for name in names]:
                sent.result()
        still_owned()
        self._create(step, folder, MANIFEST)

    def _create(self, step: int, folder: Path, name: str) -> None:
        key = f"checkpoints/{step}/{name}"
        if self.bucket.write_if(key, (folder / name).read_bytes(), MISSING) is None:
            raise BucketError(f"{self.url}/{key}: another process has written it meanwhile; step {step} is not saved")

    def withdraw(self, step: int) -> None:
        """Deletes a step, its manifest first: half of it is none."""
        self.bucket.delete(f"checkpoints/{step}/{MANIFEST}")
        self._delete(self.bucket.listed(f"checkpoints/{step}/"))

    def _set_aside(self, step: int) -> str:
        """Gives a damaged step another name, object by object, and returns it."""
        taken = {key.split("/")[1] for key in self.bucket.listed(f"checkpoints/{step}.damaged")}
        name = next(name for name in _names(f"{step}.damaged") if name not in taken)
        for key in self.bucket.listed(prefix := f"checkpoints/{step}/"):
            content = self.bucket.read(key)
            if content is not None:
                self.bucket.write(f"checkpoints/{name}/{key.removeprefix(prefix)}", content)
        self.withdraw(step)
        return name

    def _delete(self, keys: Iterable[str]) -> None:
        with ThreadPoolExecutor(AT_ONCE) as threads:
            for gone in [threads.submit(self.bucket.delete, key) for key in keys]:
                gone.result()

    def _records(self) -> list[Path]:
        files = [path for path in self.copy.rglob("*") if path.is_file()]
        return [path for path in files if not path.relative_to(self.copy).as_posix().startswith(APART)]

    def _stamps(self) -> dict[str, tuple[int, int]]:
        stats = {path.relative_to(self.copy).as_posix(): path.stat() for path in self._records()}
        return {key: (stat.st_size, stat.st_mtime_ns) for key, stat in stats.items()}


def _names(stem: str) -> Iterable[str]:
    yield stem
    number = 2
    while True:
        yield f"{stem}-{number}"
        number += 1


def local_run(
    path: str | os.PathLike[str], say: Callable[[str], object], step: int | None = None, model: bool = True
) -> Path:
    """The folder of a run, fetched from its bucket where it lies on one: its records, and with `model` a step too.

    `step`: which one; None = the one to load. What it needs room for drives out what was not used for longest. Raises
    ValueError where there is no run, or no whole step; BucketError where the bucket cannot be read.
    """
    folder = place_of_run(path)
    if url_of(folder) is None:
        return folder
    run = BucketRun(folder)
    run.fetch_records(MODEL if model else None)
    if not (folder / "model.json").is_file():
        raise ValueError(f"{run.url}: no such run (there is no model.json under this name)")
    if not model:
        run.steps()
    elif step is None:
        run.fetch_newest(say)
    elif step in run.steps():
        run.fetch_step(step)
    evict()
    return folder


def every_step(path: str | os.PathLike[str]) -> Path:
    """The folder of a run, with all of its steps that the bucket has; what is missing is missing there."""
    folder = local_run(path, lambda _: None, model=False)
    if url_of(folder) is not None:
        run = BucketRun(folder)
        for step in run.steps():
            with contextlib.suppress(ValueError):
                run.fetch_step(step)
    return folder
