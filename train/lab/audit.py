"""What a run was trained on, proved: `ledger.jsonl` against the rows of the text, whatever restarts lay between."""

import contextlib
import json
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.progress import track

from data.description import read_description
from data.preparation.prepared_folder import content
from data.preparation.sources import check
from data.prepare import begun
from gptjax.files.plain_json import dumps
from train.assemble import prepared_of, rows_of
from train.recipe import Recipe, changes, from_json
from train.record.ledger import Entry, hexadecimal, read_ledger, rows_hash
from train.record.older import check_same_tasks
from train.record.starts import Stretch, number_of, stretches
from train.rows import RunRows


def audit(run: Path, console: Console) -> bool:
    """Prints whether every row up to the run's last was trained on once, in order; True if so.

    Raises ValueError where the run directory lacks what that takes, or the text is no longer the same.
    """
    entries = read_ledger(run)
    faults = [*untiled(entries), *_changed_rows(run, entries, console)]
    for fault in faults:
        console.print(f"[bold]fault:[/] {fault}", highlight=False)
    if not entries:
        console.print("the ledger is empty: nothing was trained")
        return True
    last, skipped = entries[-1], [entry.step for entry in entries if entry.skipped]
    if skipped:
        console.print(f"no update was made in steps {skipped}: loss or gradient was not a number")
    whole = f"rows 0 to {last.first_row + last.rows - 1} in {last.step} steps"
    verdict = f"{len(faults)} faults" if faults else "each was read once, in order, and was what the text says"
    console.print(f"{run}: {whole}: {verdict}", highlight=False, markup=False)
    return not faults


def _folder(run: Path, recipe: Recipe) -> Path:
    """Where relative paths of the recipe begin: where the run was started, or here if its text is no longer there.

    Raises ValueError where it is in neither.
    """
    try:
        started = Path(json.loads((run / "environment.json").read_text(encoding="utf-8"))["folder"])
    except (OSError, KeyError):  # of an older gptjax
        return Path.cwd()
    missing = []
    for folder in (started, Path.cwd()):
        try:
            with contextlib.chdir(folder):
                for name in recipe.data.rates:
                    check(name)
            return folder
        except (OSError, ValueError) as error:
            missing.append(error)
    raise ValueError(f"run={run} was started in {started}, where its text is no longer, nor is it here: {missing[-1]}")


def untiled(entries: Sequence[Entry]) -> Iterator[str]:
    """Where rows or steps are missing, or come twice."""
    step, row = 0, 0
    for entry in entries:
        if entry.step != step + 1:
            yield f"step {entry.step} follows step {step}"
        if entry.first_row > row:
            yield f"step {entry.step}: rows {row} to {entry.first_row - 1} were skipped"
        if entry.first_row < row:
            yield f"step {entry.step}: rows {entry.first_row} to {row - 1} come again"
        step, row = entry.step, entry.first_row + entry.rows


def _changed_rows(run: Path, entries: Sequence[Entry], console: Console) -> Iterator[str]:
    """Steps whose rows had another content than the text says, each by the recipe that it was trained with."""
    newest = json.loads((run / "recipe.json").read_text(encoding="utf-8"))
    parts = stretches(run, newest)
    run, texts = run.absolute(), _Texts(run.absolute())
    rows = [texts.rows(part) for part in parts]
    for entry in track(entries, "hashing rows", console=console, disable=not console.is_terminal):
        number = number_of(parts, entry.step - 1)
        batch = rows[number].batch(np.arange(entry.first_row, entry.first_row + entry.rows))
        if (found := hexadecimal(rows_hash(batch, np))) != entry.hash:
            guessed = "" if parts[number].known else "; the recipe of this step was not kept, a later one was used"
            yield f"step {entry.step}: its rows hash to {found}, the ledger says {entry.hash}{guessed}"


class _Texts:
    """The rows of a run by the recipes of its starts, of which most have the same."""

    def __init__(self, run: Path):
        self._run = run
        self._found: list[tuple[str, RunRows]] = []  # by recipe

    def rows(self, part: Stretch) -> RunRows:
        """Raises ValueError where the text is no longer that which the run was trained on."""
        check_same_tasks(part.recipe, f"run={self._run}")
        text = dumps(dict(part.recipe))
        recipe = from_json(text)
        same = (rows for one, rows in self._found if all(change.kind == "harmless" for change in changes(one, text)))
        rows = next(same, None)
        if rows is None:
            rows = rows_of(recipe, self._prepared(recipe))
            self._found.append((text, rows))
        return rows.from_step(part.step, part.row, recipe.batch.rows) if part.by_steps else rows

    def _prepared(self, recipe: Recipe) -> Path:
        run = self._run
        with contextlib.chdir(_folder(run, recipe)):
            prepared = prepared_of(recipe, begun(run)).absolute()
        description = read_description(run / "data.json")
        was, now = description["content"], content(prepared, description)
        if was != now:
            raise ValueError(f"run={run} was trained on another text (SHA-256 {was[:12]}, now {now[:12]}): restore it")
        return prepared
