"""Recipes of any version, by the names of this one."""

import json

import pytest

from tests.tiny_recipe import recipe
from train.recipe import changes, from_json, to_json
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


def test_a_recipe_of_a_newer_gptjax_says_so():
    with pytest.raises(ValueError, match=f"version={RECIPE_VERSION + 1}: written by a newer gptjax"):
        recipe_tree({"version": RECIPE_VERSION + 1})
