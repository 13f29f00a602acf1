"""E9: at how many readings of a small text do masked words begin to help next-word prediction?

Published: "Dual-objective Language Models", arXiv:2512.14549, section 5: with text read 16 times and less next words
alone do best, with text read more often both.
"""

from train.lab.experiment import Experiment
from train.lab.experiments.e3_repeated_text import dropout
from train.lab.experiments.small import as_it_is, both, conversations, small
from train.lab.outcome import DECIDES, Outcome
from train.lab.series import Series

TIMES = {8: 267, 32: 1067}  # how often the text is read -> steps of 2,048 tokens that this takes


def experiment() -> Series:
    return Series(
        question="E9: of 200 kB read 8 and 32 times, do masked words help next-word prediction?",
        parts={_part(times): _of(times) for times in TIMES},
        decide=decide,
    )


def _part(times: int) -> str:
    return f"{times} times"


def _of(times: int) -> Experiment:
    """With dropout 0.2, at which both arms of E3 did best."""
    return Experiment(
        question="",
        base=conversations(dropout(small()), 0.984, TIMES[times]),  # 200 kB are read
        arms={"causal": as_it_is, "causal + masked": both},
        rates=(4e-3,),
        decide=lambda _: "",
    )


def decide(outcome: Outcome) -> str:
    return " ".join(_verdict(outcome, times) for times in TIMES)


def _verdict(outcome: Outcome, times: int) -> str:
    (arm,), figure = outcome.others, f"{_part(times)}: {DECIDES}"
    found, change = outcome.difference(arm, figure), outcome.change(arm, figure)
    so = "they help" if found.high < 0 else "they cost" if found.low > 0 else "no difference is shown"
    return f"Read {times} times: masked words change the causal loss by {change:+.1%}, {so}."
