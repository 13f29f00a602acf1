"""What survives a crash: steps under `checkpoints/`, each usable only once its manifest is written.

`checkpoints/<step>/params`, `training` and perhaps `ema` are plain trees that Orbax writes. They are written in
`<step>.unfinished-...`; once every file is on the disk and its SHA-256 in the manifest, and an array of every tree was
read back from them, one renaming makes it the step.

A program that watches a run can follow each save: `sys.addaudithook` is told ("gptjax.save", (stage, step)) with the
stages begin, write, written, manifest, committed, clean, end; `clean` comes before each deletion of an older step.
"""

import contextlib
import dataclasses
import errno
import functools
import json
import os
import re
import secrets
import shutil
import sys
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
from jax.experimental import multihost_utils

from gptjax.files.atomic_file import sync_folder, write_whole
from gptjax.files.file_digest import describe
from gptjax.runs.manifest import ARRAYS, MANIFEST, TREE, folder_of, manifest, set_aside, steps, write_manifest
from gptjax.runs.restoring import (  # noqa: F401  `checkpoint` is where others import them from
    leaf_name,
    leaf_shapes,
    plain,
    reader,
    refuse_nonfinite,
    restore,
    saved_shapes,
    shapes_in,
)

LEFTOVER = re.compile(r"\d+\.(unfinished-|deleted-|orbax-checkpoint-tmp).*")  # the last as an older gptjax left it
BARRIER_SECONDS = 600  # how long a process waits for the slowest to have hashed its share
SENT_WHOLE = 256 * 2**20  # bytes of a file that a mirror sends, from memory
INLINE = 1024  # bytes: so small a piece of an array lies within Orbax's table of arrays, which is compressed


@runtime_checkable
class Mirror(Protocol):
    """Another place that keeps a run's steps."""

    def publish(self, step: int, folder: Path) -> None:
        """Makes a step there of a folder that holds a manifest and all that it lists, or raises."""
        ...

    def withdraw(self, step: int) -> None:
        """Deletes a step there."""
        ...


class CheckpointWriter:
    """Saves steps in the background, one at a time, and keeps the newest `keep` and the best.

    `commit` guards the renaming that makes a step: it raises where this process may no longer write to the run.
    `mirror`: where steps are kept beside this disk; one is a step once it is there, and no more once it is not.
    Every process of a run makes one and calls the same methods; the first of them commits and deletes.
    Raises OSError, before anything else, where the run's folder cannot be written, and ValueError as `plain` does.
    """

    cleared: tuple[str, ...] = ()  # folders that earlier processes left unfinished or half deleted, gone now
    seconds: float | None = None  # how long the newest finished save took, from the call to the end

    def __init__(
        self,
        run: Path,
        keep: int,
        commit: Callable[[], AbstractContextManager[Any]] = contextlib.nullcontext,
        mirror: Mirror | None = None,
    ):
        if keep < 1:
            raise ValueError(f"keep={keep} checkpoints: must be at least 1")
        self._run, self._keep, self._commit, self._mirror = run, keep, commit, mirror
        self._folder = run / "checkpoints"
        self._first = jax.process_index() == 0
        if self._has_disk:
            self._folder.mkdir(parents=True, exist_ok=True)
            leftover = [path for path in self._folder.iterdir() if LEFTOVER.fullmatch(path.name) and path.is_dir()]
            (trial := self._folder / f"0.unfinished-{secrets.token_hex(4)}").mkdir()  # raises where this is forbidden
            for path in [*leftover, trial]:
                shutil.rmtree(path)
            self.cleared = tuple(sorted(path.name for path in leftover))
        # of this writer alone, so that a fenced-off owner that still writes meets nobody's files
        self._token = int(multihost_utils.broadcast_one_to_all(np.uint32(secrets.randbits(32))))
        self._open = contextlib.ExitStack()
        self._plain = self._open.enter_context(plain(self._folder))  # which the first process has made by now
        self._saves = 0
        self._copies: Any = None
        self._under_way: Future[None] | None = None
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="checkpoint", initializer=_give_way)
        self._orbax = self._orbax_writer()

    @property
    def _has_disk(self) -> bool:
        """Whether this process sees to the folder, alone."""
        return self._first

    def _orbax_writer(self) -> ocp.AsyncCheckpointer:
        # float32 state shrinks by 7 % under zstd, for which saving takes five times as long
        handlers = ocp.handlers.DefaultCheckpointHandlerRegistry()
        handlers.add(None, ocp.args.PyTreeSave, ocp.PyTreeCheckpointHandler(use_compression=False))
        return ocp.AsyncCheckpointer(ocp.CompositeCheckpointHandler(handler_registry=handlers))

    def save(self, step: int, trees: Mapping[str, Any], notes: Mapping[str, Any], best: int | None = None) -> None:
        """Copies the trees, by name, and returns; they are written behind.

        The trees have the same leaves at every save. `notes`: any JSON, kept in the manifest, where
        `gptjax checkpoint list` looks for a `loss`. `best`: a step that is not deleted as too old.
        Raises what the save before this one raised, if nobody has asked, and OSError where the disk lacks room.
        """
        self.wait()
        began = time.perf_counter()
        tell("begin", step)
        self._saves += 1
        self._check_room(step, trees)
        unfinished = self._folder / f"{step}.unfinished-{self._token:08x}"
        with self._removing(unfinished):
            copied = self._copied(trees)
            probes = {name: _probe(tree) for name, tree in copied.items()} if self._first else {}
            size = None if self._mirror is None else SENT_WHOLE
            saves = {
                name: ocp.args.PyTreeSave(tree, ocdbt_target_data_file_size=size)  # pyright: ignore[reportCallIssue]
                for name, tree in copied.items()
            }
            self._begin(step, self._plain / unfinished.name, ocp.args.Composite(**saves))
            tell("write", step)
        notes = {**notes, "best": best}
        self._under_way = self._thread.submit(self._finish, step, unfinished, notes, probes, began)

    def continued(self, step: int) -> None:
        """To be called once a verified step is restored: deletes the older ones that its save came not to delete."""
        if self._has_disk:
            self._delete_old({step, manifest(self._run, step)["best"]})

    def failure(self) -> BaseException | None:
        """What the save under way has failed with, if it has; does not wait. `wait` raises it, and then it is over."""
        ended = self._under_way is not None and self._under_way.done()
        return self._under_way.exception() if self._under_way is not None and ended else None

    def wait(self) -> None:
        """Returns when the save under way is usable; raises what it raised."""
        if self._under_way is not None:
            under_way, self._under_way = self._under_way, None
            under_way.result()

    def close(self) -> None:
        try:
            self.wait()
        finally:
            self._thread.shutdown()
            self._orbax.close()
            self._open.close()

    def _begin(self, step: int, folder: Path, arguments: Any) -> None:
        """Has Orbax begin to write; returns once it needs the trees no more."""
        self._thread.submit(self._orbax.save, folder, args=arguments).result()

    def _check_room(self, step: int, trees: Mapping[str, Any]) -> None:
        needed, free = sum(leaf.nbytes for leaf in jax.tree.leaves(dict(trees))), shutil.disk_usage(self._folder).free
        if np.any(multihost_utils.process_allgather(np.bool_(needed > free))):  # or they would not decide alike
            said = f"step {step} needs {needed / 1e6:,.0f} MB, the disk has {free / 1e6:,.0f} MB left"
            raise OSError(errno.ENOSPC, said, str(self._folder))

    def _copied(self, trees: Mapping[str, Any]) -> Any:
        """Trees that the next step does not overwrite while they are written.

        From an accelerator Orbax copies before it returns. On the CPU it reads the arrays where they lie, and a step
        that is to overwrite them waits for it. Memory used again is six times as fast to fill as new memory.
        """
        trees = dict(trees)
        if jax.default_backend() != "cpu":
            return trees
        self._copies = _copy(trees) if self._copies is None else _copy_over(self._copies, trees)
        return self._copies

    def _finish(
        self, step: int, unfinished: Path, notes: Mapping[str, Any], probes: Mapping[str, "Probe"], began: float
    ) -> None:
        with self._removing(unfinished):
            self._orbax.wait_until_finished()
            tell("written", step)
            self._describe_share(unfinished)
            self._meet("hashed")
            try:
                if self._first:
                    self._make_step(step, unfinished, notes, probes)
            finally:
                self._meet("committed")
            if not folder_of(self._run, step).is_dir():
                raise OSError(f"step {step} was not saved; process 0 says why")
        self.seconds = time.perf_counter() - began
        tell("end", step)

    def _describe_share(self, unfinished: Path) -> None:
        """Hashes every n-th file, n the number of processes, and writes down what the manifest says of them."""
        paths = [path for path in unfinished.rglob("*") if not path.name.startswith(MANIFEST)]  # another may be quicker
        for folder in {path.parent for path in paths}:
            sync_folder(folder)
        names = sorted(str(path.relative_to(unfinished)) for path in paths if path.is_file())
        share = names[jax.process_index() :: jax.process_count()]
        with ThreadPoolExecutor() as threads:
            files = dict(zip(share, threads.map(describe, [unfinished / name for name in share]), strict=True))
        write_whole(_part(unfinished, jax.process_index()), json.dumps(files, allow_nan=False))

    def _make_step(self, step: int, unfinished: Path, notes: Mapping[str, Any], probes: Mapping[str, "Probe"]) -> None:
        files = {}
        for process in range(jax.process_count()):
            part = _part(unfinished, process)
            files |= json.loads(part.read_text(encoding="utf-8"))
            part.unlink()
        for name, probe in probes.items():
            sizes = {file: entry["bytes"] for file, entry in files.items() if file.startswith(f"{name}/")}
            if wrong := otherwise(self._plain / unfinished.name / name, sizes, probe):
                raise OSError(f"step {step} was not saved: {name}{wrong}, in what was written to {self._folder}")
        write_manifest(unfinished, step, notes, dict(sorted(files.items())))
        sync_folder(unfinished)
        tell("manifest", step)
        if self._mirror is not None:
            self._mirror.publish(step, unfinished)
        self._rename(step, unfinished, notes["best"])

    def _rename(self, step: int, unfinished: Path, best: int | None) -> None:
        """Makes it a step on this disk."""
        with self._commit():
            if folder_of(self._run, step).exists():
                set_aside(self._run, step)
            unfinished.rename(folder_of(self._run, step))
            sync_folder(self._folder)
        tell("committed", step)
        self._delete_old({step, best})  # a run resumed earlier comes by again

    def _delete_old(self, kept: Collection[int | None]) -> None:
        for old in set(steps(self._run)[: -self._keep]).difference(kept):
            tell("clean", old)
            if self._mirror is not None and self._first:
                self._mirror.withdraw(old)
            half = self._folder / f"{old}.deleted-{self._token:08x}"
            folder_of(self._run, old).rename(half)  # first, so that a half-deleted step never looks usable
            shutil.rmtree(half)

    def _meet(self, where: str) -> None:
        """Waits for the other processes, without their devices, which are busy with the next steps."""
        key = f"gptjax-{self._token:08x}-{self._saves}-{where}"
        ocp.multihost.get_barrier_sync_fn()(key=key, timeout_ms=BARRIER_SECONDS * 1000)

    @contextlib.contextmanager
    def _removing(self, unfinished: Path) -> Iterator[None]:
        """Removes a save that fails at once: on a full disk, its own files would make every later one fail.

        An error of the system that Orbax passes on, somewhere in a long text of its own, becomes an OSError.
        """
        try:
            yield
        except BaseException as error:
            for path in self._folder.glob(f"{unfinished.name}*") if self._has_disk else ():
                shutil.rmtree(path, ignore_errors=True)
            if code := re.search(r"os_error_code='(\d+)'", str(error)):
                raise OSError(int(code[1]), os.strerror(int(code[1])), str(unfinished)) from error
            raise


@dataclasses.dataclass(frozen=True)
class Probe:
    """What the files of a tree must hold: every leaf, and these values of one."""

    shapes: dict[str, tuple[int, ...]]  # by a leaf's label
    nbytes: int  # of the leaves that have files of their own
    label: str
    index: Any  # what part of the leaf
    values: np.ndarray  # a copy: the next step may overwrite the leaf


def _probe(tree: Any) -> Probe:
    """Of the smallest array that has a file: one shard, which every process has and which costs next to nothing.

    Orbax cuts an array into a piece for each device at most, as replicas share the work.
    """
    leaves = [(path, jnp.asarray(leaf)) for path, leaf in jax.tree.leaves_with_path(tree)]
    in_files = [(path, leaf) for path, leaf in leaves if leaf.nbytes > INLINE * len(leaf.sharding.device_set)]
    path, smallest = min(in_files or leaves, key=lambda found: found[1].nbytes)
    shard = smallest.addressable_shards[0]
    return Probe(
        shapes=leaf_shapes(tree), nbytes=sum(leaf.nbytes for _, leaf in in_files),
        label=leaf_name(path), index=shard.index, values=np.array(jax.device_get(shard.data)),
    )  # fmt: skip


def otherwise(
    folder: Path, sizes: Mapping[str, int], probe: Probe, read: Callable[[], np.ndarray] | None = None
) -> str | None:
    """What a saved tree lacks, or has otherwise than it was; None where it is as it should be.

    `sizes`: bytes by name, which begins with that of the folder, of the files that the manifest lists. `read`: what the
    probed part of the leaf is elsewhere, where the folder has only the table of arrays.
    """
    for file in (TREE, ARRAYS):
        if f"{folder.name}/{file}" not in sizes:
            return f"/{file} is missing"
    if (found := sum(sizes.values())) < probe.nbytes:  # nothing is compressed
        return f" has {found} bytes of files for {probe.nbytes} bytes of arrays"
    with reader(()) as checkpointer:
        tree = shapes_in(folder, checkpointer)
        if tree is None:
            return " cannot be read"
        if (found := leaf_shapes(tree)) != probe.shapes:
            return f" has the arrays {found} instead of {probe.shapes}"
        if read is not None:
            return None if read().tobytes() == probe.values.tobytes() else _other_values(probe)
        one = jax.tree_util.tree_map_with_path(
            lambda path, leaf: leaf if leaf_name(path) == probe.label else ocp.PLACEHOLDER, tree
        )
        how = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), one)
        arguments = ocp.args.PyTreeRestore(item=one, restore_args=how)  # pyright: ignore[reportCallIssue]
        found = next(leaf for leaf in jax.tree.leaves(checkpointer.restore(folder, args=arguments)) if leaf is not ...)
    if found[probe.index].tobytes() != probe.values.tobytes():
        return _other_values(probe)
    return None


def _other_values(probe: Probe) -> str:
    return f"/{probe.label} was read back with other values"


def _give_way() -> None:
    """Lets training go first: Linux takes this for the thread alone, and for those it starts, Orbax's among them."""
    if sys.platform == "linux":
        os.nice(10)


def tell(stage: str, step: int) -> None:
    sys.audit("gptjax.save", stage, step)


def _part(unfinished: Path, process: int) -> Path:
    return unfinished / f"{MANIFEST}.{process}"


@jax.jit
def _copy(trees: Any) -> Any:
    return jax.tree.map(jnp.copy, trees)


@functools.partial(jax.jit, donate_argnums=0, keep_unused=True)
def _copy_over(old: Any, trees: Any) -> Any:
    return jax.tree.map(jnp.copy, trees)
