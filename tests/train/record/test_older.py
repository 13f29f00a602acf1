"""Recipes of any version, by the names of this one."""

import json

import pytest

from tests.tiny_recipe import recipe
from train.recipe import changes, from_json, to_json
from train.record import older
from train.record.older import RECIPE_VERSION, recipe_tree


def versionless(text: str) -> dict:
    tree = json.loads(text)
    assert tree.pop("version") == RECIPE_VERSION
    return tree


def test_a_recipe_without_a_version_is_the_same_recipe_and_no_change(tmp_path):
    now = to_json(recipe(tmp_path, "run"))
    then = json.dumps(versionless(now))
    assert from_json(then) == from_json(now) == recipe(tmp_path, "run")
    assert changes(then, now) == []


def test_a_field_that_was_renamed_moved_or_dropped_is_found_by_its_new_name(tmp_path, monkeypatch):
    """One line each, under the version that had the old name."""
    now = to_json(recipe(tmp_path, "run"))
    tree = versionless(now)
    tree["horizon_steps"] = tree.pop("steps")
    tree["schedule"] = {"warmup": tree["optimizer"].pop("warmup")}
    tree["batch"]["colour"] = "red"
    names = {"horizon_steps": "steps", "schedule.warmup": "optimizer.warmup", "schedule": None, "batch.colour": None}
    monkeypatch.setattr(older, "RECIPE_NAMES", {1: names})
    assert from_json(json.dumps(tree)) == recipe(tmp_path, "run")
    assert changes(json.dumps(tree), now) == []


def test_a_recipe_of_a_newer_gptjax_says_so():
    with pytest.raises(ValueError, match=f"version={RECIPE_VERSION + 1}: written by a newer gptjax"):
        recipe_tree({"version": RECIPE_VERSION + 1})
