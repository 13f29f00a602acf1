"""Standard output and standard error, whatever letters they lack."""

import io
import sys


def print_any_text() -> None:
    """From now on a letter that the encoding of a stream lacks is printed as \\u and its number, and is no error.

    To be called first by every program. Where PYTHONIOENCODING says what is to be done, that is done.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper) and stream.errors in ("strict", "surrogateescape"):
            stream.reconfigure(errors="backslashreplace")
