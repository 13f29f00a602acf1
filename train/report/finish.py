"""What follows the last step: xz beside the model, samples, tables, the report. Each is optional, and none an error.

The run is trained and saved by then: what fails costs itself alone, in one line, and the exit code stays 0.
"""

import contextlib
import json
import shlex
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import jax
from rich.console import Console
from rich.markup import escape
from rich.table import Table

import gptjax
from data.description import read_prepared
from data.preparation.prepared_folder import xz_figures
from gptjax.files.atomic_file import write_whole
from gptjax.files.plain_json import dumps
from gptjax.inference.language_model import LanguageModel
from gptjax.sharding import make_mesh
from train.assemble import Assembly, Text
from train.report.samples import write_samples
from train.report.views import views_table, write_views
from train.step import State
from train.supervision.exits import DONE, leave, tell
from train.supervision.watchdog import Watchdog, report_hang

REPORTING = "samples and report"


def finish(
    parts: Assembly, text: Text, state: State, console: Console, began: float, leaving: Callable[[], object]
) -> None:
    """Writes what readers of a finished run look for; only process 0 calls this, and needs no other.

    `began`: when the program was started, by time.perf_counter(). Where this hangs, `leaving` is called and the process
    ends, as one that is done.
    """
    run = parts.recipe.run

    def hung(phase: str, seconds: float) -> None:
        try:
            report_hang(run, 0, 1, phase, seconds, dog.limit(phase))
            tell(f"{run}: is trained and saved; `./launch.sh report {shlex.quote(str(run))}` writes its report")
        finally:
            leave(DONE, leaving)

    dog = Watchdog(parts.recipe.hang_after, hung)
    try:
        with dog.phase(REPORTING):
            _write(parts, text, state, console, began, dog)
    finally:
        dog.stop()


@contextlib.contextmanager
def optional(what: str, console: Console) -> Iterator[None]:
    """What fails in here is left out, and said so in one line."""
    try:
        yield
    except Exception as error:
        said = f"{what}: left out ({type(error).__name__}: {' '.join(str(error).split())[:300]})"
        try:
            console.print(said, markup=False, highlight=False)
        except Exception:  # it may be the console that fails
            tell(said)


def _write(parts: Assembly, text: Text, state: State, console: Console, began: float, dog: Watchdog) -> None:
    recipe, run = parts.recipe, parts.recipe.run
    tasks = text.rows.trained.values()
    models_text = any(task.models_text for task in tasks)

    @contextlib.contextmanager
    def part(what: str) -> Iterator[None]:
        with dog.phase(what), optional(what, console):
            yield

    with part("comparison with xz"):
        console.print("\nwriting the report, and what goes into it ...")
        _write_xz(run, text.prepared)
    if any(task.generates for task in tasks):
        with part("samples"):
            settings = {"step": int(state.step), "samples": recipe.samples, "seed": recipe.seed}
            write_samples(run, text.prepared, _model(parts, text, state), **settings, console=console)
    if models_text:
        with part("table of bits per byte"):
            console.print(_results(run))
    if models_text and any(task.masks for task in tasks):
        with part("held-out text read both ways"):
            console.print(views_table(write_views(run, text.prepared, _model(parts, text, state))))
    with part("report"):
        from train.report.report import (
            write_report,  # here: it imports Matplotlib, which the first step does not wait for
        )

        path, minutes = write_report(run), (time.perf_counter() - began) / 60
        console.print(f"report: [bold]{escape(str(path))}[/]   ({minutes:.1f} minutes in all)")
    with optional("last words", console):
        console.print(f"talk with it: [bold]./launch.sh generate {escape(shlex.quote(str(run)))}[/]")


def _model(parts: Assembly, text: Text, state: State) -> LanguageModel:
    if jax.process_count() == 1:
        return LanguageModel(parts.config, text.tokenizer, state.params, mesh=parts.mesh)
    local = jax.local_devices()  # the other processes are gone: their share is on disk
    return gptjax.load(parts.recipe.run, int(state.step), mesh=make_mesh(fsdp=len(local), devices=local))


def _write_xz(run: Path, prepared: Path) -> None:
    """Writes `xz.json`; a run that comes to its end again has it, unless its sources have other names by now.

    Nothing is written into the prepared folder.
    """
    sources = read_prepared(prepared)["sources"]
    kept = run / "xz.json"
    if not kept.exists() or json.loads(kept.read_text(encoding="utf-8")).keys() != sources.keys():
        write_whole(kept, dumps(xz_figures(prepared), indent=1) + "\n")


def _results(run: Path) -> Table:
    """Bits per byte of every source beside xz."""
    from train.report.report import last_scores

    xz = json.loads((run / "xz.json").read_text(encoding="utf-8")) if (run / "xz.json").exists() else {}
    title = "bits per byte (lower is better), beside what xz makes of the same text"
    table = Table(title=title, min_width=len(title))
    table.add_column("held-out text of", overflow="fold")  # whole: sources may differ in the end of a name alone
    for heading in ("nats/token", "bits/byte", "xz -9 alone", "xz after the training text"):
        table.add_column(heading, justify="right", no_wrap=True)
    for name, record in last_scores(run / "metrics.jsonl").items():
        beside = [f"{xz[name][of]:.3f}" if name in xz else "–" for of in ("alone", "after_training_text")]
        table.add_row(escape(name), f"{record['loss']:.4f}", f"{record['bits_per_byte']:.3f}", *beside)
    return table
