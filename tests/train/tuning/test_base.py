"""A base is known by its files, and one that comes in a package says what to install."""

import pytest

from gptjax.inference.chat import TURNS
from tests.tiny_run import random_model, write_run
from train.tuning import base
from train.tuning.base import base_path, open_base


def test_a_run_without_a_template_will_talk_in_turns_and_keeps_its_shape(tmp_path):
    model = random_model()
    found = open_base(str(write_run(tmp_path / "run", model)))
    assert found.is_run
    assert found.generation_config.chat_template == TURNS
    assert found.architecture.D == model.config.D
    assert not hasattr(found.architecture, "vocabulary")


def test_an_absent_package_names_what_installs_it(monkeypatch):
    monkeypatch.setitem(base.PACKAGED, "small", ("no-such-package", "small/model.gguf", 3))
    with pytest.raises(ValueError, match=r"small: comes in the package no-such-package.*launch.sh setup --small"):
        base_path("small")


def test_a_download_that_was_cut_short_is_told_with_both_sizes(monkeypatch):
    monkeypatch.setitem(base.PACKAGED, "small", ("numpy", "numpy/__init__.py", 3))
    with pytest.raises(ValueError, match=r"bytes, not 3: its download was cut short; run"):
        base_path("small")
    assert base_path("runs/mine").name == "mine"


def test_what_is_no_model_is_refused_with_what_lies_beside_it(tmp_path):
    write_run(tmp_path / "right", random_model())
    with pytest.raises(ValueError, match=r"no such run.*right"):
        open_base(str(tmp_path / "rigth"))
