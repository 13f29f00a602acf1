"""The only training loop, and all that it prints, times, measures and saves."""

import contextlib
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from gptjax.files.atomic_file import write_whole
from gptjax.runs.checkpoint import CheckpointWriter, refuse_nonfinite
from gptjax.runs.manifest import manifest, newest_good, steps
from train.assemble import Assembly, Text
from train.losses.conflict import Conflicts, Monitor
from train.optimizer import cooldown_start, cooldown_steps
from train.recipe import to_json
from train.record.journal import Journal
from train.record.ledger import entry_of
from train.record.meter import Records, Speed, Start, peak_flops
from train.resume import saved_trees
from train.step import State
from train.stopping import Health, out_of_patience, planned_end, reached_target
from train.supervision.exits import INTERRUPTED, STOPPED, BadNumbersError, StoppedError
from train.supervision.hosts import from_first
from train.supervision.lease import Lease, LeaseLostError
from train.supervision.signals import Signals
from train.supervision.watchdog import Watchdog
from train.validate import Findings, HeldOut, overall

RECORD_EVERY = 10  # steps
TELL_EVERY = 30  # seconds, where there is no terminal to draw a bar on


class Guards(NamedTuple):
    """Who watches over a run from outside its loop."""

    signals: Signals
    lease: Lease
    dog: Watchdog


class Trainer:
    """The loop and what it holds open: progress bar, journals, checkpoints."""

    def __init__(
        self, parts: Assembly, text: Text, about: Mapping[str, Any], console: Console, start: Start, guards: Guards
    ):
        self.parts, self.recipe, self.text, self.about = parts, parts.recipe, text, about
        self.console, self.start = console, start
        self.signals, self.lease, self.dog = guards
        self.asks = {stop: parts.asks(stop) for stop in (False, True)}
        self.held_out = HeldOut(parts, text)
        self.monitor = Monitor(parts, text.rows)
        self.asked = False  # whether any host wants to stop, as all hosts know
        self.told = time.monotonic()  # when a line stood for the bar

    def train(self) -> State:
        """Steps until something ends the run, and says what; returns the last state, which is saved.

        Raises StoppedError where a signal or the clock ends it early, saved; BadNumbersError; LeaseLostError; OSError
        where it cannot save. What was saved before stays.
        """
        run, recipe = self.recipe.run, self.recipe
        first_process = jax.process_index() == 0
        with contextlib.ExitStack() as stack:
            self.writer = CheckpointWriter(run, recipe.checkpoint.keep, self.lease.held)
            stack.push(self._close_writer)
            with self.dog.phase("first state"):
                self._first_state()
            step = self.first_step = int(self.state.step)
            self.first_row = self.rows
            self.start.finished("first state")
            peak = peak_flops(recipe.compute.dtype)
            self.speed = Speed(self.parts.tokens_per_step, self.parts.config.flops_per_token, peak)
            self.start.finished("peak")
            self.records = Records(run, step, self._is_past, self._say, writes=first_process)
            stack.callback(self.records.close)
            self.ledger = Journal(run / "ledger.jsonl", self._is_past, self._say, writes=first_process)
            stack.callback(self.ledger.close)
            columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
            self.bar = stack.enter_context(
                Progress(*columns, console=self.console, disable=not self.console.is_terminal)
            )
            self.stack = stack
            why = self._steps(step)
            self._check_saved()
        self.lease.finished(int(self.state.step))
        if why is None or self.signals.asked is not None:
            code = INTERRUPTED if self.signals.asked == "SIGINT" else STOPPED
            raise StoppedError(f"saved at step {int(self.state.step)}; the same command goes on from there", code)
        self._say(f"ended at step {int(self.state.step)}: {why}")
        return self.state

    def _first_state(self) -> None:
        """The newest checkpoint whose files are whole, damaged ones set aside; a fresh state where there is none."""
        run = self.recipe.run
        for name in self.writer.cleared:
            self._say(f"removed checkpoints/{name}, which an earlier process had not finished")
        step = from_first(lambda: newest_good(run, self._say, set_bad_aside=True))
        self.rows, self.health, self.conflicts, self.save_seconds = 0, Health(), Conflicts(), None
        self.losses, self.terms = [], {}
        if step is None:
            self.state = self.parts.fresh()
            return
        notes = manifest(run, step)
        trees = saved_trees(run, step, _trees(self.parts.abstract), self.recipe)
        self.rows, self.health = notes["rows"], Health(**notes["health"])
        self.losses, self.terms, self.conflicts = notes["losses"], notes["terms"], Conflicts(**notes["conflicts"])
        planned = cooldown_start(self.recipe.optimizer, self.recipe.steps)  # anew: the recipe may have changed
        cooldown = self._placed(planned if self.health.cooled_at is None else self.health.cooled_at)
        self.state = State(**trees["training"], cooldown=cooldown, params=trees["params"], ema=trees.get("ema"))
        if jax.process_index() == 0:
            write_whole(run / "recipe.json", to_json(self.recipe))  # of this start; older ones are in the checkpoints
        self._say(f"continuing from step {step}, saved {notes['saved']}")
        self.writer.continued(step)
        self._tell_save_time(notes["save_seconds"])

    def _is_past(self, record: dict[str, Any]) -> bool:
        """Whether a record is of what the checkpoint knows of; what came after it will be done again."""
        kind = record.get("kind", "").removesuffix("_ema").removesuffix("_task")
        unknown = kind in ("validation", "final") and self.health.measured.get(kind, 0) < record["step"]
        return record["step"] <= self.first_step and not unknown

    def _steps(self, step: int) -> str | None:
        """Takes one step after another. Returns what ended the run; None where it was asked to stop early.

        A step's loss is read while the device works on the next.
        """
        if step not in steps(self.recipe.run):
            self._save(step)  # step 0: shows at once that it can be, and how long it takes
        end = self._planned_end(step)
        self.task = self.bar.add_task("compiling", total=end[0], completed=step)
        why = self._measure(step, end) if step else None
        waiting = None
        for batch in self._batches(end[0] - step):
            if why is not None or self.asked:
                break
            with self.dog.phase("step" if step > self.first_step else "compile"):
                self.state, metrics = self.parts.train_step(self.state, batch, self.asks[self._wants_to_stop()])
                step += 1
                if step == self.first_step + 1:
                    self.start.finished("compiling")
                if waiting is not None:
                    self._read(*waiting)
                waiting = (step, metrics)
                measures = step == end[0] or step % self.recipe.validation.every == 0
                saves = step == end[0] or step % self.recipe.checkpoint.every == 0
                looks = self._looks_for_conflicts(step)
                if measures or saves or looks or self.asked or step % RECORD_EVERY == 0:
                    found = self._read(*waiting)
                    waiting = None
                    if self._records(step):
                        self._record(step, found)
            self.bar.update(self.task, completed=step)
            if looks and not self.asked:
                self._look_for_conflicts(step)
            if measures:
                best = self.health.best_step
                why = self._measure(step, end)
                saves |= self.health.best_step != best or why is not None
                end = self._planned_end(step)
            if saves or self.asked:
                self._save(step)
            if measures or saves or looks:
                self.speed.start()
        return why

    def _planned_end(self, step: int) -> tuple[int, str]:
        """(the step that this run ends at by arithmetic, why)."""
        T, recipe = self.parts.config.T, self.recipe
        tokens = (self.rows * T, self.parts.tokens_per_step, self.text.rows.tokens)
        return planned_end(recipe.stop, self._last_step(), step, *tokens)

    def _batches(self, count: int) -> Iterator[Any]:
        """The batches of the next steps, on the devices."""
        batches = self.parts.loader.training(self.text.rows, self.rows, count)
        for number in range(count):
            with self.dog.phase("next batch"):
                batch = next(batches)
            if number == 0:
                self.start.finished("first batch")
            yield batch

    def _records(self, step: int) -> bool:
        """Whether a record ends at a step: a matter of the recipe, not of where a run was stopped and resumed."""
        periods = (RECORD_EVERY, self.recipe.validation.every, self.recipe.checkpoint.every)
        return step == self._last_step() or any(step % period == 0 for period in periods)

    def _looks_for_conflicts(self, step: int) -> bool:
        period = self.recipe.objectives.conflicts
        return period is not None and step % period == 0 and len(self.parts.curriculum.terms) > 1

    def _last_step(self) -> int:
        return int(self.state.cooldown) + cooldown_steps(self.recipe.optimizer, self.recipe.steps)

    def _read(self, step: int, metrics: dict[str, jax.Array]) -> dict[str, Any]:
        """What a step measured, once the device has it: noted, and looked at for trouble.

        Raises BadNumbersError, LeaseLostError, and OSError where the save behind it failed.
        """
        found = jax.device_get(metrics)
        self.dog.progress()
        self.lease.beat("step", step)
        if step == self.first_step + 1:  # the first step compiles: the clock starts after it
            self.start.finished("first step")
            self._say(f"first step finished {self.start}")
            # until now there was nothing to save, and a signal ended the process at once
            self.stack.enter_context(self.signals.saving(lambda: "steps since the newest checkpoint are lost"))
            self.speed.start()
        else:
            self.speed.step()
        entry = entry_of(step, self.rows, self.recipe.batch.rows, found)
        self.rows += entry.rows
        self.ledger.note(entry._asdict())
        remark = self.health.note_step(entry, self.recipe.stop)
        if remark is not None:
            self._say(remark)
            self.records.write("remark", step, text=remark)
        if not entry.skipped:
            self.losses.append(entry.loss)
            for term in self.parts.curriculum.terms:
                nats, targets = self.terms.get(term.name, (0.0, 0.0))
                weight = float(found[f"weight/{term.name}"])
                self.terms[term.name] = nats + weight * float(found[f"loss/{term.name}"]), targets + weight
        self.asked |= bool(found["asked"])
        if self.lease.lost:
            raise LeaseLostError(self.lease.lost)
        if self.writer.failure() is not None:
            self._despite(self.writer.wait)
        if self.save_seconds is None and self.writer.seconds is not None:
            self._tell_save_time(self.writer.seconds)
        return found

    def _record(self, step: int, metrics: Mapping[str, Any]) -> None:
        """Writes the mean loss since the last record, and what else a curve is drawn of."""
        if not self.losses:
            return
        loss, self.losses = float(np.mean(self.losses)), []
        tasks = {name: nats / targets for name, (nats, targets) in self.terms.items() if targets}
        self.terms = {}
        self.records.write(
            "train", step, tokens=self.rows * self.parts.config.T, loss=loss,
            tasks=tasks, coefficients={name: float(metrics[f"coefficient/{name}"]) for name in tasks},
            learning_rate=float(metrics["learning_rate"]), gradient_norm=float(metrics["gradient_norm"]),
            tokens_per_second=self.speed.tokens_per_second, mfu=self.speed.mfu,
            seconds=time.perf_counter() - self.start.began,
        )  # fmt: skip
        shown = f"loss {loss:.3f}  {self.speed.tokens_per_second:,.0f} tokens/s  MFU {self.speed.mfu:.0%}"
        self.bar.update(self.task, description=shown)
        pace = self.speed.tokens_per_second / self.parts.tokens_per_step
        if pace and not self.console.is_terminal and time.monotonic() >= self.told + TELL_EVERY:
            self.told, [task] = time.monotonic(), self.bar.tasks
            left = (task.total or step) - step
            self._say(f"step {step} of {step + left:.0f}: {shown}, {left / pace / 60:.0f} min left")

    def _save(self, step: int) -> None:
        """Starts to save the state. Raises BadNumbersError where parameters are not finite."""
        try:
            refuse_nonfinite(step, "params", self.state.params)
        except ValueError as error:
            raise BadNumbersError(f"not saved: {error}") from None
        notes = {
            "rows": self.rows, "loss": self.health.held_out, "health": self.health.as_json(),
            "losses": self.losses, "terms": self.terms, "conflicts": self.conflicts.as_json(),
            "save_seconds": self.writer.seconds, "provenance": self.about,
        }  # fmt: skip
        self.ledger.sync()
        with self.dog.phase("save before"):
            self._despite(self.writer.wait)
        with self.dog.phase("save"):
            self._despite(lambda: self.writer.save(step, _trees(self.state), notes, best=self.health.best_step))

    def _check_saved(self) -> None:
        """Waits for the last save. Raises OSError where it failed, whatever the recipe says of failures on the way."""
        step = int(self.state.step)
        with self.dog.phase("last save"):
            self._despite(self.writer.wait, goes_on=False)
        if step not in steps(self.recipe.run):
            raise OSError(f"step {step} is not saved, see above; make room, and repeat the command")

    def _close_writer(self, kind: type[BaseException] | None, *_: object) -> None:
        with contextlib.suppress(Exception) if kind else contextlib.nullcontext():  # the first error is the one to tell
            self.writer.close()

    def _despite(self, save: Callable[[], None], goes_on: bool = True) -> None:
        """Calls what may find that a save has failed, and stops then, unless it may go on and the recipe has it so."""
        try:
            save()
        except LeaseLostError:
            raise
        except Exception as error:  # orbax has many kinds
            said, saved = " ".join(str(error).split())[:300], steps(self.recipe.run)
            told = f"a checkpoint could not be written: {said}; saved steps: {saved}. Make room, and repeat the command"
            if not goes_on or self.recipe.checkpoint.if_it_fails == "stop":
                raise OSError(told) from error
            self._say(f"{told}. Training goes on (checkpoint.if_it_fails=continue)")

    def _tell_save_time(self, seconds: float | None) -> None:
        self.save_seconds = seconds
        if seconds is not None:
            self._say(f"a save takes {seconds:.1f} s: SIGTERM and Ctrl-C need that, and the end of the step")

    def _measure(self, step: int, end: tuple[int, str]) -> str | None:
        """Measures held-out text where that is due; returns why the run ends here, if it does."""
        recipe, spec = self.recipe, self.recipe.optimizer
        why = end[1] if step >= end[0] else None
        if why is not None or step % recipe.validation.every == 0:
            self._validate("validation", step, recipe.validation.rows, recipe.validation.task_rows)
        why = why or reached_target(recipe.stop, self.health)
        falling = spec.schedule == "wsd" and step >= int(self.state.cooldown)
        impatient = None if falling else out_of_patience(recipe.stop, self.health)
        if impatient is not None and spec.schedule == "wsd":
            self.health.cooled_at = step
            self.state = self.state._replace(cooldown=self._placed(step))
            self._say(f"{impatient}: the learning rate falls now, for {cooldown_steps(spec, recipe.steps)} steps")
        else:
            why = why or impatient
        if why is not None:
            self._validate("final", step, recipe.validation.final_rows, recipe.validation.final_task_rows)
        return None if self.asked else why

    def _look_for_conflicts(self, step: int) -> None:
        names = [term.name for term in self.parts.curriculum.terms]
        with self.dog.phase("conflicts"):
            cosine_KK, norm_K = self.monitor.measure(self.state.params, self.rows, self.dog.progress)
        self.conflicts, warnings = self.conflicts.note(step, names, cosine_KK)
        known = [
            [None if np.isnan(cosine) else cosine for cosine in row] for row in cosine_KK.tolist()
        ]  # JSON has no NaN
        self.records.write("conflict", step, terms=names, cosines=known, norms=norm_K.tolist())
        for warning in warnings:
            self._say(warning)

    def _validate(self, kind: str, step: int, most_rows: int, task_rows: int) -> None:
        """Measures and records, by the parameters and by their average; not twice, after a restart, the same step."""
        if self.asked or self.health.measured.get(kind) == step:
            return
        measured: list[tuple[str, Findings]] = []
        self.lease.beat(kind, step)
        with self.dog.phase(kind):
            for name, params in ((kind, self.state.params), (f"{kind}_ema", self.state.ema)):
                if params is None:
                    continue
                asks = lambda: self.asks[self._wants_to_stop()]  # noqa: E731
                found = self.held_out.findings(params, most_rows, task_rows, asks, self.dog.progress)
                if found is None:
                    self.asked = True  # to be measured by the next start
                    return
                measured.append((name, found))
        for name, found in measured:
            for source, score in found.sources.items():
                self.records.write(name, step, source=source, **score._asdict())
            for term, score in found.terms.items():
                self.records.write(f"{kind}_task{name[len(kind) :]}", step, task=term, **score.record())
        self.health.measured[kind] = step
        if kind == "validation":
            _, found = measured[-1]
            if step % self.recipe.validation.every == 0:  # patience does not count where a run happens to stop
                self.health.note_held_out(step, overall(found, self.text.rows.rates, self.parts.curriculum.terms))
            bits = ", ".join(f"{source} {score.bits_per_byte:.3f}" for source, score in found.sources.items())
            if bits:
                self._say(f"step {step}: bits per byte of a sample of held-out text: {bits}")
            learnt = ", ".join(f"{term} {score}" for term, score in found.terms.items())
            if learnt:
                self._say(f"step {step}: right on a sample of held-out text: {learnt}")

    def _placed(self, cooldown: int) -> jax.Array:
        return jax.device_put(np.int32(cooldown), self.parts.abstract.cooldown.sharding)

    def _wants_to_stop(self) -> bool:
        """Whether this host does; what comes of it, all hosts learn from the step that they take together."""
        minutes = self.recipe.stop.minutes
        late = minutes is not None and time.perf_counter() - self.start.began > 60 * minutes
        late = late and self.rows > self.first_row  # every start makes progress
        return late or self.signals.asked is not None

    def _say(self, text: str) -> None:
        self.console.print(text, highlight=False, markup=False)


def _trees(state: State) -> dict[str, Any]:
    """What a checkpoint holds, by name: parameters, their average where there is one, and what only training needs."""
    training = {"step": state.step, "optimizer": state.optimizer, "combiner": state.combiner}
    return {"params": state.params, "training": training} | ({} if state.ema is None else {"ema": state.ema})
