"""`python -m tests.campaigns.slow_or_silent [PROCESSES ...]`: who of several processes is slow, or silent, is named.

Of 2, 4 and 8 local processes: seconds until the first step, beside those of one; the step time of each, as
metrics.jsonl has it; the last one made slow in its batches, and what the log says of it after how many seconds; the
last one stopped by SIGSTOP, and what the first one says before it ends. Processes are forked from this one, so that
imports are in none of the figures, and look at each other every second instead of every ten.
"""

import functools
import os
import re
import shutil
import signal
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import jax
from rich.console import Console
from rich.table import Table

from data.rows.rows import Rows
from gptjax.batch import Batch
from tests.campaigns.endings import free_port, start
from tests.tiny_recipe import records, write_text
from train.loader import Loader
from train.supervision import slow_hosts

LATE, PATIENCE = 2.0, 900.0  # seconds that a slow process takes for its batches; that anything is waited for
STARTED, SLOW, SILENT = "first step finished", r"slow: (process \d+).*", r"process \d+ .*no sign of life.*"
RECIPE = """
from pathlib import Path

from tests.tiny_recipe import recipe as tiny
from train.recipe import BatchSpec, CheckpointSpec, MeshSpec, ValidationSpec


def recipe():
    return tiny(
        Path({text!r}), "run", mesh=MeshSpec(), batch=BatchSpec(rows=16), samples=0, steps=10**6,
        validation=ValidationSpec(every=10**6, rows=8, final_rows=8), checkpoint=CheckpointSpec(every=10**6),
    )
"""


class Group:
    """Processes of one run, from their start until they are killed."""

    def __init__(self, run: Path, text: Path, processes: int, before: Callable[[int], object] = lambda number: None):
        run.with_name(f"{run.name}.py").write_text(RECIPE.format(text=str(text)), encoding="utf-8")
        self.run, self.port, self._began = run, free_port(), time.monotonic()
        self.pids = [
            start(number, processes, self.port, run, functools.partial(before, number)) for number in range(processes)
        ]

    def __enter__(self) -> "Group":
        return self

    def __exit__(self, *_: object) -> None:
        for pid in self.pids:
            os.kill(pid, signal.SIGKILL)
        for pid in self.pids:
            os.waitpid(pid, 0)
        shutil.rmtree(self.run, ignore_errors=True)

    def heard(self, pattern: str, since: float | None = None) -> tuple[float, str]:
        """(seconds from the start, or `since`, until the first process said such a line; the line). Raises TimeoutError
        where it does not."""
        began, output = since or self._began, self.run.with_name(f"{self.run.name}-0.out")
        while time.monotonic() < began + PATIENCE:
            said = output.read_text(errors="replace") if output.exists() else ""
            if found := re.search(pattern, said):
                return time.monotonic() - began, found[0]
            time.sleep(0.2)
        raise TimeoutError(f"{output}: no {pattern!r}:\n{said[-2000:]}")


def slow_batches(last: int, number: int) -> None:
    """The last process takes its time for each batch."""
    made = Loader.training

    def late(loader: Loader, rows: Rows, first_row: int, steps: int) -> Iterator[Batch]:
        for batch in made(loader, rows, first_row, steps):
            time.sleep(LATE)
            yield batch

    if number == last:
        Loader.training = late


def try_all(counts: list[int]) -> int:
    console, right = Console(width=None if sys.stdout.isatty() else 120), True
    slow_hosts.LOOK = 1.0
    shown = Table("processes", title=f"load of this machine at the start: {os.getloadavg()[0]:.1f}")
    for heading in ("first step after, s", "step by process, ms", "slow named after, s", "stopped named after, s"):
        shown.add_column(heading, justify="right")
    with tempfile.TemporaryDirectory(prefix="slow-") as name:
        folder = Path(name)
        text = write_text(folder)
        jax.config.update("jax_compilation_cache_dir", str(text / "compiled"))
        for number in range(2):  # the first prepares the text, and compiles
            with Group(folder / f"alone-{number}", text, 1) as alone:
                seconds, _ = alone.heard(STARTED)
        shown.add_row("1", f"{seconds:.1f}", "", "", "")
        for count in counts:
            with Group(folder / f"slow-{count}", text, count, functools.partial(slow_batches, count - 1)) as slow:
                started, _ = slow.heard(STARTED)
                named, line = slow.heard(SLOW, time.monotonic())
                console.print(line, highlight=False, markup=False)
                right &= line.startswith(f"slow: process {count - 1} ")
                times = [record["step_seconds"] for record in records(slow.run, "hosts")]
            with Group(folder / f"stopped-{count}", text, count) as stopped:
                stopped.heard(STARTED)
                os.kill(stopped.pids[-1], signal.SIGSTOP)
                silent, line = stopped.heard(SILENT, time.monotonic())
                console.print(line, highlight=False, markup=False)
                right &= line.startswith(f"process {count - 1} ")
            means = " ".join(f"{1e3 * statistics.median(of_one):.0f}" for of_one in zip(*times, strict=True))
            shown.add_row(str(count), f"{started:.1f}", means, f"{named:.1f}", f"{silent:.1f}")
    console.print(shown, "as it should be" if right else "[bold]not as it should be[/]")
    return 0 if right else 1


if __name__ == "__main__":
    sys.exit(try_all([int(count) for count in sys.argv[1:]] or [2, 4, 8]))
