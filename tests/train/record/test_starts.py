"""Which recipe each step of a run was taken by, as its starts and its checkpoints tell."""

import json

from gptjax.runs.manifest import write_manifest
from train.record.starts import number_of, stretches


def write_starts(run, *starts: dict) -> None:
    (run / "starts.jsonl").write_text("".join(json.dumps({"seconds": 0.0, **start}) + "\n" for start in starts))


def save(run, step: int, recipe: dict) -> None:
    folder = run / "checkpoints" / str(step)
    folder.mkdir(parents=True)
    write_manifest(folder, step, {"provenance": {"recipe": recipe}}, {})


def test_each_start_notes_its_recipe_and_row(tmp_path):
    write_starts(tmp_path, {"step": 0, "row": 0, "recipe": {"seed": 0}}, {"step": 5, "row": 40, "recipe": {"seed": 1}})
    first, second = stretches(tmp_path, {"seed": 1})
    assert (first.recipe, first.by_steps, first.known) == ({"seed": 0}, True, True)
    assert (second.step, second.row, second.recipe) == (5, 40, {"seed": 1})


def test_of_older_starts_a_checkpoint_says_the_recipe_else_the_next_that_is_known(tmp_path):
    """The checkpoint of step 10 was saved by the start at 5; the newest recipe is that of the start at 10."""
    write_starts(tmp_path, {"step": 0}, {"step": 5}, {"step": 10})
    save(tmp_path, 10, {"seed": 1})
    found = stretches(tmp_path, {"seed": 2})
    assert [part.recipe["seed"] for part in found] == [1, 1, 2]
    assert [part.known for part in found] == [False, True, True]
    assert not any(part.by_steps for part in found)
    save(tmp_path, 5, {"seed": 0})
    assert [part.recipe["seed"] for part in stretches(tmp_path, {"seed": 2})] == [0, 1, 2]


def test_a_step_belongs_to_the_last_start_that_begins_before_it(tmp_path):
    """The third start found the checkpoint of step 10 damaged, and took steps 6 to 10 again."""
    write_starts(tmp_path, {"step": 0}, {"step": 10}, {"step": 5})
    found = stretches(tmp_path, {})
    assert [number_of(found, step - 1) for step in (1, 5, 6, 10, 11, 20)] == [0, 0, 2, 2, 2, 2]


def test_a_run_from_before_starts_were_noted_is_one_stretch(tmp_path):
    (one,) = stretches(tmp_path, {"seed": 3})
    assert (one.step, one.row, one.recipe, one.by_steps) == (0, 0, {"seed": 3}, False)
