"""From a saved step to the state of a recipe: as older checkpoints name it, and what a changed recipe asks in vain."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from gptjax.files.atomic_file import write_whole
from gptjax.files.plain_json import dumps
from gptjax.runs.checkpoint import restore, saved_shapes
from gptjax.runs.manifest import manifest, newest_good
from train.assemble import Assembly
from train.recipe import Recipe, changes, to_json
from train.record.older import recipe_tree
from train.record.progress import Progress
from train.record.saver import Saver, trees_of
from train.step import State
from train.supervision.hosts import from_first
from train.tuning.tune_recipe import TuneRecipe
from train.updates.optimizer import by_thaw_step, cooldown_start, from_thaw_step

# Parts of a state, by the beginning of its leaves' names, and the fields that they are made by.
MADE_BY = {
    "params": ("model.", "data."),
    "ema": ("model.", "data.", "optimizer.ema"),
    "training/optimizer": ("model.", "data.", "optimizer."),
    "training/combiner": ("objectives.", "data."),
}


def first_state(parts: Assembly, saver: Saver, say: Callable[[str], None]) -> tuple[State, Progress]:
    """The newest checkpoint whose files are whole, damaged ones set aside; where there is none the base's, of a
    fine-tuning run, or a fresh state."""
    recipe, run = parts.recipe, parts.recipe.run
    step = from_first(lambda: newest_good(run, say, set_bad_aside=True))
    if step is None:
        if isinstance(recipe, TuneRecipe):
            from train.tuning.beginning import tuned_from

            return tuned_from(parts, recipe, say), Progress()
        return parts.fresh(), Progress()
    notes = manifest(run, step)
    trees = saved_trees(run, step, trees_of(parts.abstract), recipe)
    progress = Progress.of(notes)
    cooled_at = progress.health.cooled_at
    planned = cooldown_start(recipe.optimizer, recipe.steps)  # anew: the recipe may have changed
    cooldown = placed_cooldown(parts, planned if cooled_at is None else cooled_at)
    state = State(**trees["training"], cooldown=cooldown, params=trees["params"], ema=trees.get("ema"))
    if jax.process_index() == 0:
        write_whole(run / "recipe.json", to_json(recipe))  # of this start; older ones are in starts.jsonl
    say(f"continuing from step {step}, saved {notes['saved']}")
    saver.continued(step, notes["save_seconds"])
    return state, progress


def placed_cooldown(parts: Assembly, step: int) -> jax.Array:
    """The step from which wsd falls, as the state has it."""
    return jax.device_put(np.int32(step), parts.abstract.cooldown.sharding)


def saved_trees(run: Path, step: int, wanted: Mapping[str, Any], recipe: Recipe) -> dict[str, Any]:
    """The trees of a verified step, by name, as `wanted` gives shapes, dtypes and shardings.

    Raises ValueError naming a leaf that does not fit, and the fields that decide on it and were others at that step.
    """
    kept = manifest(run, step)["provenance"]["recipe"]
    then = recipe_tree(kept)
    training = wanted["training"]
    older = {**training, "optimizer": by_thaw_step(training["optimizer"], then["steps"])}
    saved = saved_shapes(run, step, "training")["optimizer"].keys()
    is_older = saved != training["optimizer"].keys() and saved == older["optimizer"].keys()
    trees = {
        "training": older if is_older else training,
        **{name: wanted[name] for name in wanted.keys() - {"training"}},
    }
    try:
        found = {name: restore(run, step, name, tree) for name, tree in trees.items()}
    except ValueError as error:
        raise _blamed(error, run, dumps(kept), recipe) from None
    if is_older:
        moments = from_thaw_step(found["training"]["optimizer"], training["optimizer"], then["steps"])
        found["training"] = {**found["training"], "optimizer": moments}
    return found


def _blamed(error: ValueError, run: Path, then: str, recipe: Recipe) -> ValueError:
    """What is wrong with a leaf, and the changed fields that it is made by."""
    made_by = next((fields for part, fields in MADE_BY.items() if f" {part}" in str(error)), ())
    changed = [change for change in changes(then, to_json(recipe)) if change.field.startswith(made_by)]
    if not changed:
        return error
    fields = "".join(f"\n  {change}" for change in changed)
    return ValueError(
        f"run={run}: what was saved does not fit the changed recipe:{fields}\n({error})\n"
        "put these back, or start a new run with --run runs/another-name"
    )
