"""What ends a run before its last step, and what is worth a line on the way there: spikes, steps without numbers.

All of it is decided by numbers that every host knows, so that every host decides alike; `minutes` is the exception,
and is agreed on through the step (train/supervision/stop_flag.py).
"""

import dataclasses
import math
import statistics
from typing import Any, NamedTuple

from train.measuring.judging_figure import figure_at
from train.recipe import StopSpec
from train.record.ledger import Entry
from train.supervision.exits import BadNumbersError

GAIN = 0.002  # share by which a held-out loss must fall to count as progress
WINDOW = 128  # steps whose losses say what is normal
SUSTAINED = 5  # steps in a row out of bounds that are no accident
ENOUGH = 20  # of them before anything is called abnormal
SPIKE = 6.0  # standard deviations above the mean


@dataclasses.dataclass
class Health:
    """How a run fares: kept in every checkpoint, as JSON, so that a resumed run decides what a whole one would."""

    losses: list[float] = dataclasses.field(default_factory=list)  # of the newest steps, nats a token
    skipped: int = 0  # steps in a row whose loss or gradient was not a number
    out_of_bounds: int = 0  # steps in a row whose loss was far above what is normal
    cooled_at: int | None = None  # the step from which wsd falls as patience ran out
    held_out: float | None = None  # newest held-out loss, nats a token
    best_loss: float | None = None  # the lowest of them; with stop.figure, how far it fell short there
    best_step: int | None = None  # where it was
    reference: float | None = None  # held-out loss that patience compares with
    without_gain: int = 0  # measurements since that one
    figure: str | None = None  # stop.figure, by which these five are what they are; None = the loss
    best_held_out: float | None = None  # held-out loss at `best_step`, which decides between equals of stop.figure
    measured: dict[str, int] = dataclasses.field(default_factory=dict)  # newest step of each kind of measurement

    def note_step(self, entry: Entry, spec: StopSpec) -> str | None:
        """Takes in a finished step; returns what is remarkable about it. Raises BadNumbersError if the run must end."""
        which = f"step {entry.step} (rows {entry.first_row} to {entry.first_row + entry.rows - 1})"
        loss = entry.loss
        if entry.skipped:
            self.skipped += 1
            found = f"{which}: the loss is {loss}, the gradient's norm {entry.gradient_norm}"
            if self.skipped >= spec.skipped:
                raise BadNumbersError(
                    f"{found}, and no update was made for {self.skipped} steps in a row (stop.skipped); "
                    "lower optimizer.learning_rate in a new run (--run), or look at these rows"
                )
            return f"{found}: no update was made, {self.skipped} in a row"
        self.skipped = 0
        said = None
        if len(self.losses) >= ENOUGH:
            median, mean = statistics.median(self.losses), statistics.fmean(self.losses)
            self.out_of_bounds = self.out_of_bounds + 1 if loss > spec.divergence * median else 0
            if self.out_of_bounds >= SUSTAINED:
                raise BadNumbersError(
                    f"{which}: the loss is {loss:.4g}, and for {SUSTAINED} steps was more than {spec.divergence:g} "
                    f"times its running median of {median:.4g} (stop.divergence); lower optimizer.learning_rate in "
                    "a new run (--run)"
                )
            if loss > mean + SPIKE * statistics.pstdev(self.losses, mean):
                said = f"{which}: the loss jumped to {loss:.4g} from a running mean of {mean:.4g}"
        self.losses = [*self.losses[1 - WINDOW :], loss]
        return said

    def judge_by(self, figure: str | None) -> None:
        """To be called at each start: what is best by another figure, or by the loss, counts no further."""
        if figure != self.figure:
            self.figure, self.best_loss, self.best_step, self.best_held_out = figure, None, None, None
            self.reference, self.without_gain = None, 0

    def note_held_out(self, step: int, loss: float, short: float | None = None) -> bool:
        """Takes in a measurement of held-out text; True if it is the best so far.

        `short`: what it is judged by in place of the loss, lower is better (see train/measuring/judging_figure.py).
        """
        self.held_out = loss
        judged = loss if short is None else short
        if self.reference is None or judged < self.reference * (1 - GAIN):
            self.reference, self.without_gain = judged, 0
        else:
            self.without_gain += 1
        if self.best_loss is not None:
            equal = self.best_loss if self.best_held_out is None else self.best_held_out
            if (judged, loss) >= (self.best_loss, equal):
                return False
        self.best_loss, self.best_step, self.best_held_out = judged, step, loss
        return True

    def as_json(self) -> dict[str, Any]:
        return dataclasses.asdict(self)


class End(NamedTuple):
    """Where a run ends by arithmetic alone, and why."""

    step: int
    why: str


def planned_end(
    spec: StopSpec, last_step: int, step: int, tokens: int, tokens_per_step: int, training_tokens: int
) -> End:
    """The earliest end that the recipe sets.

    `last_step` is the recipe's, or where wsd has fallen; `tokens` were read in the `step` steps so far;
    `training_tokens` is all the text there is.
    """

    def when(read: float) -> int:
        return step + max(0, math.ceil((read - tokens) / tokens_per_step))

    ends = [End(last_step, f"its last step, {last_step}")]
    if spec.step is not None:
        ends.append(End(spec.step, f"stop.step={spec.step}"))
    if spec.tokens is not None:
        ends.append(End(when(spec.tokens), f"stop.tokens={spec.tokens}"))
    if spec.epochs is not None:
        why = f"stop.epochs={spec.epochs:g} of {training_tokens:,} tokens"
        ends.append(End(when(spec.epochs * training_tokens), why))
    return min(ends, key=lambda end: end.step)


def reached_target(spec: StopSpec, health: Health) -> str | None:
    """Why a run that has learnt enough ends; None = it goes on."""
    if spec.loss is None or health.held_out is None or health.held_out > spec.loss:
        return None
    return f"stop.loss={spec.loss:g}: the loss on held-out text is {health.held_out:.4f}"


def out_of_patience(spec: StopSpec, health: Health) -> str | None:
    """Why a run that learns no more ends; None = it goes on."""
    if spec.patience is None or health.without_gain < spec.patience:
        return None
    assert health.reference is not None
    wanted = health.reference * (1 - GAIN)
    if spec.figure is None:
        of_what = f"a held-out loss below {wanted:.4f} nats a token"
    else:
        of_what = f"{spec.figure} better than {figure_at(spec.figure, wanted):.4f}"
    return f"stop.patience={spec.patience}: so many measurements in a row without {of_what}"
