"""`python -m train VERB ...`: the training program. Arguments are read before JAX or TensorFlow is imported."""

import dataclasses
import inspect
import os
import sys
import time
from pathlib import Path

import tyro

from gptjax.config import SIZES, did_you_mean
from train.allocator import keep_freed_memory
from train.recipe import Recipe, load_recipe, recipe_names

STARTED = time.perf_counter()

HELP = """usage: python -m train VERB ...      (or ./launch.sh VERB ...)

  pretrain [RECIPE] [--size SIZE] [--FIELD VALUE ...]   prepare the text, train, write samples and a report
  report RUN                                            write the report of a run anew

Recipes: {recipes}; or the path of your own .py file with a function recipe().
Sizes:   {sizes}
Fields:  python -m train pretrain RECIPE --help lists them all with their defaults; for example
         --run runs/mine --data.sources chitchat=3 files:~/novels --model.L 6 --steps 2000
"""


def main(arguments: list[str]) -> int:
    """Runs one verb; returns the exit code: 0 done, 2 a mistake in what was asked, 130 interrupted (and saved)."""
    verbs = {"pretrain": _pretrain, "report": _report}
    if not arguments or arguments[0] in ("-h", "--help"):
        print(HELP.format(recipes=", ".join(recipe_names()), sizes=", ".join(SIZES)))
        return 0 if arguments else 2
    verb, *rest = arguments
    try:
        if verb not in verbs:
            raise ValueError(f"unknown verb {verb!r}{did_you_mean(verb, list(verbs))}")
        return verbs[verb](rest)
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except ModuleNotFoundError as missing:
        print(f"error: {missing}; in the checkout, ./launch.sh setup installs what training needs", file=sys.stderr)
        return 2
    except KeyboardInterrupt as interrupt:
        print(f"\nstopped: {interrupt}", file=sys.stderr)
        return 130


def parse(arguments: list[str]) -> Recipe:
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
    program = f"python -m train pretrain {name or 'laptop'}"
    about = inspect.cleandoc(make.__globals__.get("__doc__") or "")
    return tyro.cli(Recipe, default=recipe, args=arguments, prog=program, description=about)


def _taken(option: str, arguments: list[str]) -> tuple[str | None, list[str]]:
    """(the value that follows an option, or None; the arguments without both)."""
    for place, argument in enumerate(arguments):
        if argument.startswith(f"{option}="):
            return argument.partition("=")[2], [*arguments[:place], *arguments[place + 1 :]]
    if option not in arguments:
        return None, arguments
    place = arguments.index(option)
    if place + 1 == len(arguments):
        raise ValueError(f"{option}: a name must follow")
    return arguments[place + 1], [*arguments[:place], *arguments[place + 2 :]]


def _pretrain(arguments: list[str]) -> int:
    recipe = parse(arguments)
    from data.sources import check

    for name, _ in recipe.data.shares:
        check(name)
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")  # else TensorFlow announces them at every start
    keep_freed_memory()
    from rich.console import Console

    from train.loop import pretrain

    pretrain(recipe, Console(), STARTED)
    return 0


def _report(arguments: list[str]) -> int:
    if len(arguments) != 1 or not (Path(arguments[0]) / "model.json").exists():
        raise ValueError(f"report: give one run directory (found {arguments})")
    from train.report import write_report

    print(write_report(Path(arguments[0])))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
