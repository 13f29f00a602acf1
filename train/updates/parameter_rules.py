"""Lists of (regular expression, value) over names of parameters and of single layers, and what they make of a tree.

Layers are stacked: "layers/query" is one array with a row for each of them. A rule for "layers/query" is for all of its
rows, one for "layers/7/query" for one. Axes: L layers, n of them.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from gptjax.spelling import did_you_mean

Values = dict[str, tuple[float, ...]]  # by parameter: one for each layer, a single one where there are no layers
Rows = tuple[int, ...] | None  # layers of a stack, rising; None = the whole of a parameter


def layers_of(flat: Mapping[str, Any]) -> dict[str, int]:
    """How many layers each parameter holds; 0 where it is of none."""
    return {name: nn.unbox(leaf).shape[0] if name.startswith("layers/") else 0 for name, leaf in flat.items()}


def resolved(field: str, rules: Sequence[tuple[str, float]], layers: Mapping[str, int]) -> Values:
    """The values of every parameter: each layer's is that of the first pattern that matches all of its name.

    `layers`: of `layers_of`. Raises ValueError where a pattern matches nothing, or a parameter no pattern.
    """
    found: dict[str, list[float | None]] = {name: [None] * max(1, count) for name, count in layers.items()}
    for pattern, value in rules:
        matched = {name: rows for name, count in layers.items() if (rows := _matched(pattern, name, count))}
        if not matched:
            raise ValueError(f"optimizer.{field}: {pattern!r} matches no parameter{_meant(pattern, layers)}")
        for name, rows in matched.items():
            for row in rows:
                found[name][row] = value if found[name][row] is None else found[name][row]
    values = {name: tuple(value for value in row if value is not None) for name, row in found.items()}
    if unmatched := [_name(name, row, layers[name], found[name]) for name in found for row in _absent(found[name])]:
        unmatched = list(dict.fromkeys(unmatched))
        others = f" (+{len(unmatched) - 5} more)" if len(unmatched) > 5 else ""
        value = 0.0 if field == "frozen" else 1.0
        raise ValueError(
            f"optimizer.{field}: no pattern matches {unmatched[:5]}{others}; end the list with ('.*', {value})"
        )
    return values


def _matched(pattern: str, name: str, count: int) -> Sequence[int]:
    """The rows that a pattern speaks of: all, if it matches the parameter's own name.

    Else those whose number it names. One that would match any word in the number's place names none: it meant other
    parameters, as "layers/.+/.+" means norms.
    """
    if re.fullmatch(pattern, name):
        return range(max(1, count))
    if re.fullmatch(pattern, _of_layer(name, "layer")):
        return ()
    return [row for row in range(count) if re.fullmatch(pattern, _of_layer(name, row))]


def _of_layer(name: str, layer: int | str) -> str:
    return name.replace("layers/", f"layers/{layer}/", 1)


def _meant(pattern: str, layers: Mapping[str, int]) -> str:
    """The nearest name; of a layer, where the pattern has its number."""
    number = re.match(r"layers/(\d+)/", pattern)
    count = max(layers.values(), default=0)
    if number and int(number[1]) >= count:
        return f": there are layers 0 to {count - 1}"
    return did_you_mean(pattern, [_of_layer(name, number[1]) if number else name for name in layers])


def _absent(row: Sequence[float | None]) -> list[int]:
    return [index for index, value in enumerate(row) if value is None]


def _name(name: str, row: int, count: int, values: Sequence[float | None]) -> str:
    """Of a whole parameter that no pattern matches, or of the layer of one."""
    return name if len(_absent(values)) == max(1, count) else _of_layer(name, row)


def rows_where(wanted: Sequence[bool]) -> Rows:
    """The layers for which it is true."""
    return None if all(wanted) else tuple(row for row, is_wanted in enumerate(wanted) if is_wanted)


def taken(leaf: Any, rows: Rows) -> Any:
    """These rows of a stack, which may be in a box."""
    if rows is None:
        return leaf
    part = nn.unbox(leaf)[_index(rows)]
    return leaf.replace_boxed(part) if isinstance(leaf, nn.LogicallyPartitioned) else part


def put(leaf: Any, rows: Rows, part: Any) -> Any:
    """The stack with `part` for these rows."""
    return part if rows is None else leaf.at[_index(rows)].set(part)


def _index(rows: tuple[int, ...]) -> Any:
    first, last = rows[0], rows[-1]
    return slice(first, last + 1) if last - first + 1 == len(rows) else np.array(rows)


def along(values: Sequence[float], rows: Rows, ndim: int, scale: float = 1.0) -> Any:
    """What multiplies these rows of a stack of so many axes: one number where they agree, else one for each of them."""
    values = [scale * value for value in (values if rows is None else map(values.__getitem__, rows))]
    if len(set(values)) == 1:
        return values[0]
    return jnp.array(values, jnp.float32).reshape(-1, *(1,) * (ndim - 1))


def runs_alike(trained: Mapping[str, Rows], layers: Mapping[str, int]) -> tuple[int, ...] | None:
    """Lengths of the runs of neighbouring layers in which the same parameters train; None where it is one run."""
    L = max(layers.values(), default=0)
    parted = {name: set(rows) for name, rows in trained.items() if rows is not None}  # the others train everywhere
    sets = [frozenset(name for name, rows in parted.items() if row in rows) for row in range(L)]
    starts = [row for row in range(L) if row == 0 or sets[row] != sets[row - 1]]
    lengths = np.diff([*starts, L]).tolist()
    return tuple(lengths) if len(lengths) > 1 else None


def in_parts(trained: Mapping[str, Rows], parts: Sequence[int], new: Mapping[str, Any], old: Mapping[str, Any]) -> Any:
    """`old` with the rows that train taken from `new`, by name, cut into `layers_0`, `layers_1`, ... of those lengths.

    What does not train is a piece of `old` alone, so that nothing is differentiated through it.
    """
    found = {}
    for name, leaf in old.items():
        if not name.startswith("layers/"):
            found[name] = new[name] if name in trained else leaf
            continue
        start = 0
        for number, length in enumerate(parts):
            rows = trained.get(name, ())
            if rows is None or start in rows:
                first = start if rows is None else rows.index(start)
                piece = new[name][first : first + length]
            else:
                piece = leaf[start : start + length]
            found[name.replace("layers/", f"layers_{number}/", 1)] = piece
            start += length
    return found
