"""What a run trains, in plain words: which parameters, from which step, at which rate.

Axis: L layers.
"""

import math
from collections.abc import Collection
from typing import Any

from flax.traverse_util import flatten_dict

from train.recipe import OptimizerSpec
from train.updates.optimizer import thaw_step
from train.updates.parameter_rules import layers_of, resolved

MOST = 4  # parameters of layers that are named one by one


def what_trains(spec: OptimizerSpec, steps: int, params: Any) -> list[str]:
    """A line for all that begins to train at one step, and one for what never does; of `params`, the shapes count."""
    flat: dict[str, Any] = flatten_dict(params, sep="/")
    layers = layers_of(flat)
    frozen, factors = (resolved(field, getattr(spec, field), layers) for field in ("frozen", "rates"))
    starts: dict[int | None, dict[str, list[int]]] = {}
    for name, shares in frozen.items():
        for row, share in enumerate(shares):
            start = None if share == 1 else thaw_step(share, steps)
            starts.setdefault(start, {}).setdefault(name, []).append(row)
    said = []
    for start in sorted(starts, key=lambda start: math.inf if start is None else start):
        held = starts[start]
        values = sum(flat[name].size * len(rows) // max(1, layers[name]) for name, rows in held.items())
        rates = {spec.learning_rate * factors[name][row] for name, rows in held.items() for row in rows}
        what = f"{named(held, layers)} ({values:,} values)"
        said.append(f"never trains: {what}" if start is None else f"trains from step {start}: {what}, {_at(rates)}")
    return said


def _at(rates: Collection[float]) -> str:
    low, high = (f"{rate:.3g}" for rate in (min(rates), max(rates)))
    return f"at {high}" if low == high else f"at {low} to {high}"


def named(held: dict[str, list[int]], layers: dict[str, int]) -> str:
    """Parameters as people call them: layers by their numbers where all of theirs are meant."""
    within = {name.removeprefix("layers/").partition("/")[0] for name in layers if layers[name]}
    parts = dict.fromkeys(name.partition("/")[0] for name in held if not layers[name])
    of_layers: dict[tuple[int, ...], set[str]] = {}
    for layer in range(max(layers.values(), default=0)):
        if here := {
            name.removeprefix("layers/").partition("/")[0] for name in held if layers[name] and layer in held[name]
        }:
            of_layers.setdefault(tuple(sorted(here)), set()).add(str(layer))
    for here, numbers in of_layers.items():
        which = _ranges(sorted(map(int, numbers)))
        if len(here) < len(within):
            others = f" and {len(here) - MOST} more" if len(here) > MOST else ""
            which = f"{', '.join(here[:MOST])}{others} of {which}"
        parts[which] = None
    return ", ".join(parts)


def _ranges(numbers: Collection[int]) -> str:
    """`layer 3`, `layers 0-2, 5`."""
    runs: list[list[int]] = []
    for number in numbers:
        if runs and number == runs[-1][-1] + 1:
            runs[-1].append(number)
        else:
            runs.append([number])
    listed = " and ".join(f"{run[0]}-{run[-1]}" if len(run) > 1 else str(run[0]) for run in runs)
    return f"layer{'s' * (len(numbers) > 1)} {listed}"
