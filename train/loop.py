"""A training run from its recipe to its report: the only training loop, and all of its printing, timing and saving."""

import json
import time
from pathlib import Path
from typing import Any

import jax
import numpy as np
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from data.pipeline import Rows, validation_batches
from data.prepare import vocabulary_bound, xz_figures
from gptjax.checkpoint import CheckpointWriter, manifest, restore, steps, verify, write_whole
from gptjax.generate import LanguageModel
from gptjax.tokenizer import Tokenizer
from train.assemble import Assembly, assemble, config_of, mesh_of, open_text
from train.meter import Records, Speed, Start, peak_flops
from train.optimizer import learning_rate
from train.provenance import check_continues, check_disk, describe_run
from train.recipe import Recipe
from train.samples import write_samples
from train.step import State

RECORD_EVERY = 10  # steps


def pretrain(recipe: Recipe, console: Console, started: float | None = None) -> Path:
    """Trains until the recipe's last step, or from where the run directory left off; returns the run directory.

    `started` is when the program was, by time.perf_counter(), so that times told include its imports; None = now.

    Raises ValueError, before anything slow and with the run as it was, where recipe, devices, text and run do not fit.
    """
    start = Start(time.perf_counter() if started is None else started)
    start.finished("imports")
    run = recipe.run
    mesh = mesh_of(recipe)
    config = config_of(recipe, vocabulary_bound(recipe.data), mesh)
    check_continues(run, recipe)
    check_disk(recipe, config)

    prepared, tokenizer, rows = open_text(recipe)
    config = config_of(recipe, tokenizer.size, mesh)
    describe_run(run, recipe, config, tokenizer, prepared, rows.rates)
    start.finished("text")
    console.print(
        f"[bold]{escape(str(run))}[/]  {config.parameters / 1e6:.2f}M parameters, {config.L} layers, width {config.D}, "
        f"{recipe.batch.rows} rows of {config.T} tokens a step, {recipe.compute.dtype}, mesh {dict(mesh.shape)}"
    )
    with jax.set_mesh(mesh):
        parts = assemble(recipe, tokenizer.size, mesh)
        state = _Trainer(parts, rows, prepared, tokenizer, console, start).train()
    console.print("\ncomparing with xz, writing samples and the report ...")
    write_whole(run / "xz.json", json.dumps(xz_figures(prepared), indent=1) + "\n")
    model = LanguageModel(config, tokenizer, state.params, mesh=mesh)
    samples = {"step": int(state.step), "samples": recipe.samples, "seed": recipe.seed}
    write_samples(run, prepared, model, **samples, console=console)
    from train.report import write_report  # here: it imports Matplotlib, which the first step does not wait for

    console.print(_results(run))
    minutes = (time.perf_counter() - start.began) / 60
    console.print(f"report: [bold]{escape(str(write_report(run)))}[/]   ({minutes:.1f} minutes in all)")
    console.print(f"talk with it: [bold]./launch.sh generate {escape(str(run))}[/]")
    return run


class _Trainer:
    """The loop and what it holds open: progress bar, records, checkpoints."""

    def __init__(
        self, parts: Assembly, rows: Rows, prepared: Path, tokenizer: Tokenizer, console: Console, start: Start
    ):
        self.parts, self.recipe, self.rows, self.prepared = parts, parts.recipe, rows, prepared
        self.console, self.start = console, start
        self.last_step = min(self.recipe.steps, self.recipe.stop_after or self.recipe.steps)
        self.learning_rate = learning_rate(self.recipe.optimizer, self.recipe.steps)
        self.bytes_V = np.zeros(parts.config.V, np.float32)
        self.bytes_V[: tokenizer.size] = tokenizer.byte_lengths()

    def train(self) -> State:
        """Steps to the last one, with validation, checkpoints and records. Saves before it passes Ctrl-C on."""
        self.state = self._first_state()
        first_step = int(self.state.step)
        self.start.finished("first state")
        if first_step >= self.last_step:
            self.console.print(f"already at step {first_step}; nothing to train")
            return self.state
        self.records = Records(self.recipe.run, first_step)
        self.writer = CheckpointWriter(self.recipe.run, self.recipe.checkpoint.keep)
        peak = peak_flops(self.recipe.compute.dtype)
        self.speed = Speed(self.parts.tokens_per_step, self.parts.config.flops_per_token, peak)
        self.start.finished("peak")
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        self.bar = Progress(*columns, console=self.console, disable=not self.console.is_terminal)
        self.task = self.bar.add_task("compiling", total=self.last_step, completed=first_step)
        try:
            with self.bar:
                self._steps(first_step)
        except KeyboardInterrupt:
            self.writer.wait()
            step = int(self.state.step)
            if step not in steps(self.recipe.run):
                self._save()
            raise KeyboardInterrupt(f"saved at step {step}; the same command goes on from there") from None
        finally:
            self.writer.close()
            self.records.close()
        return self.state

    def _first_state(self) -> State:
        """The newest step whose files are whole; a fresh state where there is none."""
        run = self.recipe.run
        for step in reversed(steps(run)):
            try:
                verify(run, step)
            except ValueError as error:
                self.console.print(f"[bold]not used:[/] {escape(str(error))}")
                continue
            params = restore(run, step, "params", self.parts.abstract.params)
            training = restore(run, step, "training", _training(self.parts.abstract))
            self.console.print(f"continuing from step {step}, saved {manifest(run, step)['saved']}")
            return State(training["step"], params, training["optimizer"])
        if steps(run):
            raise ValueError(f"run={run}: every checkpoint is damaged; restore one, or start anew with another --run")
        return self.parts.fresh()

    def _steps(self, first_step: int) -> None:
        """Takes one step after another. A loss is read while the device works on the next step."""
        batches = self.parts.batches(self.rows, first_step, self.last_step - first_step)
        losses, waiting = [], None
        for step, batch in enumerate(self.parts.placed(batches, leading=1), start=first_step + 1):
            if step == first_step + 1:
                self.start.finished("first batch")
            self.state, metrics = self.parts.train_step(self.state, batch)
            if step == first_step + 1:
                self.start.finished("compiling")
            if waiting is not None:
                losses.append(self._finished(waiting, step - 1, first_step))
            waiting = metrics
            ends = step == self.last_step
            validates = ends or step % self.recipe.validation.every == 0
            saves = ends or step % self.recipe.checkpoint.every == 0
            if validates or saves or step % RECORD_EVERY == 0:
                losses.append(self._finished(metrics, step, first_step))
                self._record(step, float(np.mean(losses)), metrics)
                losses, waiting = [], None
            self.bar.update(self.task, completed=step)
            if validates:
                self._validate("validation", step, self.recipe.validation.rows)
            if ends:  # before the save: a run killed in between does it again
                self._validate("final", step, self.recipe.validation.final_rows)
            if saves:
                self._save()
            if validates or saves:
                self.speed.start()

    def _finished(self, metrics: dict[str, jax.Array], step: int, first_step: int) -> float:
        """The loss of a step, once the device has it. The first step compiles: the clock starts after it.

        Raises ValueError where loss or gradient is not a number, before the state that came of it can be saved.
        """
        loss, norm = float(metrics["loss"]), float(metrics["gradient_norm"])
        if not (np.isfinite(loss) and np.isfinite(norm)):
            raise ValueError(
                f"step {step}: the loss is {loss}, the gradient's norm {norm}; saved steps: {steps(self.recipe.run)}. "
                "Start a new run (--run) with a lower optimizer.learning_rate"
            )
        if step == first_step + 1:
            self.start.finished("first step")
            self.console.print(f"first step finished {self.start}", highlight=False)
            self.speed.start()
        else:
            self.speed.step()
        return loss

    def _record(self, step: int, loss: float, metrics: dict[str, jax.Array]) -> None:
        """Writes the mean loss since the last record, and what else a curve is drawn of."""
        self.records.write(
            "train", step, tokens=step * self.parts.tokens_per_step, loss=loss,
            learning_rate=float(np.asarray(self.learning_rate(step - 1))),
            gradient_norm=float(metrics["gradient_norm"]), tokens_per_second=self.speed.tokens_per_second,
            mfu=self.speed.mfu, seconds=time.perf_counter() - self.start.began,
        )  # fmt: skip
        shown = f"loss {loss:.3f}  {self.speed.tokens_per_second:,.0f} tokens/s  MFU {self.speed.mfu:.0%}"
        self.bar.update(self.task, description=shown)

    def _save(self) -> None:
        step = int(self.state.step)
        self.writer.save(step, self.state.params, _training(self.state), {"rows": step * self.recipe.batch.rows})

    def _validate(self, kind: str, step: int, most_rows: int) -> None:
        """Measures every source's held-out text: nats per token, perplexity, bits per byte."""
        sources = json.loads((self.prepared / "prepared.json").read_text(encoding="utf-8"))["sources"]
        told = []
        for name, source in sources.items():
            folder = self.prepared / source["folder"] / "validation"
            B, own_rows = self.recipe.batch.micro_rows, self.parts.own_rows()
            batches = validation_batches(folder, self.rows.T, B, most_rows, own_rows)
            sums = np.zeros(3)
            for batch in self.parts.placed(batches, leading=0):
                sums += np.asarray(self.parts.validation_step(self.state.params, batch, self.bytes_V), np.float64)
            nats, targets, size = sums.tolist()
            loss, bits = nats / targets, nats / np.log(2) / size
            self.records.write(
                kind, step, source=name, loss=loss, perplexity=float(np.exp(loss)), bits_per_byte=float(bits),
                targets=int(targets), bytes=int(size),
            )  # fmt: skip
            told.append(f"{name} {bits:.3f}")
        if kind == "validation":
            said = f"step {step}: bits per byte of held-out text: {', '.join(told)}"
            self.console.print(said, highlight=False, markup=False)


def _training(state: State) -> dict[str, Any]:
    """What a checkpoint keeps beside the parameters."""
    return {"step": state.step, "optimizer": state.optimizer}


def _results(run: Path) -> Table:
    """Bits per byte of every source beside xz."""
    from train.report import last_scores

    xz = json.loads((run / "xz.json").read_text(encoding="utf-8"))
    table = Table("held-out text of", title="bits per byte (lower is better), beside what xz makes of the same text")
    for heading in ("nats/token", "bits/byte", "xz -9 alone", "xz after the training text"):
        table.add_column(heading, justify="right")
    for name, record in last_scores(run / "metrics.jsonl").items():
        figures = (record["bits_per_byte"], xz[name]["alone"], xz[name]["after_training_text"])
        table.add_row(escape(name), f"{record['loss']:.4f}", *(f"{figure:.3f}" for figure in figures))
    return table
