"""A training run from its recipe to its report: the only training loop, and all of its printing, timing and saving."""

import dataclasses
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from data.pipeline import Rows, training_batches, validation_batches
from data.prepare import prepare, xz_figures
from gptjax.batch import Batch
from gptjax.checkpoint import CheckpointWriter, manifest, restore, steps, verify, write_whole
from gptjax.config import ModelConfig
from gptjax.generate import LanguageModel
from gptjax.model import Transformer
from gptjax.sharding import batch_sharding, check_divides, held_rows, make_mesh
from gptjax.tokenizer import Tokenizer
from train.meter import Records, Speed, peak_flops
from train.optimizer import learning_rate, make_optimizer
from train.provenance import check_continues, check_disk, describe_run
from train.recipe import Recipe
from train.report import last_scores, write_report
from train.samples import write_samples
from train.step import State, abstract_state, make_train_step, make_validation_step

RECORD_EVERY = 10  # steps


def pretrain(recipe: Recipe, console: Console, started: float | None = None) -> Path:
    """Trains until the recipe's last step, or from where the run directory left off; returns the run directory.

    `started` is when the program was, by time.perf_counter(), so that times told include its imports; None = now.

    Raises ValueError, before anything slow and with the run as it was, where recipe, devices, text and run do not fit.
    """
    started = time.perf_counter() if started is None else started
    run = recipe.run
    spec = recipe.mesh
    mesh = make_mesh(spec.data or max(1, jax.device_count() // (spec.fsdp * spec.tensor)), spec.fsdp, spec.tensor)
    config = ModelConfig(**dataclasses.asdict(recipe.model), vocabulary=recipe.data.vocabulary)
    _check_mesh(mesh, recipe, config)
    check_continues(run, recipe)
    check_disk(recipe, config)

    prepared = prepare(recipe.data)
    tokenizer = Tokenizer.load(prepared / "tokenizer.json")
    config = dataclasses.replace(config, vocabulary=tokenizer.size)
    _check_mesh(mesh, recipe, config)
    rows = Rows(prepared, config.T, recipe.seed)
    describe_run(run, recipe, config, tokenizer, prepared)
    console.print(
        f"[bold]{escape(str(run))}[/]  {config.parameters / 1e6:.2f}M parameters, {config.L} layers, width {config.D}, "
        f"{recipe.batch.rows} rows of {config.T} tokens a step, {recipe.compute.dtype}, mesh {dict(mesh.shape)}"
    )
    with jax.set_mesh(mesh):
        state = _Trainer(recipe, config, mesh, rows, prepared, tokenizer, console, started).train()
    console.print("\ncomparing with xz, writing samples and the report ...")
    write_whole(run / "xz.json", json.dumps(xz_figures(prepared), indent=1) + "\n")
    model = LanguageModel(config, tokenizer, state.params, mesh=mesh)
    samples = {"step": int(state.step), "samples": recipe.samples, "seed": recipe.seed}
    write_samples(run, prepared, model, **samples, console=console)
    console.print(_results(run))
    minutes = (time.perf_counter() - started) / 60
    console.print(f"report: [bold]{escape(str(write_report(run)))}[/]   ({minutes:.1f} minutes in all)")
    console.print(f"talk with it: [bold]./launch.sh generate {escape(str(run))}[/]")
    return run


def _check_mesh(mesh: jax.sharding.Mesh, recipe: Recipe, config: ModelConfig) -> None:
    sizes = {name: getattr(config, name) for name in ("D", "N", "K", "F", "V")}
    check_divides(mesh, rows=recipe.batch.micro_rows, **sizes)


class _Trainer:
    """The loop and what it holds open: compiled steps, progress bar, records, checkpoints."""

    def __init__(
        self, recipe: Recipe, config: ModelConfig, mesh: jax.sharding.Mesh, rows: Rows, prepared: Path,
        tokenizer: Tokenizer, console: Console, started: float,
    ):  # fmt: skip
        self.recipe, self.mesh, self.rows, self.prepared = recipe, mesh, rows, prepared
        self.console, self.started = console, started
        self.B = recipe.batch.micro_rows
        self.own_rows = held_rows(mesh, self.B, mesh.local_devices)
        self.tokens_per_step = recipe.batch.rows * config.T
        self.last_step = min(recipe.steps, recipe.stop_after or recipe.steps)
        unroll = config.L if recipe.compute.unroll else 1
        model = Transformer(config, jnp.dtype(recipe.compute.dtype), recipe.compute.remat, unroll)
        optimizer = make_optimizer(recipe.optimizer, recipe.steps)
        self.abstract, self.fresh = abstract_state(model, optimizer, mesh, recipe.seed)
        self.train_step = make_train_step(model, optimizer, self.abstract, mesh, self.B, recipe.seed)
        self.validation_step = make_validation_step(model, self.abstract, mesh, self.B)
        self.learning_rate = learning_rate(recipe.optimizer, recipe.steps)
        bytes_V = np.zeros(config.V, np.float32)
        bytes_V[: tokenizer.size] = tokenizer.byte_lengths()
        self.bytes_V = bytes_V
        self.flops_per_token = config.flops_per_token

    def train(self) -> State:
        """Steps to the last one, with validation, checkpoints and records. Saves before it passes Ctrl-C on."""
        self.state = self._first_state()
        first_step = int(self.state.step)
        if first_step >= self.last_step:
            self.console.print(f"already at step {first_step}; nothing to train")
            return self.state
        self.records = Records(self.recipe.run, first_step)
        self.writer = CheckpointWriter(self.recipe.run, self.recipe.checkpoint.keep)
        self.speed = Speed(self.tokens_per_step, self.flops_per_token, peak_flops(self.recipe.compute.dtype))
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
            params = restore(run, step, "params", self.abstract.params)
            training = restore(run, step, "training", _training(self.abstract))
            self.console.print(f"continuing from step {step}, saved {manifest(run, step)['saved']}")
            return State(training["step"], params, training["optimizer"])
        if steps(run):
            raise ValueError(f"run={run}: every checkpoint is damaged; restore one, or start anew with another --run")
        return self.fresh()

    def _steps(self, first_step: int) -> None:
        """Takes one step after another. A loss is read while the device works on the next step."""
        batches = training_batches(
            self.rows, first_row=first_step * self.recipe.batch.rows, steps=self.last_step - first_step,
            micro_batches=self.recipe.batch.micro_batches, B=self.B, keep=self.own_rows,
        )  # fmt: skip
        losses, waiting = [], None
        for step, batch in enumerate(self._placed(batches, leading=1), start=first_step + 1):
            self.state, metrics = self.train_step(self.state, batch)
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
            self.console.print(f"first step finished {time.perf_counter() - self.started:.1f} s after the start")
            self.speed.start()
        else:
            self.speed.step()
        return loss

    def _record(self, step: int, loss: float, metrics: dict[str, jax.Array]) -> None:
        """Writes the mean loss since the last record, and what else a curve is drawn of."""
        self.records.write(
            "train", step, tokens=step * self.tokens_per_step, loss=loss,
            learning_rate=float(np.asarray(self.learning_rate(step - 1))),
            gradient_norm=float(metrics["gradient_norm"]), tokens_per_second=self.speed.tokens_per_second,
            mfu=self.speed.mfu, seconds=time.perf_counter() - self.started,
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
            batches = validation_batches(folder, self.rows.T, self.B, most_rows, self.own_rows)
            sums = np.zeros(3)
            for batch in self._placed(batches, leading=0):
                sums += np.asarray(self.validation_step(self.state.params, batch, self.bytes_V), np.float64)
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

    def _placed(self, batches: Iterator[Batch], leading: int) -> Iterator[Batch]:
        """Every host's rows as one array over the mesh."""
        place = batch_sharding(self.mesh, leading)
        for batch in batches:
            yield Batch(*(jax.make_array_from_process_local_data(place, array) for array in batch))


def _training(state: State) -> dict[str, Any]:
    """What a checkpoint keeps beside the parameters."""
    return {"step": state.step, "optimizer": state.optimizer}


def _results(run: Path) -> Table:
    """Bits per byte of every source beside xz."""
    xz = json.loads((run / "xz.json").read_text(encoding="utf-8"))
    table = Table("held-out text of", title="bits per byte (lower is better), beside what xz makes of the same text")
    for heading in ("nats/token", "bits/byte", "xz -9 alone", "xz after the training text"):
        table.add_column(heading, justify="right")
    for name, record in last_scores(run / "metrics.jsonl").items():
        figures = (record["bits_per_byte"], xz[name]["alone"], xz[name]["after_training_text"])
        table.add_row(escape(name), f"{record['loss']:.4f}", *(f"{figure:.3f}" for figure in figures))
    return table
