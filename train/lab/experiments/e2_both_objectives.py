"""E2: what masked words cost next-word prediction while text is new.

Published: Charpentier and Samuel 2024, arXiv:2410.24159, figure 2: causal use gains, or loses little.
"""

from train.lab.experiment import Experiment
from train.lab.experiments.small import as_it_is, both, small
from train.lab.outcome import DECIDES, Outcome

MOST = 0.03  # more causal loss than this share, and the causal share rises


def experiment() -> Experiment:
    return Experiment(
        question="E2: of equal tokens, read once at most, does a quarter of masked words cost next-word prediction?",
        base=small(),
        arms={"causal": as_it_is, "causal + masked": both},
        rates=(3e-3, 6e-3, 12e-3),
        decide=decide,
    )


def decide(outcome: Outcome) -> str:
    (arm,) = outcome.others
    cost = outcome.change(arm, DECIDES)
    so = "raise the causal share to 0.9" if cost > MOST else "the causal share stays"
    return f"Masked words change the causal loss by {cost:+.1%}, and {MOST:+.0%} was allowed: {so}."
