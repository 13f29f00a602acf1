"""The consoles that all programs print to."""

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
