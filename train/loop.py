"""The only training loop: one step after another, and between them what is due."""

import contextlib
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import jax
from rich.console import Console

from data.preparation.text_on_bucket import still_used
from gptjax.runs.manifest import steps
from train.assemble import Assembly, Text
from train.measuring.measure import Measuring
from train.record.ledger import entry_of
from train.record.meter import Start
from train.record.progress import Progress
from train.record.recorder import Recorder
from train.record.saver import Saver
from train.resume import first_state
from train.step import State
from train.stopping import End, planned_end
from train.supervision.exits import INTERRUPTED, STOPPED, StoppedError
from train.supervision.guards import Guards
from train.supervision.lease import LeaseLostError, sign_of
from train.supervision.slow_hosts import SlowHosts
from train.supervision.stop_flag import StopFlag
from train.updates.optimizer import cooldown_steps

RECORD_EVERY = 10  # steps


def train(
    parts: Assembly, text: Text, about: Mapping[str, Any], console: Console, start: Start, guards: Guards
) -> State:
    """Steps until something ends the run, and says what; returns the last state, which is saved.

    Raises StoppedError where a signal or the clock ends it early, saved; BadNumbersError; LeaseLostError; OSError
    where it cannot save. What was saved before stays.
    """

    def say(line: str) -> None:
        console.print(line, highlight=False, markup=False)

    with contextlib.ExitStack() as stack:
        saver = stack.enter_context(Saver(parts.recipe, about, guards, say))
        with guards.watchdog.phase("first state"):
            state, progress = first_state(parts, saver, say)
        step = int(state.step)
        text = text._replace(rows=text.rows.from_step(step, progress.rows, parts.recipe.batch.rows))
        start.finished("first state")
        recorder = stack.enter_context(Recorder(parts, progress, step, about, console, start))
        loop = Loop(parts, text, state, progress, saver, recorder, start, guards)
        why = stack.enter_context(loop).run()
        saver.finish(loop.step)
    guards.lease.finished(loop.step)
    if why is None or guards.signals.asked is not None:
        code = INTERRUPTED if guards.signals.asked == "SIGINT" else STOPPED
        raise StoppedError(f"saved at step {loop.step}; the same command goes on from there", code)
    say(f"ended at step {loop.step}: {why}")
    return loop.state


class Due(NamedTuple):
    """What follows a step, by the recipe."""

    measuring: bool
    saving: bool
    conflicts: bool


class Loop:
    """The state, the step that made it, and all that a step is followed by."""

    def __init__(
        self,
        parts: Assembly,
        text: Text,
        state: State,
        progress: Progress,
        saver: Saver,
        recorder: Recorder,
        start: Start,
        guards: Guards,
    ):
        self._parts, self._recipe, self._text = parts, parts.recipe, text
        self._progress, self._saver, self._recorder = progress, saver, recorder
        self._start, self._guards = start, guards
        self.state, self.step = state, int(state.step)
        self._first_step, first_row = self.step, progress.rows
        self._stop = StopFlag(parts, guards.signals, start.began, lambda: progress.rows > first_row)
        self._hosts = SlowHosts(lambda process: f"{sign_of(parts.recipe.run, process) or f'process {process}'}")
        self._measuring = Measuring(parts, text, progress, recorder, self._stop, guards)
        self._unread: dict[str, jax.Array] | None = None  # metrics of the step that the device is working on
        self._saving_signals = contextlib.ExitStack()

    def __enter__(self) -> "Loop":
        return self

    def __exit__(self, *_: object) -> None:
        self._saving_signals.close()

    def run(self) -> str | None:
        """Takes one step after another. Returns what ended the run; None where it was asked to stop early.

        A step's loss is read while the device works on the next.
        """
        if self.step not in steps(self._recipe.run):
            self._save()  # step 0: shows at once that it can be, and how long it takes
        end = self._planned_end()
        self._recorder.show(self.step, end.step)
        why = self._measure(end) if self.step else None
        for batch in self._batches(end.step - self.step):
            if why is not None or self._stop.agreed:
                break
            with self._guards.watchdog.phase("step" if self.step > self._first_step else "compile"):
                self._take_step(batch)
                due = self._due(end)
                if any(due) or self._stop.agreed or self.step % RECORD_EVERY == 0:
                    found = self._read(self.step)
                    if self._ends_a_record():
                        self._recorder.train(self.step, found)
                        self._compare_hosts()
            if due.conflicts and not self._stop.agreed:
                self._measuring.look_for_conflicts(self.step, self.state)
            best = self._progress.health.best_step
            if due.measuring:
                why = self._measure(end)
                end = self._planned_end()
            self._recorder.show(self.step, end.step)
            if due.saving or self._progress.health.best_step != best or why is not None or self._stop.agreed:
                self._save()
            if any(due):
                self._start_clocks()
        return why

    def _take_step(self, batch: Any) -> None:
        """Has the device begin a step, and reads what the one before it measured."""
        self.state, metrics = self._parts.train_step(self.state, batch, self._stop.own())
        self.step += 1
        if self.step == self._first_step + 1:
            self._start.finished("compiling")
        if self._unread is not None:
            self._read(self.step - 1)
        self._unread = metrics

    def _due(self, end: End) -> Due:
        is_last, period = self.step == end.step, self._recipe.objectives.conflicts
        several = len(self._parts.loss_spec.terms) > 1
        return Due(
            measuring=is_last or self.step % self._recipe.validation.every == 0,
            saving=is_last or self.step % self._recipe.checkpoint.every == 0,
            conflicts=period is not None and self.step % period == 0 and several,
        )

    def _ends_a_record(self) -> bool:
        """A matter of the recipe, not of where a run was stopped and resumed."""
        periods = (RECORD_EVERY, self._recipe.validation.every, self._recipe.checkpoint.every)
        return self.step == self._last_step() or any(self.step % period == 0 for period in periods)

    def _last_step(self) -> int:
        return int(self.state.cooldown) + cooldown_steps(self._recipe.optimizer, self._recipe.steps)

    def _planned_end(self) -> End:
        T = self._parts.recipe.row_length
        tokens = (self._progress.rows * T, self._parts.tokens_per_step, self._text.rows.tokens)
        return planned_end(self._recipe.stop, self._last_step(), self.step, *tokens)

    def _batches(self, count: int) -> Iterator[Any]:
        """The batches of the next steps, on the devices."""
        batches = self._parts.loader.training(self._text.rows, self._progress.rows, count)
        for number in range(count):
            began = time.perf_counter()
            with self._guards.watchdog.phase("next batch"):
                batch = next(batches)
            self._hosts.waited(time.perf_counter() - began)
            if number == 0:
                self._start.finished("first batch")
            yield batch

    def _read(self, step: int) -> dict[str, Any]:
        """What a step measured, once the device has it: noted, and looked at for trouble.

        Raises BadNumbersError, LeaseLostError, and OSError where the save behind it failed.
        """
        found, self._unread = jax.device_get(self._unread), None
        assert found is not None
        self._guards.watchdog.progress()
        self._guards.lease.beat("step", step)
        if step == self._first_step + 1:
            self._first_step_is_read()
        else:
            self._recorder.speed.step()
            self._hosts.step()
        entry = entry_of(step, self._progress.rows, self._recipe.batch.rows, found)
        self._recorder.row_hash(entry)
        self._progress.note_step(entry, self._parts.loss_spec.terms, found)
        remark = self._progress.health.note_step(entry, self._recipe.stop)
        if remark is not None:
            self._recorder.remark(step, remark)
        self._stop.agreed |= bool(found["asked"])
        if self._guards.lease.lost:
            raise LeaseLostError(self._guards.lease.lost)
        self._saver.look()
        return found

    def _first_step_is_read(self) -> None:
        """The first step compiles: clocks start after it. Until now there was nothing to save, and a signal ended the
        process at once."""
        self._start.finished("first step")
        self._recorder.say(f"first step finished {self._start}")
        losing: Callable[[], str] = lambda: "steps since the newest checkpoint are lost"  # noqa: E731
        self._saving_signals.enter_context(self._guards.signals.saving(losing))
        self._start_clocks()

    def _start_clocks(self) -> None:
        self._recorder.speed.start()
        self._hosts.start()

    def _compare_hosts(self) -> None:
        looked = self._hosts.look(self.step)
        if looked is not None:
            times, remarks = looked
            self._recorder.measured(times)
            for remark in remarks:
                self._recorder.remark(self.step, remark)

    def _measure(self, end: End) -> str | None:
        self.state, why = self._measuring.measure(self.step, self.state, end)
        return why

    def _save(self) -> None:
        self._recorder.before_save()
        still_used(self._text.prepared)
        self._saver.save(self.step, self.state, self._progress)
