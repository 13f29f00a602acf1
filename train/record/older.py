"""What earlier versions of gptjax wrote into run directories, as this one reads it: the only file that knows old names.

To rename a field of the recipe, or of a record: raise its version, and add a line under the number it is renamed from.
"""

from collections.abc import Callable, Mapping
from typing import Any

from train.renamed_fields import with_schedules

RECIPE_VERSION = 2  # of recipe.json, and of the recipes within manifests and starts.jsonl; files without one are of 1
METRICS_VERSION = 2  # of metrics.jsonl; lines before the first that tells a version are of 1

# Version -> what makes a recipe of it one of the next.
RECIPE_CHANGES: dict[int, Callable[[Mapping[str, Any]], dict[str, Any]]] = {1: with_schedules}
# Version -> name of a value in that version -> in the next.
METRIC_NAMES: dict[int, dict[str, str]] = {1: {"guess": "baseline", "guess_accuracy": "baseline_accuracy"}}


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
    return tree


def metric_record(record: Mapping[str, Any], version: int) -> dict[str, Any]:
    """A line of metrics.jsonl of an older version, with the names of this one."""
    record = dict(record)
    for number in range(version, METRICS_VERSION):
        record = {METRIC_NAMES[number].get(name, name): value for name, value in record.items()}
    return record
