"""Is every task learnt? Run by hand, `python -m tests.campaigns.learnt [task ...]`: about two minutes a task.

Trains a small model on each task, beside masked words where that is another task, and prints its accuracy on held-out
text beside that of a cheap guesser; then classes again with labels dealt out by chance, which must bring it to chance.
"""

import dataclasses
import json
import sys
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from data.tasks.causal_lm import CausalLM
from data.tasks.classify import Classify
from data.tasks.continuity import Continuity
from data.tasks.masked_lm import MaskedLM
from data.tasks.order import Order
from data.tasks.position import Position
from data.tasks.prefix_lm import PrefixLM
from data.tasks.task import Task, Text, uniform
from gptjax.batch import Batch
from train.lab.experiments.small import small
from train.objectives import Objectives
from train.pretrain import pretrain
from train.recipe import ValidationSpec

STEPS = 800


def by_chance(task: Task) -> Task:
    """The same task with classes that nothing decides but chance."""

    class Shuffled(type(task)):
        def build(self, text: Text) -> Batch:
            batch = super().build(text)
            heads = list(self.heads(text.corpus).values())
            key_R = np.zeros(text.R, np.uint64)
            key_R[text.row_P[::-1]] = text.key_P[::-1]  # of a row's first piece, where it has one
            key_BQ = batch.at_BQ.astype(np.uint64) + key_R[:, None]
            count_BQ = np.array([*map(len, heads)])[batch.head_BQ]
            dealt = {"label_BQ": (uniform(key_BQ, 9) * count_BQ).astype(np.int32)}
            if self.token_head is not None:
                key_BT = np.arange(text.T, dtype=np.uint64) + key_R[:, None]
                dealt = {"targets_BT": (uniform(key_BT, 9) * len(heads[0])).astype(np.int32)}
            return batch._replace(**dealt)

    return Shuffled(**dataclasses.asdict(task), **task.given)


ALONE = {
    "causal_lm": CausalLM(rows=1.0),
    "masked_lm": MaskedLM(rows=1.0),
    "prefix_lm": PrefixLM(rows=1.0),
    "position": Position(rows=0.5, rare=False),
    "order": Order(rows=0.5, rate=0.15, rare=False),
    "continuity": Continuity(rows=0.5, rare=False, shortest=24, longest=60),
    "classify": Classify(rows=0.5, rare=False, labels=("source", "type", "topic")),
}


def learnt(name: str, task: Task, folder: Path) -> dict[str, dict]:
    """Term -> its score on held-out text."""
    alone = {"causal_lm": CausalLM(rows=0.0), "masked_lm": MaskedLM(rows=1 - task.rows)} | {name: task}
    recipe = dataclasses.replace(
        small(), objectives=Objectives(**alone, conflicts=None), run=folder, steps=STEPS,
        validation=ValidationSpec(every=STEPS, rows=16, final_rows=64, task_rows=60, final_task_rows=600),
    )  # fmt: skip
    pretrain(recipe, Console(quiet=True))
    records = map(json.loads, (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines())
    return {record["task"]: record for record in records if record["kind"] == "final_task"}


def main(wanted: list[str]) -> int:
    table = Table("task", "targets", "right", "guesser", "what it does", "by chance, right")
    for name, task in ALONE.items():
        if (wanted and name not in wanted) or name == "causal_lm":
            continue
        scores = learnt(name, task, Path("runs/learnt") / name)
        classes = name in ("position", "continuity", "classify")
        control = learnt(name, by_chance(task), Path("runs/learnt") / f"{name}-by-chance") if classes else {}
        for term, score in scores.items():
            if term.split("/")[0] == name:
                dealt = f"{control[term]['accuracy']:.1%}" if classes else ""
                guess = (f"{score['baseline_accuracy']:.1%}", score["baseline"])
                table.add_row(term, f"{score['targets']:,}", f"{score['accuracy']:.1%}", *guess, dealt)
        Console().print(table)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
