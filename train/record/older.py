"""What earlier versions of gptjax wrote into run directories and took on the command line, as this one reads it.

The only file that knows old names. To rename a field of the recipe, or of a record: raise its version, and add a line
under the number it is renamed from. To add a field to a recipe: say in ADDED what it was before there was one. Version
1 of a recipe had five fields in every task (see NOW), now one table.
"""

import dataclasses
import re
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from data.tasks.augment import Augment
from data.tasks.labelled import Labelled
from data.tasks.schedule import Schedule, written
from gptjax.config import FURTHER, ModelConfig
from gptjax.spelling import did_you_mean
from train.objectives import Objectives

if TYPE_CHECKING:
    from train.recipe import Recipe


RECIPE_VERSION = 3  # of recipe.json, and of the recipes within manifests and starts.jsonl; files without one are of 1
METRICS_VERSION = 2  # of metrics.jsonl; lines before the first that tells a version are of 1

# Version -> name of a value in that version -> in the next.
METRIC_NAMES: dict[int, dict[str, str]] = {1: {"guess": "baseline", "guess_accuracy": "baseline_accuracy"}}
NOW = {  # objectives.TASK.<old> -> what it is now
    "rows": "objectives.rows TASK=ROWS",
    "weight": "objectives.rows TASK=ROWS:WEIGHT",
    "later": "objectives.rows TASK=ROWS:WEIGHT@SHARE",
    "rare": "objectives.rare TASK, where it is not as it would be anyhow",
    "sources": "objectives.sources TASK=SOURCE",
}
# Part of a recipe -> fields that it has not always had, and what they say of a run from before there were any.
ADDED: dict[str, dict[str, Any]] = {
    "objectives": {"labelled": dataclasses.asdict(Labelled())},
    "stop": {"figure": None},
    "mesh": {"context": 1},
    "compute": {"gradients": "float32"},
    "examples": {"prefix": False, "answered": 100, "head": None},
}
# Task -> (version of the recipe from which on its name means another task, what was asked before, what is asked now).
OTHER_TASKS = {"position": (3, "where a token belongs whose position was withheld", "how far hidden tokens are apart")}
ADDED_TO_TUNING: dict[str, Any] = {"augment": dataclasses.asdict(Augment()), "text_rows": []}


def recipe_tree(tree: Mapping[str, Any]) -> dict[str, Any]:
    """A recipe as JSON, of any version up to this one, with the names of this one and without its version.

    Raises ValueError for a newer one.
    """
    tree = dict(tree)
    version = tree.pop("version", 1)
    if version not in range(1, RECIPE_VERSION + 1):
        raise ValueError(f"version={version!r}: written by a newer gptjax; this one reads up to {RECIPE_VERSION}")
    for number in range(version, RECIPE_VERSION):
        tree = RECIPE_CHANGES[number](tree)
    if isinstance(tree.get("model"), dict):  # which may be written without what only an architecture has
        further = {name: list(value) if isinstance(value, tuple) else value for name, value in FURTHER.items()}
        tree["model"] = {**further, **tree["model"]}
    for part, added in ADDED.items():
        if isinstance(tree.get(part), dict):
            tree[part] = {**added, **tree[part]}
    return {**ADDED_TO_TUNING, **tree} if "base" in tree else tree


def check_same_tasks(tree: Mapping[str, Any], where: str) -> None:
    """Raises ValueError where a kept recipe has rows of a task that is another one by now, so that nothing goes on."""
    for said in other_tasks(tree):
        raise ValueError(
            f"{where}: {said}; a run of it can be loaded, fine-tuned and exported, but not continued or audited any "
            "more; start a new one from today's recipe, with --run runs/another-name"
        )


def other_tasks(tree: Mapping[str, Any]) -> list[str]:
    """What the tasks of a kept recipe asked that have rows in it, and are other ones by now."""
    version = tree.get("version", 1)
    objectives = recipe_tree(tree).get("objectives", {})
    return [
        f"objectives.{task} asked {before} (recipe version {version}), and asks {now} in this gptjax (version "
        f"{RECIPE_VERSION})"
        for task, (since, before, now) in OTHER_TASKS.items()
        if version < since and _has_rows(objectives, task)
    ]


def _has_rows(objectives: Mapping[str, Any], task: str) -> bool:
    return any(line.startswith(f"{task}=") for line in objectives.get("rows", ()))


def with_token_marks(had: ModelConfig, now: ModelConfig) -> ModelConfig:
    """The model of a run, its heads of single tokens marked as today's are: until 2026-11-30 they bore no mark."""
    marked = {head.name for head in now.class_heads if head.token}
    heads = (dataclasses.replace(head, token=head.token or head.name in marked) for head in had.class_heads)
    return dataclasses.replace(had, class_heads=tuple(heads))


def metric_record(record: Mapping[str, Any], version: int) -> dict[str, Any]:
    """A line of metrics.jsonl of an older version, with the names of this one."""
    record = dict(record)
    for number in range(version, METRICS_VERSION):
        record = {METRIC_NAMES[number].get(name, name): value for name, value in record.items()}
    return record


def views_tree(tree: Mapping[str, Any]) -> dict[str, Any]:
    """A views.json of any version: source -> its figures, with the names of this one."""
    names = {"both sides": "bidirectional"}
    return {source: {names.get(name, name): value for name, value in one.items()} for source, one in tree.items()}


def with_schedules(tree: Mapping[str, Any]) -> dict[str, Any]:
    """The tree of a recipe.json, with the fields of today; one of today says the same as before."""
    tree = dict(tree)
    if isinstance(objectives := tree.get("objectives"), dict):
        tree["objectives"] = _objectives(objectives, rows_a_step=tree.get("batch", {}).get("rows", 0))
    return tree


def with_other_tasks(tree: Mapping[str, Any]) -> dict[str, Any]:
    """The tree of version 2 where a task of OTHER_TASKS that has no rows has today's settings, so that none changed."""
    tree = dict(tree)
    if isinstance(objectives := tree.get("objectives"), dict):
        unused = [task for task in OTHER_TASKS if task in objectives and not _has_rows(objectives, task)]
        now = {task: dataclasses.asdict(Objectives().tasks[task]) for task in unused}
        tree["objectives"] = {**objectives, **now}
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


def of_old_flags(words: Sequence[str], recipe: "Recipe") -> tuple["Recipe", list[str]]:
    """(a recipe with what its options of yesterday say; the words without them)."""
    given: dict[str, dict[str, Any]] = {}
    others: list[str] = []
    left = list(words)
    while left:
        word = left.pop(0)
        flag, equals, value = word.partition("=")
        old = re.fullmatch(r"--objectives\.([\w-]+)\.(no-)?(rows|weight|later|rare|sources)", flag)
        if old is None:
            others.append(word)
            continue
        values = [value] if equals else []
        while not equals and left and not left[0].startswith("--"):
            values.append(left.pop(0))
        task = old[1].replace("-", "_")
        if task not in recipe.objectives.tasks:
            raise ValueError(f"{flag}: no task {task!r}{did_you_mean(task, recipe.objectives.tasks)}")
        given.setdefault(task, {})[old[3]] = _value(flag, old[3], values, off=old[2] is not None)
    if not given:
        return recipe, others
    tables = {word for word in others if re.match(r"--objectives\.(rows|sources|rare)\b", word)}
    if tables:
        raise ValueError(
            f"{min(tables)}: cannot be said beside options of single tasks; write them into it, as {NOW['rows']}"
        )
    tasks = recipe.objectives.tasks
    changed = {name: type(tasks[name])(**dataclasses.asdict(tasks[name]), **own) for name, own in given.items()}
    return dataclasses.replace(recipe, objectives=dataclasses.replace(recipe.objectives, **changed)), others


def _value(flag: str, field: str, values: Sequence[str], off: bool) -> Any:
    """What follows an option of yesterday."""
    try:
        match field, values:
            case "rare", []:
                return not off
            case "rare", ["True" | "False" as said]:
                return said == "True"
            case "sources", _:
                return tuple(values)
            case "weight", ["None"]:
                return None
            case "rows" | "weight", [number]:
                return float(number)
            case "later", _ if len(values) % 3 == 0:
                numbers = [float(value) for value in values]
                return tuple(zip(numbers[::3], numbers[1::3], numbers[2::3], strict=True))
    except ValueError:
        pass
    raise ValueError(f"{flag} {' '.join(values)}: cannot be; it is now --{NOW[field]}")


# Version -> what makes a recipe of it one of the next.
RECIPE_CHANGES: dict[int, Callable[[Mapping[str, Any]], dict[str, Any]]] = {1: with_schedules, 2: with_other_tasks}
