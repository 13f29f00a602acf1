"""`python -m train VERB ...`: the training program. Arguments are read before JAX or TensorFlow is imported."""

import dataclasses
import inspect
import os
import shlex
import sys
import traceback
from pathlib import Path

from train.supervision.signals import Signals, block

if __name__ == "__main__" and sys.argv[1:2] == ["pretrain"]:
    block()  # before NumPy and JAX start threads, which inherit it

import tyro

from gptjax.command.console import print_any_text
from gptjax.config import SIZES
from gptjax.files.places import expanded, standing
from gptjax.files.plain_json import dumps
from gptjax.spelling import did_you_mean
from train import STARTED
from train.lab.experiments import experiment_names
from train.recipe import Recipe, load_recipe, recipe_names
from train.supervision import hosts
from train.supervision.allocator import keep_freed_memory
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
)
from train.supervision.lease import LeaseLostError, LeaseTakenError

HELP = """usage: python -m train VERB ...      (or ./launch.sh VERB ...)

  pretrain [RECIPE] [--size SIZE] [--FIELD VALUE ...]   prepare the text, train, write samples and a report
        [--accept-changes]           go on with a run although its recipe now reads other rows or makes other updates
  bench [RECIPE] [--size SIZE] [--FIELD VALUE ...]      measure a training step, the input, the start, the memory
        [--steps 20]                 how many warm steps are timed
        [--json FILE]                write what was found
        [--against "RECIPE ..."]     another recipe in turn with this one, and the ratio; "--FIELD VALUE ..." alone
                                     stands for this one with those fields changed
        [--compile-for v5e:4x4]      measure nothing: compile for chips that need not be here
  report RUN                                            write the report of a run anew
  audit RUN                                             prove what a run was trained on: no row skipped, none twice
  verify-resume [RECIPE] [--FIELD VALUE ...]            prove that this recipe, killed and resumed, is never another run
        [--steps 20]                 train so many, twice
  experiment NAME [--runs DIR]                          tune, train and compare the arms of an experiment: {experiments}
        [--again]                    make finished runs again

Recipes: {recipes}; or the path of your own .py file with a function recipe(),
         or of the recipe.json of a run.
Sizes:   {sizes}
Fields:  ./launch.sh pretrain RECIPE --help lists them all with their defaults; for example
         --run runs/mine --data.sources chitchat=3 files:~/novels --model.L 6 --steps 2000
"""


def main(arguments: list[str]) -> int:
    """Runs one verb; returns the exit code, as train/supervision/exits.py lists them."""
    print_any_text()
    verbs = {
        "pretrain": _pretrain, "bench": _bench, "report": _report, "audit": _audit, "verify-resume": _verify_resume,
        "experiment": _experiment,
    }  # fmt: skip
    if not arguments or arguments[0] in ("-h", "--help"):
        names = {"recipes": recipe_names(), "sizes": SIZES, "experiments": experiment_names()}
        print(HELP.format(**{kind: ", ".join(of_kind) for kind, of_kind in names.items()}))
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


def parse(arguments: list[str], verb: str = "pretrain") -> Recipe:
    """A recipe with its overrides. Raises ValueError for an unknown recipe or size; exits 2 for an unknown field."""
    name, arguments = _taken("--recipe", arguments)
    if name is None and arguments and not arguments[0].startswith("-"):
        name, *arguments = arguments
    size, arguments = _taken("--size", arguments)
    make = load_recipe(name or "laptop")
    recipe = make()
    if size is not None:
        if size not in SIZES:
            raise ValueError(f"unknown size {size!r}{did_you_mean(size, list(SIZES))}")
        recipe = dataclasses.replace(recipe, model=SIZES[size]())
    program = f"python -m train {verb} {name or 'laptop'}"
    about = inspect.cleandoc(sys.modules[make.__module__].__doc__ or "")
    # what is off in the recipe, rope_scaling for one, is switched on in a recipe, not by a subcommand
    off = (tyro.conf.AvoidSubcommands,)
    return tyro.cli(Recipe, default=recipe, args=arguments, prog=program, description=about, config=off)


def _taken(option: str, arguments: list[str]) -> tuple[str | None, list[str]]:
    """(the last value given to an option, or None; the arguments without the option)."""
    value, others, left = None, [], iter(arguments)
    for argument in left:
        name, equals, after = argument.partition("=")
        if name != option:
            others.append(argument)
            continue
        value = after if equals else next(left, None)
        if value is None:
            raise ValueError(f"{option}: a value must follow")
    return value, others


def _number(given: str | None, default: int) -> int:
    """The number that an option was given; 0, which none of them takes, for what is none."""
    return default if given is None else int(given) if given.isdecimal() else 0


def _flag(option: str, arguments: list[str]) -> tuple[bool, list[str]]:
    """(whether an option without a value was given, the arguments without it)."""
    return option in arguments, [argument for argument in arguments if argument != option]


def _pretrain(arguments: list[str]) -> int:
    accept, arguments = _flag("--accept-changes", arguments)
    recipe = parse(arguments)
    signals = Signals()
    signals.listen()
    _check_sources(recipe)
    if (cache := _cache()) is not None:
        os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(cache))
    _settle_process()
    hosts.join()
    from gptjax.command.console import make_console
    from train.pretrain import pretrain

    pretrain(recipe, make_console(quiet=not hosts.is_first()), STARTED, signals, accept_changes=accept)
    return DONE


def _cache() -> Path | None:
    """Where what was compiled once is read by later starts: on a CPU half of their time. None = nowhere to keep it."""
    caches = Path(os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache"))
    usable = caches.is_absolute() and os.access(standing(caches), os.W_OK)  # a container's user may have no home
    return caches / "gptjax" / "compiled" if usable else None


def _verify_resume(arguments: list[str]) -> int:
    count, arguments = _taken("--steps", arguments)
    recipe = parse(arguments, "verify-resume")
    steps = _number(count, 20)
    if steps < 2 or steps % 2 or steps > recipe.steps:
        raise ValueError(f"--steps {count}: give an even number of steps, from 2 to the recipe's {recipe.steps}")
    _check_sources(recipe)
    from gptjax.command.console import make_console
    from train.lab.verify_resume import verify_resume

    return DONE if verify_resume(arguments, recipe, steps // 2, make_console()) else FAULT


def _audit(arguments: list[str]) -> int:
    run = _run_of("audit", arguments)
    _settle_process()
    from gptjax.command.console import make_console
    from train.lab.audit import audit

    return DONE if audit(run, make_console()) else FAULT


def _bench(arguments: list[str]) -> int:
    count, arguments = _taken("--steps", arguments)
    file, arguments = _taken("--json", arguments)
    rival, arguments = _taken("--against", arguments)
    topology, arguments = _taken("--compile-for", arguments)
    recipe = parse(arguments, "bench")
    steps = _number(count, 20)
    if steps < 2:
        raise ValueError(f"--steps {count}: give a number of steps to time, at least 2")
    file = None if file is None else expanded(file)
    if file is not None and not file.absolute().parent.is_dir():
        raise ValueError(f"--json {file}: there is no folder {file.parent}; make it first")
    if topology is not None and rival is not None:
        raise ValueError("--compile-for and --against: give one of them")
    if topology is not None:
        from train.lab.compile_for import compile_for

        found = compile_for(recipe, topology)
    elif rival is not None:
        others = shlex.split(rival)
        if not others:
            raise ValueError("--against: empty; give a recipe, or fields to change such as '--compute.dtype float32'")
        others = [*arguments, *others] if others[0].startswith("--") else others
        _check_sources(recipe)
        _check_sources(parse(others, "bench"))
        from train.lab.compare import compare

        found = compare(arguments, others, steps)
    else:
        _check_sources(recipe)
        _settle_process()
        from train.lab.bench import bench

        found = bench(recipe, steps, STARTED)
    from gptjax.command.console import make_console

    make_console().print(found.table())
    if file is not None:
        file.write_text(dumps(found.as_json(), indent=1) + "\n", encoding="utf-8")
    return DONE


def _experiment(arguments: list[str]) -> int:
    again, arguments = _flag("--again", arguments)
    folder, arguments = _taken("--runs", arguments)
    if len(arguments) != 1:
        raise ValueError(f"experiment: give one of {', '.join(experiment_names())} (found {arguments})")
    from gptjax.command.console import make_console
    from train.lab.experiment import conduct, load_experiment

    (name,), runs = arguments, expanded(folder or "runs/experiments")
    experiment, console = load_experiment(name), make_console()
    _check_sources(experiment.base)
    outcome = conduct(experiment, runs, console, again)
    outcome.keep(runs / name)
    console.print(outcome.table())
    console.print(f"kept in {runs / name}", highlight=False, markup=False)
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
    run = _run_of("report", arguments)
    from train.report.report import write_report

    print(write_report(run))
    return DONE


def _run_of(verb: str, arguments: list[str]) -> Path:
    if len(arguments) != 1 or not (expanded(arguments[0]) / "model.json").exists():
        raise ValueError(f"{verb}: give one run directory (found {arguments})")
    return expanded(arguments[0])


if __name__ == "__main__":
    try:
        code = main(sys.argv[1:])
    except Exception:
        traceback.print_exc()
        code = FAULT
    if code not in (DONE, STOPPED, INTERRUPTED):
        hosts.leave_failed(code)
    sys.exit(code)
