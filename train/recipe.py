"""The whole of a training run as one typed, frozen, checked tree. Imports neither JAX nor TensorFlow."""

import dataclasses
import importlib
import importlib.util
import json
import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

from data.spec import DataSpec
from gptjax.config import Architecture, did_you_mean

RECIPES = Path(__file__).parent / "recipes"


@dataclasses.dataclass(frozen=True, kw_only=True)
class OptimizerSpec:
    """AdamW (Loshchilov and Hutter 2019, arXiv:1711.05101) on gradients clipped by their global norm."""

    learning_rate: float = 3e-3  # at its peak
    warmup: int = 100  # steps from 0 to the peak, linear
    schedule: Literal["cosine", "wsd"] = "cosine"  # cosine, or warm-up, stable, decay: a plateau and a linear fall
    decay: float = 0.2  # share of the steps that wsd falls over
    final: float = 0.1  # where the learning rate ends, as a share of its peak
    beta1: float = 0.9
    beta2: float = 0.99
    weight_decay: float = 0.1  # on matrices; never on norms and biases
    clip: float = 1.0  # longest global norm of a gradient

    def __post_init__(self):
        _positive(self, "optimizer", "learning_rate", "clip")
        for name in ("beta1", "beta2", "decay", "final"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"optimizer.{name}={getattr(self, name)}: must lie between 0 and 1")
        for name in ("beta1", "beta2"):
            if getattr(self, name) == 1:
                raise ValueError(f"optimizer.{name}=1: the average would never move; use less, such as 0.99")
        for name in ("warmup", "weight_decay"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"optimizer.{name}={getattr(self, name)}: must be 0 or more")


@dataclasses.dataclass(frozen=True, kw_only=True)
class BatchSpec:
    """How many rows one optimizer step learns from."""

    rows: int = 16  # rows of model.T tokens in a step, over all devices
    micro_batches: int = 1  # parts they are worked through in, to save memory; only dropout's masks differ

    def __post_init__(self):
        _positive(self, "batch", "rows", "micro_batches")
        if self.rows % self.micro_batches:
            legal = [n for n in range(1, self.rows + 1) if self.rows % n == 0]
            raise ValueError(
                f"batch.micro_batches={self.micro_batches} does not divide batch.rows={self.rows}; use one of {legal}"
            )

    @property
    def micro_rows(self) -> int:
        """Rows of one micro-batch."""
        return self.rows // self.micro_batches


@dataclasses.dataclass(frozen=True, kw_only=True)
class MeshSpec:
    """Devices along each mesh axis; their product is the number of devices."""

    data: int | None = None  # copies of the model that share the rows; None = all devices the other axes leave
    fsdp: int = 1  # parts that parameters and rows are split into
    tensor: int = 1  # parts that heads, feed-forward width and vocabulary are split into

    def __post_init__(self):
        _positive(self, "mesh", "fsdp", "tensor", *(["data"] if self.data is not None else []))


@dataclasses.dataclass(frozen=True, kw_only=True)
class ComputeSpec:
    """How the arithmetic is done; none of it changes what is computed beyond rounding."""

    dtype: Literal["float32", "bfloat16"] = "bfloat16"  # of products; parameters, norms, softmax, loss stay float32
    remat: Literal["none", "products", "full"] = "none"  # what backward recomputes: nothing, all but products, all
    kernel: Literal["xla", "splash", "cudnn"] | None = None  # of attention; None = the fastest that the backend has
    unroll: bool = False  # write the layers out instead of looping: faster on a CPU, longer to compile


@dataclasses.dataclass(frozen=True, kw_only=True)
class ValidationSpec:
    """When and on how much held-out text the model is measured. The text never changes during a run."""

    every: int = 250  # steps; the last step is always measured
    rows: int = 128  # most rows a source while training
    final_rows: int = 1_000_000  # most rows a source of one more measurement, after the last step

    def __post_init__(self):
        _positive(self, "validation", "every", "rows", "final_rows")


@dataclasses.dataclass(frozen=True, kw_only=True)
class CheckpointSpec:
    every: int = 500  # steps; the last step is always saved
    keep: int = 2  # newest ones that stay

    def __post_init__(self):
        _positive(self, "checkpoint", "every", "keep")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Recipe:
    """Every choice of a run. Any of them can be overridden on the command line by its dotted path: --model.D 128."""

    data: DataSpec
    model: Architecture = dataclasses.field(default_factory=Architecture)
    optimizer: OptimizerSpec = dataclasses.field(default_factory=OptimizerSpec)
    batch: BatchSpec = dataclasses.field(default_factory=BatchSpec)
    mesh: MeshSpec = dataclasses.field(default_factory=MeshSpec)
    compute: ComputeSpec = dataclasses.field(default_factory=ComputeSpec)
    validation: ValidationSpec = dataclasses.field(default_factory=ValidationSpec)
    checkpoint: CheckpointSpec = dataclasses.field(default_factory=CheckpointSpec)
    run: Path  # the run directory; starting again in the same one continues it
    steps: int  # the horizon that schedules are laid out over
    stop_after: int | None = None  # step to stop at before the horizon; starting again goes on from there
    samples: int = 5  # texts a source written at the end
    seed: int = 0

    def __post_init__(self):
        _positive(self, "", "steps", *(["stop_after"] if self.stop_after is not None else []))
        if not 0 <= self.seed < 2**32:
            raise ValueError(f"seed={self.seed}: must be at least 0 and below 2**32")
        if self.samples < 0:
            raise ValueError(f"samples={self.samples}: must be 0 or more")
        fall = round(self.steps * self.optimizer.decay) if self.optimizer.schedule == "wsd" else 0
        if self.optimizer.warmup > self.steps - fall:
            raise ValueError(
                f"optimizer.warmup={self.optimizer.warmup} is more than steps={self.steps} leave"
                f"{f' beside {fall} of decay' if fall else ''}; use at most {self.steps - fall}"
            )
        for name, path in (("run", self.run), ("data.prepared", self.data.prepared)):
            if re.match(r"\w+:/", str(path)):
                raise ValueError(f"{name}={path}: only folders of this machine, or mounted on it, can be written to")

    @property
    def horizon(self) -> int:
        """Tokens that the whole run reads."""
        return self.steps * self.batch.rows * self.model.T


# Parts of a recipe that may change when a run is continued, since its rows, updates and schedule stay the same.
MAY_CHANGE = (
    "mesh.",
    "compute.",
    "validation.",
    "checkpoint.",
    "stop_after",
    "samples",
    "run",
    "data.prepared",
)


def recipe_names() -> list[str]:
    """Names of the built-in recipes, as the command line takes them."""
    return sorted(path.stem.replace("_", "-") for path in RECIPES.glob("*.py") if path.stem != "__init__")


def load_recipe(name_or_path: str) -> Callable[[], Recipe]:
    """The `recipe` function of a built-in recipe or of a user's own file. Raises ValueError where there is none."""
    if name_or_path.endswith(".py"):
        path = Path(name_or_path).expanduser()
        if not path.is_file():
            raise ValueError(f"recipe: no file {path}; give the path of a Python file that defines recipe()")
        spec = importlib.util.spec_from_file_location("user_recipe", path)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        if not hasattr(module, "recipe"):
            raise ValueError(f"recipe: {path} defines no function recipe() that returns a train.recipe.Recipe")
        return module.recipe
    if name_or_path not in recipe_names():
        raise ValueError(f"unknown recipe {name_or_path!r}{did_you_mean(name_or_path, recipe_names())}")
    return importlib.import_module(f"train.recipes.{name_or_path.replace('-', '_')}").recipe


def to_json(recipe: Recipe) -> str:
    return json.dumps(dataclasses.asdict(recipe), indent=1, default=str) + "\n"


def changes(old: str, new: str) -> list[str]:
    """`field: old -> new` for every field that differs between two recipes as JSON and may not change in a run."""
    before, after = _flat(json.loads(old)), _flat(json.loads(new))
    unknown = "nothing of it, as an older gptjax began the run: finish it with that one"
    return [
        f"{name}: {repr(before[name]) if name in before else unknown} -> {after.get(name)!r}"
        for name in sorted(before.keys() | after.keys())
        if before.get(name) != after.get(name) and not name.startswith(MAY_CHANGE)
    ]


def _flat(tree: Any, path: str = "") -> dict[str, Any]:
    if not isinstance(tree, dict):
        return {path: tree}
    return {
        name: value
        for key, branch in tree.items()
        for name, value in _flat(branch, f"{path}.{key}".lstrip(".")).items()
    }


def _positive(spec: Any, path: str, *names: str) -> None:
    for name in names:
        if not 0 < getattr(spec, name) < math.inf:
            raise ValueError(f"{path + '.' if path else ''}{name}={getattr(spec, name)}: must be a number above 0")
