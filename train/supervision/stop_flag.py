"""Whether a run is to end early: by a signal on any host, or by the clock of one."""

import time
from collections.abc import Callable

import jax

from train.assemble import Assembly
from train.supervision.signals import Signals


class StopFlag:
    """What this host wants goes with each step to all others (see train/step.py), so that all end at the same one."""

    def __init__(self, parts: Assembly, signals: Signals, began: float, has_moved: Callable[[], bool]):
        self.agreed = False  # whether any host wants to stop, as all hosts know
        self._flags = {stop: parts.stop_flag(stop) for stop in (False, True)}
        self._signals, self._minutes, self._began = signals, parts.recipe.stop.minutes, began
        self._has_moved = has_moved  # every start takes a step, however late it is

    @property
    def wanted(self) -> bool:
        """Whether this host wants to stop now."""
        late = self._minutes is not None and time.perf_counter() - self._began > 60 * self._minutes
        return (late and self._has_moved()) or self._signals.asked is not None

    def own(self) -> jax.Array:
        """What this host tells the others now."""
        return self._flags[self.wanted]
