"""The wheel: gptjax alone, complete, and without TensorFlow at any depth."""

import subprocess
import sys
import zipfile
from email import message_from_bytes
from pathlib import Path
from shutil import copy, copytree

import pytest

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> zipfile.ZipFile:
    """The wheel, built from a copy: setuptools would ship what an earlier build left behind in build/."""
    source = tmp_path_factory.mktemp("checkout")
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        copy(ROOT / name, source)
    for name in ("gptjax", "train", "data"):
        copytree(ROOT / name, source / name)
    build = "import setuptools.build_meta as backend; print(backend.build_wheel('.'))"
    done = subprocess.run([sys.executable, "-c", build], cwd=source, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return zipfile.ZipFile(source / done.stdout.split()[-1])


def test_the_wheel_holds_every_file_of_gptjax_and_nothing_else(wheel: zipfile.ZipFile):
    """Its modules are those of the checkout's gptjax/, with py.typed and the pages, and no others."""
    shipped = {name for name in wheel.namelist() if ".dist-info/" not in name}
    ours = {path.relative_to(ROOT).as_posix() for path in (ROOT / "gptjax").rglob("*.py")}
    pages = {"gptjax/look/look.html", "gptjax/probing/features.html", "gptjax/serving/page/index.html"}
    assert shipped == ours | pages | {"gptjax/py.typed"}


def test_the_wheel_asks_for_no_tensorflow_unless_the_extra_is_named(wheel: zipfile.ZipFile):
    """TensorFlow is required under the `train` extra only; the licence and the command are there."""
    [metadata_file] = [name for name in wheel.namelist() if name.endswith(".dist-info/METADATA")]
    required = message_from_bytes(wheel.read(metadata_file)).get_all("Requires-Dist") or []
    asks_for_tensorflow = [line for line in required if "tensorflow" in line]
    assert asks_for_tensorflow
    assert all("extra == 'train'" in line.replace('"', "'") for line in asks_for_tensorflow)
    [entry_points] = [name for name in wheel.namelist() if name.endswith("entry_points.txt")]
    assert "gptjax = gptjax.cli:main" in wheel.read(entry_points).decode()
    assert any(name.endswith("licenses/LICENSE") for name in wheel.namelist())


def test_no_module_of_gptjax_reaches_tensorflow_train_or_data():
    """Every module imports in an interpreter where those three (and TFDS) cannot be imported at all."""
    program = """
import importlib, pkgutil, sys
for absent in ("tensorflow", "tensorflow_datasets", "train", "data"):
    sys.modules[absent] = None
import gptjax
for module in pkgutil.walk_packages(gptjax.__path__, "gptjax."):
    importlib.import_module(module.name)
print(sum(name.startswith("gptjax.") for name in sys.modules))
"""
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) > 1
