"""Two recipes measured in turn, each time in a process of its own, and the ratio of what they cost."""

import dataclasses
import json
import os
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Group
from rich.markup import escape
from rich.table import Table
from scipy import stats

from gptjax.command.console import make_console

ROUNDS = 6  # every round measures both; odd rounds begin with the first recipe, even ones with the second

# What is compared: heading, name in the JSON of a measurement, format. Those of the first start are told once.
EVERY_ROUND = (
    ("ms per step", "ms_per_step", "{:,.1f}"),
    ("tokens/s", "tokens_per_second", "{:,.0f}"),
    ("MFU", "mfu", "{:.1%}"),
    ("input alone, tokens/s", "input_tokens_per_second", "{:,.0f}"),
    ("peak memory, bytes", "peak_bytes", "{:,.0f}"),
)
FIRST_ROUND = (
    ("seconds to the first step", "seconds_to_first_step", "{:,.1f}"),
    ("seconds of compilation", "compile_seconds", "{:,.1f}"),
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Comparison:
    """Measurements of A and B, round by round, as `train.lab.bench` gives them."""

    commands: tuple[str, str]
    rounds: tuple[tuple[dict[str, Any], dict[str, Any]], ...]

    def ratio(self, name: str) -> tuple[float, float, float]:
        """(B / A, and the ends of its 95 % interval): Student's t over the rounds' logarithms, so 2 rounds at least."""
        logs = np.log([b[name] / a[name] for a, b in self.rounds])
        middle, reach = logs.mean(), stats.t.ppf(0.975, len(logs) - 1) * stats.sem(logs)
        return float(np.exp(middle)), float(np.exp(middle - reach)), float(np.exp(middle + reach))

    def as_json(self) -> dict[str, Any]:
        ends = ("ratio", "low", "high")
        ratios = {name: dict(zip(ends, self.ratio(name), strict=True)) for _, name, _ in EVERY_ROUND}
        a, b = zip(*self.rounds, strict=True)
        found = {"a": {"command": self.commands[0], "rounds": a}, "b": {"command": self.commands[1], "rounds": b}}
        return {"b_over_a": ratios, **found}

    def table(self) -> Group:
        """The two side by side, for people."""
        a, b = (escape(command) for command in self.commands)
        steps = len(self.rounds[0][0]["step_ms"])
        table = Table()
        for heading in ("", "A", "B", "B / A", "95 % interval"):
            table.add_column(heading, justify="right" if heading else "left")
        for heading, name, form in EVERY_ROUND:
            medians = (form.format(float(np.median([pair[k][name] for pair in self.rounds]))) for k in (0, 1))
            ratio, low, high = self.ratio(name)
            table.add_row(heading, *medians, f"{ratio:.3f}", f"{low:.3f} to {high:.3f}")
        for heading, name, form in FIRST_ROUND:  # later ones find the compiled step in the cache
            table.add_row(heading, *(form.format(found[name]) for found in self.rounds[0]), "", "first round")
        about = f"median of {len(self.rounds)} rounds in turn, a process each, {steps} steps in each"
        return Group(f"A: {a}", f"B: {b}", about, table)


def compare(a: Sequence[str], b: Sequence[str], steps: int, rounds: int = ROUNDS) -> Comparison:
    """Runs `bench A` and `bench B` in turn. Raises ValueError where one of them fails; what it said, it has said."""
    measured = []
    console = make_console(sys.stderr)
    with tempfile.TemporaryDirectory(prefix="gptjax-bench-") as folder:
        for number in range(rounds):
            pair: dict[int, dict[str, Any]] = {}
            for k in ((0, 1), (1, 0))[number % 2]:  # so that a machine that slows down slows both
                with console.status(f"round {number + 1} of {rounds}: {'AB'[k]}"):
                    pair[k] = _measure((a, b)[k], steps, Path(folder) / "AB"[k])
            measured.append((pair[0], pair[1]))
    return Comparison(commands=(shlex.join(a), shlex.join(b)), rounds=tuple(measured))


def _measure(arguments: Sequence[str], steps: int, folder: Path) -> dict[str, Any]:
    """One measurement in a fresh process. Those of one recipe share a cache of compiled steps."""
    folder.mkdir(exist_ok=True)
    file = folder / "measured.json"
    options = ["--steps", str(steps), "--json", str(file)]
    safe = ["-P"] if sys.flags.safe_path else []
    command = [sys.executable, *safe, "-m", "train", "bench", *arguments, *options]
    environment = {**os.environ, "JAX_COMPILATION_CACHE_DIR": str(folder / "compiled")}
    if subprocess.run(command, env=environment, stdout=subprocess.DEVNULL, check=False).returncode != 0:
        raise ValueError(f"`python -m train bench {shlex.join(arguments)}` failed, see above")
    return json.loads(file.read_text(encoding="utf-8"))
