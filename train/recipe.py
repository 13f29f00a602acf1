"""The whole of a training run as one typed, frozen, checked tree. Imports neither JAX nor TensorFlow."""

import contextlib
import dataclasses
import importlib
import importlib.util
import json
import math
import re
import sys
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args, get_type_hints

from data.spec import DataSpec
from gptjax.config import FURTHER, Architecture, Shape
from gptjax.files.places import expanded, place_of_run, shown
from gptjax.spelling import did_you_mean
from train.mesh_spec import MeshSpec
from train.objectives import Objectives
from train.record.older import RECIPE_VERSION, check_same_tasks, recipe_tree

RECIPES = Path(__file__).parent / "recipes"

OptimizerName = Literal[
    "sgd", "momentum", "nesterov", "adagrad", "rmsprop", "adam", "adamw", "adafactor", "lion", "muon"
]
Schedule = Literal["constant", "linear", "cosine", "slanted", "wsd"]
WEIGHT_DECAY = {"adamw": 0.1, "adafactor": 0.1, "lion": 0.1, "muon": 0.1}  # decoupled; of the others 0


@dataclasses.dataclass(frozen=True, kw_only=True)
class OptimizerSpec:
    """How gradients become updates: clipped by their global norm, given a direction by `name`, scaled by the schedule.

    `rates`, `decays` and `frozen` are lists of (regular expression, value) over parameter names such as layers/query or
    final_norm/scale, or those of single layers, layers/0/query: the first that matches the whole name counts, and every
    name must match one.
    """

    name: OptimizerName = "adamw"  # how a gradient becomes a direction
    learning_rate: float = 3e-3  # the learning rate at its peak
    schedule: Schedule = "cosine"  # how the learning rate rises and falls: train/updates/optimizer.py has each
    warmup: int = 100  # steps from 0 to the peak, linear; slanted has its own
    decay: float = 0.2  # share of the steps that wsd falls over
    final: float = 0.1  # where the learning rate ends, as a share of its peak; slanted has its own
    beta1: float = 0.9  # of first moments; of momentum, nesterov, lion and muon too
    beta2: float = 0.99  # of second moments
    weight_decay: float | None = None  # on matrices, never on norms and biases; None = WEIGHT_DECAY of the name, or 0
    clip: float = 1.0  # longest global norm of a gradient
    ema: float | None = None  # decay of a moving average of the parameters, saved beside them; None = none is kept
    rates: tuple[tuple[str, float], ...] = ((".*", 1.0),)  # factor on the learning rate
    decays: tuple[tuple[str, float], ...] = ((".*", 1.0),)  # factor on the weight decay
    frozen: tuple[tuple[str, float], ...] = ((".*", 0.0),)  # share of the steps before it trains; 1 = never

    def __post_init__(self):
        for name, kind in (("name", OptimizerName), ("schedule", Schedule)):
            value = getattr(self, name)
            if value not in get_args(kind):
                raise ValueError(f"optimizer.{name}={value!r}{did_you_mean(str(value), get_args(kind))}")
        _positive(self, "optimizer", "learning_rate", "clip")
        for name in ("beta1", "beta2", "decay", "final", *(["ema"] if self.ema is not None else [])):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"optimizer.{name}={getattr(self, name)}: must lie between 0 and 1")
        for name in ("beta1", "beta2", "ema"):
            if getattr(self, name) == 1:
                raise ValueError(f"optimizer.{name}=1: the average would never move; use less, such as 0.99")
        for name in ("warmup", *(["weight_decay"] if self.weight_decay is not None else [])):
            if not 0 <= getattr(self, name) < math.inf:
                raise ValueError(f"optimizer.{name}={getattr(self, name)}: must be 0 or more")
        for name, most in (("rates", math.inf), ("decays", math.inf), ("frozen", 1.0)):
            for pattern, value in getattr(self, name):
                if not 0 <= value <= most or value == math.inf:
                    raise ValueError(f"optimizer.{name}: {pattern!r} has {value}; it must be 0 or more, at most {most}")
                try:
                    re.compile(pattern)
                except re.error as error:
                    raise ValueError(f"optimizer.{name}: {pattern!r} is no regular expression: {error}") from error


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
class ComputeSpec:
    """How the arithmetic is done; none of it changes what is computed beyond rounding."""

    dtype: Literal["float32", "bfloat16"] = "bfloat16"  # of products; parameters, norms, softmax, loss stay float32
    gradients: Literal["float32", "bfloat16"] = "float32"  # of the layers' matrices, where devices add up their parts
    remat: Literal["none", "products", "full"] = "none"  # what backward recomputes: nothing, all but products, all
    kernel: Literal["xla", "splash", "cudnn"] | None = None  # of attention; None = the fastest that the backend has
    unroll: bool = False  # write the layers out instead of looping: faster on a CPU, longer to compile


@dataclasses.dataclass(frozen=True, kw_only=True)
class ValidationSpec:
    """When and on how much held-out text the model is measured. The text never changes during a run."""

    every: int = 250  # steps between two measurements; the last step is always measured
    rows: int = 128  # most rows a source while training
    final_rows: int = 1_000_000  # most rows a source of one more measurement, after the last step
    task_rows: int = 64  # most rows of every other task than causal_lm, over all sources
    final_task_rows: int = 512  # the same after the last step

    def __post_init__(self):
        _positive(self, "validation", "every", "rows", "final_rows", "task_rows", "final_task_rows")


@dataclasses.dataclass(frozen=True, kw_only=True)
class CheckpointSpec:
    """When the state is saved, beside the first step, the last one and every new best on held-out text."""

    every: int = 500  # steps between two saves
    keep: int = 2  # newest ones that stay, beside the best
    if_it_fails: Literal["stop", "continue"] = "stop"  # a full disk, for one: end the run, or train on and try again

    def __post_init__(self):
        _positive(self, "checkpoint", "every", "keep")


@dataclasses.dataclass(frozen=True, kw_only=True)
class StopSpec:
    """What ends a run, beside its last step: whichever comes first, and it says which. None = never."""

    step: int | None = None  # a step before the last step; starting again without it goes on from there
    tokens: int | None = None  # tokens read since step 0
    epochs: float | None = None  # tokens read, as a multiple of the training text
    minutes: float | None = None  # minutes since this start; starting again goes on
    loss: float | None = None  # nats a token of held-out text, its sources weighted as they are trained on
    patience: int | None = None  # looks in a row without 0.2 % less of loss, or of what figure lacks; wsd falls first
    figure: str | None = None
    """of a head, as macro_f1, or of answers, as chrf: patience and the best checkpoint go by it; None = the loss"""
    skipped: int = 5  # steps in a row whose loss or gradient is not a number
    divergence: float = 3.0  # a training loss of so many times its running median, for five steps

    def __post_init__(self):
        given = [field.name for field in dataclasses.fields(self) if getattr(self, field.name) is not None]
        _positive(self, "stop", *(name for name in given if name != "figure"))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Recipe:
    """Every choice of a run. Any of them can be overridden on the command line by its dotted path: --model.D 128."""

    data: DataSpec
    objectives: Objectives = dataclasses.field(default_factory=Objectives)
    model: Shape = dataclasses.field(default_factory=Shape)
    optimizer: OptimizerSpec = dataclasses.field(default_factory=OptimizerSpec)
    batch: BatchSpec = dataclasses.field(default_factory=BatchSpec)
    mesh: MeshSpec = dataclasses.field(default_factory=MeshSpec)
    compute: ComputeSpec = dataclasses.field(default_factory=ComputeSpec)
    validation: ValidationSpec = dataclasses.field(default_factory=ValidationSpec)
    checkpoint: CheckpointSpec = dataclasses.field(default_factory=CheckpointSpec)
    stop: StopSpec = dataclasses.field(default_factory=StopSpec)
    run: Path  # the run directory; starting again in the same one continues it
    steps: int  # the horizon that schedules are laid out over
    samples: int = 5  # texts a source written at the end
    seed: int = 0  # of everything left to chance
    hang_after: float = 300.0  # seconds without progress, ten times as many before any is known, after which a run ends

    def __post_init__(self):
        _positive(self, "", "steps", "hang_after")
        object.__setattr__(self, "run", place_of_run(self.run, "own"))
        object.__setattr__(self, "model", self.model.smallest())
        object.__setattr__(self, "objectives", self.objectives.settled(self.batch.rows))
        if not 0 <= self.seed < 2**32:
            raise ValueError(f"seed={self.seed}: must be at least 0 and below 2**32")
        if self.stop.figure is not None and not (self.objectives.labelled.ever or self.objectives.reply.ever):
            raise ValueError(f"stop.figure={self.stop.figure!r}: is of examples, and this run learns none")
        self.objectives.check_reached(self.steps)
        if self.samples < 0:
            raise ValueError(f"samples={self.samples}: must be 0 or more")
        fall = round(self.steps * self.optimizer.decay) if self.optimizer.schedule == "wsd" else 0
        if self.optimizer.schedule != "slanted" and self.optimizer.warmup > self.steps - fall:
            raise ValueError(
                f"optimizer.warmup={self.optimizer.warmup} is more than steps={self.steps} leave"
                f"{f' beside {fall} of decay' if fall else ''}; use at most {self.steps - fall}, "
                f"as in --optimizer.warmup {self.steps - fall}"
            )
        for name, path in (("run", self.run), ("data.prepared", self.data.prepared)):
            if re.match(r"\w+:/", str(path)):
                raise ValueError(f"{name}={path}: only folders of this machine, or mounted on it, can be written to")

    @property
    def row_length(self) -> int:
        """Tokens of a row."""
        return self.model.T

    @property
    def horizon(self) -> int:
        """Tokens that the whole run reads."""
        return self.steps * self.batch.rows * self.row_length


# Parts of a recipe that may change when a run is continued: rows and schedule stay the same, updates up to rounding.
HARMLESS = (
    *("mesh.", "compute.remat", "compute.unroll", "compute.kernel", "validation.", "checkpoint.", "stop."),
    *("hang_after", "samples", "run", "data.prepared", "objectives.conflicts", "base", "examples.answered"),
)
# Parts that a checkpoint is made of; of the rest, a change means other rows or updates from there on.
FIXED = (
    "model.",
    "data.tokenizer",
    "data.vocabulary",
    "optimizer.name",
    "optimizer.ema",
    "optimizer.frozen",
    "objectives.combine",
    "lora",
)


def recipe_names() -> list[str]:
    """Names of the built-in recipes, as the command line takes them."""
    return sorted(path.stem.replace("_", "-") for path in RECIPES.glob("*.py") if path.stem != "__init__")


def load_recipe(name_or_path: str) -> Callable[[], Recipe]:
    """The `recipe` function of a built-in recipe or of a user's own file; the recipe.json of a run will do.

    Raises ValueError where there is none.
    """
    if name_or_path.endswith(".json"):
        path = expanded(name_or_path)
        return lambda: _kept_recipe(path)
    if name_or_path.endswith(".py"):
        return _own_recipe(expanded(name_or_path))
    if name_or_path not in recipe_names():
        raise ValueError(f"unknown recipe {name_or_path!r}{did_you_mean(name_or_path, recipe_names())}")
    return importlib.import_module(f"train.recipes.{name_or_path.replace('-', '_')}").recipe


def _own_recipe(path: Path) -> Callable[[], Recipe]:
    """The `recipe` function of a user's file, whose mistakes it tells as ValueError with file and line."""
    found = own_function(path, "that returns a Recipe")

    def make() -> Recipe:
        made = found()
        if made is None:
            raise ValueError(f"recipe: {path}: recipe() returned nothing; end it with return and a train.recipe.Recipe")
        if not isinstance(made, Recipe):
            raise ValueError(f"recipe: {path}: recipe() returned {_article(made)}, not a train.recipe.Recipe")
        return made

    make.__module__ = found.__module__  # its docstring is what --help says of the recipe
    return make


def own_function(path: Path, wanted: str) -> Callable[..., Any]:
    """The function `recipe` of a user's file. Raises ValueError with file and line where it, or a call, fails."""
    if not path.is_file():
        raise ValueError(f"recipe: no file {path}; give the path of a Python file that defines recipe()")
    name = f"recipe:{path.absolute()}"  # where dataclasses of the file look for the types that they name
    spec = importlib.util.spec_from_file_location(name, path.absolute())
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    with _beside(path):
        spec.loader.exec_module(module)
    found = getattr(module, "recipe", None)
    if found is None:
        raise ValueError(f"recipe: {path}: defines no function recipe() {wanted}")
    if not callable(found):
        raise ValueError(f"recipe: {path}: recipe is {_article(found)}, not a function {wanted}")

    def call(*arguments: Any) -> Any:
        with _beside(path):
            return found(*arguments)

    call.__module__ = name
    return call


def _article(value: Any) -> str:
    kind = type(value).__name__
    return f"the class {value.__name__}" if isinstance(value, type) else f"a{'n' * (kind[0] in 'AEIOaeio')} {kind}"


@contextlib.contextmanager
def _beside(path: Path) -> Iterator[None]:
    """In here a user's file can import what lies beside it; what it raises is told in a line, with its place there."""
    folder = path.absolute().parent
    sys.path.insert(0, str(folder))
    try:
        yield
    except Exception as error:
        frames = traceback.extract_tb(error.__traceback__)
        places = [(frame.filename, frame.lineno) for frame in frames if Path(frame.filename).parent == folder]
        place = (error.filename, error.lineno) if isinstance(error, SyntaxError) else [(str(path), None), *places][-1]
        where = f"{place[0] or path}{f', line {place[1]}' if place[1] else ''}"
        kind = "" if type(error) is ValueError else f"{type(error).__name__}: "
        said = error.msg if isinstance(error, SyntaxError) else " ".join(str(error).split())
        remedy = "; put it beside the recipe, or install it" if isinstance(error, ModuleNotFoundError) else ""
        raise ValueError(f"recipe: {where}: {kind}{said}{remedy}") from error
    finally:
        sys.path.remove(str(folder))


def _kept_recipe(path: Path) -> Recipe:
    try:
        text = path.read_text(encoding="utf-8")
        check_same_tasks(json.loads(text), str(path))
        return from_json(text)
    except (OSError, ValueError, TypeError) as error:
        raise ValueError(f"recipe: {path} is no recipe of this gptjax: {error}") from error


def to_json(recipe: Recipe) -> str:
    tree = {"version": RECIPE_VERSION, **dataclasses.asdict(recipe)}
    return json.dumps(tree, indent=1, default=lambda path: shown(Path(path)), allow_nan=False) + "\n"


def from_json(text: str) -> Recipe:
    """What `to_json` of this gptjax or an older one wrote. Raises ValueError or TypeError where a field is unknown."""
    tree = recipe_tree(json.loads(text))
    if "base" in tree:
        from train.tuning.tune_recipe import TuneRecipe  # which is made of this file's recipe

        return _built(TuneRecipe, tree)
    return _built(Recipe, tree)


def _built(kind: Any, value: Any) -> Any:
    """A value of JSON as the type that a field has."""
    tree: Any = next((part for part in (kind, *get_args(kind)) if dataclasses.is_dataclass(part)), None)
    if tree is not None and isinstance(value, dict):
        if tree is Shape and value.keys() & FURTHER.keys():
            tree = Architecture
        kinds = get_type_hints(tree)
        return tree(**{name: _built(kinds.get(name), part) for name, part in value.items()})
    if isinstance(value, list):
        return tuple(_built(None, part) for part in value)
    return Path(value) if kind is Path else value


class Change(NamedTuple):
    """A field in which two recipes differ."""

    field: str
    old: str
    new: str
    kind: Literal["harmless", "inexact", "impossible"]  # what it does to a run that goes on with it

    def __str__(self) -> str:
        return f"{self.field}: {self.old} -> {self.new}"


def changes(old: str, new: str) -> list[Change]:
    """Every field that differs between two recipes as JSON, of whatever versions."""
    before, after = (_flat(recipe_tree(json.loads(text))) for text in (old, new))
    unknown = "nothing of it, as an older gptjax began the run: finish it with that one"
    found = []
    for name in sorted(before.keys() | after.keys()):
        if name in before and before[name] == after.get(name):
            continue
        known = name in before
        averaged = name == "optimizer.ema" and None not in (before.get(name), after.get(name))  # more or less, not anew
        kind = "impossible" if (name.startswith(FIXED) and not averaged) or not known else "inexact"
        kind = "harmless" if name.startswith(HARMLESS) else kind
        found.append(Change(name, repr(before[name]) if known else unknown, repr(after.get(name)), kind))
    return found


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
