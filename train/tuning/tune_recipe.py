"""The settings of a fine-tuning run: those of any run, and what it begins with, what it learns from, what trains.

Imports neither JAX nor TensorFlow.
"""

import dataclasses

from data.examples.example_spec import ExamplesSpec
from data.tasks.augment import Augment
from data.tasks.reply import Reply
from gptjax.config import Lora
from train.objectives import Objectives
from train.recipe import OptimizerSpec, Recipe

ADAPTERS_ALONE = ((".*_lora_[ab]", 0.0), (".*", 1.0))  # of optimizer.frozen


@dataclasses.dataclass(frozen=True, kw_only=True)
class TuneRecipe(Recipe):
    """Every choice of a fine-tuning run. Its `data` is running text of the base: replayed, and measured to see what is
    forgotten; its `model` is that of the base. Objectives follow from examples and replay."""

    base: str  # what it begins with: a run, a folder of Hugging Face or a .gguf file
    examples: ExamplesSpec = dataclasses.field(default_factory=ExamplesSpec)
    replay: float = 0.0  # share of the rows that are running text, against forgetting
    augment: Augment = dataclasses.field(default_factory=Augment)
    lora: Lora | None = None  # adapters that are trained in place of the base's weights; None = the weights themselves

    def __post_init__(self):
        if not 0 <= self.replay < 1:
            raise ValueError(f"replay={self.replay}: must be at least 0 and below 1, as examples have the other rows")
        plain = OptimizerSpec().frozen
        if self.lora is not None and self.optimizer.frozen == plain:
            object.__setattr__(self, "optimizer", dataclasses.replace(self.optimizer, frozen=ADAPTERS_ALONE))
        object.__setattr__(self, "objectives", self._objectives())
        super().__post_init__()
        self.row_length  # noqa: B018  (checked when built)

    def _objectives(self) -> Objectives:
        """Replies of the examples; next words of the running text, by its share of the rows."""
        examples, reply = tuple(self.examples.shares), Reply(prefix=self.examples.prefix)
        if not self.replay:
            sources = tuple(f"reply={name}" for name in examples)
            return Objectives(rows=("reply",), sources=sources, conflicts=None, reply=reply)
        texts = [name for name, _ in self.data.shares]
        beside = [name if name not in examples else f"{name} as running text" for name in texts]
        return Objectives(
            rows=(f"reply={1 - self.replay}", f"causal_lm={self.replay}"),
            sources=(*(f"reply={name}" for name in examples), *(f"causal_lm={name}" for name in beside)),
            conflicts=None, by_repetition=False, reply=reply,
        )  # fmt: skip

    @property
    def row_length(self) -> int:
        """Tokens of a row, which may be fewer than the context has."""
        return self.examples.row(self.model.T)
