"""Fine-tuning from the words of a command line: a base, examples, and stages in turn, each a run of its own."""

import dataclasses
import math
import re
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Annotated, Literal

import tyro
from rich.console import Console

from data.description import read_prepared
from data.examples.example_spec import ExamplesSpec
from data.examples.preparing import forms_of, lines, tallies_of
from data.preparation.token_flags import LEARNED
from data.rows.wholeplan import WholePlan
from data.token_store import TokenStore
from gptjax.command.options import read, take
from gptjax.config import Lora
from gptjax.evaluation.text_figures import NEEDS, computable, figures_of
from gptjax.files.places import expanded
from train.recipe import BatchSpec, CheckpointSpec, ComputeSpec, OptimizerSpec, ValidationSpec, own_function
from train.tuning import judging
from train.tuning.base import open_base
from train.tuning.stages import stage_words, staged
from train.tuning.strategies import check_adapters, check_word, settings_said, trained_by
from train.tuning.talks import prepared_examples, running_text, talks_of, text_of
from train.tuning.tune_recipe import TuneRecipe

EPOCHS, MOST_STEPS = 3.0, 500  # how long a run is where nobody says
SMALL = 30_000_000  # parameters up to which a model bears higher rates

# What --help shows; --help-all lists every setting.
PLAIN = (
    *("run", "steps", "seed", "replay"),
    *("examples.form", "examples.columns", "examples.learn", "examples.prefix", "examples.length", "examples.too_long"),
    *("examples.held_out", "examples.answered", "examples.template"),
    *("lora.rank", "lora.alpha", "lora.targets"),
    *("augment.token_dropout", "augment.delete", "augment.swap", "augment.insert", "augment.characters"),
    "augment.embedding_noise",
    *("optimizer.learning_rate", "optimizer.frozen", "batch.rows"),
    *("checkpoint.every", "stop.figure", "stop.patience"),
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Finetune:
    """teach a model to talk, or what your examples show"""

    base: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="BASE")] = ""
    """what it begins with: a run, a folder of Hugging Face, a .gguf file, or smollm2"""
    stages: str | None = None
    """runs in turn: words such as text,head,gradual (text: the plain text of the examples; or what --train takes), or
    your own .py file with a function recipe(base): a TuneRecipe, or several"""
    train: str | None = None
    """all: every weight; lora: small adapters beside them; head: the new output head alone; top-N: the top N layers and
    the head; gradual: all, from the top down. None = lora for models of others, all for runs"""
    epochs: float | None = (
        None  # times that the examples are read; None = 3, but 500 steps at most; 20 of few labelled texts
    )
    accept_changes: bool = False  # go on with a run although its recipe now reads other rows or makes other updates

    @property
    def own_stages(self) -> Path | None:
        """The file that makes the stages."""
        return expanded(self.stages) if self.stages is not None and self.stages.endswith(".py") else None

    @property
    def words(self) -> list[str] | None:
        """The stages by words."""
        return None if self.stages is None or self.own_stages is not None else stage_words(self.stages)


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Length:
    """How long a run is said to be, of all that is said of it."""

    steps: int | None = None


def talk(base: str, train: Literal["all", "lora"] | None = None) -> TuneRecipe:
    """The default: dialogue, every weight of a run of ours, LoRA on a model of somebody else.

    Rates: about 10 times as high for adapters (Hu et al. 2021, arXiv:2106.09685, table 9 and section D).
    """
    opened = open_base(base)
    prepared = Path("prepared")
    text = text_of(opened, prepared)
    lora = Lora() if (train or ("all" if opened.is_run else "lora")) == "lora" else None
    small = opened.config.parameters <= SMALL
    rate = 3e-4 if lora is not None and not small else 1e-3 if small else 3e-5
    return TuneRecipe(
        base=base, data=text, model=opened.architecture, lora=lora, replay=0.2,
        examples=ExamplesSpec(length=None if small else min(256, opened.config.T)),
        optimizer=OptimizerSpec(learning_rate=rate, warmup=20, schedule="cosine", weight_decay=0.01),
        batch=BatchSpec(rows=8 if small else 4),
        compute=ComputeSpec(unroll=True),
        validation=ValidationSpec(every=100, rows=64, final_rows=512),
        checkpoint=CheckpointSpec(every=250, keep=1),
        run=run_of(opened.path), steps=MOST_STEPS,
    )  # fmt: skip


def run_of(base: Path) -> Path:
    """Where what a base becomes is written, if nothing else is said."""
    return Path("runs") / f"{base.resolve().name.removesuffix('.gguf').lower()}-talks"


def parse(words: Sequence[str]) -> tuple[Finetune, list[TuneRecipe]]:
    """What is asked for, and the stages. --help prints and exits. Raises ValueError for what cannot be."""
    words = [re.sub("^--data(?==|$)", "--examples.sources", word) for word in words]
    asked_head, words = take(judging.AskedHead, words)
    head = judging.head_of(asked_head)
    asked, rest = take(Finetune, words)
    if asked.train is None and asked.words is None and any(word.startswith("--lora.") for word in rest):
        asked = dataclasses.replace(asked, train="lora")
    said = settings_said(rest)
    for other, given in (("--steps", "steps" in said), ("--stages", asked.own_stages is not None)):
        if asked.epochs is not None and given:
            raise ValueError(f"--epochs and {other}: give one of them; each says how long a run is")
    if asked.train is not None and asked.stages is not None:
        raise ValueError("--train and --stages: the stages say what each of them trains; leave --train, --lora.* out")
    if asked.epochs is not None and asked.epochs <= 0:
        raise ValueError(f"--epochs {asked.epochs}: give a number above 0")
    if not asked.base and not {"--help", "-h", "--help-all"} & {*rest}:
        raise ValueError("finetune: give a base: a run such as runs/laptop, a folder, a .gguf file, or smollm2")
    if asked.train is not None:
        check_word(asked.train)
    if words_asked := asked.words or ([asked.train] if asked.train else []):
        check_adapters(words_asked, said)
    stages = _stages(asked) if asked.base else [None]
    if head is not None and asked.own_stages is not None:
        raise ValueError(
            "--as, --label: the file of --stages says which examples each stage learns from; leave them out"
        )
    if head is not None:
        stages = [judging.judge(stage, head, said) for stage in stages if stage is not None]
    if asked.own_stages is None and "optimizer.warmup" not in said:
        stages = [stage and _short_warmup(stage, rest) for stage in stages]
    if "lora" in (asked.words or ()):
        stages = [stage and dataclasses.replace(stage, lora=stage.lora or Lora()) for stage in stages]
    program = "./launch.sh finetune"
    recipes = [
        read(TuneRecipe, rest, program, default=stage, about=__doc__, plain=PLAIN, beside=(Finetune, judging.AskedHead))
        for stage in stages
    ]
    if asked.words is not None:
        recipes = staged(recipes[0], asked.words, open_base(asked.base), said)
    elif asked.train is not None or (asked.own_stages is None and recipes[0].lora is not None):
        recipes = [trained_by(recipes[0], asked.train or "lora", said)]
    return asked, recipes


def _short_warmup(recipe: TuneRecipe, words: Sequence[str]) -> TuneRecipe:
    """The recipe as it fits the --steps of a command line, if there are any: `settled` says what becomes of its
    warm-up."""
    said, _ = take(_Length, words)
    warmup = min(recipe.optimizer.warmup, recipe.steps if said.steps is None else max(0, said.steps))
    return dataclasses.replace(recipe, optimizer=dataclasses.replace(recipe.optimizer, warmup=warmup))


def _stages(asked: Finetune) -> list[TuneRecipe]:
    if asked.own_stages is None:
        word = "all" if asked.words is not None or asked.train not in (None, "lora") else asked.train
        return [talk(asked.base, word)]  # pyright: ignore[reportArgumentType]
    made = own_function(asked.own_stages, "that returns TuneRecipes")(asked.base)
    stages = list(made) if isinstance(made, list | tuple) else [made]
    for stage in stages:
        if not isinstance(stage, TuneRecipe):
            raise ValueError(f"--stages {asked.stages}: recipe() returned {stage!r}; return TuneRecipes")
    return stages


def chained(stages: Sequence[TuneRecipe]) -> list[TuneRecipe]:
    """The stages, each beginning with the run of the one before it; the last one's run is the whole's."""
    run = stages[-1].run
    runs = [run.with_name(f"{run.name}.stage-{n + 1}") for n in range(len(stages) - 1)] + [run]
    bases = [stages[0].base, *map(str, runs)]
    links = zip(stages, runs, bases, strict=False)
    return [dataclasses.replace(stage, run=run, base=base) for stage, run, base in links]


def settled(recipe: TuneRecipe, epochs: float | None, said: Collection[str], say: Callable[[str], None]) -> TuneRecipe:
    """The recipe with as many steps as it takes to read its examples so often, unless `said`, the settings that were
    given, names them."""
    prepared = prepared_examples(recipe)
    rows = rows_of_an_epoch(prepared, recipe.row_length, recipe.augment.growth)
    share = 1 - recipe.replay
    often = EPOCHS if recipe.examples.head is None else judging.epochs(prepared)
    wanted = math.ceil((epochs or often) * rows / share / recipe.batch.rows)
    steps = recipe.steps if "steps" in said else wanted if epochs is not None else min(wanted, MOST_STEPS)
    read_often = steps * recipe.batch.rows * share / rows
    say(f"{steps} steps of {recipe.batch.rows} rows read the examples {read_often:.2g} times (--epochs, --steps)")
    warmup = min(recipe.optimizer.warmup, steps // 5)
    if warmup < recipe.optimizer.warmup:
        say(f"optimizer.warmup={warmup}, a fifth of the steps, in place of {recipe.optimizer.warmup}")
    settled = dataclasses.replace(recipe, steps=steps, optimizer=dataclasses.replace(recipe.optimizer, warmup=warmup))
    judged = recipe.examples.head is not None or recipe.stop.figure is not None
    return judging.measured_often(settled, said) if judged else settled


def check_figures(stages: Sequence[TuneRecipe]) -> None:
    """To be called before the first stage trains: raises ValueError where one has a figure that does not fit."""
    from train.tuning.written import check_figure_of_answers

    for stage in stages:
        if stage.stop.figure is not None and stage.examples.head is None:
            check_figure_of_answers(stage.stop.figure, prepared_examples(stage))


def rows_of_an_epoch(prepared: Path, T: int, growth: float = 0.0) -> int:
    """Rows that all training examples fill, with room to grow by a share."""
    return sum(WholePlan(store, T, None, growth).rows_per_epoch for store in _stores(prepared))


def _stores(prepared: Path) -> list[TokenStore]:
    """The training examples of every source."""
    sources = read_prepared(prepared)["sources"].values()
    return [TokenStore(prepared / source["folder"] / "train") for source in sources if source.get("whole")]


def tell(recipe: TuneRecipe, console: Console) -> None:
    """Before training: what became of the conversations, and three examples as the model gets them."""
    from train.report.preview import show_examples

    prepared = prepared_examples(recipe)
    if recipe.examples.head is None and running_text(recipe) is None:
        console.print(f"the text that {recipe.base} was trained on is not here: what it forgets cannot be measured")
    for name, tally in tallies_of(prepared).items():
        console.print(f"{name}: {', '.join(lines(tally))}", highlight=False, markup=False)
    if recipe.examples.head is not None:
        judging.tell(recipe, prepared, console)
        return
    wanted = {name for form in forms_of(prepared).values() for name in figures_of(form)}
    if recipe.examples.answered and len(computable(wanted)) < len(wanted):
        console.print(f"answers will not be measured by BLEU and chrF, which sacrebleu computes: {NEEDS}")
    show_examples(console, talks_of(recipe).tokenizer, _first_examples(prepared, 3))


def _first_examples(prepared: Path, count: int) -> list[tuple[list[int], list[bool]]]:
    found = [_example(store, d) for store in _stores(prepared) for d in range(min(count, store.documents))]
    return found[:: max(1, len(found) // count)][:count]


def _example(store: TokenStore, d: int) -> tuple[list[int], list[bool]]:
    of = slice(int(store.offset_D[d]), int(store.offset_D[d + 1]))
    return store.tokens[of].tolist(), ((store.marks[of] & LEARNED) > 0).tolist()
