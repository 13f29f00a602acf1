"""`python -m tests.campaigns.kill_campaign`: 50 SIGKILLs, and in the end nothing is lost and nothing differs.

One run is left alone. Others, of the same recipe, are killed at every point of a save and at random times, and resumed
in a new process by the same command until they reach their end. Then everything in them is compared with the first.
The recipe is `laptop`, with accumulation, dropout, an average of the parameters, and two sources that are read several
times over.

lost       a step was announced as saved, and not as deleted since, and cannot be restored with its files as they were
differing  the processes after a kill made other steps than the run left alone, or left another run directory behind
"""

import argparse
import dataclasses
import json
import os
import random
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from gptjax.runs.checkpoint import restore, saved_shapes
from gptjax.runs.manifest import verify
from tests.killed import POINTS
from tests.tiny_text import write_sources
from train.lab.audit import audit
from train.lab.verify_resume import differing
from train.record.ledger import read_ledger

ROOT = Path(__file__).resolve().parents[2]
RANDOM = "random time"
# What is drawn from, over and over.
KINDS = (*POINTS, *[RANDOM] * 3)
RECIPE = (
    "laptop", "--model.T", "128", "--steps", "60", "--checkpoint.every", "3", "--validation.every", "10"
)  # fmt: skip
# Written by every run, and the same in all of them.
SAME = (
    "ATTRIBUTION.md", "data.json", "ledger.jsonl", "model.json", "samples.jsonl", "task_examples.json",
    "tokenizer.json", "xz.json",
)  # fmt: skip


@dataclasses.dataclass(kw_only=True)
class Kill:
    """One SIGKILL, and what came of it."""

    point: str
    where: str  # the last stage of a save that was announced, and its step
    lost: list[str]
    differing: list[str]


class Campaign:
    """Runs of one recipe in `folder`: `straight`, which is left alone, and those that are killed."""

    def __init__(self, folder: Path, recipe: Sequence[str], seed: int, console: Console):
        self._folder, self._console, self._chance = folder, console, random.Random(seed)
        self.straight = folder / "straight"
        self.kills: list[Kill] = []
        self.runs = 0  # that were killed, and reached their end
        self._longest = 10.0  # seconds that a resumed process lived
        self._arguments = [
            "pretrain", *recipe, *write_sources(folder), "--batch.micro-batches", "2", "--model.dropout", "0.1",
            "--optimizer.ema", "0.99", "--optimizer.warmup", "5", "--validation.rows", "8",
            "--validation.final-rows", "8", "--samples", "1",
        ]  # fmt: skip
        if self._live(self.straight, "never", 1):
            raise ValueError(f"the run that was left alone failed: {self._last_words(self.straight)}")
        self._ledger = set(read_ledger(self.straight))

    def kill(self, points: Sequence[str]) -> None:
        """Kills runs, one after another, at all of these points in turn."""
        queue = list(points)
        while queue:
            self.runs += 1
            run = self._folder / f"killed-{self.runs}"
            self._kill_one(run, queue)
            self.kills[-1].differing += self.otherwise(run)

    def _kill_one(self, run: Path, queue: list[str]) -> None:
        """Kills and resumes one run until it reaches its end, and takes off the queue what it was killed at."""
        known: set[str] = set()  # faults that an earlier kill of this run accounts for
        while True:
            point = queue[0] if queue else "never"
            code = self._live(run, point, self._chance.randint(1, POINTS.get(point, 1)))
            strange = [f"ledger: {entry}" for entry in self._entries(run) if entry not in self._ledger]
            if self.kills:
                self.kills[-1].differing += [line for line in strange if line not in known]
            known.update(strange)
            if code == 0:
                return
            if code != -9:
                raise ValueError(f"{run} ended with exit status {code}: {self._last_words(run)}")
            announced = self._log(run).read_text(encoding="utf-8").splitlines()
            kill = Kill(
                point=queue.pop(0), where=(announced or ["no save"])[-1], lost=list(lost(run, announced)), differing=[]
            )
            self.kills.append(kill)
            faults = f", lost: {kill.lost}" if kill.lost else ""
            self._console.print(
                f"{len(self.kills):3}  {run.name}: {kill.point}, after {kill.where}{faults}", highlight=False
            )

    def _live(self, run: Path, point: str, number: int) -> int:
        """One process of a run, up to its end or its kill; returns its exit status, -9 where it was killed."""
        self._log(run).touch()
        command = [
            sys.executable, "-m", "tests.killed", str(self._log(run)), point, str(number), *self._arguments,
            "--run", str(run),
        ]  # fmt: skip
        # one device, as on a laptop, and a start that need not compile
        environment = {**os.environ, "XLA_FLAGS": "", "JAX_COMPILATION_CACHE_DIR": str(self._folder / "compiled")}
        began = time.monotonic()
        with self._output(run).open("wb") as output:
            process = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=output, stderr=output)
            try:
                process.wait(self._chance.uniform(0, self._longest) if point == RANDOM else None)
            except subprocess.TimeoutExpired:
                process.kill()
            code = process.wait()
        if run != self.straight:
            self._longest = max(self._longest, time.monotonic() - began)
        return code

    def otherwise(self, run: Path) -> Iterator[str]:
        """In what a run that was killed differs, at its end, from the one left alone: a line each."""
        yield from differing(self.straight, run)
        strange = names(self.straight) ^ names(run)
        for name in sorted(strange):
            if str(Path(name).parent) not in strange:
                yield f"{name}: only one of them has it"
        if records(self.straight) != records(run):
            yield "metrics.jsonl: not the same"
        for name in SAME:
            if (self.straight / name).read_bytes() != (run / name).read_bytes():
                yield f"{name}: not the same"
        if not audit(run, Console(quiet=True)):
            yield "the audit found faults"

    def _entries(self, run: Path) -> list[object]:
        return list(read_ledger(run)) if (run / "ledger.jsonl").exists() else []

    def _log(self, run: Path) -> Path:
        return self._folder / f"{run.name}.saves"

    def _output(self, run: Path) -> Path:
        return self._folder / f"{run.name}.output"

    def _last_words(self, run: Path) -> str:
        return self._output(run).read_text(encoding="utf-8")[-2000:]


def lost(run: Path, announced: Sequence[str]) -> Iterator[str]:
    """What is wrong with steps that were announced as saved ("committed 12"), and not as deleted since."""
    saved: set[int] = set()
    for line in announced:
        stage, step = line.split()
        if stage == "committed":
            saved.add(int(step))
        elif stage == "clean":
            saved.discard(int(step))
    for step in sorted(saved):
        try:
            verify(run, step)
            for name in ("params", "ema", "training"):
                restore(run, step, name, saved_shapes(run, step, name))
        except Exception as error:  # whatever it is, the step is lost
            yield f"step {step}: {error}"


def records(run: Path) -> list[dict[str, Any]]:
    """The metrics of a run, without what a clock had a part in."""
    found = map(json.loads, (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines())
    clocked = ("seconds", "tokens_per_second", "mfu")
    return [{name: value for name, value in record.items() if name not in clocked} for record in found]


def names(run: Path) -> set[str]:
    """What a run directory holds, with a star for what is random in a name: Orbax's data, the time of events."""
    files = [str(path.relative_to(run)) for path in run.rglob("*")]
    return {re.sub(r"[0-9a-f]{32}|(?<=events\.out\.).*", "*", name) for name in files}


def table(campaign: Campaign) -> Table:
    """Kills by their point, and what came of them."""
    kills = campaign.kills
    shown = Table("killed at", title=f"{len(kills)} SIGKILLs of {campaign.runs} runs")
    for heading in ("kills", "lost", "differing"):
        shown.add_column(heading, justify="right")
    for point in dict.fromkeys(KINDS):
        of_it = [kill for kill in kills if kill.point == point]
        shown.add_row(point, *_sums(of_it))
    shown.add_section()
    shown.add_row("all", *_sums(kills))
    return shown


def _sums(kills: Sequence[Kill]) -> list[str]:
    return [
        str(len(kills)),
        str(sum(len(kill.lost) for kill in kills)),
        str(sum(bool(kill.differing) for kill in kills)),
    ]


def main() -> int:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--kills", type=int, default=50)
    arguments.add_argument("--seed", type=int, default=0, help="of the points' order and of the random times")
    given = arguments.parse_args()
    os.environ |= {"TF_CPP_MIN_LOG_LEVEL": "3", "TF_ENABLE_ONEDNN_OPTS": "0"}  # else TensorFlow greets in the audit
    console, began = Console(), time.monotonic()
    console.print(f"{given.kills} kills, seed {given.seed}")
    points = [KINDS[number % len(KINDS)] for number in range(given.kills)]
    random.Random(given.seed).shuffle(points)
    with tempfile.TemporaryDirectory(prefix="kill-campaign-") as folder:
        campaign = Campaign(Path(folder), RECIPE, given.seed, console)
        campaign.kill(points)
    console.print(table(campaign), f"{(time.monotonic() - began) / 60:.1f} minutes")
    faults = [fault for kill in campaign.kills for fault in kill.lost + kill.differing]
    for fault in faults[:20]:
        console.print(fault, highlight=False, markup=False)
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
