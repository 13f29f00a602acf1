"""E10: is it worth while to change training texts, where labels are few: words, letters, tokens, noise on embeddings?

Published: Wei and Zou 2019, arXiv:1901.11196, figure 1: words pay most where there are least labels; Jain et al. 2023,
arXiv:2310.05914: noise on embeddings pays in dialogue. Measured on texts like those learnt from, on the same with 10 %
of the letters typed wrong, and on those of another domain. Needs `runs/laptop` and news of the BBC (./launch.sh setup
--as-is).
"""

import dataclasses
from pathlib import Path

from data.tasks.augment import Augment
from train.lab.experiment import Change, Experiment
from train.lab.experiments.e5_few_labels import BASE
from train.lab.experiments.label_runs import FOLDER, STEPS, WRONG, by_strategy, drawing, measured, prepare, recipe_of
from train.lab.few_labels import mistyped, news_topics, part_of, read_labelled, test_file, write_texts
from train.lab.outcome import Outcome
from train.lab.series import Series
from train.recipe import Recipe
from train.tuning.tune_recipe import TuneRecipe

TASK, COUNT, TYPED_WRONG = "topic", 128, 0.1
ARMS = {
    "off": Augment(),
    "words": Augment(swap=0.1, delete=0.1, insert=0.1),
    "letters": Augment(characters=0.1),
    "tokens left out": Augment(token_dropout=0.1),
    "noise on embeddings": Augment(embedding_noise=5.0),
}
FIGURES: tuple[str, ...] = ("accuracy", "accuracy, letters typed wrong", "accuracy, news")


def experiment() -> Series:
    return Series(
        question="E10: at few labels, is it worth while to change training texts?",
        parts={part_of(TASK, COUNT): _of_topics()},
        before=_prepare,
        decide=decide,
    )


def _of_topics() -> Experiment:
    return Experiment(
        question="",
        base=recipe_of(BASE, TASK, COUNT, STEPS[COUNT]),
        arms={name: _augmenting(augment) for name, augment in ARMS.items()},
        rates=(1e-3, 3e-3),
        decides=WRONG,
        measure=measured(TASK, {FIGURES[1]: _file("mistyped"), FIGURES[2]: _file("news")}),
        decide=lambda _: "",
    )


def _file(name: str) -> Path:
    return FOLDER / TASK / "elsewhere" / f"{name}.jsonl"


def _prepare() -> None:
    prepare({TASK: (COUNT,)})
    write_texts(_file("mistyped"), mistyped(read_labelled(test_file(FOLDER, TASK)), TYPED_WRONG))
    write_texts(_file("news"), news_topics())


def _augmenting(augment: Augment) -> Change:
    whole = by_strategy("all", drawing(TASK, COUNT))

    def change(recipe: Recipe) -> Recipe:
        made = whole(recipe)
        assert isinstance(made, TuneRecipe)
        return dataclasses.replace(made, augment=augment)

    return change


def decide(outcome: Outcome) -> str:
    """A change is the default if it is shown to be better on texts like those learnt from."""
    said = []
    for arm in outcome.others:
        found = [outcome.difference(arm, f"{part_of(TASK, COUNT)}: {figure}") for figure in FIGURES]
        gains = ", ".join(f"{100 * one.difference:+.1f}" for one in found)
        said.append(f"{arm}: {gains} points: {'make it the default' if found[0].low > 0 else 'it stays off'}.")
    return f"As they are, letters typed wrong, news; beside {outcome.first}. {' '.join(said)}"
