"""SavedModel: it runs in TensorFlow alone and is the model; what is not never appears."""

import json
import re

import pytest

from tests.tiny_run import random_model
from train.__main__ import main
from train.savedmodel import saved_model
from train.savedmodel.saved_model import LOADER, export_saved_model


@pytest.mark.slow
def test_tensorflow_alone_computes_the_model_and_a_graph_of_something_else_never_appears(tmp_path, monkeypatch):
    """Scores and greedy text in a process without JAX; then with a head whose values are one percent larger."""
    model = random_model()
    manifest = export_saved_model(model, tmp_path / "saved")
    logits = manifest["proof"]["logits"]
    assert 0 < logits["largest_difference"] < logits["allowed_difference"]
    [[sample]] = model.generate(manifest["proof"]["greedy"]["prompt"], temperature=0, tokens=16)
    assert manifest["proof"]["greedy"]["continuation"] == list(sample.ids)
    assert (tmp_path / "saved" / "run.py").read_text() == LOADER.read_text()
    assert not re.search(r"^(import|from) (gptjax|jax)", LOADER.read_text(), re.MULTILINE)
    assert json.loads((tmp_path / "saved" / "manifest.json").read_text())["files"].keys() >= {"saved_model.pb"}

    whole = saved_model.weights_of(model.params)
    monkeypatch.setattr(saved_model, "weights_of", lambda _: whole | {"head": whole["head"] * 1.01})
    with pytest.raises(ValueError, match=r"differ by .* nothing was written"):
        export_saved_model(model, tmp_path / "spoilt")
    assert [path.name for path in tmp_path.iterdir()] == ["saved"]


def test_a_target_that_exists_and_a_missing_tensorflow_are_told_before_anything_slow(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(saved_model, "export_saved_model", lambda *_: pytest.fail("began"))
    assert main(["savedmodel", "nowhere", str(tmp_path)]) == 2
    assert "exists already" in capsys.readouterr().err
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert main(["savedmodel", "nowhere", str(tmp_path / "new")]) == 2
    assert "TensorFlow, which is not installed; in the checkout, ./launch.sh setup" in capsys.readouterr().err
    assert [*tmp_path.iterdir()] == []
