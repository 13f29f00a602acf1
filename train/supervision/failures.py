"""A run that dies again and again at the same step is not restarted for ever: `RUN/failures.json` counts."""

import contextlib
import json
from pathlib import Path
from typing import Any

from gptjax.files.plain_json import dumps

SILENT = "ended without a word"  # killed, or out of memory; of a preemptible machine this is everyday
MOST, MOST_SILENT = 5, 10  # bad ends in a row


def failed(run: Path, step: int, cause: str) -> None:
    """Counts a start that ended badly, with `step` as the newest checkpoint."""
    before = _read(run)
    same = before and before["step"] == step and (before["cause"] == SILENT) == (cause == SILENT)
    count = before["count"] if before and same else 0
    content = {"step": step, "cause": " ".join(cause.split()), "count": count + 1}
    with contextlib.suppress(OSError):  # the cause is told elsewhere; a full disk must not hide it
        _file(run).write_text(dumps(content, indent=1) + "\n", encoding="utf-8")


def check(run: Path, step: int) -> None:
    """Raises ValueError where too many starts in a row ended badly with `step` as the newest checkpoint."""
    found = _read(run)
    if found is None or found["step"] != step:
        return
    if found["count"] >= (MOST_SILENT if found["cause"] == SILENT else MOST):
        raise ValueError(
            f"run={run}: {found['count']} starts in a row ended at step {step}, the last with: {found['cause']}. "
            f"Mend it, then delete {_file(run)}"
        )


def cleared(run: Path) -> None:
    """Forgets the bad ends: the run came further."""
    with contextlib.suppress(OSError):
        _file(run).unlink(missing_ok=True)


def _file(run: Path) -> Path:
    return run / "failures.json"


def _read(run: Path) -> dict[str, Any] | None:
    """None where nothing was counted, and where the file is damaged."""
    try:
        found = json.loads(_file(run).read_text(encoding="utf-8"))
        return {"step": int(found["step"]), "cause": str(found["cause"]), "count": int(found["count"])}
    except (OSError, ValueError, KeyError, TypeError):
        return None
