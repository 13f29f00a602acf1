"""Where a run came from: machine, packages, code, and whose text it learnt."""

import importlib.metadata
import platform
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import jax

PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "tensorflow-datasets", "tokenizers", "numpy")


def environment() -> dict[str, str]:
    """What a reader needs to repeat the run: versions, devices, the command and the git revision ('+' if files were changed)."""
    versions = {name: importlib.metadata.version(name) for name in PACKAGES}
    device = jax.devices()[0]
    return {
        "started": time.strftime("%Y-%m-%d %H:%M:%S %z"),
        "command": "python -m train " + " ".join(sys.argv[1:]),
        "git": _revision(),
        "python": platform.python_version(),
        **versions,
        "devices": f"{jax.device_count()} x {device.device_kind} ({device.platform}), {jax.process_count()} host(s)",
        "system": platform.platform(),
    }


def attribution(sources: dict[str, Any]) -> str:
    """ATTRIBUTION.md: every source with its licence, and the credit that a licence demands."""
    lines = ["# The text this model learnt from", ""]
    for name, source in sources.items():
        lines += [f"## {name}", "", f"Licence: {source['licence']}", ""]
        if source["attribution"]:
            lines += [source["attribution"], ""]
    return "\n".join(lines)


def _revision() -> str:
    root = Path(__file__).resolve().parent.parent

    def git(*arguments: str) -> str:
        return subprocess.run(["git", "-C", str(root), *arguments], capture_output=True, text=True, check=True).stdout.strip()

    try:
        return git("rev-parse", "HEAD") + ("+" if git("status", "--porcelain") else "")
    except (OSError, subprocess.CalledProcessError):
        return "not a git checkout"
