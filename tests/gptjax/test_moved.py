"""Yesterday's imports of the library."""

import importlib
import subprocess
import sys

import pytest

from gptjax import moved


@pytest.mark.parametrize(("old", "new"), moved.NEW_NAMES.items())
def test_an_old_name_warns_and_has_what_the_new_one_has(old, new):
    """Classes are the same objects, so that isinstance holds across both."""
    sys.modules.pop(old, None)
    with pytest.warns(DeprecationWarning, match=f"{old} is now {new}"):
        found = importlib.import_module(old)
    wanted = vars(importlib.import_module(new))
    public = {name for name in wanted if not name.startswith("_")}
    assert public
    assert all(vars(found)[name] is wanted[name] for name in public)
    sys.modules.pop(old, None)


def test_a_name_that_never_was_is_no_module():
    with pytest.raises(ModuleNotFoundError, match=r"gptjax\.generat"):
        importlib.import_module("gptjax.generat")


def test_the_imports_of_the_old_pages_still_work():
    program = "from gptjax.evaluate import multiple_choice; from gptjax.items import read_items; print(read_items)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "read_items" in done.stdout
