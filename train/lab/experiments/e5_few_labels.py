"""E5: what pretraining is worth where labels are few.

Published: Howard and Ruder 2018, arXiv:1801.06146, figure 3: 100 labels after pretraining are worth ten times as many
from scratch. Needs `runs/laptop` (./launch.sh pretrain laptop), SmolLM2 and
reviews of Chinese shops (./launch.sh setup --smollm2 --as-is).
"""

from train.lab.experiment import Experiment
from train.lab.experiments.label_runs import (
    FROZEN,
    STEPS,
    WRONG,
    by_strategy,
    drawing,
    from_scratch,
    linear_arms,
    measured,
    prepare,
    recipe_of,
)
from train.lab.few_labels import part_of
from train.lab.outcome import ArmOutcome, Outcome
from train.lab.series import Series
from train.tuning.strategies import BESIDE_HEADS

BASE, LARGE = "runs/laptop", "smollm2"
TASKS = {"topic": (32, 128, 512), "intent": (32, 128, 512), "sentiment": (128,)}  # and how many labels they have
LARGE_STEPS = {32: 40, 128: 80}  # 10 and 5 times through the labels; a run takes a core up to 20 minutes
POINTS = 0.08  # of accuracy, by which the pretrained one is to lead at 128 labels
TUNED, SCRATCH = "fine-tuned", "from scratch"


def experiment() -> Series:
    parts = {part_of(task, count): _of_ours(task, count) for task, counts in TASKS.items() for count in counts}
    parts |= {f"SmolLM2, {part_of('topic', count)}": _of_smollm2(count, steps) for count, steps in LARGE_STEPS.items()}
    return Series(
        question="E5: of few labels, what does a pretrained model learn beside one from scratch and linear models?",
        parts=parts,
        before=lambda: prepare(TASKS, features=[*((BASE, task) for task in TASKS), (LARGE, "topic")], scratch=[BASE]),
        beside=_beside,
        decide=decide,
    )


def _of_ours(task: str, count: int) -> Experiment:
    draw = drawing(task, count)
    return Experiment(
        question="",
        base=recipe_of(BASE, task, count, STEPS[count]),
        arms={TUNED: by_strategy("all", draw), SCRATCH: by_strategy("all", from_scratch(BASE, draw))},
        rates=(1e-3, 3e-3),
        decides=WRONG,
        measure=measured(task),
        decide=lambda _: "",
    )


def _of_smollm2(count: int, steps: int) -> Experiment:
    """Adapters and head, at the rates of `--train lora`: to tune them would take hours."""
    return Experiment(
        question="", base=recipe_of(LARGE, "topic", count, steps, adapters=True),
        arms={TUNED: by_strategy("lora", drawing("topic", count))}, rates=(BESIDE_HEADS,),
        decides=WRONG, measure=measured("topic"), decide=lambda _: "",
    )  # fmt: skip


def _beside(part: str) -> dict[str, ArmOutcome]:
    drawn = {part_of(task, count): (task, count) for task, counts in TASKS.items() for count in counts}
    return linear_arms(*drawn[part.removeprefix("SmolLM2, ")], LARGE if part.startswith("SmolLM2") else BASE)


def decide(outcome: Outcome) -> str:
    said = []
    for task in TASKS:
        figure = f"{part_of(task, 128)}: accuracy"
        lead = -outcome.difference(SCRATCH, figure).difference
        so = "as was to be" if lead >= POINTS else f"less than the {100 * POINTS:.0f} that were to be"
        said.append(f"{part_of(task, 128)}: {100 * lead:+.1f} points over from scratch, {so}.")
    for count in LARGE_STEPS:
        figure = f"SmolLM2, {part_of('topic', count)}: accuracy"
        ahead = -outcome.difference(FROZEN, figure).difference
        said.append(f"SmolLM2, {part_of('topic', count)}: tuned {100 * ahead:+.1f} points over its frozen features.")
    return " ".join(said)
