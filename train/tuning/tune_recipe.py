"""The settings of a fine-tuning run: those of any run, and what it begins with, what it learns from, what trains.

Imports neither JAX nor TensorFlow.
"""

import dataclasses

from data.examples.example_spec import ExamplesSpec
from data.tasks.augment import Augment
from data.tasks.task import Task
from gptjax.config import Lora
from train.measuring.judging_figure import check_figure, check_written
from train.objectives import Objectives
from train.recipe import OptimizerSpec, Recipe

LOSS = "loss"
HEADS = "class_heads.*"
ADAPTERS_ALONE = ((".*_lora_[ab]", 0.0), (".*", 1.0))  # of optimizer.frozen
ADAPTERS_AND_HEADS = ((f".*_lora_[ab]|{HEADS}", 0.0), (".*", 1.0))


def frozen_beside(heads: bool) -> tuple[tuple[str, float], ...]:
    """What trains where adapters do: output heads too, which are new."""
    return ADAPTERS_AND_HEADS if heads else ADAPTERS_ALONE


@dataclasses.dataclass(frozen=True, kw_only=True)
class TuneRecipe(Recipe):
    """Every choice of a fine-tuning run. Its `data` is running text of the base: replayed, and measured to see what is
    forgotten; its `model` is that of the base. Objectives follow from examples and replay."""

    base: str  # what it begins with: a run, a folder of Hugging Face or a .gguf file
    examples: ExamplesSpec = dataclasses.field(default_factory=ExamplesSpec)
    replay: float = 0.0  # share of the rows that are running text, against forgetting
    augment: Augment = dataclasses.field(default_factory=Augment)
    text_rows: tuple[str, ...] = ()
    """objectives over the plain text of the examples in place of what they show, as in causal_lm=0.9; () = what they
    show"""
    lora: Lora | None = None  # adapters that are trained in place of the base's weights; None = the weights themselves

    def __post_init__(self):
        if not 0 <= self.replay < 1:
            raise ValueError(f"replay={self.replay}: must be at least 0 and below 1, as examples have the other rows")
        object.__setattr__(self, "objectives", self._objectives())
        unsaid = (OptimizerSpec().frozen, ADAPTERS_ALONE, ADAPTERS_AND_HEADS)
        if self.lora is not None and self.optimizer.frozen in unsaid:
            frozen = frozen_beside(self.learns_heads)
            object.__setattr__(self, "optimizer", dataclasses.replace(self.optimizer, frozen=frozen))
        if self.text_rows:
            object.__setattr__(self, "stop", dataclasses.replace(self.stop, figure=None))
            object.__setattr__(self, "augment", Augment())  # the text itself is learnt
        elif self.stop.figure is not None:
            if self.examples.head is None:
                check_written(self.stop.figure, "stop.figure")
            else:
                check_figure(self.stop.figure, self.examples.head.tells, "stop.figure")
        super().__post_init__()
        self.row_length  # noqa: B018  (checked when built)

    def _objectives(self) -> Objectives:
        """Replies or labels of the examples; next words of the running text, by its share of the rows. Or of all text,
        next words and whatever else needs no examples."""
        if self.text_rows:
            return Objectives(rows=self.text_rows, conflicts=None, by_repetition=False)
        examples, task = tuple(self.examples.shares), "reply" if self.examples.head is None else "labelled"
        if not self.replay:
            sources = tuple(f"{task}={name}" for name in examples)
            return Objectives(rows=(task,), sources=sources, conflicts=None)
        texts = [name for name, _ in self.data.shares]
        beside = [name if name not in examples else f"{name} as running text" for name in texts]
        return Objectives(
            rows=(f"{task}={1 - self.replay}", f"causal_lm={self.replay}"),
            sources=(*(f"{task}={name}" for name in examples), *(f"causal_lm={name}" for name in beside)),
            conflicts=None, by_repetition=False,
        )  # fmt: skip

    @property
    def learns_heads(self) -> bool:
        """Whether examples train output heads beside the one of the tokens."""
        return any(task.ever and task.loss != Task.loss for task in self.objectives.tasks.values())

    @property
    def heads_alone(self) -> bool:
        """Whether output heads are all that trains."""
        return [pattern for pattern, share in self.optimizer.frozen if share < 1] == [HEADS]

    @property
    def row_length(self) -> int:
        """Tokens of a row, which may be fewer than the context has."""
        return self.examples.row(self.model.T)


def judged_by(recipe: Recipe) -> str | None:
    """What the checkpoint of a run that is loaded is the best by: stop.figure; the loss, of fine-tuning with patience;
    None = the newest is loaded."""
    by_loss = isinstance(recipe, TuneRecipe) and recipe.stop.patience is not None
    return recipe.stop.figure or (LOSS if by_loss else None)
