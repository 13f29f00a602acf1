"""What is not a terminal gets whole lines."""

import ast
import io
import subprocess
import sys
from pathlib import Path

import pytest
from rich.table import Table

import gptjax
from gptjax.console import make_console
from gptjax.results import Result, mean_of

LINE = "a sentence that goes on " * 20


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.mark.parametrize("columns", [None, "40"])
@pytest.mark.parametrize("colour", [None, "1"])
def test_what_is_no_terminal_is_never_folded(monkeypatch, columns, colour):
    """Neither a line nor a table of figures, whatever the environment says of terminals; a terminal is folded."""
    for name, value in (("COLUMNS", columns), ("FORCE_COLOR", colour)):
        monkeypatch.delenv(name, raising=False) if value is None else monkeypatch.setenv(name, value)
    table = Table("name", *map(str, range(30)))
    table.add_row("row", *["1234.5678"] * 30)
    file, terminal = io.StringIO(), Terminal()
    for out in (file, terminal):
        make_console(out).print(LINE, highlight=False)
        make_console(out).print(table)
    first, *rows = file.getvalue().splitlines()
    assert first.strip() == LINE.strip()
    assert len(rows) == 5
    assert rows[3].count("1234.5678") == 30
    assert terminal.getvalue().count("\n") > 6


def test_what_stands_above_and_below_a_narrow_table_is_not_folded_either():
    """Of few items, with a note."""
    out = io.StringIO()
    metrics = {"a": mean_of([1.0, 0.0])}
    make_console(out).print(Result(task="t", counts={"items": 2}, metrics=metrics, items=[{}, {}]).table())
    assert "of fewer than 30 items an interval is too narrow" in out.getvalue()


def test_a_quiet_console_prints_nothing(capsys):
    make_console(quiet=True).print(LINE)
    assert capsys.readouterr().out == ""
    make_console().print(LINE, highlight=False)
    assert capsys.readouterr().out.strip() == LINE.strip()


def test_all_consoles_are_made_in_one_place():
    """No program calls rich's own, which folds what is no terminal."""
    root = Path(gptjax.__file__).parents[1]
    for path in (path for folder in ("gptjax", "train", "data") for path in (root / folder).rglob("*.py")):
        calls = [node for node in ast.walk(ast.parse(path.read_text("utf-8"))) if isinstance(node, ast.Call)]
        made = [call.lineno for call in calls if isinstance(call.func, ast.Name) and call.func.id == "Console"]
        assert not made or path.name == "console.py", f"{path}: {made}"


def test_a_programs_lines_are_whole_in_a_pipe(tmp_path):
    """As a user meets it: a table of an evaluation, piped."""
    program = "import gptjax.evaluate_verb as v; v.make_console().print('word ' * 100)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.count("\n") == 1
