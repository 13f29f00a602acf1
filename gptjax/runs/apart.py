"""Steps that several hosts save, each on a disk of its own: their pieces meet on a bucket, and become a step there.

Every process sends the pieces that Orbax has it write, `<tree>/ocdbt.process_<number>/`, and tells process 0 their
sizes and hashes. Process 0 has the bucket's table of each tree made of them, which refers to the pieces, reads it back,
and writes the manifest. What they tell each other goes through JAX's coordination service: their devices are busy.
A host's own disk keeps its pieces and the manifest; what it lacks of a step is on the bucket.
"""

import functools
import json
import re
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import jax
import orbax.checkpoint as ocp

from gptjax.files.atomic_file import write_whole
from gptjax.files.file_digest import describe
from gptjax.files.plain_json import dumps
from gptjax.runs.bucket_run import BucketRun
from gptjax.runs.checkpoint import CheckpointWriter, Mirror, Probe, otherwise, tell
from gptjax.runs.manifest import MANIFEST, write_manifest

WAIT = 24 * 3600  # seconds: who is gone is missed long before (train/supervision/peers.py)


@runtime_checkable
class MeetingPlace(Mirror, Protocol):
    """A bucket that several hosts write a step to; the first of them opens it and closes it: see BucketRun."""

    on_bucket: BucketRun

    def open_step(self, step: int) -> None: ...

    def close_step(self, step: int, folder: Path) -> None: ...


class ApartWriter(CheckpointWriter):
    """A CheckpointWriter of a process whose disk no other process sees.

    A save that fails in one before there is a manifest fails in all.
    """

    def __init__(self, run: Path, keep: int, commit: Callable[[], AbstractContextManager[Any]], mirror: MeetingPlace):
        self._place, self._own = mirror, jax.process_index()
        super().__init__(run, keep, commit, mirror)

    @property
    def _has_disk(self) -> bool:
        return True

    def _orbax_writer(self) -> ocp.AsyncCheckpointer:
        alone = ocp.options.MultiprocessingOptions(
            primary_host=self._own, active_processes={self._own}, barrier_sync_key_prefix=f"alone-{self._own}"
        )
        # made behind, folders would be told of under keys that all processes have alike
        at_once = ocp.options.AsyncOptions(create_directories_asynchronously=False)
        handlers = ocp.handlers.DefaultCheckpointHandlerRegistry()
        handlers.add(None, ocp.args.PyTreeSave, _Pieces(use_compression=False, multiprocessing_options=alone))
        composite = ocp.CompositeCheckpointHandler(
            handler_registry=handlers,
            composite_options=ocp.CompositeOptions(multiprocessing_options=alone, async_options=at_once),
        )
        return ocp.AsyncCheckpointer(composite, multiprocessing_options=alone, async_options=at_once)

    def save(self, step: int, trees: Mapping[str, Any], notes: Mapping[str, Any], best: int | None = None) -> None:
        try:
            super().save(step, trees, notes, best)
        except Exception as error:
            self._say_failed(step, error)
            raise

    def _begin(self, step: int, folder: Path, arguments: Any) -> None:
        # anew: Orbax keeps one note for all of its handlers of who makes folders, and a restore may have changed it
        self._orbax.close()
        self._orbax = self._orbax_writer()
        super()._begin(step, folder, arguments)

    def _finish(
        self, step: int, unfinished: Path, notes: Mapping[str, Any], probes: Mapping[str, Probe], began: float
    ) -> None:
        with self._removing(unfinished):
            try:
                self._orbax.wait_until_finished()
                tell("written", step)
                if self._first:
                    self._place.open_step(step)
                    self._say("open")
                else:
                    self._heard("open")
                names = self._own_files(unfinished)
                self._place.on_bucket.send(step, unfinished, names)
                files = {name: describe(unfinished / name) for name in names}
                if self._first:
                    self._make_step_there(step, unfinished, notes, probes, files)
                    self._say("end")
                else:
                    self._say(f"share-{self._own}", files=files)
            except Exception as error:
                self._say_failed(step, error)
                raise
            if not self._first:
                self._heard("end")
                write_whole(unfinished / MANIFEST, self._place.on_bucket.manifest_there(step))
            self._rename(step, unfinished, notes["best"])
        self.seconds = time.perf_counter() - began
        tell("end", step)

    def _own_files(self, unfinished: Path) -> list[str]:
        """This process's pieces; of the first also what describes the trees, which all have alike."""
        names = [path.relative_to(unfinished).as_posix() for path in sorted(unfinished.rglob("*")) if path.is_file()]
        pieces = re.compile(rf".*(ocdbt\.process_{self._own}/.*|/array_metadatas/process_{self._own})")
        return [name for name in names if self._first or pieces.fullmatch(name)]

    def _make_step_there(
        self, step: int, unfinished: Path, notes: Mapping[str, Any], probes: Mapping[str, Probe], files: dict[str, Any]
    ) -> None:
        for number in range(1, jax.process_count()):
            files |= self._heard(f"share-{number}")["files"]
        _client().key_value_delete(self._key("", self._saves - 1))  # which all have read
        for name, probe in probes.items():
            parts = {file.split("/")[1] for file in files if file.startswith(f"{name}/ocdbt.process_")}
            files |= self._place.on_bucket.merge(step, unfinished, name, sorted(parts))
            sizes = {file: entry["bytes"] for file, entry in files.items() if file.startswith(f"{name}/")}
            read = functools.partial(self._place.on_bucket.array, step, name, probe.label, probe.index)
            if wrong := otherwise(self._plain / unfinished.name / name, sizes, probe, read):
                raise OSError(
                    f"step {step} was not saved: {name}{wrong}, in what was sent to {self._place.on_bucket.url}"
                )
        write_manifest(unfinished, step, notes, dict(sorted(files.items())))
        tell("manifest", step)
        self._place.close_step(step, unfinished)

    # what the processes tell each other, once a save each

    def _key(self, what: str, save: int) -> str:
        return f"gptjax-saves-{self._token:08x}/{save}/{what}".rstrip("/")

    def _say(self, what: str, **content: Any) -> None:
        _client().key_value_set(self._key(what, self._saves), dumps(content), allow_overwrite=True)

    def _heard(self, what: str) -> dict[str, Any]:
        """Waits for what another process says. Raises OSError where it has failed."""
        said = json.loads(_client().blocking_key_value_get(self._key(what, self._saves), WAIT * 1000))
        if "error" in said:
            raise OSError(said["error"])
        return said

    def _say_failed(self, step: int, error: BaseException) -> None:
        said = f"process {self._own}: step {step} is not saved: {' '.join(str(error).split())[:300]}"
        for what in ("open", "end") if self._first else (f"share-{self._own}",):
            self._say(what, error=said)


class _Pieces(ocp.PyTreeCheckpointHandler):
    """Leaves this process's pieces as they are: the table of all of them is made on the bucket."""

    def finalize(self, directory: Any) -> None:
        pass


def _client() -> Any:
    return ocp.multihost.get_jax_distributed_client()
