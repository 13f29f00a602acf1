"""What all engines share: an order is checked as far as it can be here, written down, sent, and followed.

Which exit codes of train/supervision/exits.py start a run again is said here, and by each engine in its own words.
"""

import dataclasses
import math
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path, PurePosixPath
from typing import ClassVar, NamedTuple

from data.preparation.sources import check as check_source
from gptjax.command.options import answer_help, read
from gptjax.files.atomic_file import write_whole
from gptjax.files.places import expanded, shown, standing
from gptjax.mesh_axes import row_axes
from gptjax.spelling import did_you_mean
from train.launch.source_bundle import Source, archive, source_of
from train.recipe import Recipe
from train.recipe_words import parse
from train.record.starts import last_start
from train.supervision.exits import BAD_NUMBERS, DONE, FAULT, HUNG, INTERRUPTED, MISTAKE, STOPPED, TAKEN
from train.tuning import finetune

CHECKOUT = Path(__file__).resolve().parents[2]
FINAL = (FAULT, MISTAKE, BAD_NUMBERS, TAKEN, INTERRUPTED)  # to start again would change nothing, or is not wished
AGAIN = (HUNG, STOPPED)  # and what a signal ends, or a machine that is lost
VERBS = ("pretrain", "finetune")  # those that go on where they stopped
JOIN_SECONDS = 1800  # machines come up, and images arrive, at different times
LONGEST_NAME = 40  # letters; what Kubernetes makes of it has room for 63


class File(NamedTuple):
    """A file that is kept, and sent or named in what is sent."""

    name: str  # in the folder of the job
    content: str


class Plan(NamedTuple):
    """All that is sent, in order."""

    files: tuple[File, ...]
    commands: tuple[tuple[str, ...], ...]  # the last one queues
    follow: tuple[str, ...] | None  # shows what the job says; None = the engine has its own way
    hints: tuple[str, ...]  # what one types later


class Order(NamedTuple):
    """What is to run, and what it is made of."""

    words: tuple[str, ...]  # pretrain RECIPE ..., paths of the checkout as they are in `source`
    recipe: Recipe | None  # None where the base of fine-tuning is not here
    run: str  # the run directory, where it runs
    source: Source
    name: str
    folder: Path  # where the job's files are kept, absolute

    @property
    def on_bucket(self) -> bool:
        return "://" in self.run


@dataclasses.dataclass(frozen=True, kw_only=True)
class Engine:
    """What every engine takes."""

    job: str | None = None  # its name; None = that of the run directory
    folder: Path = Path("launched")  # where what is sent is kept, in a folder of the job's name
    dirty: bool = False  # send the checkout as it is, with changes that are in no commit
    dry_run: bool = False  # print all that would be sent, and send nothing
    detach: bool = False  # return once it is queued; else its output is shown until it ends
    grace: int = 300  # seconds before the machine is taken away, in which a run saves
    restarts: int = 100  # how often it is started again at most, after exit codes 75 and 70, signals and lost machines

    verb: ClassVar[str]
    client: ClassVar[str]  # the program that is called
    client_from: ClassVar[str]  # where it is had
    remote: ClassVar[bool] = True  # whether it runs elsewhere, on a copy of this checkout and no file beside it

    def __post_init__(self):
        if self.grace < 1 or self.restarts < 0:
            raise ValueError(f"--grace {self.grace}, --restarts {self.restarts}: must be 1 or more, and 0 or more")

    @property
    def devices(self) -> tuple[int, str] | None:
        """(how many devices a run gets, which options say so); None where only the engine knows."""
        raise NotImplementedError

    def source_root(self, folder: Path, source: Source) -> PurePosixPath:
        """Where the source lies on the machines that run it."""
        raise NotImplementedError

    def plan(self, order: Order) -> Plan:
        """What would be sent. Asks nobody. Raises ValueError for what cannot be."""
        raise NotImplementedError

    def check(self, order: Order) -> None:
        """Asks the engine what it can tell before anything is queued. Raises ValueError."""
        raise NotImplementedError

    def prepare(self, order: Order) -> None:
        """What must be there before the commands are called, beside their files."""

    def follow(self, order: Order, plan: Plan, said: str) -> int:
        """Shows a queued job until it ends; `said` is what the last command printed. Returns an exit code."""
        assert plan.follow is not None
        return subprocess.run(plan.follow).returncode


def launch(kind: type[Engine], words: Sequence[str], say: Callable[[str], object] = print) -> int:
    """One verb: --help, a dry run, or a job that is queued and followed. Returns the exit code."""
    own = list(words[: words.index("--")]) if "--" in words else list(words)
    program = f"./launch.sh {kind.verb}"
    answer_help(kind, own, program)
    if "--" not in words:
        raise ValueError(f"{kind.verb}: what shall run? End with -- and a command: {program} ... -- pretrain RECIPE")
    engine = read(kind, own, program)
    order = ordered(engine, words[words.index("--") + 1 :])
    plan = engine.plan(order)
    if engine.dry_run:
        show(order, plan, say)
        return DONE
    if shutil.which(engine.client) is None:
        raise ValueError(
            f"{kind.verb}: no program {engine.client} here, {engine.client_from}; --dry-run shows what it would get"
        )
    engine.check(order)
    keep(order, plan)
    engine.prepare(order)
    said = ""
    for command in plan.commands:
        say(f"$ {shlex.join(command)}")
        said = sent(command)
    for hint in plan.hints:
        say(hint)
    return DONE if engine.detach else _followed(engine, order, plan, said, say)


def _followed(engine: Engine, order: Order, plan: Plan, said: str, say: Callable[[str], object]) -> int:
    try:
        return engine.follow(order, plan, said)
    except KeyboardInterrupt:
        say("no longer followed; the job goes on")
        return DONE


def ordered(engine: Engine, command: Sequence[str]) -> Order:
    """The command after --, checked. Raises ValueError for what no engine could run."""
    if not command or command[0] not in VERBS:
        found = repr(command[0]) if command else "nothing"
        meant = did_you_mean(command[0], VERBS) if command else f"; known: {', '.join(VERBS)}"
        raise ValueError(f"{engine.verb} -- {found}: give a verb that goes on where it stopped{meant}")
    recipe = _recipe(engine, command)
    run = shown(recipe.run) if recipe is not None else value_of(command, "--run")
    if run is None:
        raise ValueError(f"{engine.verb} -- finetune: say where it is written, with --run")
    here = recipe is not None and not engine.remote and "://" not in run  # else nobody is asked
    last = last_start(recipe.run) if recipe is not None and here else None
    goes_on = last is not None and last.layout is not None
    if engine.devices is not None and not goes_on:  # else on whatever devices there are: train/layout.py
        check_fits(recipe, *engine.devices)
    if recipe is not None and not engine.remote:  # elsewhere there may be other text
        for source_name, _ in recipe.data.shares:
            check_source(source_name)
    source = source_of(CHECKOUT, engine.dirty)
    name = engine.job or name_of(run)
    if not re.fullmatch(r"[a-z]([-a-z0-9]*[a-z0-9])?", name) or len(name) > LONGEST_NAME:
        raise ValueError(
            f"--job {name}: must be of at most {LONGEST_NAME} small letters, digits and hyphens, and begin with a "
            "letter; give another"
        )
    folder = expanded(engine.folder).absolute() / name
    words = tuple(moved(word, engine.source_root(folder, source), engine.remote) for word in command)
    return Order(words, recipe, run, source, name, folder)


def check_outlives(order: Order, machine: str, mount: str, volume: str | None, give: str) -> None:
    """Raises ValueError where a run would end with its machine: `give` without a volume, or where it lies beside it."""
    if order.on_bucket:
        return
    if volume is None:
        raise ValueError(give)
    run = PurePosixPath(mount) / order.run
    if not run.is_relative_to(mount) or ".." in run.parts:
        raise ValueError(f"run={order.run}: lies outside of --mount {mount}, and would end with its {machine}")


def name_of(run: str) -> str:
    """The name of a job, after the run directory."""
    return re.sub(r"[^a-z0-9]+", "-", PurePosixPath(run).name.lower()).strip("-")[:LONGEST_NAME].strip("-")


def _recipe(engine: Engine, command: Sequence[str]) -> Recipe | None:
    """What is to be trained, as far as it can be known here. --help prints that of the command."""
    plain = [word for word in command[1:] if word not in ("--accept-changes",)]
    if command[0] == "pretrain":
        return parse(plain)
    if engine.remote and not {"--help", "-h", "--help-all"} & {*plain}:
        return None  # its base and examples are there, not here
    return finetune.parse(plain)[1][-1]


def value_of(words: Sequence[str], flag: str) -> str | None:
    """The last value that an option has among words."""
    found = None
    for word, after in zip(words, [*words[1:], None], strict=True):
        if word == flag:
            found = after
        elif word.startswith(f"{flag}="):
            found = word.partition("=")[2]
    return found


def check_fits(recipe: Recipe | None, count: int, why: str) -> None:
    """Raises ValueError where the devices do not make the recipe's mesh, or the mesh does not divide its rows."""
    if recipe is None:
        return
    sizes = recipe.mesh.over(count)
    told = " x ".join(f"{name}={size}" for name, size in sizes.items())
    if math.prod(sizes.values()) != count:
        raise ValueError(
            f"{why} = {count} devices, but the mesh is {told} = {math.prod(sizes.values())}; change one of them: "
            "leave out --mesh.data, and let the product of the others divide the devices"
        )
    ways, rows = math.prod(sizes[axis] for axis in row_axes()), recipe.batch.micro_rows
    fitting = math.ceil(rows / ways) * ways * recipe.batch.micro_batches
    if rows % ways:
        raise ValueError(
            f"{why} = {count} devices, mesh {told}: {rows} rows of a micro-batch do not divide over "
            f"{' x '.join(row_axes())} = {ways}; use --batch.rows {fitting}, or another number of devices"
        )


def moved(word: str, root: PurePosixPath, remote: bool) -> str:
    """A word of the command, where it names a Python file of this checkout: the copy of it that is sent.

    Raises ValueError where the file would not be there.
    """
    flag, equals, value = word.partition("=") if word.startswith("--") else ("", "", word)
    path = expanded(value).absolute() if value.endswith(".py") else None
    if path is None or not path.is_file():
        return word
    real = path.resolve()
    if real.is_relative_to(CHECKOUT):
        return f"{flag}{equals}{root / real.relative_to(CHECKOUT)}"
    if remote:
        raise ValueError(f"{value}: lies outside of {CHECKOUT}, so it would not be sent; move it there, and commit it")
    return f"{flag}{equals}{path}"


def show(order: Order, plan: Plan, say: Callable[[str], object]) -> None:
    """A dry run: every file and command, as they would be sent."""
    say(f"source: {order.source}")
    for file in plan.files:
        say(f"\n--- {order.folder / file.name}\n{file.content.rstrip()}")
    say("\n--- commands")
    for command in plan.commands:
        say(shlex.join(command))


def keep(order: Order, plan: Plan) -> None:
    """Writes the files of a job, where one can look at them, and send them again by hand."""
    above = standing(order.folder)
    if not above.is_dir() or not os.access(above, os.W_OK):
        raise ValueError(f"--folder {order.folder}: {above} cannot be written to; give another folder")
    order.folder.mkdir(parents=True, exist_ok=True)
    for file in plan.files:
        write_whole(order.folder / file.name, file.content)


def keep_bundle(order: Order) -> Path:
    """The bundle as a file of the job's folder."""
    path = order.folder / f"{order.source.name}.tar.gz"
    if not path.exists():
        write_whole(path, archive(order.source))
    return path


def check_writable(run: str) -> None:
    """Raises ValueError where a run directory of this file system cannot be written to."""
    above = standing(Path(run))
    if not above.is_dir() or not os.access(above, os.W_OK):
        raise ValueError(f"run={run}: {above} cannot be written to; give another folder with --run")


def sent(command: Sequence[str]) -> str:
    """What a command prints; its errors go to ours. Raises ValueError where it fails."""
    try:
        return subprocess.run(command, stdout=subprocess.PIPE, check=True, text=True).stdout.strip()
    except subprocess.CalledProcessError as error:
        raise ValueError(
            f"{command[0]}: failed with exit code {error.returncode}, see above; nothing else was sent"
        ) from error


def answer(*command: str) -> tuple[int, str]:
    """(exit code, what it prints to output, else to errors) of a question to an engine, which changes nothing."""
    done = subprocess.run(command, capture_output=True, text=True)
    return done.returncode, done.stdout.strip() or " ".join(done.stderr.split())


def in_words(codes: Sequence[int], between: str) -> str:
    return between.join(map(str, codes))


def flushed(text: str) -> None:
    sys.stdout.write(text)
    sys.stdout.flush()
