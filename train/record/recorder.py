"""What a run tells while it trains: metrics.jsonl and its curves, the row hashes, and a bar or lines for people."""

import contextlib
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bar
from rich.table import Table
from rich.text import Text as Whole

from gptjax.evaluation.text_figures import TITLES
from train.assemble import Assembly
from train.losses.table import measure_texts
from train.record.jsonl_log import JsonlLog
from train.record.ledger import Entry
from train.record.meter import Speed, Start, peak_flops
from train.record.metrics import (
    SCORES,
    Answers,
    Conflict,
    Findings,
    Hosts,
    Inside,
    Occasion,
    Record,
    Remark,
    SourceRecord,
    TaskRecord,
    Train,
    Version,
    as_json,
    read_metrics,
)
from train.record.older import METRICS_VERSION
from train.record.progress import Progress
from train.record.starts import note_start
from train.record.tensorboard import Curves

TELL_EVERY = 30  # seconds, where there is no terminal to draw a bar on


class MetricsLog:
    """`metrics.jsonl`, and the same numbers as curves, of a run that goes on after `step`, 0 for a new one.

    `stays`, `warn` and `writes` are those of JsonlLog. What stays of that step is drawn again.
    """

    def __init__(
        self,
        run: Path,
        step: int,
        stays: Callable[[dict[str, Any]], bool],
        warn: Callable[[str], None],
        writes: bool = True,
    ):
        path = run / "metrics.jsonl"
        self._log = JsonlLog(path, stays, warn, writes)
        self._curves = Curves(run / "tensorboard", step, warn) if writes else None
        kept = read_metrics(path) if writes else []
        for record in kept:
            if record.step == step:
                self._draw(record)
        if max((record.version for record in kept if isinstance(record, Version)), default=1) < METRICS_VERSION:
            self.write(Version(step, METRICS_VERSION))

    def write(self, record: Record) -> None:
        self._log.note(as_json(record))
        self._log.flush()
        self._draw(record)

    def _draw(self, record: Record) -> None:
        if self._curves is not None and not isinstance(record, Version):
            self._curves.draw(as_json(record))

    def close(self) -> None:
        self._log.close()
        if self._curves is not None:
            self._curves.close()


class Recorder:
    """All that a start of a run writes down on its way, from a step on; `writes` is False on all hosts but one."""

    def __init__(
        self, parts: Assembly, progress: Progress, step: int, about: Mapping[str, Any], console: Console, start: Start
    ):
        run, writes = parts.recipe.run, jax.process_index() == 0
        self._parts, self._progress, self._console, self._began = parts, progress, console, start.began
        self._first_step = step
        self.speed = Speed(parts.tokens_per_step, parts.config.flops_per_token, peak_flops(parts.recipe.compute.dtype))
        start.finished("peak")
        self._told = time.monotonic()  # when a line stood for the bar
        if writes:
            note_start(run, step, progress.rows, about, self.say)
        with contextlib.ExitStack() as stack:
            self._metrics = MetricsLog(run, step, self._is_past, self.say, writes)
            stack.callback(self._metrics.close)
            self._row_hashes = JsonlLog(run / "ledger.jsonl", self._is_past, self.say, writes)
            stack.callback(self._row_hashes.close)
            columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
            self._bar = stack.enter_context(Bar(*columns, console=console, disable=not console.is_terminal))
            self._task = self._bar.add_task("compiling", total=None, completed=step)
            self._open = stack.pop_all()

    def __enter__(self) -> "Recorder":
        return self

    def __exit__(self, *_: object) -> None:
        self._open.close()

    def say(self, text: str) -> None:
        self._console.print(text, highlight=False, markup=False)

    def row_hash(self, entry: Entry) -> None:
        self._row_hashes.note(entry._asdict())

    def before_save(self) -> None:
        """Row hashes are never behind a checkpoint."""
        self._row_hashes.sync()

    def show(self, step: int, end: int) -> None:
        """How far the run is, on the bar, and where it ends as things are now."""
        self._bar.update(self._task, completed=step, total=end)

    def remark(self, step: int, text: str) -> None:
        self.say(text)
        self._metrics.write(Remark(step, text))

    def train(self, step: int, found: Mapping[str, Any]) -> None:
        """Writes the mean losses since the last record, and what else a curve is drawn of."""
        taken = self._progress.take_losses()
        if taken is None:
            return
        loss, tasks = taken
        speed = self.speed.tokens_per_second
        record = Train(
            step, tokens=self._progress.rows * self._parts.recipe.row_length, loss=loss,
            tasks=tasks, coefficients={name: float(found[f"coefficient/{name}"]) for name in tasks},
            learning_rate=float(found["learning_rate"]), gradient_norm=float(found["gradient_norm"]),
            tokens_per_second=speed, mfu=self.speed.mfu, seconds=time.perf_counter() - self._began,
        )  # fmt: skip
        self._metrics.write(record)
        shown = f"loss {loss:.3f}  {record.tokens_per_second:,.0f} tokens/s  MFU {record.mfu:.0%}{self._learned(found)}"
        self._bar.update(self._task, description=shown)
        pace = record.tokens_per_second / self._parts.tokens_per_step
        if pace and not self._console.is_terminal and time.monotonic() >= self._told + TELL_EVERY:
            self._told, end = time.monotonic(), self._bar.tasks[0].total or step
            self.say(f"step {step} of {end:.0f}: {shown}, {(end - step) / pace / 60:.0f} min left")

    def _learned(self, found: Mapping[str, Any]) -> str:
        """Of a step that reads many tokens without a target, how many it learns from; else nothing."""
        terms = self._parts.loss_spec.terms
        if not any(term.sparse for term in terms):
            return ""
        learned = sum(float(found[f"weight/{term.name}"]) for term in terms)
        return f"  learns {learned:,.0f} of {self._parts.tokens_per_step:,} tokens"

    def scores(self, step: int, occasion: Occasion, averaged: bool, found: Findings) -> None:
        for source, score in found.sources.items():
            self._metrics.write(SourceRecord(step, occasion, averaged, source, score))
        for term, score in found.terms.items():
            self._metrics.write(TaskRecord(step, occasion, averaged, term, score))

    def show_scores(self, step: int, found: Findings) -> None:
        """For people, the scores of a sample of held-out text."""
        if found.sources or found.terms:
            self._console.print(scores_table(step, found))

    def answers(self, record: Answers) -> None:
        self._metrics.write(record)
        self.say(f"step {record.step}: {TITLES[record.figure]} {record.value:.1f} of {record.answers} answers")

    def measured(self, record: Conflict | Inside | Hosts) -> None:
        self._metrics.write(record)

    def _is_past(self, record: dict[str, Any]) -> bool:
        """Whether a record is of what the checkpoint knows of; what came after it will be done again."""
        _, _, occasion, _ = SCORES.get(record.get("kind", ""), (None, None, None, False))
        unknown = occasion is not None and self._progress.health.measured.get(occasion, 0) < record["step"]
        return record["step"] <= self._first_step and not unknown


def scores_table(step: int, found: Findings) -> Table:
    """Bits a byte of each source, and each task beside its baseline: narrow enough for 80 columns."""
    table = Table(box=None, padding=(0, 2, 0, 0), title=f"step {step}: a sample of held-out text", title_justify="left")
    table.add_column("", overflow="fold")  # whole: sources may differ in the end of a name alone
    for heading in ("bits/byte", "correct", "baseline"):
        table.add_column(heading, justify="right", no_wrap=True)
    for source, score in found.sources.items():
        table.add_row(Whole(source), f"{score.bits_per_byte:.3f}", "", "")
    for term, score in found.terms.items():
        table.add_row(Whole(term), "", *measure_texts(score.measured))
    return table
