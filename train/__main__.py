"""`python -m train VERB ...`: the training program. Arguments are read before JAX or TensorFlow is imported."""

import inspect
import os
import sys
from pathlib import Path

import tyro

from gptjax.config import did_you_mean
from train.recipe import Recipe, load_recipe, recipe_names

HELP = """usage: python -m train VERB ...      (or ./launch.sh VERB ...)

  pretrain [RECIPE] [--FIELD VALUE ...]   prepare the text, train, write samples and a report
  report RUN                              write report.html of a run anew

Recipes: {recipes}; the first argument may also be the path of a .py file with recipe(), or come as --recipe PATH.
All fields of a recipe, with their defaults: python -m train pretrain RECIPE --help
"""


def main(arguments: list[str]) -> int:
    """Runs one verb; returns the exit code: 0 done, 2 a mistake in what was asked, 130 interrupted (and saved)."""
    verbs = {"pretrain": _pretrain, "report": _report}
    if not arguments or arguments[0] in ("-h", "--help"):
        print(HELP.format(recipes=", ".join(recipe_names())))
        return 0 if arguments else 2
    verb, *rest = arguments
    try:
        if verb not in verbs:
            raise ValueError(f"unknown verb {verb!r}{did_you_mean(verb, list(verbs))}")
        return verbs[verb](rest)
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt as interrupt:
        print(f"\nstopped: {interrupt}", file=sys.stderr)
        return 130


def parse(arguments: list[str]) -> Recipe:
    """A recipe with its overrides. Raises ValueError for an unknown recipe; exits with 2 and a hint for an unknown field."""
    name = "laptop"
    if arguments and arguments[0] == "--recipe" and len(arguments) > 1:
        name, arguments = arguments[1], arguments[2:]
    elif arguments and not arguments[0].startswith("-"):
        name, arguments = arguments[0], arguments[1:]
    make = load_recipe(name)
    about = inspect.getdoc(inspect.getmodule(make))
    return tyro.cli(Recipe, default=make(), args=arguments, prog=f"python -m train pretrain {name}", description=about)


def _pretrain(arguments: list[str]) -> int:
    recipe = parse(arguments)
    from data.sources import check

    for name, _ in recipe.data.shares:
        check(name)
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    from rich.console import Console

    from train.loop import pretrain

    pretrain(recipe, Console())
    return 0


def _report(arguments: list[str]) -> int:
    if len(arguments) != 1 or not (Path(arguments[0]) / "model.json").exists():
        raise ValueError(f"report: give one run directory (found {arguments})")
    from train.report import write_report

    print(write_report(Path(arguments[0])))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
