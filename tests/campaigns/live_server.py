"""A real `gptjax serve`, as a process of its own, for the campaigns that talk to one."""

import contextlib
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


@contextlib.contextmanager
def live(model: Path, *arguments: str) -> Iterator[str]:
    """Its address, once it is ready."""
    command = [sys.executable, "-m", "gptjax.cli", "serve", str(model), "--port", "0", *arguments]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        ready = next((line for line in process.stdout if "ready:" in line), None)
        if ready is None or (address := re.match(r"http://[^ ]+:\d+", ready)) is None:
            raise SystemExit(f"the server of {model} ended with status {process.wait()}")
        yield address[0]
    finally:
        process.terminate()
        process.wait(60)
