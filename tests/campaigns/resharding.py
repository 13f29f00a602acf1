"""`python -m tests.campaigns.resharding`: a recipe resumed on other meshes and numbers of processes is the same run.

A run on one mesh of 8 devices is compared with runs that stop twice and go on, each time on another mesh, or with
another number of local processes. The rows of every step must be identical; losses may differ by rounding alone, by no
more than BOUND, relative. So that this can fail, a run with another seed must differ in both.
"""

import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from rich.console import Console
from rich.table import Table

from tests.tiny_text import write_sources
from train.record.ledger import Entry, read_ledger

ROOT = Path(__file__).resolve().parents[2]
DEVICES = 8
BOUND = {"float32": 1e-5, "bfloat16": 2e-3}  # found: 6e-7 and 4e-4
RECIPE = (
    "pretrain", "laptop", "--model.T", "64", "--model.D", "64", "--model.L", "2", "--model.N", "8", "--model.K", "8",
    "--model.F", "128", "--model.dropout", "0.1", "--optimizer.ema", "0.99", "--optimizer.warmup", "5",
    "--batch.rows", "32", "--batch.micro-batches", "2", "--checkpoint.every", "1000", "--validation.every", "1000",
    "--validation.rows", "16", "--validation.final-rows", "16", "--samples", "0", "--compute.no-unroll",
)  # fmt: skip


class Leg(NamedTuple):
    """What a part of a run is computed on: devices along each mesh axis, and processes that they belong to."""

    data: int
    fsdp: int = 1
    tensor: int = 1
    context: int = 1
    processes: int = 1

    def __str__(self) -> str:
        return f"mesh {self.data} x {self.fsdp} x {self.tensor} x {self.context}, {self.processes} process(es)"

    def arguments(self) -> list[str]:
        return [
            "--mesh.data", str(self.data), "--mesh.fsdp", str(self.fsdp), "--mesh.tensor", str(self.tensor),
            "--mesh.context", str(self.context),
        ]  # fmt: skip


STRAIGHT = Leg(8)
FSDP = (Leg(1, 8), Leg(2, 4), Leg(4, 2))
TENSOR = (Leg(1, 1, 8), Leg(2, 1, 4), Leg(4, 1, 2))
CONTEXT = (Leg(1, context=8), Leg(2, context=4, processes=2), Leg(2, 2, context=2))
PROCESSES = (Leg(2, 4), Leg(2, 4, processes=2), Leg(2, 4))
WAYS = {
    "1x8 -> 2x4 -> 4x2, data x fsdp": FSDP,
    "1x8 -> 2x4 -> 4x2, data x tensor": TENSOR,
    "1x8 -> 2x4 -> 2x2x2, data x fsdp x context": CONTEXT,
    "1 -> 2 -> 1 processes": PROCESSES,
}


class Comparison(NamedTuple):
    """A run beside the straight one."""

    steps: int
    same_rows: int  # steps whose rows have the same numbers and the same hash
    loss: float  # the largest relative difference of a step's loss


def compare(straight: Path, other: Path) -> Comparison:
    """Raises ValueError where they did not take the same number of steps."""

    def rows(entry: Entry) -> tuple[int, int, int, str]:
        return entry.step, entry.first_row, entry.rows, entry.hash

    pairs = list(zip(read_ledger(straight), read_ledger(other), strict=True))
    same = sum(rows(a) == rows(b) for a, b in pairs)
    return Comparison(len(pairs), same, max(abs(a.loss - b.loss) / a.loss for a, b in pairs))


def live(arguments: Sequence[str], leg: Leg, folder: Path) -> None:
    """One start of a run, in as many processes as the leg has. Raises ValueError where one of them fails."""
    with socket.socket() as probe:
        probe.bind(("", 0))
        port = probe.getsockname()[1]
    running = []
    for process in range(leg.processes):
        environment = {
            **os.environ, "JAX_COMPILATION_CACHE_DIR": str(folder / "compiled"),
            "XLA_FLAGS": f"--xla_force_host_platform_device_count={DEVICES // leg.processes}",
        }  # fmt: skip
        if leg.processes > 1:
            environment |= {
                "JAX_COORDINATOR_ADDRESS": f"localhost:{port}", "JAX_PROCESS_COUNT": str(leg.processes),
                "JAX_PROCESS_ID": str(process),
            }  # fmt: skip
        with (folder / f"output-{process}").open("wb") as output:
            command = [sys.executable, "-m", "train", *arguments, *leg.arguments()]
            running.append(subprocess.Popen(command, cwd=ROOT, env=environment, stdout=output, stderr=output))
    codes = [process.wait() for process in running]
    if any(codes):
        said = [(folder / f"output-{process}").read_text(encoding="utf-8")[-2000:] for process in range(len(codes))]
        raise ValueError(f"{leg} ended with exit status {codes}:\n" + "\n".join(said))


def main() -> int:
    console, began, steps = Console(width=None if sys.stdout.isatty() else 120), time.monotonic(), 60
    shown = Table("dtype", "run", title=f"beside {steps} steps on one mesh, of 8 x 1 x 1 devices")
    for heading in ("steps with the same rows", "largest difference of a loss", "bound"):
        shown.add_column(heading, justify="right")
    right = True
    with tempfile.TemporaryDirectory(prefix="resharding-") as name:
        folder = Path(name)
        sources = write_sources(folder)

        def run(name: str, dtype: str, legs: Sequence[Leg], *more: str) -> Path:
            path = folder / f"{name} {dtype}"
            arguments = [*RECIPE, *sources, "--steps", str(steps), "--compute.dtype", dtype, "--run", str(path), *more]
            for number, leg in enumerate(legs, start=1):
                console.print(f"{name}, {dtype}: {leg}", highlight=False)
                live([*arguments, "--stop.step", str(steps * number // len(legs))], leg, folder)
            return path

        for dtype, bound in BOUND.items():
            straight = run("straight", dtype, [STRAIGHT])
            for name, legs in WAYS.items():
                found = compare(straight, run(name, dtype, legs))
                right &= found.same_rows == steps and found.loss < bound
                shown.add_row(dtype, name, f"{found.same_rows} of {steps}", f"{found.loss:.1e}", f"{bound:.0e}")
            found = compare(straight, run("another seed", dtype, [STRAIGHT], "--seed", "1"))
            right &= found.same_rows == 0 and found.loss > bound
            shown.add_row(
                dtype, "another seed", f"{found.same_rows} of {steps}", f"{found.loss:.1e}", f"above {bound:.0e}"
            )
    console.print(shown, "as it should be" if right else "[bold]not as it should be[/]")
    console.print(f"{(time.monotonic() - began) / 60:.1f} minutes")
    return 0 if right else 1


if __name__ == "__main__":
    sys.exit(main())
