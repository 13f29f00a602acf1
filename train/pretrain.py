"""From a recipe to a finished run: what is checked first, who owns the run, training, samples and the report."""

import contextlib
import json
import re
import shlex
import time
from collections.abc import Iterator
from pathlib import Path

import jax
from rich.console import Console
from rich.markup import escape
from rich.table import Table

import gptjax
from data.prepare import vocabulary_bound, xz_figures
from gptjax.generate import LanguageModel
from gptjax.manifest import steps, write_whole
from gptjax.plain_json import dumps
from gptjax.sharding import make_mesh
from train import failures
from train.assemble import Assembly, Text, assemble, config_of, mesh_of, open_text
from train.bench import pcgrad_cost
from train.exits import HUNG, StoppedError, leave, tell
from train.hosts import check_agree, from_first
from train.lease import Lease, LeaseLostError
from train.loop import Guards, Trainer
from train.meter import Start
from train.peers import watching
from train.provenance import changed_fields, check_disk, describe_run, provenance
from train.recipe import Recipe
from train.samples import write_samples
from train.signals import Signals
from train.step import State
from train.views import views_table, write_views
from train.watchdog import Watchdog, report_hang


def pretrain(
    recipe: Recipe,
    console: Console,
    started: float | None = None,
    signals: Signals | None = None,
    *,
    accept_changes: bool = False,
) -> Path:
    """Trains until the recipe's last step, or from where the run directory left off; returns the run directory.

    `started` is when the program was, by time.perf_counter(), so that times told include its imports; None = now.
    `signals`: listens to SIGTERM and Ctrl-C; None = nobody does. `accept_changes`: goes on although the recipe has
    changed, and with it rows or updates.

    Raises ValueError, before anything slow and with the run as it was, where recipe, devices, text and run do not fit;
    StoppedError where it was stopped early, saved; BadNumbersError where the loss or gradient is lost.
    """
    start = Start(time.perf_counter() if started is None else started)
    start.finished("imports")
    run, process = recipe.run, jax.process_index()
    mesh = mesh_of(recipe)
    config = config_of(recipe, vocabulary_bound(recipe.data), mesh)
    for change in changed_fields(run, recipe, accept_changes):
        console.print(f"changed: {change}", markup=False, highlight=False)
    check_disk(recipe, config)
    about = provenance(recipe)
    check_agree(about)  # and nobody has written anything yet
    lease, signals = Lease(run, process), signals or Signals()
    from_first(lambda: _own(run, lease, console))
    if process > 0:
        lease.take(console.print)
    with contextlib.ExitStack() as stack:
        stack.callback(lease.release)
        signals.leaving, signals.doing = lease.release, lambda: "text"
        text = open_text(recipe)
        config = config_of(recipe, text.tokenizer.size, mesh, text.curriculum.heads)
        about |= describe_run(run, recipe, config, text)
        check_agree(about)
        for remark in text.rows.remarks:
            console.print(remark, highlight=False, markup=False)
        start.finished("text")
        console.print(
            f"[bold]{escape(str(run))}[/]  {config.parameters / 1e6:.2f}M parameters, {config.L} layers, width "
            f"{config.D}, {recipe.batch.rows} rows of {config.T} tokens a step, {recipe.compute.dtype}, mesh "
            f"{dict(mesh.shape)}"
        )
        dog = Watchdog(recipe.hang_after, lambda phase, seconds: _hung(run, lease, dog.limit(phase), phase, seconds))
        stack.callback(dog.stop)
        signals.doing = lambda: dog.current
        peers = watching(run, process, jax.process_count(), lambda said: _lost(run, lease, said))
        try:
            with jax.set_mesh(mesh), peers, _saying_what_takes_memory(recipe):
                parts = assemble(recipe, text.tokenizer.size, text.curriculum, mesh)
                if parts.curriculum.combine == "pcgrad":
                    console.print(pcgrad_cost(parts, text), highlight=False)
                state = Trainer(parts, text, about, console, start, Guards(signals, lease, dog)).train()
            if process == 0:
                with dog.phase("samples and report"):
                    _finish(parts, text, state, console)
                failures.cleared(run)
        except (StoppedError, LeaseLostError, ValueError):  # stopped, or a mistake in what was asked: no crash
            raise
        except Exception as error:
            if process == 0:
                failures.failed(run, _newest(run), f"{type(error).__name__}: {error}")
            raise
    if process == 0:
        minutes = (time.perf_counter() - start.began) / 60
        console.print(f"report: [bold]{escape(str(run / 'report.html'))}[/]   ({minutes:.1f} minutes in all)")
        console.print(f"talk with it: [bold]./launch.sh generate {escape(shlex.quote(str(run)))}[/]")
    return run


def _own(run: Path, lease: Lease, console: Console) -> None:
    """Makes this the job that writes to a run. Raises LeaseTakenError; ValueError where it fails again and again."""
    if lease.take(console.print) is not None:
        failures.failed(run, _newest(run), failures.SILENT)
    try:
        failures.check(run, _newest(run))
    except ValueError:
        lease.release()
        raise


def _newest(run: Path) -> int:
    """The newest step that was saved, 0 before the first."""
    return max(steps(run), default=0)


def _hung(run: Path, lease: Lease, limit: float, phase: str, seconds: float) -> None:
    """Tells all that can be known, and ends the process."""
    try:
        report_hang(run, jax.process_index(), jax.process_count(), phase, seconds, limit)
    finally:
        leave(HUNG, lambda: _give_up(run, lease, f"hung in phase {phase}"))


def _lost(run: Path, lease: Lease, said: str) -> None:
    """Ends the process: without the others it could only wait."""
    tell(f"{said}. This process ends too; repeat the command in all of them")
    leave(HUNG, lambda: _give_up(run, lease, said))


def _give_up(run: Path, lease: Lease, cause: str) -> None:
    """What is written when a process ends at once; its caller does not wait for a disk that hangs."""
    if jax.process_index() == 0:
        failures.failed(run, _newest(run), cause)
    lease.release()


@contextlib.contextmanager
def _saying_what_takes_memory(recipe: Recipe) -> Iterator[None]:
    """Turns XLA's error of a device that is full into one of a line, with the fields that decide."""
    try:
        yield
    except jax.errors.JaxRuntimeError as error:
        found = re.search(r"RESOURCE_EXHAUSTED: *(.*)", str(error))
        if found is None:
            raise
        batch = recipe.batch
        raise ValueError(
            f"device memory: {found[1]} batch.rows={batch.rows} in batch.micro_batches={batch.micro_batches}, "
            f"model.T={recipe.model.T}, compute.remat={recipe.compute.remat!r}: more micro_batches and remat 'full' "
            f"take less. Saved steps: {steps(recipe.run)}"
        ) from error


def _finish(parts: Assembly, text: Text, state: State, console: Console) -> None:
    """Compares with xz, writes samples and the report."""
    recipe, run = parts.recipe, parts.recipe.run
    console.print("\nwriting the report, and what goes into it ...")
    write_whole(run / "xz.json", dumps(xz_figures(text.prepared), indent=1) + "\n")
    if jax.process_count() == 1:
        model = LanguageModel(parts.config, text.tokenizer, state.params, mesh=parts.mesh)
    else:  # the other processes are not asked to take part: their share is on disk
        local = jax.local_devices()
        model = gptjax.load(run, int(state.step), mesh=make_mesh(fsdp=len(local), devices=local))
    names = {term.name for term in parts.curriculum.terms}
    if names & {"causal_lm", "prefix_lm"}:
        samples = {"step": int(state.step), "samples": recipe.samples, "seed": recipe.seed}
        write_samples(run, text.prepared, model, **samples, console=console)
    from train.report import write_report  # here: it imports Matplotlib, which the first step does not wait for

    if "causal_lm" in names:
        console.print(_results(run))
    if {"causal_lm", "masked_lm"} <= names:
        console.print(views_table(write_views(run, text.prepared, model)))
    write_report(run)


def _results(run: Path) -> Table:
    """Bits per byte of every source beside xz."""
    from train.report import last_scores

    xz = json.loads((run / "xz.json").read_text(encoding="utf-8"))
    title = "bits per byte (lower is better), beside what xz makes of the same text"
    table = Table(title=title, min_width=len(title))
    table.add_column("held-out text of", overflow="fold")  # whole: sources may differ in the end of a name alone
    for heading in ("nats/token", "bits/byte", "xz -9 alone", "xz after the training text"):
        table.add_column(heading, justify="right", no_wrap=True)
    for name, record in last_scores(run / "metrics.jsonl").items():
        figures = (record["bits_per_byte"], xz[name]["alone"], xz[name]["after_training_text"])
        table.add_row(escape(name), f"{record['loss']:.4f}", *(f"{figure:.3f}" for figure in figures))
    return table
