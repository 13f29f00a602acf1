"""Fields of a recipe that yesterday's recipe.json and command lines have, as those of today.

Before the schedule of the tasks was one table, every task had five fields of its own: see NOW.
"""

from collections.abc import Mapping
from typing import Any

from data.tasks.schedule import Schedule, written
from gptjax.config import FURTHER
from train.objectives import Objectives

NOW = {  # objectives.TASK.<old> -> what it is now
    "rows": "objectives.rows TASK=ROWS",
    "weight": "objectives.rows TASK=ROWS:WEIGHT",
    "later": "objectives.rows TASK=ROWS:WEIGHT@SHARE",
    "rare": "objectives.rare TASK, where it is not as it would be anyhow",
    "sources": "objectives.sources TASK=SOURCE",
}


def of_today(tree: Mapping[str, Any]) -> dict[str, Any]:
    """The tree of a recipe.json, with the fields of today; one of today says the same as before."""
    tree = dict(tree)
    if isinstance(tree.get("model"), dict):
        tree["model"] = {**FURTHER, **tree["model"]}
    if isinstance(objectives := tree.get("objectives"), dict):
        tree["objectives"] = _objectives(objectives, rows_a_step=tree.get("batch", {}).get("rows", 0))
    return tree


def _objectives(old: Mapping[str, Any], rows_a_step: int) -> dict[str, Any]:
    kept = {name: part for name, part in old.items() if not isinstance(part, dict)}
    tasks = {name: part for name, part in old.items() if isinstance(part, dict)}
    kept |= {name: {field: part[field] for field in part.keys() - NOW.keys()} for name, part in tasks.items()}
    if "rows" in old:
        return kept
    known, schedules, sources, rare = Objectives().tasks, {}, [], {}
    for name, part in tasks.items():
        later = tuple((share, rows, weight) for share, rows, weight in part.get("later") or ())
        schedule = Schedule(rows=part.get("rows", 0.0), weight=part.get("weight"), later=later)
        sources += [f"{name}={source}" for source in part.get("sources") or ()]
        if schedule.most > 0:
            rare[name] = bool(part.get("rare"))
        schedules[name] = schedule
    anyhow = {name: name in known and known[name].on(schedules[name]).rare(rows_a_step) for name in rare}
    said = None if rare == anyhow else [name for name in rare if rare[name]]
    return {**kept, "rows": list(written(schedules)), "sources": sources, "rare": said}
