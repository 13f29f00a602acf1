"""When held-out text and conflicts are looked at, and what follows from it: a lower rate, or the end of the run."""

from train.assemble import Assembly, Text
from train.losses.conflict import Monitor
from train.measuring.insight import insight
from train.measuring.judging_figure import figure_of, shortfall
from train.measuring.validate import HeldOut, overall
from train.measuring.writing import StoppedWritingError, Writing
from train.record.metrics import Conflict, Findings, Occasion
from train.record.progress import Progress
from train.record.recorder import Recorder
from train.resume import placed_cooldown
from train.step import State
from train.stopping import End, out_of_patience, reached_target
from train.supervision.guards import Guards
from train.supervision.stop_flag import StopFlag
from train.tuning.tune_recipe import judged_by
from train.updates.optimizer import cooldown_steps

LABELLED = "labelled"  # the task whose figures stop.figure names
INSIDE = "inside"  # a kind of measurement, beside those of held-out text


class Measuring:
    """The measurements of a run, each recorded, none taken twice at the same step though the run is started again."""

    def __init__(
        self, parts: Assembly, text: Text, progress: Progress, recorder: Recorder, stop: StopFlag, guards: Guards
    ):
        self._parts, self._text, self._progress = parts, text, progress
        self._recorder, self._stop, self._guards = recorder, stop, guards
        self._held_out = HeldOut(parts, text)
        figure = parts.recipe.stop.figure
        progress.health.judge_by(figure)
        self._writing = None
        if figure is not None and parts.recipe.objectives.reply.ever:
            self._writing = Writing(parts, text, figure)
        self._monitor = Monitor(parts, text.rows)
        self._insight = None
        try:
            self._insight = insight(parts, text)
        except Exception as error:  # of what no run needs
            self._leave_out("looks inside", error)

    def measure(self, step: int, state: State, end: End) -> tuple[State, str | None]:
        """Measures held-out text where that is due. Returns the state, whose rate may fall from here on, and why the
        run ends here, if it does."""
        recipe, health = self._parts.recipe, self._progress.health
        why = end.why if step >= end.step else None
        if why is not None or step % recipe.validation.every == 0:
            self.validate("validation", step, state)
        why = why or reached_target(recipe.stop, health)
        falls = recipe.optimizer.schedule == "wsd"
        falling = falls and step >= int(state.cooldown)
        impatient = None if falling else out_of_patience(recipe.stop, health)
        if impatient is not None and falls:
            health.cooled_at = step
            state = state._replace(cooldown=placed_cooldown(self._parts, step))
            fall = cooldown_steps(recipe.optimizer, recipe.steps)
            self._recorder.say(f"{impatient}: the learning rate falls now, for {fall} steps")
        else:
            why = why or impatient
        if why is not None:
            self.validate("final", step, state)
        if why is not None or _doubles(step, recipe.validation.every):
            self._look_inside(step, state)
        return state, None if self._stop.agreed else why

    def validate(self, occasion: Occasion, step: int, state: State) -> None:
        """Measures and records, by the parameters and by their average."""
        if self._stop.agreed or self._progress.health.measured.get(occasion) == step:
            return
        spec = self._parts.recipe.validation
        sizes = (spec.rows, spec.task_rows) if occasion == "validation" else (spec.final_rows, spec.final_task_rows)
        measured: list[tuple[bool, Findings]] = []
        self._guards.lease.beat(occasion, step)
        with self._guards.watchdog.phase(occasion):
            for averaged, params in ((False, state.params), (True, state.ema)):
                if params is None:
                    continue
                found = self._held_out.findings(params, *sizes, self._stop.own, self._guards.watchdog.progress)
                if found is None:
                    self._stop.agreed = True  # to be measured by the next start
                    return
                measured.append((averaged, found))
        loaded = 0 if judged_by(self._parts.recipe) is not None else -1  # the trained weights, whose best is loaded
        counts = occasion == "validation" and step % self._parts.recipe.validation.every == 0  # not where a run stops
        try:
            short = self._shortfall(step, state, measured[loaded][1]) if counts else None
        except StoppedWritingError:
            self._stop.agreed = True  # to be measured by the next start
            return
        for averaged, found in measured:
            self._recorder.scores(step, occasion, averaged, found)
        self._progress.health.measured[occasion] = step
        if occasion == "validation":
            self._note(step, measured[loaded][1], counts, short)

    def _look_inside(self, step: int, state: State) -> None:
        """Sees what the heads do and how the layers have changed. Where that fails, the run goes on without it."""
        if self._insight is None or self._stop.agreed or self._progress.health.measured.get(INSIDE) == step:
            return
        with self._guards.watchdog.phase("a look inside"):
            try:
                found = self._insight.look(step, state.params, self._after_a_row)
            except Exception as error:
                self._insight = None
                self._leave_out(f"the look inside at step {step}, and those to come,", error)
                return
        if found is not None:
            self._recorder.measured(found)
            self._progress.health.measured[INSIDE] = step

    def _after_a_row(self) -> bool:
        """Whether there is time for another one; else the next start looks."""
        self._guards.watchdog.progress()
        return not self._stop.wanted

    def _leave_out(self, what: str, error: Exception) -> None:
        told = f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
        self._recorder.say(f"{what} are left out ({told})")

    def _note(self, step: int, found: Findings, counts: bool, short: float | None) -> None:
        loss = overall(found, self._text.rows.rates, self._parts.loss_spec.terms)
        self._progress.newest = (step, loss)
        if counts:
            self._progress.health.note_held_out(step, loss, short)
        self._recorder.show_scores(step, found)

    def _shortfall(self, step: int, state: State, found: Findings) -> float | None:
        """How far the figure that the run is judged by falls short; None = it is judged by the loss."""
        figure = self._parts.recipe.stop.figure
        if figure is None:
            return None
        if self._writing is not None:
            with self._guards.watchdog.phase("answers"):
                written = self._writing.look(step, state.params, self._after_an_answer)
            self._recorder.answers(written)
            return shortfall(figure, written.value)
        judged = [term.name for term in self._parts.loss_spec.terms if term.name.split("/")[0] == LABELLED]
        return shortfall(figure, figure_of(figure, found.terms[judged[0]]))

    def _after_an_answer(self) -> None:
        """The run is alive. Raises StoppedWritingError where it is to stop."""
        self._guards.watchdog.progress()
        if self._stop.wanted:
            raise StoppedWritingError

    def look_for_conflicts(self, step: int, state: State) -> None:
        """Measures which terms pull the layers in which directions, on the rows that come next."""
        names = [term.name for term in self._parts.loss_spec.terms]
        with self._guards.watchdog.phase("conflicts"):
            cosine_JJ, norm_J = self._monitor.measure(state.params, self._progress.rows, self._guards.watchdog.progress)
        self._progress.conflicts, warnings = self._progress.conflicts.note(step, names, cosine_JJ)
        self._recorder.measured(Conflict(step, terms=names, cosines=cosine_JJ.tolist(), norms=norm_J.tolist()))
        for warning in warnings:
            self._recorder.say(warning)


def _doubles(step: int, every: int) -> bool:
    """Whether a step is 1, 2, 4, 8, ... times so many: most changes early."""
    return step % every == 0 and (step // every).bit_count() == 1
