"""The table of objectives: what a run is trained on, and how much. One line a task. Imports neither JAX nor TensorFlow.

Axes: F phases of a run  S sources  O tasks (objectives)  X targets of tokens, then those of each head.
"""

import dataclasses
from typing import TYPE_CHECKING, Literal, NamedTuple, get_args

import numpy as np

from data.tasks.causal_lm import CausalLM
from data.tasks.classify import Classify
from data.tasks.continuity import Continuity
from data.tasks.labelled import Labelled
from data.tasks.masked_lm import MaskedLM
from data.tasks.order import Order
from data.tasks.position import Position
from data.tasks.prefix_lm import PrefixLM
from data.tasks.reply import Reply
from data.tasks.schedule import Schedule, read, read_sources, written
from data.tasks.task import Task, phases
from gptjax.batch import ClassHead
from gptjax.spelling import did_you_mean

if TYPE_CHECKING:
    from data.rows.rows import Rows

CombinerName = Literal["static", "uncertainty", "famo", "pcgrad"]
SPARSE = 0.7  # share of all positions that are targets, up to which it is faster not to score the others
FEW_EPOCHS, MANY_EPOCHS = 16, 32  # text read less often is all new to a causal model; more often, it learns it by heart


@dataclasses.dataclass(frozen=True, kw_only=True)
class Objectives:
    """Every task with its settings, and how much of the run each is. Next words alone: rows=("causal_lm",).

    Rows decide how much is computed for a task, weights how much it pulls; data/tasks/schedule.py has their form. What
    a task is made with, as in MaskedLM(rows=0.1, weight=0.2), goes into these tables.

    To add a task: a subclass of data.tasks.task.Task in a file of its own, and a line here. See docs/objectives.md.
    """

    rows: tuple[str, ...] = ("causal_lm",)
    """TASK=ROWS:WEIGHT@SHARE (docs/objectives.md); causal_lm alone is next words only"""
    sources: tuple[str, ...] = ()  # TASK=SOURCE for a task that does not read all of them
    rare: tuple[str, ...] | None = None
    """tasks divided by the targets to be expected; None = auxiliary ones of few rows"""
    causal_lm: CausalLM = dataclasses.field(default_factory=CausalLM)
    masked_lm: MaskedLM = dataclasses.field(default_factory=MaskedLM)
    prefix_lm: PrefixLM = dataclasses.field(default_factory=PrefixLM)
    position: Position = dataclasses.field(default_factory=Position)
    order: Order = dataclasses.field(default_factory=Order)
    continuity: Continuity = dataclasses.field(default_factory=Continuity)
    classify: Classify = dataclasses.field(default_factory=Classify)
    reply: Reply = dataclasses.field(default_factory=Reply)
    labelled: Labelled = dataclasses.field(default_factory=Labelled)

    combine: CombinerName = "static"  # how the weights of the terms change: not, or as train/losses/combine.py says
    by_repetition: bool = True  # text read over 16 times moves causal rows, not their weight, to masked ones
    conflicts: int | None = 250  # steps between two looks at whether tasks pull in opposite directions; None = never

    def __post_init__(self):
        if self.combine not in get_args(CombinerName):
            raise ValueError(f"objectives.combine={self.combine!r}{did_you_mean(self.combine, get_args(CombinerName))}")
        if self.conflicts is not None and self.conflicts < 1:
            raise ValueError(f"objectives.conflicts={self.conflicts}: must be at least 1 step, or None")
        self._bind()
        for share in phases(self.tasks.values()):
            rows = {name: task.rows_at(share) for name, task in self.tasks.items() if task.rows_at(share)}
            if abs(sum(rows.values()) - 1) > 1e-6:
                when = f"from {share:g} of the run on" if share else "at the start"
                raise ValueError(
                    f"objectives: {when} the rows of the tasks sum to {sum(rows.values()):g}, not 1: {rows}; in "
                    "objectives.rows a task without a number takes what the others leave"
                )
            weights = {name: self.tasks[name].weight_at(share) for name in rows}
            if not any(weights.values()):
                raise ValueError(
                    f"objectives: all weights are 0 at {share:g} of the run: {weights}; nothing would train"
                )

    @property
    def tasks(self) -> dict[str, Task]:
        """Name -> task, of the whole table."""
        values = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        return {name: value for name, value in values.items() if isinstance(value, Task)}

    @property
    def only_causal(self) -> bool:
        """Whether next-word prediction is all there is."""
        return [task.models_text for task in self.tasks.values() if task.ever] == [True]

    @property
    def all_causal(self) -> bool:
        """Whether no token of any row is visible to earlier ones."""
        return all(task.causal for task in self.tasks.values() if task.ever)

    def _bind(self) -> None:
        """Gives each task its schedule; puts the three tables, with what tasks were made with, in one form."""
        tasks = self.tasks
        schedules, sources = read(self.rows, tasks), read_sources(self.sources, tasks)
        given = {name: task.given for name, task in tasks.items() if task.given}
        for name, own in given.items():
            sources |= {name: tuple(own["sources"])} if "sources" in own else {}
            own = {field: own[field] for field in ("rows", "weight", "later") if field in own}
            schedules[name] = dataclasses.replace(schedules.get(name, Schedule()), **own)
        rare = self.rare
        if any(tasks[name].auxiliary or "rare" in own for name, own in given.items()):
            said = {name: own["rare"] for name, own in given.items() if "rare" in own}
            before = {name: task.auxiliary if rare is None else name in rare for name, task in tasks.items()}
            rare = [name for name, is_rare in (before | said).items() if is_rare]
        for name in rare or ():
            if name not in tasks:
                raise ValueError(f"objectives.rare: no task {name!r}{did_you_mean(name, tasks)}")
        in_order = {name: schedules.get(name, Schedule()) for name in tasks}
        object.__setattr__(self, "rows", written(in_order))
        object.__setattr__(
            self, "sources", tuple(f"{name}={source}" for name in tasks for source in sources.get(name, ()))
        )
        if rare is not None:
            rare = tuple(name for name in tasks if name in rare and in_order[name].most > 0)
        object.__setattr__(self, "rare", rare)
        for name, task in tasks.items():
            is_rare = None if rare is None else name in rare
            schedule = dataclasses.replace(in_order[name], sources=sources.get(name, ()), rare=is_rare)
            object.__setattr__(self, name, task.on(schedule))

    def check_reached(self, steps: int) -> None:
        """Raises ValueError for a task whose rows begin after the last of so many steps."""
        for name, task in self.tasks.items():
            if task.ever and task.schedule.begins * steps > steps - 1:
                raise ValueError(
                    f"objectives.rows: {name} has rows from {task.schedule.begins:g} of the run on, which no step of "
                    f"steps={steps} reaches; give a lower @SHARE, or more steps"
                )

    def settled(self, rows_a_step: int) -> "Objectives":
        """The same, without `rare` where it says what is so anyhow with so many rows a step."""
        plain = dataclasses.replace(self, rare=None)
        same = all(
            task.rare(rows_a_step) == plain.tasks[name].rare(rows_a_step)
            for name, task in self.tasks.items()
            if task.ever
        )
        return plain if same else self

    def for_epochs(self, epochs: float) -> "Objectives":
        """The same for a run that reads its text so many times: it moves rows of next words to masked ones."""
        tasks = self.tasks
        (text, causal_task), *_ = ((name, task) for name, task in tasks.items() if task.models_text)
        (masks, masked_task), *_ = ((name, task) for name, task in tasks.items() if task.masks)
        causal, masked = causal_task.schedule, masked_task.schedule
        if not self.by_repetition or not causal.rows or not masked.rows or causal.later or masked.later:
            return self
        rows = causal_rows(causal.rows, masked.rows, epochs)
        if rows == causal.rows:
            return self
        (causal_weight,), (masked_weight,) = causal.weights, masked.weights  # as the rows that were written
        moved = {
            text: dataclasses.replace(causal, rows=rows, weight=causal_weight),
            masks: dataclasses.replace(masked, rows=masked.rows + causal.rows - rows, weight=masked_weight),
        }
        schedules = {name: task.schedule for name, task in self.tasks.items()} | moved
        return dataclasses.replace(self, rows=written(schedules))


def causal_rows(causal: float, masked: float, epochs: float) -> float:
    """The causal share of the rows that both have, so that the causal objective reads no text much over 16 times.

    As written up to 16 epochs, 16 / epochs of both from 32 on (6 % at least), evenly in between.

    Source: "Dual-objective Language Models", arXiv:2512.14549, section 5.
    """
    both = causal + masked
    often = min(causal, both * max(FEW_EPOCHS / max(epochs, MANY_EPOCHS), 0.06))
    return float(np.interp(epochs, [FEW_EPOCHS, MANY_EPOCHS], [causal, often]))


class Term(NamedTuple):
    """One term of the loss: a task's loss over tokens, or over one output head."""

    name: str  # of the task, or task/head where it is not the only one
    task: int  # the task's id in a batch
    head: int | None  # number of the output head; None = the one of the tokens
    loss: str  # kind of loss, by its name in train/losses/table.py
    shares: tuple[float, ...]  # of the run, rising; between them the weight changes evenly
    weights: tuple[float, ...]  # lambda there
    expected: tuple[float, ...] | None  # targets in a step, in every phase; None = divide by those that are there
    sparse: bool = False  # few positions are targets of the head of the tokens, and the others are not scored
    # of an output head
    smoothing: float = 0.0  # share of a target that is spread over all classes, while it is learnt
    dropout: float = 0.0  # share of what the head reads that is dropped in training
    scale: float = 1.0  # user's units of a standardised number


class LossSpec(NamedTuple):
    """What a step must know of objectives and text."""

    terms: tuple[Term, ...]
    heads: tuple[ClassHead, ...]  # output heads beside the one of the tokens
    phases: tuple[float, ...]  # shares of the run at which `expected` changes
    combine: CombinerName
    targets: int  # places for sequence-level targets in a row


def causal_only() -> LossSpec:
    """Next-word prediction alone, which can be compiled without a text."""
    term = Term("causal_lm", 1, head=None, loss=CausalLM.loss, shares=(0.0,), weights=(1.0,), expected=None)
    return LossSpec(terms=(term,), heads=(), phases=(0.0,), combine="static", targets=0)


def loss_spec(
    rows: "Rows", rows_a_step: int, combine: CombinerName, *, smoothing: float = 0.0, dropout: float = 0.0
) -> LossSpec:
    """The terms of the loss, of tasks that are settled by `for_epochs`; `smoothing`, `dropout`: of output heads.

    Raises ValueError for a task with heads that does not say how they learn.
    """
    builder, found = rows.builder, rows.targets_found
    rates_S = np.array([rows.rates[source] for source in rows.sources]) / sum(rows.rates.values())
    terms, token_targets_F = [], np.zeros(len(rows.timetable.starts))
    for o, (name, task) in enumerate(builder.tasks.items()):
        if not rows.reads.get(name):
            continue
        heads = builder.heads_of[name]
        rows_FS = rows_a_step * rates_S * rows.timetable.shares_FSO[:, :, o]
        expected_FX = rows_FS @ found[name]
        labels = list(builder.heads)
        if heads and task.token_head is None:  # a term for each of its heads, over segments
            losses = {head: task.loss_of(builder.heads[labels[head]]) for head in heads}
            if Task.loss in losses.values():
                raise ValueError(
                    f"objectives.{name}: {type(task).__name__} has output heads for segments, and no loss for them; "
                    'give it one, as in loss: ClassVar[str] = "classes"'
                )
            of_term = [(f"{name}/{labels[head]}", head, expected_FX[:, 1 + n]) for n, head in enumerate(heads)]
        else:
            of_term = [(name, None if task.token_head is None else labels.index(task.token_head), expected_FX[:, 0])]
            losses = {}
            token_targets_F += expected_FX[:, 0] if task.token_head is None else 0
        for called, head, expected_F in of_term:
            terms.append(
                Term(
                    name=name if len(of_term) == 1 else called,
                    task=builder.id_of(name), head=head,
                    loss=task.loss if head is None else losses.get(head, task.loss), shares=tuple(task.shares),
                    weights=tuple(weight / len(of_term) for weight in task.weights),
                    expected=tuple(expected_F.tolist()) if task.rare(rows_a_step) else None,
                )
            )  # fmt: skip
    if token_targets_F.max() <= SPARSE * rows_a_step * rows.T:
        terms = [term._replace(sparse=term.head is None) for term in terms]
    every = list(builder.heads.values())
    terms = [
        term if term.head is None else term._replace(smoothing=smoothing, dropout=dropout, scale=every[term.head].scale)
        for term in terms
    ]
    phases = tuple(rows.timetable.starts.tolist())
    return LossSpec(tuple(terms), tuple(builder.heads.values()), phases, combine, builder.Q)
