"""E6: what should train, where labels are few: all, the head, the top layers, gradually more, or adapters.

Published: Howard and Ruder 2018, arXiv:1801.06146, table 7: the last layer alone is worst on small data; unfreezing
pays together with rates by layer and a slanted triangle. Raffel et al. 2020, arXiv:1910.10683, table 10: slightly worse
than all. Needs `runs/laptop`.
"""

from train.lab.experiment import Experiment
from train.lab.experiments.e5_few_labels import BASE
from train.lab.experiments.label_runs import STEPS, WRONG, by_strategy, drawing, measured, prepare, recipe_of
from train.lab.few_labels import part_of
from train.lab.outcome import Outcome
from train.lab.series import Series

TASK, COUNTS = "topic", (128, 512)
WORDS = ("all", "head", "top-2", "gradual", "lora")


def experiment() -> Series:
    return Series(
        question="E6: at few labels, which parameters of a pretrained model should train?",
        parts={part_of(TASK, count): _of(count) for count in COUNTS},
        before=lambda: prepare({TASK: COUNTS}),
        decide=decide,
    )


def _of(count: int) -> Experiment:
    draw = drawing(TASK, count)
    return Experiment(
        question="",
        base=recipe_of(BASE, TASK, count, STEPS[count]),
        arms={word: by_strategy(word, draw) for word in WORDS},
        rates=(1e-3, 3e-3, 1e-2),
        decides=WRONG,
        measure=measured(TASK),
        decide=lambda _: "",
    )


def decide(outcome: Outcome) -> str:
    """Another word is the default if it is better at both counts, and shown to be at one of them."""
    said = []
    for word in outcome.others:
        found = [outcome.difference(word, f"{part_of(TASK, count)}: accuracy") for count in COUNTS]
        better = all(one.difference > 0 for one in found) and any(one.low > 0 for one in found)
        gains = " and ".join(f"{100 * one.difference:+.1f}" for one in found)
        parts = " and ".join(part_of(TASK, count) for count in COUNTS)
        so = "make it the default" if better else f"{outcome.first} stays"
        said.append(f"{word}: {gains} points at {parts}: {so}.")
    return " ".join(said)
