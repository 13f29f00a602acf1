"""What an evaluation found: figures with their uncertainty, the items behind them, a table and files."""

import dataclasses
import os
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rich.markup import escape
from rich.table import Table

from gptjax.files.atomic_file import write_whole
from gptjax.files.places import expanded
from gptjax.files.plain_json import dumps

RESAMPLES = 1000
INTERVAL = (2.5, 97.5)  # per cent
FEW = 30  # items, of which the bootstrap draws too little that differs


@dataclasses.dataclass(frozen=True, kw_only=True)
class Metric:
    """A figure, and where it would lie in 95 of 100 evaluations with other items of the same kind."""

    value: float
    low: float | None  # None = there is only one item, or a draw was no number
    high: float | None


def metric(figure: Callable[[np.ndarray], float], items: int, seed: int = 0) -> Metric:
    """The figure of all items, with its bootstrap interval: the middle 95 % over RESAMPLES draws of as many items.

    `figure` is given item numbers, some of them several times. The same seed gives the same interval. With fewer than
    FEW items it is too narrow; of one there is none. Raises ValueError if there are no items.

    Source: Efron and Tibshirani 1993, "An Introduction to the Bootstrap", section 13.3 (percentile interval).
    """
    if not items:
        raise ValueError("there are no items to evaluate")
    value = float(figure(np.arange(items)))
    if items == 1:
        return Metric(value=value, low=None, high=None)
    chance = np.random.default_rng(seed)
    drawn = [figure(chance.integers(0, items, items)) for _ in range(RESAMPLES)]
    if not np.isfinite(drawn).all():
        return Metric(value=value, low=None, high=None)
    low, high = np.percentile(drawn, INTERVAL)
    return Metric(value=value, low=float(low), high=float(high))


def mean_of(values: Sequence[float | int] | np.ndarray, seed: int = 0) -> Metric:
    """The mean of one value an item."""
    value_I = np.asarray(values, np.float64)
    return metric(lambda drawn: value_I[drawn].mean(), len(value_I), seed)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Result:
    """One evaluation."""

    task: str
    counts: Mapping[str, int]  # of items, and of what they consist of
    metrics: Mapping[str, Metric]
    items: Sequence[Mapping[str, Any]]  # one each, in the order in which they were given

    def summary(self) -> dict[str, Any]:
        """All but the items, ready for JSON."""
        metrics = {name: dataclasses.asdict(found) for name, found in self.metrics.items()}
        return {"task": self.task, "counts": dict(self.counts), "metrics": metrics}

    def table(self) -> Table:
        """For people."""
        title = f"{self.task}: " + ", ".join(f"{count:,} {name}" for name, count in self.counts.items())
        note = f"of fewer than {FEW} items an interval is too narrow" if 1 < len(self.items) < FEW else None
        table = Table("", title=escape(title), caption=note, min_width=max(len(title), len(note or "")))
        for heading in ("value", "95 % interval"):
            table.add_column(heading, justify="right", no_wrap=True)
        for name, found in self.metrics.items():
            interval = "" if found.low is None else f"{found.low:.4f} to {found.high:.4f}"
            table.add_row(escape(name), f"{found.value:.4f}", interval)
        return table

    def write(self, folder: str | os.PathLike[str], asked: Mapping[str, Any] | None = None) -> None:
        """Writes `result.json`, the summary, and `items.jsonl`, a line an item; replaces those of an earlier time.

        `asked`: of what model this is, with which settings; kept in the summary.
        Each is written aside and then renamed. What is no finite number is null. Raises ValueError as `place_for`.
        """
        folder = place_for(folder)
        lines = (dumps(dict(item), ensure_ascii=False) + "\n" for item in self.items)
        write_whole(folder / "items.jsonl", lines)
        summary = self.summary() | ({"asked": dict(asked)} if asked else {})
        write_whole(folder / "result.json", dumps(summary, ensure_ascii=False, indent=1) + "\n")


def place_for(folder: str | os.PathLike[str]) -> Path:
    """The folder for a result, made if need be. Raises ValueError where it is none, or nothing can be written in it."""
    folder = expanded(folder)
    if folder.is_file():
        raise ValueError(f"{folder}: is a file; give a folder for the results")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            return folder
    except OSError as error:
        raise ValueError(f"{folder}: {error.strerror}; give another folder for the results") from None
