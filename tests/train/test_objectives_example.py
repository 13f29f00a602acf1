"""The task that docs/objectives.md adds works as the page says."""

import dataclasses
import re
from pathlib import Path

import numpy as np

from data.tasks.causal_lm import CausalLM
from tests.tiny_recipe import recipe, records, steps_alone, write_text
from tests.tiny_text import text_of
from train.objectives import Objectives

PAGE = Path(__file__).parents[2] / "docs" / "objectives.md"


def example() -> type:
    """The class of the page's first block of Python."""
    file, line, *_ = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    space: dict = {"__name__": "example"}
    exec(compile(file, str(PAGE), "exec"), space)
    assert line.strip() == "backwards: Backwards = dataclasses.field(default_factory=Backwards)"
    return space["Backwards"]


def test_the_example_turns_text_round():
    """Each token's target is the one before it in the text."""
    batch = example()().build(text_of([[[4, 5, 6, 7]]], T=5))
    np.testing.assert_array_equal(batch.tokens_BT, [[7, 6, 5, 4, 0]])
    np.testing.assert_array_equal(batch.targets_BT, [[6, 5, 4, 0, 0]])
    np.testing.assert_array_equal(batch.weights_BT, [[1, 1, 1, 0, 0]])


def test_the_example_trains(tmp_path):
    """With its line in the table, a run has its rows, its loss and its score."""
    kind = example()
    field = ("backwards", kind, dataclasses.field(default_factory=kind))
    table = dataclasses.make_dataclass("Table", [field], bases=(Objectives,), frozen=True, kw_only=True)
    objectives = table(causal_lm=CausalLM(rows=0.5), backwards=kind(rows=0.5))
    run = steps_alone(recipe(write_text(tmp_path), "run", objectives=objectives, steps=4))
    assert set(records(run, "train")[-1]["tasks"]) == {"causal_lm", "backwards"}
    assert [record["task"] for record in records(run, "final_task")] == ["backwards"]


def test_the_page_names_every_task():
    """No more, no less than the table has."""
    listed = re.findall(r"^\| `(\w+)`", PAGE.read_text(encoding="utf-8"), re.MULTILINE)
    assert listed == list(Objectives().tasks)
