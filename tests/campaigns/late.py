"""`python -m tests.campaigns.late POINT SECONDS LAST VERB ...`: `python -m train VERB ...` that is late once on the way.

It sleeps so long when it comes to POINT of the save of step LAST, or of what follows it; at the point `never` it does
not. Points of a save are heard of from outside, through Python's audit events; the others through functions replaced.
"""

import functools
import runpy
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
    """Arranges it. Raises ValueError for a point that there is not."""
    if point not in POINTS:
        raise ValueError(f"{point!r}: must be one of {', '.join(POINTS)}")

    def hear(event: str, arguments: Sequence[object]) -> None:
        saving = event == "gptjax.save" and tuple(arguments) == (SAVE.get(point), last)
        if saving or (event == "open" and point == "in the report" and "report.html" in str(arguments[0])):
            time.sleep(seconds)

    sys.addaudithook(hear)
    if point == "before its writer closes":
        from gptjax.checkpoint import CheckpointWriter

        CheckpointWriter.close = sleeping(CheckpointWriter.close, before=seconds)
    if point in ("before it parts", "after it parted"):
        import jax
        from jax._src import distributed

        late = {"before" if point.startswith("before") else "after": seconds}
        jax.distributed.shutdown = distributed.shutdown = sleeping(jax.distributed.shutdown, **late)


if __name__ == "__main__":
    place, duration, step, *sys.argv[1:] = sys.argv[1:]
    from train.signals import block

    block()  # as train/__main__.py does, before JAX is imported
    be_late(place, float(duration), int(step))
    sys.argv[0] = "train"
    runpy.run_module("train", run_name="__main__")
