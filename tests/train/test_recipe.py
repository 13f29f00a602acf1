"""Recipes: typed, checked when built, overridden by dotted path, and compared field by field when a run goes on."""

import dataclasses
import json
import re
import sys
from pathlib import Path
from typing import get_args, get_type_hints

import pytest

from data.spec import DataSpec
from data.tasks.causal_lm import CausalLM
from data.tasks.masked_lm import MaskedLM
from train.__main__ import parse
from train.objectives import Objectives
from train.recipe import (
    BatchSpec,
    CheckpointSpec,
    MeshSpec,
    OptimizerSpec,
    Recipe,
    StopSpec,
    ValidationSpec,
    changes,
    from_json,
    load_recipe,
    recipe_names,
    to_json,
)

ROOT = Path(__file__).parents[2]
SMALL = Recipe(data=DataSpec(sources=("chitchat",)), run=Path("runs/small"), steps=200)


@pytest.mark.parametrize("name", recipe_names())
def test_every_recipe_builds_and_says_what_to_expect(name):
    make = load_recipe(name)
    assert isinstance(make(), Recipe)
    assert make().run == Path("runs") / name


def test_any_field_is_overridden_by_its_dotted_path_and_the_rest_stays():
    recipe = parse(
        [
            "characters",
            "--model.D",
            "64",
            "--optimizer.learning-rate",
            "0.5",
            "--data.sources",
            "chitchat=2",
            "files:a b",
        ]
    )
    made = load_recipe("characters")()
    assert (recipe.model.D, recipe.optimizer.learning_rate, recipe.data.sources) == (
        64,
        0.5,
        ("chitchat=2", "files:a b"),
    )
    assert recipe.optimizer == dataclasses.replace(made.optimizer, learning_rate=0.5)
    assert parse(["characters"]) == made


def test_a_size_by_name_sets_the_model_and_fields_still_override_it():
    recipe = parse(["laptop", "--size", "gpt2-124m", "--model.T", "512"])
    assert (recipe.model.family, recipe.model.D, recipe.model.T) == ("gpt2", 768, 512)
    with pytest.raises(ValueError, match="unknown size 'gpt2-124'; did you mean 'gpt2-124m'"):
        parse(["--size", "gpt2-124"])


def test_a_users_own_file_is_a_recipe(tmp_path):
    path = tmp_path / "mine.py"
    path.write_text(
        "from train.recipes.characters import recipe as base\nimport dataclasses\n"
        "def recipe():\n    return dataclasses.replace(base(), steps=123)\n"
    )
    assert parse(["--recipe", str(path)]).steps == 123
    assert parse([str(path), "--steps", "124"]).steps == 124


def test_a_users_recipe_imports_what_lies_beside_it_and_may_have_dataclasses_of_its_own(tmp_path, monkeypatch):
    """When it is read and when it is called; the search path is afterwards what it was."""
    (tmp_path / "helper_of_mine.py").write_text("WARMUP = 7\n")
    (tmp_path / "later_helper_of_mine.py").write_text("STEPS = 123\n")
    (tmp_path / "mine.py").write_text(
        '"""What it is about."""\nfrom __future__ import annotations\n\nimport dataclasses\n\n'
        "import helper_of_mine\nfrom train.recipe import Recipe\n"
        "from train.recipes.characters import recipe as base\n\n\n"
        "@dataclasses.dataclass(frozen=True, kw_only=True)\nclass Mine:\n    warmup: int = helper_of_mine.WARMUP\n\n\n"
        "def recipe() -> Recipe:\n    from later_helper_of_mine import STEPS\n\n"
        "    optimizer = dataclasses.replace(base().optimizer, warmup=Mine().warmup)\n"
        "    return dataclasses.replace(base(), steps=STEPS, optimizer=optimizer)\n"
    )
    before = list(sys.path)
    monkeypatch.chdir(tmp_path)
    made = parse(["mine.py"])
    assert (made.steps, made.optimizer.warmup) == (123, 7)
    assert sys.path == before


def test_the_help_of_a_users_recipe_begins_with_what_the_file_says_of_itself(tmp_path, capsys):
    (tmp_path / "mine.py").write_text('"""Verses, learnt by night."""\nfrom train.recipes.characters import recipe\n')
    with pytest.raises(SystemExit):
        parse([str(tmp_path / "mine.py"), "--help"])
    assert "Verses, learnt by night." in capsys.readouterr().out


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("import dataclasses\n\ndef recipe(:\n", r"mine.py, line 3: SyntaxError: invalid syntax"),
        ("\nimport no_such_helper\n", r"mine.py, line 2: ModuleNotFoundError: No module named 'no_such_helper'"),
        ("import broken\n", r"broken.py, line 2: ZeroDivisionError: division by zero"),
        ("def recipe():\n    return int('a')\n", r"mine.py, line 2: invalid literal"),
        ("\0", r"mine.py.*SyntaxError"),
        ("x = 3\n", r"mine.py: defines no function recipe\(\)"),
        ("recipe = {}\n", r"mine.py: recipe is a dict, not a function"),
        ("def recipe():\n    return {'steps': 3}\n", r"mine.py: recipe\(\) returned a dict, not a train.recipe.Recipe"),
        ("def recipe():\n    3\n", r"mine.py: recipe\(\) returned nothing; end it with return"),
        (
            "from train.recipe import OptimizerSpec\n\n\ndef recipe():\n    return OptimizerSpec(warmup=-1)\n",
            r"mine.py, line 5: optimizer.warmup=-1: must be 0 or more",
        ),
        (
            "from train.recipe import Recipe\ndef recipe():\n    return Recipe\n",
            r"recipe\(\) returned the class Recipe",
        ),
    ],
)
def test_a_users_recipe_that_fails_says_in_which_file_and_line(tmp_path, source, message):
    (tmp_path / "mine.py").write_text(source)
    (tmp_path / "broken.py").write_text("\nx = 1 / 0\n")
    with pytest.raises(ValueError, match=message) as told:
        parse([str(tmp_path / "mine.py")])
    assert "\n" not in str(told.value)


@pytest.mark.fault(50)
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["laptopp"], "unknown recipe 'laptopp'; did you mean 'laptop'?"),
        (["nowhere.py"], "no file nowhere.py"),
    ],
)
def test_an_unknown_recipe_is_refused_with_a_hint(arguments, message):
    with pytest.raises(ValueError, match=message.replace("?", r"\?")):
        parse(arguments)


@pytest.mark.fault(50)
def test_an_unknown_field_or_a_wrong_type_is_refused_with_a_hint():
    hints = (["laptop", "--model.DD", "3"], "did you mean '--model.D'"), (["laptop", "--steps", "many"], "'many' is no")
    for arguments, hint in hints:
        with pytest.raises(ValueError, match=hint):
            parse(arguments)


@pytest.mark.fault(28, 33, 50)
@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: BatchSpec(rows=12, micro_batches=5),
            r"micro_batches=5 does not divide batch.rows=12; use one of \[1, 2, 3, 4, 6, 12\]",
        ),
        (lambda: BatchSpec(rows=0), "batch.rows=0: must be a number above 0"),
        (lambda: MeshSpec(tensor=0), "mesh.tensor=0"),
        (lambda: OptimizerSpec(learning_rate=float("nan")), "optimizer.learning_rate=nan: must be a number above 0"),
        (lambda: ValidationSpec(every=0), "validation.every=0"),
        (lambda: CheckpointSpec(keep=0), "checkpoint.keep=0"),
        (lambda: dataclasses.replace(SMALL, seed=-1), "seed=-1"),
        (lambda: StopSpec(step=0), "stop.step=0: must be a number above 0"),
        (lambda: StopSpec(minutes=float("nan")), "stop.minutes=nan: must be a number above 0"),
        (lambda: OptimizerSpec(ema=1.0), "optimizer.ema=1: the average would never move"),
        (
            lambda: OptimizerSpec(frozen=((".*", 2.0),)),
            "optimizer.frozen: '.*' has 2.0; it must be 0 or more, at most 1",
        ),
        (lambda: OptimizerSpec(rates=((".*", float("inf")),)), "optimizer.rates: '.\\*' has inf"),
        (lambda: OptimizerSpec(weight_decay=float("inf")), "optimizer.weight_decay=inf: must be 0 or more"),
        (lambda: OptimizerSpec(rates=(("(", 2.0),)), "optimizer.rates: '\\(' is no regular expression"),
        (lambda: dataclasses.replace(SMALL, hang_after=0), "hang_after=0: must be a number above 0"),
        (lambda: dataclasses.replace(SMALL, run=Path("https://host/run")), "only folders of this machine"),
        (lambda: dataclasses.replace(SMALL, run=Path("gs://bucket")), "give a bucket and a name in it"),
        (lambda: dataclasses.replace(SMALL, run=Path("gcs://bucket/run")), "did you mean 'gs'"),
        (
            lambda: dataclasses.replace(SMALL, optimizer=OptimizerSpec(schedule="wsd", warmup=170, decay=0.2)),
            "warmup=170 is more than steps=200 leave beside 40 of decay; use at most 160",
        ),
        (lambda: OptimizerSpec(beta2=1.5), "optimizer.beta2=1.5: must lie between 0 and 1"),
        (
            lambda: dataclasses.replace(SMALL, steps=50),
            "optimizer.warmup=100 is more than steps=50 leave; use at most 50",
        ),
    ],
)
def test_a_bad_value_is_refused_when_built(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.fault(11, 12)
def test_changes_are_told_apart_by_what_they_do_to_a_run_that_goes_on():
    """Harmless: neither rows nor updates change. Inexact: they do. Impossible: the checkpoint does not fit."""
    other = dataclasses.replace(
        SMALL, mesh=MeshSpec(fsdp=2), stop=StopSpec(step=7), run=Path("elsewhere"), batch=BatchSpec(rows=32), seed=3,
        optimizer=OptimizerSpec(ema=0.9),
    )  # fmt: skip
    found = changes(to_json(SMALL), to_json(other))
    assert {change.field: change.kind for change in found} == {
        "mesh.fsdp": "harmless", "stop.step": "harmless", "run": "harmless", "batch.rows": "inexact",
        "seed": "inexact", "optimizer.ema": "impossible",
    }  # fmt: skip
    assert str(found[0]) == "batch.rows: 16 -> 32"
    averaged = dataclasses.replace(SMALL, optimizer=OptimizerSpec(ema=0.99))  # it has an average already
    assert [change.kind for change in changes(to_json(averaged), to_json(other)) if "ema" in change.field] == [
        "inexact"
    ]
    assert changes(to_json(SMALL), to_json(SMALL)) == []


@pytest.mark.fault(14)
def test_a_run_of_an_older_gptjax_without_a_field_cannot_go_on():
    old = json.loads(to_json(SMALL))
    del old["optimizer"]["name"]
    (found,) = changes(json.dumps(old), to_json(SMALL))
    assert found.kind == "impossible"
    assert "an older gptjax began the run" in str(found)


def test_rows_that_no_step_reaches_are_named():
    late = Objectives(rows=("causal_lm", "masked_lm=0.5@0.95"))
    quick = OptimizerSpec(warmup=2)
    dataclasses.replace(SMALL, objectives=late, optimizer=quick, steps=20)
    with pytest.raises(ValueError, match=r"objectives.rows: masked_lm has rows from 0.95 of the run on, .* steps=19"):
        dataclasses.replace(SMALL, objectives=late, optimizer=quick, steps=19)


def test_a_recipe_comes_back_from_its_json():
    """Nested settings, paths and tuples too."""
    masked = MaskedLM(rows=0.5, later=((0.5, 0.5, 0.1),))
    recipe = dataclasses.replace(SMALL, objectives=Objectives(causal_lm=CausalLM(rows=0.5), masked_lm=masked))
    assert from_json(to_json(recipe)) == recipe
    assert from_json(to_json(SMALL)) != recipe


# Texts that say several things, and how many: NAME and RATE, and so on.
GRAMMARS = {
    "data.sources": 2, "data.mixture": 2, "data.validation": 2, "objectives.rows": 4, "objectives.sources": 2,
}  # fmt: skip
MOST_SETTINGS = 91


def leaves(kind: type, path: str = "") -> list[str]:
    """Dotted names of all settings of a dataclass."""
    found = []
    for field in dataclasses.fields(kind):
        hint = get_type_hints(kind)[field.name]
        inner = next((part for part in (hint, *get_args(hint)) if dataclasses.is_dataclass(part)), None)
        found += [f"{path}{field.name}"] if inner is None else leaves(inner, f"{path}{field.name}.")
    return found


def test_a_recipe_has_so_many_settings_and_no_more():
    """A text with a grammar counts its parts. Before a new one: is there one that says it already?"""
    found = leaves(Recipe)
    assert GRAMMARS.keys() <= set(found)
    assert len(found) + sum(parts - 1 for parts in GRAMMARS.values()) <= MOST_SETTINGS


def test_every_setting_is_read_by_something():
    """Its last name stands, as an attribute or a name of one, in a file other than those that define and check it."""
    defining = ("train/recipe.py", "train/recipe_words.py", "train/record/older.py", "data/spec.py")
    texts = [
        path.read_text(encoding="utf-8")
        for folder in ("gptjax", "train", "data")
        for path in sorted((ROOT / folder).rglob("*.py"))
        if str(path.relative_to(ROOT)) not in defining and "recipes" not in path.parts
    ]
    everything = "\n".join(texts)
    by_property = {"data.sources": "shares", "data.validation": "split", "data.mixture": "mixture"}
    unread = [
        path
        for path in leaves(Recipe)
        if not re.search(rf"[.\"]{by_property.get(path, path.rpartition('.')[2])}\b", everything)
        and not (path.startswith("mesh.") and "recipe.mesh.over(" in everything)
    ]
    assert unread == []
