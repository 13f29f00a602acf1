"""From a recipe to a finished run: what is checked first, who owns the run, training; then the hooks of its caller."""

import contextlib
import re
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
from jax.sharding import Mesh
from rich.console import Console
from rich.markup import escape

from data.prepare import begun
from gptjax.config import ModelConfig
from gptjax.files.places import shown
from gptjax.runs.manifest import steps
from train.assemble import Assembly, Text, assemble, config_of, mesh_of, model_of, open_text, vocabulary_of
from train.layout import Layout, layout_of
from train.loop import train
from train.planning.less_memory import in_words
from train.planning.state_bytes import check_state_fits
from train.recipe import Recipe
from train.record.meter import Start
from train.record.provenance import changed_fields, check_disk, describe_run, provenance
from train.record.starts import Beginning, last_start
from train.record.step_time import pcgrad_cost
from train.report.finish import REPORTING, Finished, Hook, finish, optional
from train.step import State
from train.supervision import failures
from train.supervision.bucket_lease import BucketLease, lease_of
from train.supervision.exits import HUNG, BadNumbersError, StoppedError, leave, tell
from train.supervision.guards import Guards
from train.supervision.hosts import are_apart, check_agree, everywhere, from_first
from train.supervision.lease import FINISHED, Lease, LeaseLostError
from train.supervision.peers import watching
from train.supervision.signals import Signals
from train.supervision.signs import SignExchange
from train.supervision.watchdog import Watchdog, report_hang


def run(
    recipe: Recipe,
    hooks: Sequence[Hook] = (),
    *,
    console: Console,
    started: float | None = None,
    signals: Signals | None = None,
    accept_changes: bool = False,
) -> Path:
    """Trains until the recipe's last step, or from where the run directory left off; returns the run directory.

    `hooks` follow in turn once the run is trained and saved: see train/report/finish.py; none of them can fail it. They
    are the caller's choice, not the recipe's.
    `started` is when the program was, by time.perf_counter(), so that times told include its imports; None = now.
    `signals`: listens to SIGTERM and Ctrl-C; None = nobody does. `accept_changes`: goes on although the recipe has
    changed, and with it rows or updates.

    Raises ValueError, before anything slow and with the run as it was, where recipe, devices, text and run do not fit;
    StoppedError where it was stopped early, saved; BadNumbersError where the loss or gradient is lost.
    """
    start = Start(time.perf_counter() if started is None else started)
    start.finished("imports")
    folder, process, signals = recipe.run, jax.process_index(), signals or Signals()
    layout, changed = _layout(recipe)
    mesh = mesh_of(layout.on(recipe))
    config = config_of(recipe, vocabulary_of(recipe), mesh, layout=layout)
    check_state_fits(layout.on(recipe), config, mesh)
    with contextlib.ExitStack() as stack:
        lease, about = stack.enter_context(_owned(recipe, config, accept_changes, console))
        about["layout"] = layout._asdict()
        signals.leaving, signals.seconds, signals.doing = lease.release, lease.seconds, lambda: "text"
        text = open_text(recipe, begun(folder))
        config = config_of(recipe, text.tokenizer.size, mesh, text.loss_spec.heads, layout)
        about |= describe_run(folder, recipe, config, text)
        check_agree(about)
        for remark in text.rows.remarks:
            console.print(remark, highlight=False, markup=False)
        start.finished("text")
        console.print(_headline(recipe, config, mesh))
        if changed:
            console.print(changed, highlight=False, markup=False)
        watchdog = Watchdog(
            recipe.hang_after, lambda phase, seconds: _hung(folder, lease, watchdog.limit(phase), phase, seconds)
        )
        stack.callback(watchdog.stop)
        signals.doing = lambda: watchdog.current
        guards = Guards(signals, lease, watchdog)
        with _counting_failures(folder, lease, console), jax.set_mesh(mesh):
            parts, state = _trained(recipe, text, mesh, layout, about, console, start, guards)
        watchdog.stop()
        if process == 0:
            failures.cleared(folder)
            signals.doing = lambda: REPORTING
            finish(Finished(parts, text, state, console, start.began), hooks, lease.release, lease.seconds)
    return folder


@contextlib.contextmanager
def _owned(
    recipe: Recipe, config: ModelConfig, accept_changes: bool, console: Console
) -> Iterator[tuple[Lease, dict[str, Any]]]:
    """Yields the lease of a recipe's run, taken by this job, and its provenance; raises as `run` does."""
    folder, process = recipe.run, jax.process_index()
    lease, dead = lease_of(folder, process), None
    with contextlib.ExitStack() as stack:
        if isinstance(lease, BucketLease):  # whose copy here says nothing before it is fetched
            dead = from_first(lambda: lease.begin(console.print))
            stack.callback(lease.release_bucket)
            if are_apart(folder / "lease"):
                lease.signs = SignExchange(folder)
                everywhere(lambda: None if process == 0 else lease.follow(console.print))
                check_agree({f"the newest checkpoint of {shown(folder)}": _newest(folder)})
        for change in changed_fields(folder, recipe, accept_changes):
            console.print(f"changed: {change}", markup=False, highlight=False)
        everywhere(lambda: check_disk(recipe, config))
        about = provenance(recipe)
        check_agree(about)  # and nobody has written anything yet
        from_first(lambda: _own(folder, lease, console, dead is not None))
        if process > 0:
            lease.take(console.print)
        stack.callback(lease.release)
        if lease.signs is not None:
            lease.signs.start()
        yield lease, about


def _layout(recipe: Recipe) -> tuple[Layout, str]:
    """How the run lies on the devices that are here, and in words what of it is not as it was at its last start."""

    def before() -> dict[str, Any] | None:
        found = last_start(recipe.run)
        return None if found is None else found._asdict()

    found = from_first(before)
    start = None if found is None else Beginning(**found)
    return layout_of(recipe, model_of(recipe, vocabulary_of(recipe)), jax.device_count(), start)


def _headline(recipe: Recipe, config: ModelConfig, mesh: Mesh) -> str:
    return (
        f"[bold]{escape(shown(recipe.run))}[/]  {config.parameters / 1e6:.2f}M parameters, {config.L} layers, width "
        f"{config.D}, {recipe.batch.rows} rows of {recipe.row_length} tokens a step, {recipe.compute.dtype}, mesh "
        f"{dict(mesh.shape)}"
    )


def _trained(
    recipe: Recipe,
    text: Text,
    mesh: Mesh,
    layout: Layout,
    about: dict[str, Any],
    console: Console,
    start: Start,
    guards: Guards,
) -> tuple[Assembly, State]:
    """Trains together with the other processes of the run, which are needed no more once this returns."""
    run, lease = recipe.run, guards.lease
    parting = (lambda: None) if lease.signs is None else lease.signs.stop
    peers = watching(run, jax.process_index(), jax.process_count(), lambda said: _lost(run, lease, said), parting)
    with peers as leave_together, _saying_what_takes_memory(layout.on(recipe)):
        parts = assemble(recipe, text.tokenizer.size, text.loss_spec, mesh, layout)
        if parts.loss_spec.combine == "pcgrad":
            console.print(pcgrad_cost(parts, text), highlight=False)
        with _meeting_at_the_end(leave_together, guards.watchdog):
            return parts, train(parts, text, about, console, start, guards)


@contextlib.contextmanager
def _counting_failures(run: Path, lease: Lease, console: Console) -> Iterator[None]:
    """Notes how training in here ends badly, in one process for all."""
    try:
        yield
    except (StoppedError, LeaseLostError, ValueError):  # stopped, or a mistake in what was asked: no crash
        raise
    except Exception as error:
        if jax.process_index() == 0:
            _note_failure(run, lease, error, console)
        raise


def _own(run: Path, lease: Lease, console: Console, died: bool) -> None:
    """Makes this the job that writes to a run. Raises LeaseTakenError; ValueError where it fails again and again.

    `died`: so did its owner elsewhere, before it was finished.
    """
    dead = lease.take(console.print)
    try:
        if died or (dead is not None and dead.phase != FINISHED):
            failures.failed(run, _newest(run), failures.SILENT)
            if isinstance(lease, BucketLease):  # whose copy here the next start makes anew
                lease.send_records()
        failures.check(run, _newest(run))
    except (ValueError, OSError, LeaseLostError):
        lease.release()
        raise


def _newest(run: Path) -> int:
    """The newest step that was saved, 0 before the first."""
    return max(steps(run), default=0)


@contextlib.contextmanager
def _meeting_at_the_end(leave_together: Callable[[], None], watchdog: Watchdog) -> Iterator[None]:
    """Training in here ends alike in all processes; none of them leaves before all have come to that end."""

    def meet() -> None:
        with watchdog.phase("waiting for the other processes to end"):
            leave_together()

    try:
        yield
    except (StoppedError, BadNumbersError):
        meet()
        raise
    meet()


def _note_failure(run: Path, lease: Lease, error: Exception, console: Console) -> None:
    """Counts a bad end, unless the run is trained and saved; a report tells of numbers that went bad."""
    _count(run, lease, f"{type(error).__name__}: {error}")
    if isinstance(error, BadNumbersError):  # its curves say since when
        with optional("report", console):
            from train.report.report import write_report

            console.print(f"report: [bold]{escape(str(write_report(run)))}[/]")


def _hung(run: Path, lease: Lease, limit: float, phase: str, seconds: float) -> None:
    """Tells all that can be known, and ends the process."""
    try:
        report_hang(run, jax.process_index(), jax.process_count(), phase, seconds, limit)
    finally:
        leave(HUNG, lambda: _give_up(run, lease, f"hung in phase {phase}"), lease.seconds)


def _lost(run: Path, lease: Lease, said: str) -> None:
    """Ends the process: without the others it could only wait."""
    tell(f"{said}. This process ends too; repeat the command in all of them")
    leave(HUNG, lambda: _give_up(run, lease, said), lease.seconds)


def _give_up(run: Path, lease: Lease, cause: str) -> None:
    """What is written when a process ends at once; its caller does not wait for a disk that hangs."""
    if jax.process_index() == 0:
        _count(run, lease, cause)
    lease.release()


def _count(run: Path, lease: Lease, cause: str) -> None:
    if lease.phase != FINISHED:
        failures.failed(run, _newest(run), cause)


@contextlib.contextmanager
def _saying_what_takes_memory(recipe: Recipe) -> Iterator[None]:
    """Turns XLA's error of a device that is full into one of a line, with the settings that decide."""
    try:
        yield
    except jax.errors.JaxRuntimeError as error:
        found = re.search(r"RESOURCE_EXHAUSTED: *(.*)", str(error))
        if found is None:
            raise
        raise ValueError(
            f"device memory: {found[1]} {in_words(recipe, jax.device_count())}. Saved steps: {steps(recipe.run)}"
        ) from error
