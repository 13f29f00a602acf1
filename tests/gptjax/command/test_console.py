"""What is not a terminal gets whole lines, and text that an encoding has no letters for is printed all the same."""

import ast
import io
import os
import subprocess
import sys
from pathlib import Path

import pytest
from rich.table import Table

import gptjax
from gptjax.command.console import make_console
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
    program = "import gptjax.command.evaluate_verb as v; v.make_console().print('word ' * 100)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.count("\n") == 1


SAYS = """
import sys
from rich.console import Console
from rich.progress import track
from gptjax.command.console import print_any_text
print_any_text()
print("曹操 é")
Console().print("[bold]曹操[/]")
Console(file=sys.stderr).print("Ω", "\\ud83d")
for _ in track(range(2), console=Console(force_terminal=True)):
    pass
"""


def said(encoding: str, program: str = SAYS) -> tuple[str, str]:
    environment = {**os.environ, "PYTHONIOENCODING": encoding, "PYTHONUTF8": "0"}
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, env=environment)
    assert done.returncode == 0, done.stderr.decode()
    name = encoding.split(":")[0]
    return done.stdout.decode(name), done.stderr.decode(name)


@pytest.mark.parametrize(("encoding", "shown"), [("ascii", r"\xe9"), ("iso-8859-1", "é")])
def test_letters_that_an_encoding_lacks_are_escaped_and_those_it_has_are_not(encoding, shown):
    out, error = said(encoding)
    assert out.startswith(f"\\u66f9\\u64cd {shown}\n\\u66f9\\u64cd\n")
    assert error == "\\u03a9 \\ud83d\n"


def test_where_every_letter_can_be_printed_it_is():
    out, error = said("utf-8")
    assert out.startswith("曹操 é\n曹操\n")
    assert error == "Ω \\ud83d\n"


def test_what_the_user_asked_for_is_left_alone():
    out, _ = said("ascii:replace")
    assert out.startswith("?? ?\n??\n")


@pytest.mark.parametrize("program", ["gptjax.cli", "train.__main__"])
def test_a_program_quotes_chinese_on_an_ascii_terminal(program):
    calls = f"import sys; from {program} import main; sys.argv[1:] = ['--help']; sys.stdout.write('曹操'); "
    encoding = {**os.environ, "PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0"}
    quotes = "import contextlib\nwith contextlib.suppress(SystemExit):\n    main(*ARGUMENTS)\nprint('曹操')"
    arguments = "[['--help']]" if program.startswith("train") else "[]"
    code = calls.replace("sys.stdout.write('曹操'); ", "") + "\n" + quotes.replace("ARGUMENTS", arguments)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, env=encoding)
    assert done.returncode == 0, done.stderr.decode()
    assert done.stdout.endswith(b"\\u66f9\\u64cd\n")
