"""What several objectives cost a step: `python -m tests.campaigns.step_cost [pairs]`, where nothing else runs.

The default recipe's step and that of the same recipe with next words alone, in turn, ten steps each; and how fast rows
of all tasks are made.
"""

import dataclasses
import statistics
import sys
import time

import jax
import numpy as np
from scipy import stats

from train.assemble import Assembly, Text, assemble, mesh_of, open_text
from train.objectives import Objectives
from train.recipe import Recipe
from train.recipes.laptop import recipe

STEPS, INPUT_ROWS = 10, 8192


class Runner:
    """A recipe that takes a few steps at a time."""

    def __init__(self, made: Recipe):
        self.text: Text = open_text(made)
        parts: Assembly = assemble(made, self.text.tokenizer.size, self.text.loss_spec, mesh_of(made))
        self._parts, self._state = parts, parts.fresh()
        batches = parts.loader.training(self.text.rows, 0, 8)
        self._batches = [jax.block_until_ready(batch) for batch in batches]
        self.seconds(2)

    def seconds(self, steps: int) -> float:
        """Of so many steps on batches that are there already."""
        began = time.perf_counter()
        for step in range(steps):
            batch = self._batches[step % len(self._batches)]
            self._state, _ = self._parts.train_step(self._state, batch, self._parts.stop_flag(stop=False))
        jax.block_until_ready(self._state)
        return time.perf_counter() - began


def main() -> int:
    pairs = int(sys.argv[1]) if len(sys.argv) > 1 else 20
    several = recipe()
    alone = dataclasses.replace(several, objectives=Objectives())
    with jax.set_mesh(mesh_of(several)):
        runners = [Runner(several), Runner(alone)]
        found = []
        for number in range(pairs):
            order = (0, 1) if number % 2 else (1, 0)
            seconds = {which: runners[which].seconds(STEPS) for which in order}
            found.append((seconds[0], seconds[1]))
    logs = np.log([several / alone for several, alone in found])
    reach = stats.t.ppf(0.975, pairs - 1) * stats.sem(logs)
    low, middle, high = np.exp([logs.mean() - reach, logs.mean(), logs.mean() + reach])
    ours, plain = (1000 * statistics.median(column) / STEPS for column in zip(*found, strict=True))
    print(f"several objectives {ours:.1f} ms a step, next words alone {plain:.1f} ms (medians of {pairs} pairs)")
    print(f"ratio: median {np.exp(np.median(logs)):.3f}, mean {middle:.3f}, 95 % interval {low:.3f} to {high:.3f}")
    rows = runners[0].text.rows
    began = time.perf_counter()
    for first in range(0, INPUT_ROWS, 256):
        rows.batch(np.arange(first, first + 256))
    print(f"input: {INPUT_ROWS * rows.T / (time.perf_counter() - began):,.0f} tokens/s, one thread")
    return 0


if __name__ == "__main__":
    sys.exit(main())
