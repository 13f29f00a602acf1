"""Fine-tuning on labelled texts, from the words of a command line: a head's columns, its recipe, and what is said
before it trains. Does not import JAX."""

import dataclasses
import json
import math
from collections.abc import Collection
from pathlib import Path

import numpy as np
from rich.console import Console

from data.description import HEADS, read_prepared
from data.examples.head_spec import KINDS, HeadSpec
from data.token_store import TokenStore
from gptjax.batch import ClassHead, HeadKind
from gptjax.evaluation.head_figures import FIRST
from gptjax.spelling import did_you_mean
from gptjax.text.tokenizer import Tokenizer
from train.recipe import StopSpec, ValidationSpec
from train.tuning.tune_recipe import TuneRecipe

FEW_LABELS = 1000  # training examples, below which they are read more often
OFTEN, SELDOM = 20.0, 3.0  # times that examples are read: few ones, and others
LOOKS = 20  # at the held-out examples, over a run
PATIENCE = 10  # of these without a gain, after which a run ends: gradual unfreezing takes as many to thaw all
SMALL_RATE = 5e-4  # learning rate of every weight of a small model
EASY_RATE = 1e-3  # what train/tuning/finetune.py gives these when they learn to talk
SHOWN_CLASSES = 20


@dataclasses.dataclass(frozen=True, kw_only=True)
class AskedHead:
    """an output head that learns from labelled texts"""

    as_: str | None = None  # what it tells: classes (one of several), labels (any number), values (a number)
    text: str | None = None  # column of the text; None = text
    second: str | None = None  # column of a second text, of pairs
    label: str | None = None  # column of the class; None = label
    labels: str | None = None  # column of the labels: a list, or text such as 'red|round'
    value: str | None = None  # column of the number
    head: str | None = None  # what the head is called; None = as its column


def head_of(asked: AskedHead) -> HeadSpec | None:
    """The head that is asked for; None = none. Raises ValueError for words that contradict each other."""
    targets = {flag: column for flag in ("label", "labels", "value") if (column := getattr(asked, flag)) is not None}
    if asked.as_ is not None and asked.as_ not in KINDS:
        raise ValueError(f"--as {asked.as_}{did_you_mean(asked.as_, KINDS)}")
    if asked.as_ is None and not targets:
        if beside := [flag for flag in ("text", "second", "head") if getattr(asked, flag) is not None]:
            raise ValueError(
                f"--{beside[0]}: is of labelled texts; say what is told of them: --as classes, labels or values"
            )
        return None
    if len(targets) > 1:
        raise ValueError(f"--{' and --'.join(targets)}: a head tells one thing; give one of them")
    flag = next(iter(targets), None)
    of_flag: dict[str, HeadKind | None] = {"label": None, "labels": "labels", "value": "values"}
    kind: HeadKind | None = of_flag.get(flag or "") if asked.as_ is None else asked.as_  # pyright: ignore[reportAssignmentType]
    if (
        flag is not None
        and kind is not None
        and (flag, kind) not in {("label", "classes"), ("labels", "labels"), ("value", "values")}
    ):
        wanted = {"classes": "--label", "labels": "--labels", "values": "--value"}[kind]
        raise ValueError(f"--as {kind} with --{flag}: {kind} are named with {wanted} {targets[flag]}")
    return HeadSpec(kind=kind, name=asked.head, text=asked.text, second=asked.second, target=targets.get(flag or ""))


def judge(recipe: TuneRecipe, head: HeadSpec, said: Collection[str]) -> TuneRecipe:
    """The recipe of a base as it learns from labelled texts; `said`, the settings that were given, are not looked at
    but for the sources, which it must name.

    Texts are read from both sides, unless the head is causal. Source: Devlin et al. 2019, arXiv:1810.04805, section
    A.3 (rates, dropout before the head, few epochs); Mosbach et al. 2021, arXiv:2006.04884, section 6 (20 epochs of few
    examples).
    """
    if "examples.sources" not in said:
        raise ValueError(
            "--data: name a file of labelled texts, such as --data reviews.csv, or a corpus such as wiki_leads/en"
        )
    optimizer = recipe.optimizer
    if optimizer.learning_rate == EASY_RATE and recipe.lora is None:
        optimizer = dataclasses.replace(optimizer, learning_rate=SMALL_RATE)
    return dataclasses.replace(
        recipe, replay=0.0, optimizer=optimizer,
        run=recipe.run.with_name(f"{recipe.run.name.removesuffix('-talks')}-{head.called}"),
        examples=dataclasses.replace(recipe.examples, head=head),
        validation=ValidationSpec(task_rows=512, final_task_rows=4096),
        stop=StopSpec(patience=PATIENCE, figure=FIRST[head.tells]),
    )  # fmt: skip


def epochs(prepared: Path) -> float:
    """How often the training examples of a folder are read where nobody says."""
    return OFTEN if sum(store.documents for store in _stores(prepared, "train")) < FEW_LABELS else SELDOM


def measured_often(recipe: TuneRecipe, said: Collection[str]) -> TuneRecipe:
    """The recipe with so many looks at what is held out that its best step is found, unless it was `said` how many."""
    if "validation.every" in said:
        return recipe
    every = max(1, math.ceil(recipe.steps / LOOKS))
    return dataclasses.replace(recipe, validation=dataclasses.replace(recipe.validation, every=every))


def made_head(prepared: Path) -> ClassHead:
    """The head that a folder of labelled texts was prepared for."""
    (fields,) = json.loads((prepared / HEADS).read_text(encoding="utf-8"))
    return ClassHead.of(fields.pop("name"), fields)


def truth(prepared: Path, split: str) -> np.ndarray:
    """What is to be told of the texts of a split, of all sources in turn: 1 at the class or at each label, else 0; the
    number, in the user's units. f64 [D, C]."""
    head, stores = made_head(prepared), _stores(prepared, split)
    if head.kind == "values":
        return head.mean + head.scale * np.concatenate([store.value_DF for store in stores]).astype(np.float64)
    label_DF = np.concatenate([store.label_DF for store in stores])
    return label_DF.astype(np.float64) if head.kind == "labels" else np.eye(len(head.classes))[label_DF[:, 0]]


def tell(recipe: TuneRecipe, prepared: Path, console: Console) -> None:
    """Before training: how often each class is told, and three examples as the head gets them."""
    from train.report.preview import EXAMPLES, show_labelled

    head, train_DC, held_DC = made_head(prepared), truth(prepared, "train"), truth(prepared, "validation")
    reads = f"{'two texts' if head.two else 'a text'} from {'the left' if head.causal else 'both sides'}"
    console.print(
        f"head {head.name!r} tells {head.kind}: reads {reads}, {head.length} tokens at most, pooled {head.pool}; "
        f"{len(train_DC):,} examples train, {len(held_DC):,} are held out",
        highlight=False, markup=False,
    )  # fmt: skip
    if head.kind == "values":
        console.print(
            f"  {head.mean:.4g} on average, give or take {head.scale:.4g}; {train_DC.min():.4g} to {train_DC.max():.4g}"
        )
    else:
        for place in np.argsort(-train_DC.sum(axis=0), kind="stable")[:SHOWN_CLASSES].tolist():
            counts = f"{int(train_DC[:, place].sum()):>7,} train, {int(held_DC[:, place].sum()):>5,} held out"
            console.print(f"  {counts}  {head.classes[place]}", highlight=False, markup=False)
        if (more := len(head.classes) - SHOWN_CLASSES) > 0:
            console.print(f"  and {more} more")
    tokenizer = Tokenizer.load(prepared / "tokenizer.json")
    spread = np.linspace(0, len(train_DC) - 1, min(EXAMPLES, len(train_DC))).astype(int).tolist()
    show_labelled(console, tokenizer, [(_ids(prepared, d), in_words(head, train_DC[d])) for d in spread])


def in_words(head: ClassHead, told_C: np.ndarray) -> str:
    """What is told of a text, as people read it."""
    if head.kind == "values":
        return f"{head.name} = {told_C[0]:.4g}"
    names = [name for name, is_so in zip(head.classes, told_C.tolist(), strict=True) if is_so]
    return f"{head.name} = {', '.join(names) or 'none'}"


def _ids(prepared: Path, d: int) -> list[int]:
    """The tokens of a training example, by its number among those of all sources."""
    for store in _stores(prepared, "train"):
        if d < store.documents:
            return store.tokens[int(store.offset_D[d]) : int(store.offset_D[d + 1])].tolist()
        d -= store.documents
    raise IndexError(d)


def _stores(prepared: Path, split: str) -> list[TokenStore]:
    sources = read_prepared(prepared)["sources"].values()
    return [TokenStore(prepared / source["folder"] / split) for source in sources if source.get("whole")]
