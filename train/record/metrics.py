"""What a run measures, a type for each kind of record: metrics.jsonl is written, read and reported through these.

A value that is NaN or infinite is null in the file, and NaN once read; a value that an older gptjax did not write has
the default that its type gives it.
"""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

from train.record.jsonl_log import records_of
from train.record.older import METRICS_VERSION, metric_record

Occasion = Literal["validation", "final"]  # a sample of held-out text on the way; more of it, after the last step
NAN = math.nan


class Version(NamedTuple):
    """The lines after it have the names of this version."""

    step: int
    version: int


class Train(NamedTuple):
    """Steps since the record before: means over them, and where they led."""

    step: int
    tokens: int = 0  # read since step 0
    loss: float = NAN  # the number that training lowers
    tasks: Mapping[str, float] = {}  # term -> nats a target
    coefficients: Mapping[str, float] = {}  # term -> its weight in the loss
    learning_rate: float = NAN
    gradient_norm: float = NAN  # before clipping
    tokens_per_second: float = NAN
    mfu: float = NAN
    seconds: float = NAN  # since this start of the program


class Score(NamedTuple):
    """The loss on one source's held-out text."""

    loss: float = NAN  # nats a token
    perplexity: float = NAN
    bits_per_byte: float = NAN
    targets: int = 0
    bytes: int = 0


class TermScore(NamedTuple):
    """How well one term of the loss was learnt, beside a cheap baseline on the same targets."""

    loss: float = NAN  # a target
    targets: int = 0
    baseline: str = ""  # what it does
    by_source: Mapping[str, Sequence[Any]] = {}  # the measure of its kind of loss, targets
    # the measure by its key, that of the baseline by `baseline_<key>`, and what else its kind of loss keeps, such as
    # `confusion`; in the file beside the others
    measured: Mapping[str, Any] = {}


class Findings(NamedTuple):
    """One measurement."""

    sources: Mapping[str, Score]  # of the task that models the text; empty where none is trained
    terms: Mapping[str, TermScore]  # of the other tasks


class SourceRecord(NamedTuple):
    """A score of next-word prediction."""

    step: int
    occasion: Occasion
    averaged: bool  # of the moving average of the parameters
    source: str
    score: Score


class TaskRecord(NamedTuple):
    """A score of another task."""

    step: int
    occasion: Occasion
    averaged: bool
    task: str
    score: TermScore


class Conflict(NamedTuple):
    """Which terms pull the shared layers in which directions."""

    step: int
    terms: Sequence[str] = ()
    cosines: Sequence[Sequence[float | None]] = ()  # None where one of the two is absent
    norms: Sequence[float] = ()


class Inside(NamedTuple):
    """What was seen inside the model; lists go layer by layer, and within one head by head."""

    step: int
    entropy: Sequence[Sequence[float]] = ()  # nats of a token's attention, mean over tokens
    roles: Mapping[str, Sequence[Sequence[float]]] = {}  # role -> the share of attention that goes where it says
    layers: Sequence[Sequence[float]] = ()  # linear CKA of the states behind every two layers
    earlier: Mapping[str, Sequence[float]] = {}  # step of an earlier look -> CKA of each layer then and now


class Answers(NamedTuple):
    """A figure of the answers that a model wrote to held-out examples, which the run is judged by."""

    step: int
    figure: str = ""
    value: float = NAN
    answers: int = 0


class Hosts(NamedTuple):
    """Times of every process of several, in their order, since the record before of this kind; all in seconds."""

    step: int
    step_seconds: Sequence[float] = ()  # of a step, the mean; all processes wait for the slowest
    slowest_step_seconds: Sequence[float] = ()
    batch_seconds: Sequence[float] = ()  # that a step waited for its batch
    product_seconds: Sequence[float] = ()  # of a product that all do, each on its own devices


class Remark(NamedTuple):
    """What was worth a line: a spike, a step without numbers."""

    step: int
    text: str = ""


Record = Version | Train | SourceRecord | TaskRecord | Conflict | Inside | Answers | Hosts | Remark
PLAIN: dict[str, Any] = {
    "version": Version, "train": Train, "conflict": Conflict, "inside": Inside, "answers": Answers, "hosts": Hosts,
    "remark": Remark,
}  # fmt: skip
KIND_OF = {kind: name for name, kind in PLAIN.items()}
OCCASIONS: tuple[Occasion, ...] = ("validation", "final")
SCORES: dict[str, tuple[Any, Any, Occasion, bool]] = {  # kind -> its record, its score, occasion, averaged
    f"{occasion}{task}{'_ema' * averaged}": (record, score, occasion, averaged)
    for occasion in OCCASIONS
    for task, record, score in (("", SourceRecord, Score), ("_task", TaskRecord, TermScore))
    for averaged in (False, True)
}


def as_json(record: Record) -> dict[str, Any]:
    """The line of a record."""
    if isinstance(record, SourceRecord | TaskRecord):
        is_task = isinstance(record, TaskRecord)
        kind = f"{record.occasion}{'_task' * is_task}{'_ema' * record.averaged}"
        of = {"task": record.task} if is_task else {"source": record.source}
        score = record.score._asdict()
        measured = score.pop("measured", {})
        return {"kind": kind, "step": record.step, **of, **score, **measured}
    return {"kind": KIND_OF[type(record)], **record._asdict()}


def parsed(line: Mapping[str, Any]) -> Record | None:
    """The record of a line that has this version's names; None where it is none."""
    kind = line.get("kind")
    if not isinstance(line.get("step"), int):
        return None
    if kind in PLAIN:
        return _filled(PLAIN[kind], line)
    if kind not in SCORES:
        return None
    record_type, score_type, occasion, averaged = SCORES[kind]
    of = line.get("task" if record_type is TaskRecord else "source")
    if of is None:
        return None
    score = _filled(score_type, line)
    if record_type is TaskRecord:
        score = score._replace(measured=_measured(line))
    return record_type(line["step"], occasion, averaged, of, score)


def _measured(line: Mapping[str, Any]) -> dict[str, Any]:
    """What the kind of loss of a task's line keeps beside the loss."""
    own = {name: value for name, value in line.items() if name not in ("kind", "step", "task", *TermScore._fields)}
    measures = [name for name in own if f"baseline_{name}" in own]
    numbers = {*measures, *(f"baseline_{name}" for name in measures)}
    return {name: NAN if value is None and name in numbers else value for name, value in own.items()}


def _filled(kind: Any, line: Mapping[str, Any]) -> Any:
    """A tuple of this type from the values of a line that it knows."""
    lost = {name for name, value in kind._field_defaults.items() if isinstance(value, float)}
    known = {name: line[name] for name in kind._fields if name in line}
    return kind(**{name: NAN if value is None and name in lost else value for name, value in known.items()})


def read_metrics(path: Path) -> list[Record]:
    """The records of a metrics.jsonl of any version, as they stand; none where there is no file. What is no record, as
    the half line of a killed run, is left out."""
    return list(_read(records_of(path)))


def _read(lines: Iterable[Mapping[str, Any]]) -> Iterator[Record]:
    version = 1
    for line in lines:
        record = parsed(metric_record(line, version) if version < METRICS_VERSION else line)
        if isinstance(record, Version):
            version = record.version
        if record is not None:
            yield record


def by_step(records: Iterable[Record], kind: type) -> list[Any]:
    """The records of a type by rising step; of those of one step, by a restart, the last."""
    return [record for _, record in sorted({record.step: record for record in records if type(record) is kind}.items())]


def scores_by_step(
    records: Iterable[Record], kind: type[SourceRecord] | type[TaskRecord], occasion: Occasion, averaged: bool = False
) -> dict[str, dict[int, Any]]:
    """Source or task -> step -> score, by rising step; of a step measured twice, by a restart, the last."""
    found: dict[str, dict[int, Any]] = {}
    for record in records:
        if isinstance(record, kind) and (record.occasion, record.averaged) == (occasion, averaged):
            found.setdefault(record[3], {})[record.step] = record.score
    return {name: dict(sorted(scores.items())) for name, scores in found.items()}


def overall_loss(losses: Mapping[str, float], rates: Mapping[str, int]) -> float:
    """Nats a token over all sources, weighted as they are trained on: the one number that a run is judged by."""
    shares = {source: rates[source] for source in losses}
    return sum(shares[source] * loss for source, loss in losses.items()) / sum(shares.values())
