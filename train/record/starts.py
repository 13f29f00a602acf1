"""The starts of a run, a line each in `starts.jsonl`: from which step and row, by which recipe, how long after all."""

import contextlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from gptjax.files.places import url_of
from gptjax.runs.bucket_run import BucketRun
from gptjax.runs.manifest import manifest, steps
from train.record.jsonl_log import JsonlLog, records_in, records_of
from train.record.metrics import Train, read_metrics

STARTS = "starts.jsonl"


class Beginning(NamedTuple):
    """One start."""

    step: int  # steps that were done before it
    seconds: float = 0.0  # that the starts before it took
    row: int = 0  # the first that it read
    recipe: Mapping[str, Any] | None = None  # as recipe.json has it; None: an older gptjax, which did not note it
    layout: Mapping[str, Any] | None = None  # how its rows lay on its devices, a train.layout.Layout; None: likewise


def note_start(run: Path, step: int, row: int, about: Mapping[str, Any], warn: Callable[[str], None]) -> None:
    """Adds to `starts.jsonl` that a run starts, or goes on; `about`: its recipe and layout, by name.

    To be called before metrics.jsonl is cut back: what is done again took its time too.
    """
    seconds, _ = time_spent(run)
    starts = JsonlLog(run / STARTS, lambda _: True, warn)
    starts.note(Beginning(step, seconds, row, about["recipe"], about["layout"])._asdict())
    starts.close()


def starts_of(run: Path) -> list[Beginning]:
    """In the order they were made; of runs from before starts.jsonl none."""
    return _beginnings(records_of(run / STARTS))


def last_start(run: Path) -> Beginning | None:
    """The newest of them: of a run on a bucket as the bucket has it, whatever its copy here says. None of a new run."""
    if url_of(run) is None:
        starts = starts_of(run)
    else:
        starts = _beginnings(records_in(BucketRun(run).bucket.read(STARTS) or b""))
    return starts[-1] if starts else None


def _beginnings(lines: Sequence[Mapping[str, Any]]) -> list[Beginning]:
    return [Beginning(**{name: line[name] for name in Beginning._fields if name in line}) for line in lines]


def time_spent(run: Path) -> tuple[float, int]:
    """(wall time of a run up to its last record, in seconds; how often it was started).

    Of runs from before starts.jsonl a clock that falls between records was started anew, and others are not noticed.
    """
    records = [record for record in read_metrics(run / "metrics.jsonl") if isinstance(record, Train)]
    timed = [(record.step, record.seconds) for record in records if record.seconds >= 0]  # NaN is not
    starts = starts_of(run)
    if starts:
        since = [seconds for step, seconds in timed if step > starts[-1].step]
        unnoted = starts[0].seconds > 0  # at least one, of a run from before starts.jsonl
        return starts[-1].seconds + max(since, default=0.0), unnoted + len(starts)
    total, before, count = 0.0, 0.0, 1
    for _, seconds in timed:
        anew = seconds < before
        total, before, count = total + seconds - (0 if anew else before), seconds, count + anew
    return total, count


class Stretch(NamedTuple):
    """Steps that were taken by one recipe."""

    step: int  # steps before it
    row: int
    recipe: Mapping[str, Any]
    by_steps: bool  # whether its rows follow the schedule by steps: see train/rows.py
    known: bool  # False: its recipe was not kept, and this one is the next that was


def stretches(run: Path, recipe: Mapping[str, Any]) -> list[Stretch]:
    """A stretch for every start; a step was taken in the last of them that begins before it.

    `recipe` is the newest. Recipes of older starts, where starts.jsonl lacks them, are those of their checkpoints.
    """
    starts = starts_of(run) or [Beginning(0)]
    kept: dict[int, Mapping[str, Any]] = {len(starts) - 1: recipe}
    for step in steps(run):
        with contextlib.suppress(ValueError, KeyError):  # damaged, or of before manifests held it
            kept.setdefault(number_of(starts, step - 1), manifest(run, step)["provenance"]["recipe"])
    found: list[Stretch] = []
    for number, start in reversed([*enumerate(starts)]):
        noted = kept.get(number) if start.recipe is None else start.recipe
        recipe = recipe if noted is None else noted
        found.append(Stretch(start.step, start.row, recipe, start.recipe is not None, noted is not None))
    return found[::-1]


def number_of(starts: Sequence[Beginning | Stretch], before: int) -> int:
    """Which start took the step after `before` steps: the last that begins there or earlier."""
    return max((number for number, start in enumerate(starts) if start.step <= before), default=0)
