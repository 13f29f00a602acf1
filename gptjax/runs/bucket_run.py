"""A run on a bucket and its copy on this machine: the bucket is what counts, the copy is where work is done.

The bucket holds what a run directory holds, under the same names, so that a plain copy of it is a run. A step is one
there once its manifest is, which is written last. No object of a step is ever written over, and no step deleted that
somebody else has made: an owner that slept, and still writes, meets its successor's objects and fails. Does not import
JAX.
"""

import contextlib
import os
import re
import shutil
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from gptjax.files.atomic_file import write_whole
from gptjax.files.buckets import MISSING, Bucket, BucketError, at_once, within
from gptjax.files.cache_bound import evict, used
from gptjax.files.file_digest import describe
from gptjax.files.locks import locked
from gptjax.files.places import place_of_run, url_of
from gptjax.runs.manifest import ARRAYS, MANIFEST, folder_of, manifest, numbered_name
from gptjax.runs.manifest import steps as steps_of

MODEL = ("model.json", "tokenizer.json", "generation.json", "ATTRIBUTION.md")  # what a model needs beside a step
APART = ("checkpoints/", "lease/")  # what is no record of a run
UNDER_WAY = re.compile(r"\.(unfinished|fetching-)")  # in the name of a file that gets its own once it is whole


class BucketRun:
    """The run that a folder of this machine is the copy of."""

    def __init__(self, copy: Path):
        url = url_of(copy)
        assert url is not None, copy
        self.copy, self.url, self.bucket = copy, url, Bucket(url)
        self._sent: dict[str, tuple[int, int]] = {}  # record -> (size, time of change) when it was last sent
        self._mine: set[int] = set()  # steps that the bucket had when this process became its owner, or has of it

    # what readers and owners do

    def fetch_records(self, names: Iterable[str] | None = None) -> None:
        """The run's records, or those of these names; what the copy has of them and the bucket has not is gone after.

        A reader's own report stays.
        """
        names = None if names is None else set(names)
        kept = {"report.html"} if url_of(self.copy, ("read",)) else set()
        with self._alone():
            there = {key for key in self.bucket.listed() if not key.startswith(APART)}
            for key in sorted(there if names is None else there & names):
                content = self.bucket.read(key)
                target = self.copy / within(key)
                if content is not None and not (target.is_file() and target.read_bytes() == content):
                    target.parent.mkdir(parents=True, exist_ok=True)
                    write_whole(target, content, aside=f"fetching-{os.getpid()}", sync=False)
            for key in self._stamps().keys() - there - kept:
                if names is None or key in names:
                    (self.copy / key).unlink(missing_ok=True)
            self._sent = self._stamps() if names is None else {}

    @contextlib.contextmanager
    def _alone(self) -> Iterator[None]:
        """No other process of this machine brings this copy up to date meanwhile."""
        lock = self.copy / "lease" / "fetching"
        lock.parent.mkdir(parents=True, exist_ok=True)
        with locked(lock):
            yield

    def steps(self) -> list[int]:
        """Steps that the bucket has, oldest first; of each the copy has the manifest, and nothing of any other."""
        with self._alone():
            return self._steps()

    def _steps(self) -> list[int]:
        found = {}
        for key in self.bucket.listed("checkpoints/"):
            _, name, *rest = key.split("/")
            if rest == [MANIFEST] and (step := numbered_name(name)) is not None:
                found[step] = self.bucket.read(key)
        for folder in (self.copy / "checkpoints").glob("*"):
            step = numbered_name(folder.name)
            own = folder / MANIFEST
            if step is not None and (not own.is_file() or own.read_bytes() != found.get(step)):
                shutil.rmtree(folder, ignore_errors=True)  # of a run that the bucket has no more
        for step, raw in found.items():
            folder = folder_of(self.copy, step)
            folder.mkdir(parents=True, exist_ok=True)
            if raw is not None and not (folder / MANIFEST).is_file():
                write_whole(folder / MANIFEST, raw, aside=f"fetching-{os.getpid()}", sync=False)
        return sorted(found)

    def fetch_step(self, step: int) -> None:
        """A step's files onto this machine. Raises ValueError naming the first that is missing or not as saved."""
        files = manifest(self.copy, step)["files"]
        at_once(lambda name: self._fetch(step, name, files[name]), files)
        used(folder_of(self.copy, step))

    def _fetch(self, step: int, name: str, wanted: dict[str, Any]) -> None:
        try:
            target = folder_of(self.copy, step) / within(name)
            if not (target.is_file() and describe(target) == wanted):
                self.bucket.fetch(f"checkpoints/{step}/{name}", target, wanted["bytes"], wanted["sha256"])
                used(folder_of(self.copy, step))  # or a large one might be taken away before it is whole
        except ValueError as error:
            raise ValueError(f"step {step}: {name}: {error}") from error

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
                shutil.rmtree(folder_of(self.copy, one), ignore_errors=True)
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

    def check_not_the_last(self) -> None:
        """Raises ValueError where the copy here has steps, and the bucket has none or no model.json: it may be all.

        To be called before the copy is made what the bucket holds.
        """
        if not (own := steps_of(self.copy)):
            return
        there = any(key.endswith(f"/{MANIFEST}") for key in self.bucket.listed("checkpoints/"))
        if not there or self.bucket.read("model.json") is None:
            raise ValueError(
                f"{self.url}: has no {'model.json' if there else 'checkpoints'}, but its copy {self.copy} has steps "
                f"{own}. Copy the folder to the bucket, or delete it"
            )

    def clear(self, say: Callable[[str], object]) -> None:
        """Deletes what saves left that were never finished; the steps that are whole are this owner's from now on."""
        keys = self.bucket.listed("checkpoints/")
        whole = {key.split("/")[1] for key in keys if key.split("/")[2:] == [MANIFEST]}
        self._mine = {step for step in map(numbered_name, whole) if step is not None}
        left = [key for key in keys if numbered_name(key.split("/")[1]) is not None and key.split("/")[1] not in whole]
        self._delete(left)
        for name in sorted({key.split("/")[1] for key in left}):
            say(f"removed {self.url}/checkpoints/{name}, which an earlier process had not finished")

    def send_records(self) -> None:
        """The records that have changed since, and deletes those that are gone."""
        now = self._stamps()
        for key, stamp in list(now.items()):
            if self._sent.get(key) == stamp:
                continue
            try:
                content = (self.copy / key).read_bytes()
            except FileNotFoundError:  # gone meanwhile
                del now[key]
                continue
            self.bucket.write(key, content)
        self._delete(self._sent.keys() - now.keys())
        self._sent = now

    def publish(self, step: int, folder: Path, still_owned: Callable[[], object]) -> None:
        """Makes a step of the bucket of a folder that holds a manifest and all that it lists; the manifest comes last.

        `still_owned` raises where another process has the run; it is called before anything is written, deleted, and
        made a step. Raises BucketError where another process has written the same step, or writes it.
        """
        self.open_step(step, still_owned)
        names = [path.relative_to(folder).as_posix() for path in sorted(folder.rglob("*")) if path.is_file()]
        names.remove(MANIFEST)
        self.send(step, folder, names)
        self.close_step(step, folder, still_owned)

    def open_step(self, step: int, still_owned: Callable[[], object]) -> None:
        """What comes before a step's files: the records, and nothing left of one of the same number."""
        still_owned()
        self.send_records()
        still_owned()
        if step not in self._mine and self.bucket.read(f"checkpoints/{step}/{MANIFEST}") is not None:
            raise self._written_by_another(step, MANIFEST)
        self.withdraw(step)  # one of the same number, of a run that went on from an earlier step; or half of one

    def send(self, step: int, folder: Path, names: Iterable[str]) -> None:
        """Files of a step that is open, those of these names in a folder."""
        at_once(lambda name: self._create(step, folder, name), names)

    def merge(self, step: int, folder: Path, tree: str, parts: Iterable[str]) -> dict[str, Any]:
        """Makes the table of a tree of an open step of those in these folders below it; fetches it to a folder.

        Returns what a manifest says of its files. Raises BucketError where one of the parts has no arrays.
        """
        prefix = f"checkpoints/{step}/"
        self.bucket.merge(f"{prefix}{tree}/", [f"{part}/" for part in parts])
        made = [f"{prefix}{tree}/{ARRAYS}", *self.bucket.listed(f"{prefix}{tree}/d/")]
        found = {}
        for key in made:
            name = key.removeprefix(prefix)
            content = self.bucket.read(key)
            if content is None:
                raise self._written_by_another(step, name)
            (target := folder / within(name)).parent.mkdir(parents=True, exist_ok=True)
            write_whole(target, content)
            found[name] = describe(target)
        return found

    def array(self, step: int, tree: str, leaf: str, index: Any) -> Any:
        """Part of a leaf, named as "layers/query", as the bucket has it."""
        return self.bucket.array(f"checkpoints/{step}/{tree}/", leaf.replace("/", "."), index)

    def manifest_there(self, step: int) -> bytes:
        """Raises BucketError where the step is none."""
        content = self.bucket.read(f"checkpoints/{step}/{MANIFEST}")
        if content is None:
            raise BucketError(f"{self.url}/checkpoints/{step}/{MANIFEST}: is missing")
        return content

    def close_step(self, step: int, folder: Path, still_owned: Callable[[], object]) -> None:
        """Makes it a step, whose other files are there, by the manifest in a folder."""
        still_owned()
        self._create(step, folder, MANIFEST)
        self._mine.add(step)

    def _create(self, step: int, folder: Path, name: str) -> None:
        content = (folder / name).read_bytes()
        if self.bucket.write_if(f"checkpoints/{step}/{name}", content, MISSING) is None:
            raise self._written_by_another(step, name)

    def _written_by_another(self, step: int, name: str) -> BucketError:
        return BucketError(
            f"{self.url}/checkpoints/{step}/{name}: another process has written it meanwhile; step {step} is not saved"
        )

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
        at_once(self.bucket.delete, keys)

    def _stamps(self) -> dict[str, tuple[int, int]]:
        """(size, time of change) of the copy's records, but for what is just being written."""
        found = {}
        for path in self.copy.rglob("*"):
            key = path.relative_to(self.copy).as_posix()
            if key.startswith(APART) or UNDER_WAY.search(key):
                continue
            with contextlib.suppress(FileNotFoundError):  # gone meanwhile
                if path.is_file():
                    found[key] = (path.stat().st_size, path.stat().st_mtime_ns)
        return found


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

    `step`: which one; None = the one to load. What it needs room for drives out what was not used for longest. The copy
    that a run is trained in is its owner's, and stays as it is. Raises
    ValueError where there is no run, or no whole step; BucketError where the bucket cannot be read.
    """
    folder = place_of_run(path)
    if url_of(folder, ("read",)) is None:
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
    if url_of(folder, ("read",)) is not None:
        run = BucketRun(folder)
        for step in run.steps():
            with contextlib.suppress(ValueError):
                run.fetch_step(step)
    return folder
