"""What experiments with few labels share: recipes that learn from a draw, how a run is measured, linear models beside.

Held-out texts are the same for all arms: settings and best steps are chosen by 128 of them, arms are compared by 1,000
others. Texts are cut at 64 tokens, of which SmolLM2 reads 1,000 in minutes. What a run of ours was pretrained on may
hold these texts, but no labels.
"""

import dataclasses
import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from data.examples.example_spec import ExamplesSpec
from data.examples.head_spec import HeadSpec
from gptjax.batch import HeadKind
from gptjax.evaluation.head_figures import figures
from gptjax.evaluation.tf_idf import TfIdf
from gptjax.probing.logistic import Logistic, standardised
from train.lab.experiment import ROOT, SEEDS, TUNED_ON, Change
from train.lab.few_labels import (
    Labelled,
    dev_file,
    read_labelled,
    states_file,
    test_file,
    tested_file,
    train_file,
    written,
)
from train.lab.outcome import ArmOutcome
from train.recipe import BatchSpec, Recipe
from train.supervision.exits import DONE
from train.tuning.finetune import talk
from train.tuning.judging import judge
from train.tuning.strategies import trained_by
from train.tuning.tune_recipe import TuneRecipe

FOLDER = Path("runs/experiments/labels")
WRONG = "wrong on dev"  # share of the texts that settings are chosen by: the lower, the better
LENGTH = 64  # tokens of a text
STEPS = {32: 100, 128: 240, 512: 400}  # by labels: 25, 15 and 6 times through them
BY_SEED = (TUNED_ON, *SEEDS)
STRENGTHS = (0.01, 0.1, 1.0, 10.0, 100.0)  # C of logistic regression: all are tried, as rates are
WORDS, FROZEN = "TF-IDF, logistic regression", "frozen features, linear head"


def recipe_of(
    base: str, task: str, count: int, steps: int, *, adapters: bool = False, kind: HeadKind = "classes"
) -> TuneRecipe:
    """A recipe that learns a task from so many labels; the draw is that of `drawing`."""
    head = HeadSpec(kind=kind, target="label", held_out=str(dev_file(FOLDER, task)))
    plain = judge(talk(base, "lora" if adapters else "all"), head, {"examples.sources"})
    examples = ExamplesSpec(sources=(str(train_file(FOLDER, task, count, TUNED_ON)),), length=LENGTH, head=head)
    few = dataclasses.replace(plain.validation, task_rows=32 if adapters else 128, final_task_rows=128)
    return dataclasses.replace(
        plain, examples=examples, steps=steps, batch=BatchSpec(rows=8), validation=few, samples=0,
        run=FOLDER / "unused", optimizer=dataclasses.replace(plain.optimizer, warmup=steps // 10),
    )  # fmt: skip


def drawing(task: str, count: int) -> Change:
    """The labels that a run's seed draws."""

    def change(recipe: Recipe) -> Recipe:
        assert isinstance(recipe, TuneRecipe)
        file = train_file(FOLDER, task, count, recipe.seed)
        return dataclasses.replace(recipe, examples=dataclasses.replace(recipe.examples, sources=(str(file),)))

    return change


def by_strategy(word: str, before: Change) -> Change:
    """What a word of --train trains, at the rate that is tried."""

    def change(recipe: Recipe) -> Recipe:
        made = before(recipe)
        assert isinstance(made, TuneRecipe)
        return trained_by(made, word, {"optimizer.learning_rate"})

    return change


def from_scratch(base: str, before: Change) -> Change:
    """The same from weights that have learnt nothing, drawn by the run's seed."""

    def change(recipe: Recipe) -> Recipe:
        made = before(recipe)
        assert isinstance(made, TuneRecipe)
        return dataclasses.replace(made, base=str(scratch_of(base, recipe.seed)))

    return change


def scratch_of(base: str, seed: int) -> Path:
    return FOLDER / f"{Path(base).name}-scratch-{seed}"


def prepare(
    tasks: Mapping[str, Sequence[int]], features: Sequence[tuple[str, str]] = (), scratch: Sequence[str] = ()
) -> None:
    """Writes draws of tasks, states of (base, task) for linear heads, and runs of bases that have learnt nothing."""
    for task, counts in tasks.items():
        written(FOLDER, task, counts, BY_SEED)
    for base in scratch:
        for seed in BY_SEED:
            if not (scratch_of(base, seed) / "model.json").exists():
                trial("scratch", base, str(scratch_of(base, seed)), "--seed", str(seed))
    for base, task in features:
        if not states_file(FOLDER, task, base).exists():
            trial("states", base, str(FOLDER / task), "--length", str(LENGTH))


def trial(*words: str) -> None:
    """Runs train/lab/label_trial.py as `alone` does."""
    alone("train.lab.label_trial", *words)


def alone(program: str, *words: str, quiet: bool = False) -> None:
    """Runs a program of ours in a process of its own; `quiet`: what it prints is not shown.

    Raises ValueError where it fails; it has said why.
    """
    command = [sys.executable, "-P", "-m", program, *words]
    environment, shown = {**os.environ, "PYTHONPATH": str(ROOT)}, subprocess.DEVNULL if quiet else None
    done = subprocess.run(command, cwd=Path.cwd(), env=environment, stdout=shown, check=False)
    if done.returncode != DONE:
        raise ValueError(f"`python -m {program} {' '.join(words)}` failed, see above")


def measured(task: str, beside: Mapping[str, Path] | None = None) -> Callable[[Path], dict[str, float]]:
    """How a run of this task is measured: on the texts that choose; of those that are compared, on the others too.

    `beside`: by what its accuracy is called, a further file of texts to be measured on.
    """

    def measure(run: Path) -> dict[str, float]:
        on_dev = json.loads((run / "heads.json").read_text(encoding="utf-8"))["figures"]["after"]
        found = {WRONG: 1 - on_dev["accuracy"]}
        if json.loads((run / "recipe.json").read_text(encoding="utf-8"))["seed"] == TUNED_ON:
            return found
        tested = trial_figures(run, test_file(FOLDER, task))
        further = {name: trial_figures(run, file)["accuracy"] for name, file in (beside or {}).items()}
        return {"accuracy": tested["accuracy"], "macro F1": tested["macro_f1"], **further, **found}

    return measure


def trial_figures(run: Path, file: Path) -> dict[str, float]:
    """What a run's head makes of a file of texts."""
    found = tested_file(run, file)
    if not found.exists():
        trial("tested", str(run), str(file))
    return json.loads(found.read_text(encoding="utf-8"))


def linear_arms(task: str, count: int, base: str) -> dict[str, ArmOutcome]:
    """Logistic regression on words, and on the states of a base as it is; its strength is chosen as rates are."""
    with np.load(states_file(FOLDER, task, base)) as kept:
        place = {text: number for number, text in enumerate(kept["texts"].tolist())}
        states_ID = kept["states"]
    dev, test = read_labelled(dev_file(FOLDER, task)), read_labelled(test_file(FOLDER, task))

    def of(some: Sequence[Labelled]) -> list[str]:
        return [one.text for one in some]

    def words(train: Sequence[Labelled]) -> list[Any]:
        made = TfIdf(of(train))
        return [made(of(some)) for some in (train, dev, test)]

    def frozen(train: Sequence[Labelled]) -> list[Any]:
        return standardised(*(states_ID[[place[text] for text in of(some)]] for some in (train, dev, test)))

    draws = {seed: read_labelled(train_file(FOLDER, task, count, seed)) for seed in BY_SEED}
    return {name: _linear(draws, dev, test, made) for name, made in ((WORDS, words), (FROZEN, frozen))}


def _linear(
    draws: Mapping[int, Sequence[Labelled]],
    dev: Sequence[Labelled],
    test: Sequence[Labelled],
    features: Callable[[Sequence[Labelled]], list[Any]],
) -> ArmOutcome:
    """`features`: of training texts, those of them, of dev and of test."""
    classes = sorted({one.label for one in draws[TUNED_ON]})
    label = {name: number for number, name in enumerate(classes)}

    def scored(seed: int, strength: float) -> list[dict[str, float]]:
        train_IW, *others_IW = features(draws[seed])
        label_I = np.array([label[one.label] for one in draws[seed]])
        fitted = Logistic(train_IW, label_I, len(classes), strength)
        return [
            figures("classes", fitted.probabilities(x_IW), np.eye(len(classes))[[label[one.label] for one in asked]])
            for x_IW, asked in zip(others_IW, (dev, test), strict=True)
        ]

    tried = {strength: 1 - scored(TUNED_ON, strength)[0]["accuracy"] for strength in STRENGTHS}
    best = min(tried, key=tried.__getitem__)
    found = [scored(seed, best) for seed in SEEDS]
    return ArmOutcome(
        setting=f"C {best:g}",
        tried={f"C {strength:g}": wrong for strength, wrong in tried.items()},
        seeds=tuple(
            {"accuracy": on_test["accuracy"], "macro F1": on_test["macro_f1"], WRONG: 1 - on_dev["accuracy"]}
            for on_dev, on_test in found
        ),
    )
