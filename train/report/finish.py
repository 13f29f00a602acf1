"""What follows the last step, as hooks: xz beside the model, samples, tables, the report. None of them is an error.

The run is trained and saved by then: what fails costs itself alone, in one line, and the exit code stays 0.
"""

import contextlib
import json
import shlex
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import jax
from rich.console import Console
from rich.markup import escape
from rich.table import Table

import gptjax
from data.description import read_prepared
from data.preparation.prepared_folder import xz_figures
from gptjax.files.atomic_file import write_whole
from gptjax.files.places import shown, url_of
from gptjax.files.plain_json import dumps
from gptjax.inference.language_model import LanguageModel
from gptjax.nn.lora import merged
from gptjax.runs.bucket_run import BucketRun
from gptjax.runs.manifest import check_sizes, steps
from gptjax.sharding import make_mesh
from train.assemble import Assembly, Text
from train.record.metrics import read_metrics
from train.record.starts import time_spent
from train.report.samples import write_samples
from train.report.task_examples import write_task_examples
from train.report.views import views_table, write_views
from train.step import State
from train.supervision.exits import DONE, LAST, leave, tell
from train.supervision.watchdog import Watchdog, report_hang
from train.tuning.tune_recipe import judged_by

REPORTING = "samples and report"


class Finished(NamedTuple):
    """A run that is trained and saved, as its hooks find it."""

    parts: Assembly
    text: Text
    state: State
    console: Console
    began: float  # when the program was started, by time.perf_counter()

    @property
    def run(self) -> Path:
        return self.parts.recipe.run

    def trains(self, use: str) -> bool:
        """Whether a task is trained of which its class says so: `generates`, for one (see data/tasks/task.py)."""
        return any(getattr(task, use) for task in self.text.rows.trained.values())

    def model(self) -> LanguageModel:
        """What `gptjax.load` gives: the best by the figure that the run is judged by, else the last."""
        parts, judged = self.parts, judged_by(self.parts.recipe) is not None
        if jax.process_count() == 1 and not judged:
            params, config = merged(self.state.params, parts.config)
            talks = self.text.generation_config
            model = LanguageModel(config, self.text.tokenizer, params, generation_config=talks, mesh=parts.mesh)
            model.step = int(self.state.step)
            return model
        mesh = parts.mesh
        if jax.process_count() > 1:  # the other processes are gone: their share is on disk
            local = jax.local_devices()
            mesh = make_mesh(fsdp=len(local), devices=local)
            if url_of(self.run) is not None:  # or on the bucket
                try:
                    check_sizes(self.run, steps(self.run)[-1])
                except ValueError:
                    BucketRun(self.run).fetch_newest(tell)
        return gptjax.load(self.run, None if judged else int(self.state.step), mesh=mesh)


class Hook(NamedTuple):
    """What follows a run, where its caller wants it."""

    name: str
    act: Callable[[Finished], None]


def finish(finished: Finished, hooks: Sequence[Hook], leaving: Callable[[], object], seconds: float = LAST) -> None:
    """Calls the hooks in turn; only process 0 does, and needs no other: they have parted.

    Where one hangs, `leaving` is called, gets so many seconds, and the process ends, as one that is done.
    """
    run = finished.run

    def hung(phase: str, seconds: float) -> None:
        try:
            report_hang(run, 0, 1, phase, seconds, watchdog.limit(phase))
            tell(f"{run}: is trained and saved; `./launch.sh report {shlex.quote(shown(run))}` writes its report")
        finally:
            leave(DONE, leaving, seconds)

    watchdog = Watchdog(finished.parts.recipe.hang_after, hung)
    try:
        with watchdog.phase(REPORTING):
            for hook in hooks:
                with watchdog.phase(hook.name), optional(hook.name, finished.console):
                    hook.act(finished)
    finally:
        watchdog.stop()


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


def _compare_with_xz(finished: Finished) -> None:
    finished.console.print("\nwriting the report, and what goes into it ...")
    _write_xz(finished.run, finished.text.prepared)


def _sample(finished: Finished) -> None:
    if not finished.trains("generates"):
        return
    recipe = finished.parts.recipe
    settings = {"step": int(finished.state.step), "samples": recipe.samples, "seed": recipe.seed}
    write_samples(finished.run, finished.text.prepared, finished.model(), **settings, console=finished.console)


def _show_results(finished: Finished) -> None:
    if finished.trains("models_text"):
        finished.console.print(_results(finished.run))


def _read_both_ways(finished: Finished) -> None:
    if finished.trains("models_text") and finished.trains("masks"):
        found = write_views(finished.run, finished.text.prepared, finished.model())
        finished.console.print(views_table(found))


def _answer_tasks(finished: Finished) -> None:
    text, terms = finished.text, finished.parts.loss_spec.terms
    write_task_examples(finished.run, text.prepared, text.rows, terms, finished.model())


def _report(finished: Finished) -> None:
    from train.report import report  # here: it imports Matplotlib, which the first step does not wait for

    path, (trained, starts) = report.write_report(finished.run), time_spent(finished.run)
    whole = report.duration(time.perf_counter() - finished.began)
    often = f" in {starts} starts" if starts > 1 else ""
    finished.console.print(
        f"report: [bold]{escape(str(path))}[/]   (trained for {report.duration(trained)}{often}; this start, with all "
        f"that followed the last step, took {whole})"
    )


def _last_words(finished: Finished) -> None:
    if not finished.trains("generates"):
        return
    finished.console.print(f"talk with it: [bold]./launch.sh generate {escape(shlex.quote(shown(finished.run)))}[/]")


REPORT, LAST_WORDS = Hook("report", _report), Hook("last words", _last_words)
# What follows pretraining.
PRETRAINED = (
    Hook("comparison with xz", _compare_with_xz),
    Hook("samples", _sample),
    Hook("table of bits per byte", _show_results),
    Hook("held-out text read both ways", _read_both_ways),
    Hook("examples of tasks", _answer_tasks),
    REPORT,
    LAST_WORDS,
)


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
    for name, score in last_scores(read_metrics(run / "metrics.jsonl")).items():
        beside = [f"{xz[name][of]:.3f}" if name in xz else "–" for of in ("alone", "after_training_text")]
        table.add_row(escape(name), f"{score.loss:.4f}", f"{score.bits_per_byte:.3f}", *beside)
    return table
