"""`python -m tests.campaigns.endings [PROCESSES ...]`: runs of several processes that succeed end as a success.

Of 2, 4 and 8 processes each in turn is LATE seconds late before, in and after the last save; then a report takes
REPORT seconds. Every process must end with 0, the last step be saved, the report be there, and no bad end be counted.
Processes are forked from this one, which has imported all that they need: so most of their time is sleep.
"""

import atexit
import functools
import os
import shutil
import socket
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from rich.console import Console
from rich.table import Table

os.environ["XLA_FLAGS"] = "--xla_force_host_platform_device_count=1"

import jax

import train.pretrain
import train.report.report  # noqa: F401
from gptjax.runs.manifest import steps
from tests.campaigns.late import POINTS, be_late
from tests.tiny_recipe import write_text
from train import __main__ as main
from train.supervision import hosts
from train.supervision.signals import block

LATE, REPORT = 60.0, 600.0  # seconds
LAST = 12  # the step that a run ends at
RECIPE = """
from pathlib import Path

from tests.tiny_recipe import recipe as tiny
from train.recipe import BatchSpec, MeshSpec, ValidationSpec


def recipe():
    return tiny(
        Path({text!r}), "run", mesh=MeshSpec(data={processes}), batch=BatchSpec(rows=16, micro_batches=2),
        samples=1, validation=ValidationSpec(every=6, rows=8, final_rows=8), steps={last},
    )
"""


class Case(NamedTuple):
    """Which process of how many is late, where, and by how many seconds."""

    processes: int
    late: int
    point: str
    seconds: float

    def __str__(self) -> str:
        return f"process {self.late} of {self.processes}, {self.seconds:.0f} s {self.point}"


class Ending(NamedTuple):
    """How a run ended."""

    codes: list[int]
    saved: bool
    reported: bool
    counted: bool  # as a bad end
    last_words: list[str]

    @property
    def right(self) -> bool:
        return not any(self.codes) and self.saved and self.reported and not self.counted


def start(number: int, processes: int, port: int, run: Path, before: Callable[[], object] = lambda: None) -> int:
    """Forks one process of a run, whose recipe lies beside it, and which does something else first; returns its pid."""
    if child := os.fork():
        return child
    code = 1
    try:
        output = os.open(run.with_name(f"{run.name}-{number}.out"), os.O_WRONLY | os.O_CREAT)
        os.dup2(output, 1), os.dup2(output, 2)
        os.environ |= {
            "JAX_COORDINATOR_ADDRESS": f"localhost:{port}", "JAX_PROCESS_COUNT": str(processes),
            "JAX_PROCESS_ID": str(number), "GPTJAX_JOIN_SECONDS": "600",
        }  # fmt: skip
        block()  # as `python -m train` does
        before()
        code = main.main(["pretrain", str(run.with_name(f"{run.name}.py")), "--run", str(run)])
        if code:
            hosts.leave_failed(code)
        atexit._run_exitfuncs()  # JAX's too: they are part of an ending
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        os._exit(code)


def free_port() -> int:
    with socket.create_server(("localhost", 0)) as server:
        return server.getsockname()[1]


def ending(case: Case, text: Path, run: Path) -> Ending:
    """Trains, with a process that is late."""
    port, made = free_port(), run.with_name(f"{run.name}.py")
    made.write_text(RECIPE.format(text=str(text), processes=case.processes, last=LAST), encoding="utf-8")

    def late(number: int) -> None:
        if number == case.late:
            be_late(case.point, case.seconds, LAST)

    children = [
        start(number, case.processes, port, run, functools.partial(late, number)) for number in range(case.processes)
    ]
    codes = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
    said = [run.with_name(f"{run.name}-{number}.out").read_text(errors="replace") for number in range(case.processes)]
    return Ending(
        codes, LAST in steps(run), (run / "report.html").exists(), (run / "failures.json").exists(),
        [(words.strip().splitlines() or [""])[-1][:200] for words in said],
    )  # fmt: skip


def cases(processes: int) -> list[Case]:
    points = [point for point in POINTS if point not in ("in the report", "never")]
    late = [Case(processes, number, point, LATE) for number in range(processes) for point in points]
    return [*late, Case(processes, 0, "in the report", REPORT)]


def try_all(counts: list[int]) -> int:
    console, began = Console(width=None if sys.stdout.isatty() else 160), time.monotonic()
    shown = Table("processes", title="runs of several processes, each of which is late in turn")
    for heading in ("cases", "ended as they should", "longest, s"):
        shown.add_column(heading, justify="right")
    right = True
    with tempfile.TemporaryDirectory(prefix="endings-") as name:
        text = write_text(Path(name))
        jax.config.update("jax_compilation_cache_dir", str(text / "compiled"))
        ending(Case(1, 0, "never", 0.0), text, Path(name) / "alone")  # prepares the text
        for count in counts:
            good, longest = 0, 0.0
            for number, case in enumerate(cases(count)):
                run, started = Path(name) / f"run-{count}-{number}", time.monotonic()
                found = ending(case, text, run)
                longest = max(longest, time.monotonic() - started)
                good += found.right
                console.print(f"{case}: {'right' if found.right else found}", highlight=False, markup=False)
                shutil.rmtree(run, ignore_errors=True)
            shown.add_row(str(count), str(len(cases(count))), str(good), f"{longest:.0f}")
            right &= good == len(cases(count))
    console.print(shown, "as it should be" if right else "[bold]not as it should be[/]")
    console.print(f"{(time.monotonic() - began) / 60:.1f} minutes")
    return 0 if right else 1


if __name__ == "__main__":
    sys.exit(try_all([int(count) for count in sys.argv[1:]] or [2, 4, 8]))
