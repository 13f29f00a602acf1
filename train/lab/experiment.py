"""Experiments: recipes that differ in one thing, tuned alike and compared over paired seeds.

A run is one of `python -m train pretrain`, in a process of its own on a core of its own. Its folder is named by a hash
of its recipe: experiments share the runs that they have in common, and one that was killed goes on where it was.
"""

import dataclasses
import hashlib
import importlib
import json
import math
import os
import queue
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from gptjax.files.plain_json import dumps
from gptjax.spelling import did_you_mean
from train.lab.experiments import experiment_names
from train.lab.outcome import DECIDES, ArmOutcome, Outcome, figures
from train.recipe import Recipe, to_json
from train.supervision.exits import BAD_NUMBERS, DONE
from train.tuning.tune_recipe import TuneRecipe

if TYPE_CHECKING:  # which is made of this file's experiments
    from train.lab.series import Series

ROOT = Path(__file__).resolve().parents[2]
TUNED_ON, SEEDS = 0, (1, 2, 3)  # a seed makes rows and first state: of one seed, all arms' runs begin alike

STAGE = """from pathlib import Path

from train.recipe import from_json


def recipe(base):
    return from_json((Path(__file__).parent / {name!r}).read_text(encoding="utf-8"))
"""

Change = Callable[[Recipe], Recipe]


class Setting(NamedTuple):
    """What is tuned."""

    rate: float  # learning rate at its peak
    alternative: str | None = None  # one of those of the experiment; None = as the arm has it

    def __str__(self) -> str:
        return f"rate {self.rate:g}" + (f", {self.alternative}" if self.alternative else "")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Experiment:
    """A question, and what is trained to answer it."""

    question: str
    base: Recipe
    arms: Mapping[str, Change]  # the others are compared with the first
    rates: tuple[float, ...]  # learning rates that every arm tries
    decides: str = DECIDES  # the figure that settings are chosen by, the lower the better
    measure: Callable[[Path], dict[str, float]] = figures  # what a finished run scored
    alternatives: Mapping[str, Change] = dataclasses.field(default_factory=dict)  # and these, at its best rate
    decide: Callable[[Outcome], str]  # what follows, in a sentence, by a rule that was there before the runs

    @property
    def tuned(self) -> bool:
        """Whether there is anything to choose from."""
        return len(self.rates) + len(self.alternatives) > 1

    @property
    def bases(self) -> list[Recipe]:
        return [self.base]

    @property
    def runs(self) -> int:
        return len(self.arms) * (self.tuned * (len(self.rates) + len(self.alternatives)) + len(SEEDS))

    def recipe(self, arm: str, setting: Setting, seed: int, parts: int = 1) -> Recipe:
        """The recipe of a run; with `parts`=2 of half the length."""
        optimizer = dataclasses.replace(self.base.optimizer, learning_rate=setting.rate)
        steps = self.base.steps // parts
        made = self.arms[arm](dataclasses.replace(self.base, optimizer=optimizer, steps=steps, seed=seed))
        return made if setting.alternative is None else self.alternatives[setting.alternative](made)


def load_experiment(name: str) -> "Experiment | Series":
    """Raises ValueError where there is none of this name."""
    names = experiment_names()
    if name not in names:
        raise ValueError(f"unknown experiment {name!r}{did_you_mean(name, names)}")
    return importlib.import_module(f"train.lab.experiments.{names[name]}").experiment()


def conduct(experiment: Experiment, folder: Path, console: Console, again: bool = False) -> Outcome:
    """Tunes every arm, runs it for every seed, and tells the outcome.

    Runs that are finished in `folder` are not made again, unless `again`: then all are, from their first step.

    Raises ValueError where a run fails, with its name and last words.
    """
    tried: dict[str, dict[Setting, float]] = {arm: {} for arm in experiment.arms}
    with Laboratory(experiment, folder, console, again) as laboratory:

        def best(arm: str) -> Setting:
            return min(tried[arm], key=tried[arm].__getitem__, default=Setting(experiment.rates[0]))

        def tune(wanted: list[tuple[str, Setting]]) -> None:
            recipes = {key: experiment.recipe(*key, TUNED_ON, parts=2) for key in wanted}
            named = {f"{arm}, {setting}, half": recipe for (arm, setting), recipe in recipes.items()}
            for (arm, setting), found in zip(wanted, laboratory.run(named), strict=True):
                tried[arm][setting] = found[experiment.decides]

        tune([(arm, Setting(rate)) for arm in tried for rate in experiment.rates if experiment.tuned])
        tune([(arm, Setting(best(arm).rate, name)) for arm in tried for name in experiment.alternatives])
        named = {
            f"{arm}, {best(arm)}, seed {seed}": experiment.recipe(arm, best(arm), seed)
            for arm in tried
            for seed in SEEDS
        }
        found = iter(laboratory.run(named))
        arms = {
            arm: ArmOutcome(
                setting=str(best(arm)),
                tried={str(setting): loss for setting, loss in losses.items()},
                seeds=tuple(next(found) for _ in SEEDS),
            )
            for arm, losses in tried.items()
        }
    outcome = Outcome(question=experiment.question, arms=arms, cpu_minutes=laboratory.cpu_seconds / 60)
    return dataclasses.replace(outcome, conclusion=experiment.decide(outcome))


class Laboratory:
    """As many runs at once as there are cores, a core each."""

    def __init__(self, experiment: Experiment, folder: Path, console: Console, again: bool):
        self._experiment, self._folder, self._console, self._again = experiment, folder, console, again
        self._total, self._done, self._running = experiment.runs, 0, []
        self.cpu_seconds = 0.0  # user and system time of the runs asked for so far, whenever they were made
        self._lock = threading.Lock()
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
        self._bar = Progress(*columns, console=console, disable=not console.is_terminal)
        self._task = self._bar.add_task("", total=self._total)
        cores: queue.SimpleQueue[int] = queue.SimpleQueue()
        for core in usable_cores():
            cores.put(core)
        self._pool = ThreadPoolExecutor(cores.qsize(), initializer=lambda: stay_on(cores.get()))

    def __enter__(self) -> "Laboratory":
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.shutdown(cancel_futures=True)  # what runs is waited for: Ctrl-C reaches it too, and it saves
        self._bar.stop()

    def run(self, recipes: Mapping[str, Recipe]) -> list[dict[str, float]]:
        """The figures of runs by name, in order. Raises ValueError as soon as one fails."""
        futures = [self._pool.submit(self._figures, name, recipe) for name, recipe in recipes.items()]
        wait(futures, return_when=FIRST_EXCEPTION)
        failed = [future for future in futures if future.done() and future.exception()]
        return [future.result() for future in failed or futures]

    def _figures(self, name: str, recipe: Recipe) -> dict[str, float]:
        run = folder_of(recipe, self._folder)
        with self._lock:
            self._running.append(name)
            self._show()
        if self._again and run.exists():
            shutil.rmtree(run)
        cost = cost_of(run)
        if cost.get("exit") not in (DONE, BAD_NUMBERS):
            cost = train(name, recipe, run)
        decides, measure = self._experiment.decides, self._experiment.measure
        found = measure(run) if cost["exit"] == DONE else {decides: math.inf}  # a rate that was too high
        told = f"{name}: {decides} {found[decides]:.4f}, {cost['cpu_seconds'] / 60:.1f} CPU minutes"
        with self._lock:
            self._running.remove(name)
            self._done += 1
            self.cpu_seconds += cost["cpu_seconds"]
            self._show()
            self._console.print(f"{self._done} of {self._total}: {told}", highlight=False, markup=False)
        return found

    def _show(self) -> None:
        self._bar.update(self._task, description=" | ".join(self._running), completed=self._done)


def folder_of(recipe: Recipe, folder: Path) -> Path:
    """Where the run of a recipe lies, whoever asks for it."""
    text = to_json(dataclasses.replace(recipe, run=Path()))
    return folder / hashlib.sha256(text.encode()).hexdigest()[:12]


def cost_of(run: Path) -> dict[str, Any]:
    """{"exit": how the run ended last, "cpu_seconds": of all its starts}; empty where it never ended."""
    kept = run / "cost.json"
    return json.loads(kept.read_text(encoding="utf-8")) if kept.exists() else {}


def train(name: str, recipe: Recipe, run: Path) -> dict[str, Any]:
    """Makes or continues a run in a process of its own; returns its cost, which is kept.

    Raises ValueError with the last words of a run that ends otherwise than done or with bad numbers.
    """
    file, log = run.with_suffix(".json"), run.with_suffix(".log")
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(to_json(dataclasses.replace(recipe, run=run)), encoding="utf-8")
    command = [sys.executable, "-P", "-m", "train", *_verb(recipe, file)]
    with log.open("w", encoding="utf-8") as output:
        child = subprocess.Popen(
            command, env={**os.environ, "PYTHONPATH": str(ROOT)}, stdin=subprocess.DEVNULL, stdout=output, stderr=output
        )
        _, status, used = os.wait4(child.pid, 0)
    child.returncode = os.waitstatus_to_exitcode(status)
    before = cost_of(run).get("cpu_seconds", 0.0)
    cost = {"name": name, "exit": child.returncode, "cpu_seconds": before + used.ru_utime + used.ru_stime}
    if run.is_dir():
        (run / "cost.json").write_text(dumps(cost) + "\n", encoding="utf-8")
    if child.returncode not in (DONE, BAD_NUMBERS):
        words = log.read_text(encoding="utf-8", errors="replace")[-2000:]
        raise ValueError(
            f"the run {name!r} ended with exit status {child.returncode}; its last words, of {log}:\n{words}"
        )
    return cost


def _verb(recipe: Recipe, file: Path) -> list[str]:
    """What makes the run whose recipe is in a file; fine-tuning takes it from Python."""
    if not isinstance(recipe, TuneRecipe):
        return ["pretrain", "--recipe", str(file)]
    file.with_suffix(".py").write_text(STAGE.format(name=file.name), encoding="utf-8")
    return ["finetune", recipe.base, "--stages", str(file.with_suffix(".py"))]


def usable_cores() -> list[int]:
    """Numbers of the cores that this process may use."""
    return sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else list(range(os.cpu_count() or 1))


def stay_on(core: int) -> None:
    """Keeps the calling thread, and the processes that it starts, on one core, where the system lets it."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {core})
