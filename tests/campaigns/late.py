"""A process of a run that is late once on the way, at a point of its last save or of what follows that.

Points of a save are heard of from outside, through Python's audit events; the others through functions replaced.
"""

import functools
import sys
import time
from collections.abc import Callable, Sequence

SAVE = {"before the last save": "begin", "in the last save": "written", "after the last save": "end"}
POINTS = (*SAVE, "before its writer closes", "before it parts", "after it parted", "in the report", "never")


def sleeping(act: Callable, before: float = 0.0, after: float = 0.0) -> Callable:
    """A function that is late."""

    @functools.wraps(act)
    def late(*arguments, **settings):
        time.sleep(before)
        try:
            return act(*arguments, **settings)
        finally:
            time.sleep(after)

    return late


def be_late(point: str, seconds: float, last: int) -> None:
    """Arranges that this process sleeps so long at one of POINTS; `last` is the step of the last save."""

    def hear(event: str, arguments: Sequence[object]) -> None:
        saving = event == "gptjax.save" and tuple(arguments) == (SAVE.get(point), last)
        if saving or (event == "open" and point == "in the report" and "report.html" in str(arguments[0])):
            time.sleep(seconds)

    sys.addaudithook(hear)
    if point == "before its writer closes":
        from gptjax.runs.checkpoint import CheckpointWriter

        CheckpointWriter.close = sleeping(CheckpointWriter.close, before=seconds)
    if point in ("before it parts", "after it parted"):
        import jax
        from jax._src import distributed

        late = {"before" if point.startswith("before") else "after": seconds}
        jax.distributed.shutdown = distributed.shutdown = sleeping(jax.distributed.shutdown, **late)
