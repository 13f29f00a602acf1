"""Which process of a run is slow. All others wait for it in every step, so that the time of a step tells nobody apart.

So what each does by itself is timed: how long it waits for its batches and, about every LOOK seconds, when its devices
have nothing else to do, a product on each of them. All processes are then told of all. A process that is alone does
none of that. What lies between hosts, as a slow network, is not seen.

Axes: P process  X what is timed.
"""

import math
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from train.record.metrics import Hosts

LOOK = 10.0  # seconds from one look to the next, at least
STRETCH = 5  # looks in a row, after which a process is called slow, or is no longer
FACTOR = 1.5  # times the median of the others, from which on a process is slow
SHARE = 0.1  # of a step, that a process must wait for its batch beyond what the others do
PRODUCTS = 32  # that follow each other


class SlowHosts:
    """What this process is timed by, and what it knows of the others."""

    def __init__(self, name: Callable[[int], str]):
        """`name`: of a process, for people."""
        self._name, self._several = name, jax.process_count() > 1
        self._next = 0  # the step from which on all look again
        self._product: Product | None = None
        self._verdicts = Verdicts(jax.process_count())
        self._forget()
        self.start()

    def _forget(self) -> None:
        self._steps, self._seconds, self._slowest, self._waited = 0, 0.0, 0.0, 0.0

    def start(self) -> None:
        """The time until now was not a step's."""
        self._since = time.perf_counter()

    def waited(self, seconds: float) -> None:
        """For a batch."""
        self._waited += seconds

    def step(self) -> None:
        """A step is read."""
        before, self._since = self._since, time.perf_counter()
        self._steps, self._seconds = self._steps + 1, self._seconds + self._since - before
        self._slowest = max(self._slowest, self._since - before)

    def look(self, step: int) -> tuple[Hosts, list[str]] | None:
        """(times of every process since the look before, a line of each that turned slow, or is no longer), if it is
        time to look. Called by all processes after the same steps, each of which has read its newest."""
        if not self._several or step < self._next or not self._steps:
            return None
        own_X = [self._seconds / self._steps, self._slowest, self._waited / self._steps, self._product_seconds()]
        time_XP = np.asarray(multihost_utils.process_allgather(np.array(own_X, np.float32))).T
        self._next = step + math.ceil(LOOK / max(float(time_XP[0].max()), 1e-6))  # the same for all
        self._forget()
        self.start()  # looking is no part of a step
        found = Hosts(step, *(times_P.tolist() for times_P in time_XP))
        return found, self._verdicts.note(found, self._name)

    def _product_seconds(self) -> float:
        """Of the same product on each device of this process, all at once: of its slowest."""
        self._product = self._product or Product(jax.local_devices())
        return self._product.seconds()


class Product:
    """Products of matrices, one after another, the same on each of some devices."""

    def __init__(self, devices: Sequence[Any]):
        on_cpu = devices[0].platform == "cpu"
        size, dtype = (256, jnp.float32) if on_cpu else (2048, jnp.bfloat16)
        # a mesh of their own: that of the run spans other processes too
        self._mesh = jax.make_mesh((len(devices),), ("own",), devices=devices, axis_types=(AxisType.Auto,))
        matrices = np.full((len(devices), size, size), 1 / size, dtype)  # whose products are they themselves
        self._matrices = jax.device_put(matrices, NamedSharding(self._mesh, PartitionSpec("own")))
        self._run = jax.jit(lambda a: jax.lax.fori_loop(0, PRODUCTS, lambda _, x: x @ a, a))
        self.seconds()  # compiled

    def seconds(self) -> float:
        """Until all of them have it."""
        with jax.set_mesh(self._mesh):
            began = time.perf_counter()
            jax.block_until_ready(self._run(self._matrices))
            return time.perf_counter() - began


class Verdicts:
    """Who was slow in how many looks in a row, and of whom that was told."""

    def __init__(self, processes: int):
        # of each process and kind, looks in a row; below 0 those in which it was not slow
        self._slow: list[dict[str, int]] = [{"devices": 0, "batches": 0} for _ in range(processes)]
        self._told: set[tuple[int, str]] = set()

    def note(self, found: Hosts, name: Callable[[int], str]) -> list[str]:
        """Lines of what this look decides."""
        lines = []
        for process, looks in enumerate(self._slow):
            for kind, (lags, said) in _lags(found, process).items():
                looks[kind] = max(1, looks[kind] + 1) if lags else min(-1, looks[kind] - 1)
                known = (process, kind) in self._told
                if looks[kind] == STRETCH and not known:
                    self._told.add((process, kind))
                    lines.append(f"slow: {name(process)}: {said}, in {STRETCH} looks in a row; every step waits for it")
                if looks[kind] == -STRETCH and known:
                    self._told.discard((process, kind))
                    lines.append(f"no longer slow: {name(process)}: its {kind} are like those of the others")
        return lines


def _lags(found: Hosts, process: int) -> dict[str, tuple[bool, str]]:
    """Kind -> (whether a process lags behind the median of the others, how), by one look."""
    product, usual = _beside(found.product_seconds, process)
    waited, others = _beside(found.batch_seconds, process)
    step = found.step_seconds[process]
    return {
        "devices": (
            product > FACTOR * usual,
            f"its devices take {product / usual:.1f} times as long for the same product as the others' median",
        ),
        "batches": (
            waited - others > SHARE * step and waited > FACTOR * others,
            f"waits {waited:.2g} s of a step of {step:.2g} s for its batch, the others' median {others:.2g} s",
        ),
    }


def _beside(times_P: Sequence[float], process: int) -> tuple[float, float]:
    """(the time of a process, the median of the others)."""
    return times_P[process], statistics.median(time for other, time in enumerate(times_P) if other != process)
