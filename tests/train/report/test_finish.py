"""What follows the last step: each part is optional, and none an error."""

import io
import json
import subprocess
import sys
from types import SimpleNamespace

import pytest
from rich.console import Console

from gptjax.runs.manifest import steps
from tests.tiny_recipe import recipe, write_text
from tests.tiny_text import write_prepared_json
from train.objectives import Objectives
from train.pretrain import pretrain
from train.recipe import StopSpec
from train.report import finish
from train.report.finish import optional

HANGS = """
import sys, time
from pathlib import Path
from types import SimpleNamespace
from train.report import finish

parts = SimpleNamespace(recipe=SimpleNamespace(run=Path(sys.argv[1]), hang_after=0.1))
hook = finish.Hook("samples", lambda finished: time.sleep(600))
finish.finish(finish.Finished(parts, None, None, None, 0.0), [hook], lambda: print("given back", flush=True))
"""


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    return write_text(tmp_path_factory.mktemp("finish"))


def test_what_is_optional_and_fails_is_told_in_one_line_and_ends_nothing():
    console = Console(record=True, width=300, file=io.StringIO())
    with optional("samples", console):
        raise PermissionError(13, "not\n allowed", "xz.json")
    assert console.export_text() == "samples: left out (PermissionError: [Errno 13] not allowed: 'xz.json')\n"
    with pytest.raises(KeyboardInterrupt), optional("samples", console):
        raise KeyboardInterrupt


def test_where_it_is_the_console_that_fails_standard_error_has_the_line(capfd):
    console = Console(file=io.TextIOWrapper(io.BytesIO(), "ascii", write_through=True))
    with optional("samples", console):
        console.print("曹操")
    with optional("表", console):
        raise ValueError("no")
    said = capfd.readouterr().err
    assert "表: left out (ValueError: no)" in said


def test_a_run_whose_every_figure_fails_ends_as_one_that_succeeded(text, monkeypatch):
    """Nothing is counted as a bad end; each failure has its line; nothing is written into the prepared folder."""

    def fails(*_, **__):
        raise OSError(30, "Read-only file system", "figures")

    for name in ("xz_figures", "write_samples", "_results", "write_task_examples"):
        monkeypatch.setattr(finish, name, fails)
    monkeypatch.setattr("train.report.report.write_report", fails)
    console = Console(record=True, width=300, file=io.StringIO())
    masked = Objectives(rows=("causal_lm", "masked_lm=0.25"))
    run = pretrain(recipe(text, "figures", objectives=masked, stop=StopSpec(step=2)), console)
    said = console.export_text()
    for what in ("comparison with xz", "samples", "table of bits per byte", "examples of tasks", "report"):
        assert f"{what}: left out (OSError: [Errno 30] Read-only file system: 'figures')" in said
    assert steps(run)[-1] == 2
    assert not (run / "failures.json").exists()
    monkeypatch.undo()
    ((prepared,),) = [list((text / "prepared").glob("*/"))]
    before = {path: path.stat().st_mtime_ns for path in prepared.rglob("*")}
    pretrain(recipe(text, "figures", objectives=masked, stop=StopSpec(step=2)), console)
    assert {path: path.stat().st_mtime_ns for path in prepared.rglob("*")} == before
    assert set(json.loads((run / "xz.json").read_text())) == {f"files:{text / name}.txt" for name in ("one", "two")}
    assert (run / "report.html").exists()
    assert json.loads((run / "task_examples.json").read_text()).keys() == {"masked_lm"}  # made on a mesh of 8 devices


def test_xz_is_asked_again_only_where_sources_have_other_names(tmp_path, monkeypatch):
    """The table finds its figures by name; to ask takes minutes."""
    figures = []
    monkeypatch.setattr(finish, "xz_figures", lambda _: figures[-1])
    for name, value in (("old", 1.0), ("old", 2.0), ("new", 3.0)):
        write_prepared_json(tmp_path, {name: {}})
        figures.append({name: {"alone": value}})
        finish._write_xz(tmp_path, tmp_path)
        kept = json.loads((tmp_path / "xz.json").read_text())
        assert kept == {name: {"alone": 3.0 if name == "new" else 1.0}}


def test_a_report_that_hangs_ends_a_run_as_one_that_is_done(tmp_path):
    done = subprocess.run([sys.executable, "-c", HANGS, str(tmp_path)], capture_output=True, text=True, timeout=500)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "given back\n"
    assert f"{tmp_path}: is trained and saved; `./launch.sh report {tmp_path}` writes its report" in done.stderr
    assert 'in phase "samples"' in done.stderr


def test_hooks_are_called_in_turn_and_one_that_fails_costs_itself_alone(tmp_path):
    """Each is given the finished run; with none of them, nothing is done."""
    called, console = [], Console(record=True, width=300, file=io.StringIO())

    def fails(finished):
        raise OSError(28, "No space left on device")

    parts = SimpleNamespace(recipe=SimpleNamespace(run=tmp_path, hang_after=60.0))
    finished = finish.Finished(parts, None, None, console, 0.0)
    hooks = [finish.Hook("one", called.append), finish.Hook("two", fails), finish.Hook("three", called.append)]
    finish.finish(finished, hooks, lambda: None)
    assert called == [finished, finished]
    assert console.export_text() == "two: left out (OSError: [Errno 28] No space left on device)\n"
    finish.finish(finished, (), lambda: None)
    assert called == [finished, finished]
    assert list(tmp_path.iterdir()) == []
