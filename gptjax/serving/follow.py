"""A run that is training, followed: the server's model is the checkpoint that is loaded where none is named."""

import logging
import threading
import time
from collections.abc import Callable
from pathlib import Path

from gptjax.inference.language_model import LanguageModel
from gptjax.runs import manifest
from gptjax.serving.worker import Worker

log = logging.getLogger(__name__)
SECONDS = 2.0  # between two looks


def follow(worker: Worker, run: Path, load: Callable[[int], LanguageModel]) -> None:
    """Begins a thread that looks for newer checkpoints until the server ends. `load`: the model of a step."""
    threading.Thread(target=_watch, args=(worker, run, load), name="follow", daemon=True).start()


def _watch(worker: Worker, run: Path, load: Callable[[int], LanguageModel]) -> None:
    seen = worker.model.step
    while worker.dead is None and not worker.draining:
        seen = look(worker, run, load, seen)
        time.sleep(SECONDS)


def look(worker: Worker, run: Path, load: Callable[[int], LanguageModel], seen: int | None) -> int | None:
    """Swaps the model if there is a newer good one. Returns the newest step that was looked at.

    One that is damaged, or gone before it was read, is told once and left alone.
    """
    newest = seen
    try:
        newest = max(manifest.steps(run), default=seen)
        if newest == seen:
            return seen
        step = manifest.to_load(run, log.warning)
        if step is not None and step != worker.model.step:
            worker.swap(load(step))
            log.warning("%s: step %d is served from now on", run, step)
    except Exception as error:  # whatever it is, such as no memory, the next one may be good
        log.warning("%s: %s: %s; the model stays as it was", run, type(error).__name__, error)
    return newest
