"""Checkpoints of a run as its loop makes them, and what becomes of the run where one cannot be written."""

import contextlib
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Any

import jax

from gptjax.runs.apart import ApartWriter
from gptjax.runs.checkpoint import CheckpointWriter, refuse_nonfinite
from gptjax.runs.manifest import steps
from train.recipe import Recipe
from train.record.progress import Progress
from train.step import State
from train.supervision.exits import BadNumbersError
from train.supervision.guards import Guards
from train.supervision.lease import LeaseLostError
from train.tuning.tune_recipe import judged_by


class Saver:
    """Saves in the background. What fails is found at the next step or save, and ends the run unless the recipe has it
    go on."""

    def __init__(self, recipe: Recipe, about: Mapping[str, Any], guards: Guards, say: Callable[[str], None]):
        self._recipe, self._about, self._guards, self._say = recipe, about, guards, say
        writer, lease = CheckpointWriter if guards.lease.signs is None else ApartWriter, guards.lease
        self._writer = writer(recipe.run, recipe.checkpoint.keep, lease.held, lease.mirror)
        self._told = False  # how long a save takes
        for name in self._writer.cleared:
            say(f"removed checkpoints/{name}, which an earlier process had not finished")

    def __enter__(self) -> "Saver":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        with contextlib.suppress(Exception) if kind else contextlib.nullcontext():  # the first error is the one to tell
            self._writer.close()

    def continued(self, step: int, seconds: float | None) -> None:
        """To be called once a step is restored; `seconds` are those that saving took then."""
        self._writer.continued(step)
        self._tell_time(seconds)

    def save(self, step: int, state: State, progress: Progress) -> None:
        """Starts to save. Raises BadNumbersError where parameters are not finite."""
        try:
            refuse_nonfinite(step, "params", state.params)
        except ValueError as error:
            raise BadNumbersError(f"not saved: {error}") from None
        notes = {**progress.notes(step), "save_seconds": self._writer.seconds, "provenance": self._about}
        if judged_by(self._recipe) is not None:
            notes["load"] = progress.best_step  # what gptjax.load takes where no step is named
        with self._guards.watchdog.phase("save before"):
            self._despite(self._writer.wait)
        with self._guards.watchdog.phase("save"):
            self._despite(lambda: self._writer.save(step, trees_of(state), notes, best=progress.best_step))

    def look(self) -> None:
        """Between two steps: raises OSError where the save behind them has failed; says once how long one takes."""
        if self._writer.failure() is not None:
            self._despite(self._writer.wait)
        if not self._told:
            self._tell_time(self._writer.seconds)

    def finish(self, step: int) -> None:
        """Waits for the last save. Raises OSError where it failed, whatever the recipe says of failures on the way."""
        with self._guards.watchdog.phase("last save"):
            self._despite(self._writer.wait, goes_on=False)
        if step not in steps(self._recipe.run):
            raise OSError(f"step {step} is not saved, see above; make room, and repeat the command")

    def _despite(self, save: Callable[[], None], goes_on: bool = True) -> None:
        """Calls what may find that a save has failed, and stops then, unless it may go on and the recipe has it so."""
        try:
            save()
        except LeaseLostError:
            raise
        except Exception as error:  # orbax has many kinds
            of_jax = isinstance(error, jax.errors.JaxRuntimeError) and "RESOURCE_EXHAUSTED" not in str(error)
            if of_jax and jax.process_count() > 1:
                raise  # another process is gone, which the watch (train/supervision/peers.py) names
            said, saved = " ".join(str(error).split())[:300], steps(self._recipe.run)
            told = f"a checkpoint could not be written: {said}; saved steps: {saved}. Make room, and repeat the command"
            if not goes_on or self._recipe.checkpoint.if_it_fails == "stop":
                raise OSError(told) from error
            self._say(f"{told}. Training goes on (checkpoint.if_it_fails=continue)")

    def _tell_time(self, seconds: float | None) -> None:
        if seconds is not None:
            self._told = True
            self._say(f"a save takes {seconds:.1f} s: SIGTERM and Ctrl-C need that, and the end of the step")


def trees_of(state: State) -> dict[str, Any]:
    """What a checkpoint holds, by name: parameters, their average where there is one, and what only training needs."""
    training = {"step": state.step, "optimizer": state.optimizer, "combiner": state.combiner}
    return {"params": state.params, "training": training} | ({} if state.ema is None else {"ema": state.ema})
