"""`python -m train VERB ...`: the training program. Arguments are read before JAX or TensorFlow is imported."""

import dataclasses
import functools
import importlib.util
import inspect
import os
import shlex
import sys
import traceback
from pathlib import Path
from typing import Annotated, ClassVar, Literal

from train.supervision.signals import Signals, block

if __name__ == "__main__" and sys.argv[1:2] in (["pretrain"], ["finetune"]):
    block()  # before NumPy and JAX start threads, which inherit it

import tyro

from gptjax.command.allocator import keep_freed_memory
from gptjax.command.compiled import keep_compiled
from gptjax.command.console import print_any_text
from gptjax.command.options import read, take
from gptjax.config import SIZES
from gptjax.files.atomic_file import write_whole
from gptjax.files.atomic_folder import absent
from gptjax.files.places import expanded, place_of_run
from gptjax.files.plain_json import dumps
from gptjax.runs.bucket_run import local_run
from gptjax.runs.rundir import run_as_loaded
from gptjax.spelling import did_you_mean
from train import STARTED
from train.lab.experiments import experiment_names
from train.launch.jobset import Gke, K8s
from train.launch.launching import launch
from train.launch.sky import Sky
from train.launch.slurm import Slurm
from train.launch.tpu_vm import TpuVm
from train.planning.plan_options import Planning
from train.recipe import Recipe, recipe_names
from train.recipe_words import parse
from train.supervision import hosts
from train.supervision.exits import (
    BAD_NUMBERS,
    DONE,
    FAULT,
    INTERRUPTED,
    MISTAKE,
    STOPPED,
    TAKEN,
    BadNumbersError,
    StoppedError,
    tell,
)
from train.supervision.lease import LeaseLostError, LeaseTakenError
from train.tuning.finetune import Finetune

HELP = """usage: ./launch.sh VERB ...      (or python -m train VERB ...)

{verbs}

Recipes: {recipes}; or the path of your own .py file with a function recipe(),
         or of the recipe.json of a run.
Sizes:   {sizes}

./launch.sh VERB --help shows what a verb takes, --help-all every setting.
For example: ./launch.sh pretrain --run runs/mine --data.sources chitchat=3 files:~/novels --model.L 6 --steps 2000
"""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Pretrain:
    """prepare the text, train, write samples and a report"""

    accept_changes: bool = False  # go on with a run although its recipe now reads other rows or makes other updates


@dataclasses.dataclass(frozen=True, kw_only=True)
class Bench:
    """measure a training step, the input, the start, the memory"""

    steps: int = 20  # how many warm steps are timed
    json: Path | None = None  # a file to write what was found
    against: str | None = None
    """"RECIPE ...": another recipe in turn with this one, and the ratio; "--FIELD VALUE ..." alone stands for this one
    with those fields changed"""
    compile_for: str | None = None  # measure nothing: compile for chips that need not be here, such as v5e:4x4

    def __post_init__(self):
        if self.steps < 2:
            raise ValueError(f"--steps {self.steps}: give a number of steps to time, at least 2")
        if self.json is not None and not expanded(self.json).absolute().parent.is_dir():
            raise ValueError(f"--json {self.json}: there is no folder {expanded(self.json).parent}; make it first")
        if self.compile_for is not None and self.against is not None:
            raise ValueError("--compile-for and --against: give one of them")
        if self.against is not None and not shlex.split(self.against):
            raise ValueError("--against: empty; give a recipe, or fields to change such as '--compute.dtype float32'")


@dataclasses.dataclass(frozen=True, kw_only=True)
class OfRun:
    """write the report of a run anew"""

    run: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]  # folder of a run

    verb: ClassVar[str] = "report"

    @property
    def folder(self) -> Path:
        folder = local_run(self.run, tell, model=False)
        if not (folder / "model.json").exists():
            raise ValueError(f"{self.verb}: give one run directory (found {self.run!r})")
        return folder


@dataclasses.dataclass(frozen=True, kw_only=True)
class Audit(OfRun):
    """prove what a run was trained on: no row skipped, none twice"""

    verb: ClassVar[str] = "audit"


@dataclasses.dataclass(frozen=True, kw_only=True)
class VerifyResume:
    """prove that this recipe, killed and resumed, is never another run"""

    steps: int = 20  # train so many, twice


@dataclasses.dataclass(frozen=True, kw_only=True)
class Experiment:
    """tune, train and compare the arms of an experiment"""

    name: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="NAME")] = dataclasses.field(
        metadata={"help": f"one of {', '.join(experiment_names())}"}
    )
    runs: Path = Path("runs/experiments")  # folder of its runs
    again: bool = False  # make finished runs again


@dataclasses.dataclass(frozen=True, kw_only=True)
class SavedModel:
    """write a model as TensorFlow's SavedModel, proven before it appears"""

    model: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="MODEL")]  # a run, a folder or a .gguf file
    folder: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="TARGET")]  # folder to make
    step: int | None = None  # checkpoint of a run; None = the one that gptjax.load takes
    weights: Literal["trained", "ema"] = "trained"  # those of the step itself, or their moving average
    adapter: str | None = None  # folder of a LoRA adapter in PEFT's layout, merged into the weights


class Chain:
    """from raw text to a chat in the terminal: pretrain, finetune, generate"""


ENGINES = {kind.verb: kind for kind in (Slurm, Gke, K8s, TpuVm, Sky)}
VERBS = {
    "pretrain": Pretrain, "finetune": Finetune, "chain": Chain, "plan": Planning, "bench": Bench, "report": OfRun,
    "audit": Audit, "verify-resume": VerifyResume, "experiment": Experiment, "savedmodel": SavedModel, **ENGINES,
}  # fmt: skip


def main(arguments: list[str]) -> int:
    """Runs one verb; returns the exit code, as train/supervision/exits.py lists them."""
    print_any_text()
    verbs = {
        "pretrain": _pretrain, "finetune": _finetune, "chain": _chain, "plan": _plan, "bench": _bench,
        "report": _report, "audit": _audit, "verify-resume": _verify_resume, "experiment": _experiment,
        "savedmodel": _savedmodel,
        **{verb: functools.partial(launch, kind) for verb, kind in ENGINES.items()},
    }  # fmt: skip
    if not arguments or arguments[0] in ("-h", "--help"):
        told = {verb: (of_verb.__doc__ or "").splitlines()[0] for verb, of_verb in VERBS.items()}
        verbs = "\n".join(f"  {verb:<14} {line}" for verb, line in told.items())
        print(HELP.format(verbs=verbs, recipes=", ".join(recipe_names()), sizes=", ".join(SIZES)))
        return DONE if arguments else MISTAKE
    verb, *rest = arguments
    try:
        if verb not in verbs:
            raise ValueError(f"unknown verb {verb!r}{did_you_mean(verb, list(verbs))}")
        return verbs[verb](rest)
    except (StoppedError, BadNumbersError, LeaseTakenError, LeaseLostError, ValueError, OSError) as error:
        print(f"{'stopped' if isinstance(error, StoppedError) else 'error'}: {error}", file=sys.stderr)
        return _exit_code(error)
    except ModuleNotFoundError as missing:
        print(f"error: {missing}; in the checkout, ./launch.sh setup installs what training needs", file=sys.stderr)
        return MISTAKE
    except KeyboardInterrupt:
        return INTERRUPTED


def _exit_code(error: Exception) -> int:
    if isinstance(error, StoppedError):
        return error.code
    kinds = {BadNumbersError: BAD_NUMBERS, LeaseTakenError: TAKEN, LeaseLostError: TAKEN}
    return next((code for kind, code in kinds.items() if isinstance(error, kind)), MISTAKE)


def _pretrain(arguments: list[str]) -> int:
    asked, rest = take(Pretrain, arguments)
    recipe = parse(rest, own=(Pretrain,))
    signals = Signals()
    signals.listen()
    _check_sources(recipe)
    _settle_training()
    from gptjax.command.console import make_console
    from train.pretrain import pretrain

    pretrain(recipe, make_console(quiet=not hosts.is_first()), STARTED, signals, accept_changes=asked.accept_changes)
    return DONE


def _finetune(arguments: list[str]) -> int:
    from train.tuning import finetune
    from train.tuning.strategies import settings_said

    asked, stages = finetune.parse(arguments)
    signals = Signals()
    signals.listen()
    _settle_training()
    from gptjax.command.console import make_console
    from train.run import run
    from train.tuning.tuned import hooks_after

    console = make_console(quiet=not hosts.is_first())
    finetune.check_figures(stages)
    own = {"steps", "validation.every"} if asked.own_stages is not None else set()  # which the file says
    said = settings_said(arguments) | own
    for number, stage in enumerate(finetune.chained(stages)):
        if len(stages) > 1:
            console.print(f"stage {number + 1} of {len(stages)}: {stage.run}", highlight=False, markup=False)
        recipe = finetune.settled(stage, asked.epochs, said, console.print)
        finetune.tell(recipe, console)
        hooks = hooks_after(recipe) if number == len(stages) - 1 else ()
        run(recipe, hooks, console=console, signals=signals, accept_changes=asked.accept_changes)
    return DONE


def _chain(arguments: list[str]) -> int:
    from train.tuning.chain import chain

    _check_sources(parse(arguments, "./launch.sh chain", about=Chain.__doc__))
    return chain(arguments)


def _settle_training() -> None:
    """`_settle_process`, where compiled steps are kept, and the other processes of a run."""
    keep_compiled()
    _settle_process()
    hosts.join()


def _verify_resume(arguments: list[str]) -> int:
    asked, rest = take(VerifyResume, arguments)
    recipe = parse(rest, "./launch.sh verify-resume", (VerifyResume,))
    if asked.steps < 2 or asked.steps % 2 or asked.steps > recipe.steps:
        raise ValueError(f"--steps {asked.steps}: give an even number of steps, from 2 to the recipe's {recipe.steps}")
    _check_sources(recipe)
    from gptjax.command.console import make_console
    from train.lab.verify_resume import verify_resume

    return DONE if verify_resume(rest, recipe, asked.steps // 2, make_console()) else FAULT


def _audit(arguments: list[str]) -> int:
    run = read(Audit, arguments, "./launch.sh audit").folder
    _settle_process()
    from gptjax.command.console import make_console
    from train.lab.audit import audit

    return DONE if audit(run, make_console()) else FAULT


def _bench(arguments: list[str]) -> int:
    asked, rest = take(Bench, arguments)
    recipe = parse(rest, "./launch.sh bench", (Bench,))
    if asked.compile_for is not None:
        from train.planning.compile_for import compile_for

        found = compile_for(recipe, asked.compile_for)
    elif asked.against is not None:
        others = shlex.split(asked.against)
        others = [*rest, *others] if others[0].startswith("--") else others
        _check_sources(recipe)
        _check_sources(parse(others, "./launch.sh bench"))
        from train.lab.compare import compare

        found = compare(rest, others, asked.steps)
    else:
        _check_sources(recipe)
        _settle_process()
        from train.lab.bench import bench

        found = bench(recipe, asked.steps, STARTED)
    from gptjax.command.console import make_console

    make_console().print(found.table())
    if asked.json is not None:
        expanded(asked.json).write_text(dumps(found.as_json(), indent=1) + "\n", encoding="utf-8")
    return DONE


def _plan(arguments: list[str]) -> int:
    asked, rest = take(Planning, arguments)
    recipe = parse(rest, "./launch.sh plan", (Planning,), inspect.cleandoc(Planning.__doc__ or ""))
    asked.machines  # noqa: B018  (which there must be, before anything slow)
    os.environ["JAX_PLATFORMS"] = "cpu"  # what is planned for is not here, and what is here not wanted
    _settle_process()
    from gptjax.command.console import make_console
    from train.planning.plan import plan, tell
    from train.tuning.strategies import settings_said

    console = make_console()
    found = plan(asked, recipe, settings_said(rest), lambda line: console.print(line, highlight=False, soft_wrap=True))
    tell(found, console)
    if asked.json is not None:
        write_whole(expanded(asked.json), dumps(found.as_json(), indent=1) + "\n")
    return DONE if found.best.fits else MISTAKE


def _experiment(arguments: list[str]) -> int:
    asked = read(Experiment, arguments, "./launch.sh experiment")
    from gptjax.command.console import make_console
    from train.lab.experiment import load_experiment
    from train.lab.series import conduct_any

    name, runs = asked.name, expanded(asked.runs)
    experiment, console = load_experiment(name), make_console()
    for base in experiment.bases:
        _check_sources(base)
    outcome = conduct_any(experiment, runs, console, asked.again)
    outcome.keep(runs / name)
    console.print(outcome.table())
    console.print(f"kept in {runs / name}", highlight=False, markup=False)
    return DONE


def _savedmodel(arguments: list[str]) -> int:
    asked = read(SavedModel, arguments, "./launch.sh savedmodel")
    absent(asked.folder)  # before the slow imports, so that it is reported at once
    if importlib.util.find_spec("tensorflow") is None:
        raise ModuleNotFoundError("savedmodel is written by TensorFlow, which is not installed")
    os.environ["JAX_PLATFORMS"] = "cpu"  # the accelerator may be training this very run
    _settle_process()
    import gptjax
    from gptjax.exchange.programs.stablehlo_export import check_exportable, in_words
    from train.savedmodel.saved_model import export_saved_model

    if (run := run_as_loaded(place_of_run(asked.model))) is not None:
        check_exportable(run)
    model = gptjax.load(asked.model, asked.step, weights=asked.weights, adapter=asked.adapter)
    manifest = export_saved_model(model, asked.folder)
    print(
        f"{asked.folder}: SavedModel of TensorFlow {manifest['tensorflow']}, {manifest['parameters']:,} parameters; "
        f"run by TensorFlow alone, {in_words(manifest)}"
    )
    return DONE


def _check_sources(recipe: Recipe) -> None:
    """Raises ValueError for text that cannot exist, before anything slow is imported."""
    from data.preparation.sources import check

    for name, _ in recipe.data.shares:
        check(name)


def _settle_process() -> None:
    """What must be said before JAX and TensorFlow are imported."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")  # else TensorFlow announces them at every start
    os.environ.setdefault("TF_USE_LEGACY_KERAS", "1")  # else it imports Keras, which nobody uses: a second
    keep_freed_memory()


def _report(arguments: list[str]) -> int:
    run = read(OfRun, arguments, "./launch.sh report").folder
    from train.report.report import write_report

    print(write_report(run))
    return DONE


if __name__ == "__main__":
    try:
        code = main(sys.argv[1:])
    except Exception:
        traceback.print_exc()
        code = FAULT
    if code not in (DONE, STOPPED, INTERRUPTED):
        hosts.leave_failed(code)
    sys.exit(code)
