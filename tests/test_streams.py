"""Text that an encoding has no letters for is printed all the same."""

import os
import subprocess
import sys

import pytest

SAYS = """
import sys
from rich.console import Console
from rich.progress import track
from gptjax.streams import print_any_text
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
