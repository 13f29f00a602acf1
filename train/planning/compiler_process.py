"""The TPU compiler in a process of its own: there are steps at which it gives up by ending the process it is in."""

import multiprocessing
import os
import re
import tempfile
import threading
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from types import TracebackType
from typing import Self

import jax

from train.objectives import causal_only
from train.planning.compile_for import CompiledFor, compiled, topology_devices
from train.recipe import Recipe


class CompilerEndedError(RuntimeError):
    """The compiler gave up at a step, whatever became of its process; what it said of why."""


class CompilerProcess:
    """Compiles steps of next words for so many slices of a topology, one after another."""

    def __init__(self, topology: str, slices: int):
        self._topology, self._slices = topology, slices

    def __enter__(self) -> Self:
        self._folder = tempfile.TemporaryDirectory()
        self._errors = Path(self._folder.name) / "errors"
        self._start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._pool.shutdown()
        self._folder.cleanup()

    def _start(self) -> None:
        self._errors.write_bytes(b"")
        fresh = multiprocessing.get_context("spawn")  # of this one it would have threads and locks
        self._pool = ProcessPoolExecutor(1, fresh, initializer=_begin, initargs=(self._errors,))

    def __call__(self, recipe: Recipe, vocabulary: int) -> CompiledFor:
        """Raises TooLargeError, CompilerEndedError, and ValueError for an unknown topology."""
        try:
            return self._pool.submit(_compile, recipe, self._topology, self._slices, vocabulary).result()
        except BrokenProcessPool as ended:
            self._pool.shutdown()
            said = re.search(r"^F.*?\] (.*)", self._errors.read_text(errors="replace"), re.MULTILINE)
            self._start()
            why = said[1] if said else "without a word, as where this machine has no memory left"
            raise CompilerEndedError(why) from ended


def _begin(errors: Path) -> None:
    """What the compiler says as it ends, with its stack, goes to a file; the process ends with the one that asks."""
    with errors.open("wb") as file:
        os.dup2(file.fileno(), 2)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None  # this is a child
    parent.join()
    os._exit(1)


def _compile(recipe: Recipe, topology: str, slices: int, vocabulary: int) -> CompiledFor:
    devices = topology_devices(topology, f"--device {topology}", slices)
    try:
        return compiled(recipe, topology, devices, vocabulary, causal_only())
    except jax.errors.JaxRuntimeError as error:
        raise CompilerEndedError(str(error).partition("\n")[0]) from None  # a text goes from one process to another
