"""How much of a run each task is: its share of the rows, its weight, and both again later, as one line of text a task.

causal_lm=0.9              nine rows in ten, and a weight of 0.9
continuity=0.02:0.01       one row in fifty, and a weight of 0.01
continuity=0.02:0@1        the same rows, but a weight that has come down to 0 at the end of the run
order=0.1@0.5              one row in ten from the middle of the run on; the weight rises to it until then
causal_lm                  the rows that the other tasks leave, at all times
"""

import dataclasses
from collections.abc import Collection, Iterable, Mapping

import numpy as np

from data.rows.mixture import RATE_UNIT
from gptjax.spelling import did_you_mean

FORM = "write TASK=ROWS, TASK=ROWS:WEIGHT, or either with @SHARE of the run behind it, such as masked_lm=0.1"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Schedule:
    """How much of a run one task is, and what it reads."""

    rows: float = 0.0  # share of the rows of the sources that it reads; elsewhere the others share its rows
    weight: float | None = None  # lambda: its share of the gradient; None = as its rows
    later: tuple[tuple[float, float, float], ...] = ()  # (share of the run, rows from there on, weight reached there)
    rare: bool | None = None  # divide by the expected, not the found number of targets; None = see `Objectives.rare`
    sources: tuple[str, ...] = ()  # that it reads; () = all in which it finds something

    def __post_init__(self):
        """Raises ValueError for a schedule that cannot be."""
        shares = [share for share, _, _ in self.later]
        if any(not 0 < share <= 1 for share in shares) or sorted(set(shares)) != shares:
            raise ValueError(f"later={self.later}: the shares of the run must rise and lie above 0 and up to 1")
        for field, values in (("rows", self.all_rows), ("weight", self.weights)):
            if any(not 0 <= value < float("inf") for value in values):
                raise ValueError(f"{field}: {values} must be 0 or more")
        if small := [rows for rows in self.all_rows if 0 < rows < 1 / RATE_UNIT]:
            raise ValueError(
                f"rows={min(small):g}: rows are dealt out in {RATE_UNIT}ths; give 0, or 0.001 at least, and "
                f"let it pull less by its weight, as in 0.001:{min(small):g}"
            )
        if self.later and self.begins == 1:
            raise ValueError("has no rows before the end of the run; give it some, or a lower @SHARE")

    @property
    def all_rows(self) -> list[float]:
        """Its shares of the rows at the start of the run and at the shares of `later`."""
        return [self.rows, *(rows for _, rows, _ in self.later)]

    @property
    def most(self) -> float:
        """Its share of the rows when it has most."""
        return max(self.all_rows)

    @property
    def begins(self) -> float:
        """The share of the run from which it has rows; 1 = never."""
        return next((share for share, rows in zip(self.shares, self.all_rows, strict=True) if rows > 0), 1.0)

    @property
    def weights(self) -> list[float]:
        """Lambda at the start of the run and at the shares of `later`; between them it changes evenly."""
        return [self.rows if self.weight is None else self.weight, *(weight for _, _, weight in self.later)]

    @property
    def shares(self) -> list[float]:
        """The shares of the run to which `weights` belong."""
        return [0.0, *(share for share, _, _ in self.later)]

    def rows_at(self, share: float) -> float:
        """Its share of the rows at a share of the run: it changes at once."""
        return [self.rows, *(rows for start, rows, _ in self.later if start <= share)][-1]

    def weight_at(self, share: float) -> float:
        """Its weight at a share of the run: it changes evenly."""
        return float(np.interp(share, self.shares, self.weights))

    def lines(self, task: str) -> list[str]:
        """The schedule as `read` takes it; nothing for a task without rows and weights."""
        if not any([self.most, *self.weights]):
            return []
        weight = "" if self.weight is None else f":{_written(self.weight)}"
        first = f"{task}={_written(self.rows)}{weight}"
        return [
            first,
            *(f"{task}={_written(rows)}:{_written(weight)}@{_written(share)}" for share, rows, weight in self.later),
        ]


def read(lines: Iterable[str], tasks: Collection[str]) -> dict[str, Schedule]:
    """Task -> its schedule, of all tasks that the lines name. Raises ValueError naming a line that cannot be."""
    first: dict[str, tuple[float | None, float | None]] = {}
    later: dict[str, list[tuple[float, float, float]]] = {}
    for line in lines:
        task, (rows, weight, share) = _parsed(line, tasks)
        if share is None:
            if task in first:
                raise ValueError(f"objectives.rows: {task} is there twice; a second line of it needs @SHARE of the run")
            first[task] = rows, weight
        elif rows is None:
            raise ValueError(f"objectives.rows: {line!r} has no number of rows; {FORM}")
        else:
            later.setdefault(task, []).append((share, rows, rows if weight is None else weight))
    open_tasks = [task for task, (rows, _) in first.items() if rows is None]
    if len(open_tasks) > 1:
        raise ValueError(f"objectives.rows: {' and '.join(open_tasks)} have no number; one may take what others leave")
    left = 1 - sum(rows or 0.0 for rows, _ in first.values())
    if open_tasks and left < 0:
        raise ValueError(f"objectives.rows: the tasks sum to {1 - left:g}, and {open_tasks[0]} takes what they leave")
    found = {}
    for task in [*first, *(task for task in later if task not in first)]:
        rows, weight = first.get(task, (0.0, None))
        try:
            found[task] = Schedule(
                rows=left if rows is None else rows, weight=weight, later=tuple(sorted(later.get(task, ())))
            )
        except ValueError as error:
            raise ValueError(f"objectives.rows: {task}: {error}") from None
    for task in open_tasks:
        if not found[task].later:
            others = [schedule for name, schedule in found.items() if name != task]
            found[task] = dataclasses.replace(found[task], later=_left_later(found[task], others))
    return found


def _left_later(open_one: Schedule, others: Collection[Schedule]) -> tuple[tuple[float, float, float], ...]:
    """`later` of the task that takes the rows which the others leave; as its weight too, unless it has one."""
    found, rows = [], open_one.rows
    for share in sorted({share for other in others for share in other.shares if share > 0}):
        left = round(1 - sum(other.rows_at(share) for other in others), 9)
        if abs(left - rows) > 1e-6:
            rows = max(left, 0.0)
            found.append((share, rows, rows if open_one.weight is None else open_one.weight))
    return tuple(found)


def read_sources(lines: Iterable[str], tasks: Collection[str]) -> dict[str, tuple[str, ...]]:
    """Task -> the sources that it reads, of lines TASK=SOURCE."""
    found: dict[str, tuple[str, ...]] = {}
    for line in lines:
        task, equals, source = line.partition("=")
        task = _known(task, tasks, "sources")
        if not equals or not source:
            raise ValueError(f"objectives.sources: {line!r}; write TASK=SOURCE, such as classify=wiki_leads/en")
        found[task] = (*found.get(task, ()), source)
    return found


def written(schedules: Mapping[str, Schedule]) -> tuple[str, ...]:
    """Schedules as `read` takes them."""
    return tuple(line for task, schedule in schedules.items() for line in schedule.lines(task))


def _parsed(line: str, tasks: Collection[str]) -> tuple[str, tuple[float | None, float | None, float | None]]:
    """(task, (rows, weight, share of the run)) of a line, None for what it does not say."""
    task, equals, numbers = line.partition("=")
    task = _known(task, tasks, "rows")
    amounts, at, share = numbers.partition("@")
    rows, colon, weight = amounts.partition(":")
    try:
        return task, (
            float(rows) if equals else None,
            float(weight) if colon else None,
            float(share) if at else None,
        )
    except ValueError:
        raise ValueError(f"objectives.rows: {line!r}; {FORM}") from None


def _known(task: str, tasks: Collection[str], field: str) -> str:
    name = task.replace("-", "_")
    if name not in tasks:
        raise ValueError(f"objectives.{field}: no task {task!r}{did_you_mean(name, tasks)}")
    return name


def _written(number: float) -> str:
    """A number that is read back exactly."""
    return str(int(number)) if number == int(number) else repr(float(number))
