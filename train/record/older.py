"""What earlier versions of gptjax wrote into run directories, as this one reads it: the only file that knows old names.

To rename a field of the recipe, or of a record: raise its version, and add a line under the number it is renamed from.
"""

from collections.abc import Mapping
from typing import Any

RECIPE_VERSION = 2  # of recipe.json, and of the recipes within manifests and starts.jsonl; files without one are of 1
METRICS_VERSION = 2  # of metrics.jsonl; lines before the first that tells a version are of 1

# Version -> dotted name of a field, or of a part of the tree, in that version -> in the next; None = it is no more.
RECIPE_NAMES: dict[int, dict[str, str | None]] = {1: {}}
# Version -> kind of record -> name of a value in that version -> in the next.
METRIC_NAMES: dict[int, dict[str, dict[str, str]]] = {1: {}}


def recipe_tree(tree: Mapping[str, Any]) -> dict[str, Any]:
    """A recipe as JSON, of any version up to this one, with the names of this one and without its version.

    Raises ValueError for a newer one.
    """
    tree = dict(tree)
    version = tree.pop("version", 1)
    if version not in range(1, RECIPE_VERSION + 1):
        raise ValueError(f"version={version!r}: written by a newer gptjax; this one reads up to {RECIPE_VERSION}")
    for number in range(version, RECIPE_VERSION):
        for old, new in RECIPE_NAMES.get(number, {}).items():
            tree = _moved(tree, old.split("."), None if new is None else new.split("."))
    return tree


def metric_record(record: Mapping[str, Any], version: int) -> dict[str, Any]:
    """A line of metrics.jsonl of an older version, with the names of this one."""
    record = dict(record)
    for number in range(version, METRICS_VERSION):
        names = METRIC_NAMES.get(number, {}).get(str(record.get("kind")), {})
        record = {names.get(name, name): value for name, value in record.items()}
    return record


def _moved(tree: Mapping[str, Any], old: list[str], new: list[str] | None) -> dict[str, Any]:
    """A tree with one of its nodes elsewhere, or gone; as it is where it has no such node."""
    node: Any = tree
    for name in old:
        if not isinstance(node, Mapping) or name not in node:
            return dict(tree)
        node = node[name]
    without = _without(tree, old)
    return without if new is None else _with(without, new, node)


def _without(tree: Mapping[str, Any], path: list[str]) -> dict[str, Any]:
    first, *rest = path
    if rest:
        return {name: _without(node, rest) if name == first else node for name, node in tree.items()}
    return {name: node for name, node in tree.items() if name != first}


def _with(tree: Mapping[str, Any], path: list[str], node: Any) -> dict[str, Any]:
    first, *rest = path
    return {**tree, first: _with(tree.get(first, {}), rest, node) if rest else node}
