"""E4: what the auxiliary tasks cost next-word prediction, and whether they are learnt at all.

Its figures in docs/log.md are of 2026-11-22, when `position` asked for withheld positions.

Published: Lan et al. 2019, arXiv:1909.11942, table 5: order of sentences +1.1 points after fine-tuning.
"""

from data.tasks.classify import Classify
from data.tasks.continuity import Continuity
from data.tasks.order import Order
from data.tasks.position import Position
from train.lab.experiment import Experiment
from train.lab.experiments.small import adding, as_it_is, both, small
from train.lab.outcome import BEYOND, DECIDES, Outcome

MOST = 0.01  # more causal loss than this share, and a task is off by default
TASKS = {
    "position": Position(rows=0.02, weight=0.05),
    "order": Order(rows=0.02, weight=0.05),
    "continuity": Continuity(rows=0.04, weight=0.1),
    "classify": Classify(rows=0.04, weight=0.1),
}
everything = adding(**TASKS)
faintly = adding(**{name: type(task)(rows=task.rows, weight=task.weights[0] / 10) for name, task in TASKS.items()})


def experiment() -> Experiment:
    return Experiment(
        question="E4: beside causal and masked rows, what do the auxiliary tasks cost next-word prediction?",
        base=both(small()),
        arms={"causal + masked": as_it_is, "+ all": everything, "+ all, a tenth": faintly},
        rates=(6e-3, 12e-3),
        decide=decide,
    )


def decide(outcome: Outcome) -> str:
    return " ".join(verdict(outcome, arm) for arm in outcome.others)


def verdict(outcome: Outcome, arm: str) -> str:
    cost = outcome.change(arm, DECIDES)
    beyond = [name for name in outcome.arms[arm].seeds[0] if name.endswith(BEYOND)]
    unlearnt = [
        name.split()[0]
        for name in beyond
        if outcome.mean(arm, name) <= 0 and name.split()[0].split("/")[0] in TASKS  # those that the arm adds
    ]
    so = "off by default" if cost > MOST else "stays on, unless fine-tuning loses by it"
    learnt = f"; not better than their baselines: {', '.join(unlearnt)}" if unlearnt else ""
    return f"{arm}: causal loss {cost:+.1%}, {MOST:+.0%} allowed: {so}{learnt}."
