"""The consoles that all programs print to."""

import io
import sys
from typing import Any

from rich.console import Console

UNFOLDED = 100_000  # columns: wider than any line of ours


def make_console(file: Any = None, *, quiet: bool = False) -> Console:
    """As wide as the terminal; into a file or a pipe nothing is folded or cut, whatever COLUMNS or FORCE_COLOR say.

    `file`: a text stream; None = standard output. `quiet`: prints nothing.
    """
    terminal = (sys.stdout if file is None else file).isatty()
    return Console(file=file, quiet=quiet, width=None if terminal else UNFOLDED)


def print_any_text() -> None:
    """From now on a letter that the encoding of a stream lacks is printed as \\u and its number, and is no error.

    To be called first by every program. Another way that PYTHONIOENCODING asks for, such as `ascii:replace`, stays.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper) and stream.errors in ("strict", "surrogateescape"):
            stream.reconfigure(errors="backslashreplace")
