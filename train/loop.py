"""A training run from its recipe to its report. The only file with a training loop: all printing, timing and saving happens here."""

import dataclasses
import json
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from data.pipeline import Rows, training_batches, validation_batches
from data.prepare import prepare, xz_figures
from gptjax.batch import Batch
from gptjax.checkpoint import CheckpointWriter, manifest, restore, steps, verify, write_whole
from gptjax.config import ModelConfig, load_model_config, save_model_config
from gptjax.model import Transformer
from gptjax.sharding import batch_sharding, check_divides, make_mesh
from gptjax.tokenizer import Tokenizer
from train.meter import Records, Speed, peak_flops
from train.optimizer import learning_rate, make_optimizer
from train.provenance import attribution, environment
from train.recipe import Recipe, changes, to_json
from train.report import write_report
from train.samples import write_samples
from train.step import State, abstract_state, make_train_step, make_validation_step

RECORD_EVERY = 10  # steps


def pretrain(recipe: Recipe, console: Console) -> Path:
    """Trains until the recipe's last step, or from where the run directory left off; returns the run directory.

    Raises ValueError, before anything slow and with the run as it was, where recipe, devices, text and run directory do not fit.
    """
    started = time.perf_counter()
    run, T = recipe.run, recipe.model.T
    mesh = _mesh(recipe)
    micro_rows = recipe.batch.rows // recipe.batch.micro_batches
    padded = ModelConfig(**dataclasses.asdict(recipe.model), vocabulary=recipe.data.vocabulary)
    check_divides(mesh, rows=micro_rows, N=padded.N, K=padded.K, F=padded.F, V=padded.V)
    _check_continues(run, recipe)
    _check_disk(recipe, padded)

    prepared = prepare(recipe.data)
    tokenizer = Tokenizer.load(prepared / "tokenizer.json")
    config = ModelConfig(**dataclasses.asdict(recipe.model), vocabulary=tokenizer.size)
    check_divides(mesh, rows=micro_rows, N=config.N, K=config.K, F=config.F, V=config.V)
    rows = Rows(prepared, T, recipe.seed)
    _open_run(run, recipe, config, tokenizer, prepared)

    model = Transformer(
        config, jnp.dtype(recipe.compute.dtype), recipe.compute.remat, config.L if recipe.compute.unroll else 1
    )  # fmt: skip
    optimizer = make_optimizer(recipe.optimizer, recipe.steps)
    last_step = min(recipe.steps, recipe.stop_after or recipe.steps)
    with jax.set_mesh(mesh):
        abstract, fresh = abstract_state(model, optimizer, mesh, recipe.seed)
        state = _restore(run, abstract, console) if steps(run) else fresh()
        first_step = int(state.step)
        console.print(
            f"[bold]{run}[/]  {config.parameters / 1e6:.2f}M parameters, {config.L} layers, width {config.D}, "
            f"{recipe.batch.rows} rows of {T} tokens a step, {dict(mesh.shape)}, {recipe.compute.dtype}"
        )
        if first_step < last_step:
            trainer = _Trainer(recipe, mesh, model, optimizer, abstract, rows, prepared, tokenizer, console)
            state = trainer.train(state, last_step, started)
    if jax.process_index() == 0:
        console.print("comparing with xz, writing samples and the report ...")
        write_whole(run / "xz.json", json.dumps(xz_figures(prepared), indent=1) + "\n")
        write_samples(run, prepared, samples=recipe.samples, seed=recipe.seed, console=console)
        report = write_report(run)
        _say_results(run, console)
        console.print(f"done in {(time.perf_counter() - started) / 60:.1f} minutes. Report: [bold]{report}[/]")
        console.print(f"talk with it: [bold]./launch.sh generate {run}[/]")
    return run


class _Trainer:
    """The loop and what it holds open: compiled steps, records, checkpoints."""

    def __init__(self, recipe, mesh, model, optimizer, abstract, rows, prepared, tokenizer, console):
        self.recipe, self.mesh, self.abstract, self.rows, self.console = recipe, mesh, abstract, rows, console
        self.A, self.B = recipe.batch.micro_batches, recipe.batch.rows // recipe.batch.micro_batches
        self.keep = _own_rows(mesh, self.B)
        self.rate = learning_rate(recipe.optimizer, recipe.steps)
        self.train_step = make_train_step(model, optimizer, abstract, mesh, self.B, recipe.seed)
        self.validation_step = make_validation_step(model, abstract, mesh, self.B)
        self.bytes_V = jnp.zeros(model.config.V).at[: tokenizer.size].set(jnp.array(tokenizer.byte_lengths(), jnp.float32))
        self.prepared, self.config = prepared, model.config
        self.sources = json.loads((prepared / "prepared.json").read_text(encoding="utf-8"))["sources"]

    def train(self, state: State, last_step: int, started: float) -> State:
        """Steps from the state to `last_step`, with validation, checkpoints and records on the way."""
        recipe, first_step = self.recipe, int(state.step)
        records = Records(recipe.run, first_step)
        writer = CheckpointWriter(recipe.run, recipe.checkpoint.keep)
        batches = self._placed(
            training_batches(
                self.rows, first_row=first_step * recipe.batch.rows, steps=last_step - first_step,
                micro_batches=self.A, B=self.B, keep=self.keep,
            ), leading=1,
        )  # fmt: skip
        tokens_per_step = recipe.batch.rows * self.rows.T
        speed = Speed(tokens_per_step, self.config.flops_per_token, peak_flops(recipe.compute.dtype))
        bar = Progress(
            TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[shown]}"),
            TimeRemainingColumn(), console=self.console, disable=not self.console.is_terminal,
        )  # fmt: skip
        try:
            with bar:
                task = bar.add_task("training", total=last_step, completed=first_step, shown="compiling")
                pending, losses = None, []
                for step, batch in enumerate(batches, start=first_step + 1):
                    state, metrics = self.train_step(state, batch)
                    if pending is not None:  # read while the device works on the next step
                        losses.append(_finite(pending, step - 1))
                        if step == first_step + 2:
                            self.console.print(f"first step finished {time.perf_counter() - started:.1f} s after the start")
                            speed.start()
                        else:
                            speed.step()
                    pending = metrics
                    shown = f"loss {np.mean(losses[-RECORD_EVERY:]):.3f}  {speed.tokens_per_second:,.0f} tokens/s  MFU {speed.mfu:.0%}" if losses else ""
                    bar.update(task, completed=step, shown=shown)
                    ends = step == last_step
                    if step % RECORD_EVERY == 0 or ends:
                        losses.append(_finite(metrics, step))
                        speed.step()
                        pending = None
                        records.write(
                            "train", step, tokens=step * tokens_per_step, loss=float(np.mean(losses)),
                            learning_rate=float(self.rate(step - 1)), gradient_norm=float(metrics["gradient_norm"]),
                            tokens_per_second=speed.tokens_per_second, mfu=speed.mfu, seconds=time.perf_counter() - started,
                        )  # fmt: skip
                        losses = []
                    validates = step % recipe.validation.every == 0 or ends
                    saves = step % recipe.checkpoint.every == 0 or ends
                    if validates:
                        self._validate(state, step, ends, records)
                    if saves:
                        writer.save(step, state.params, self._training(state), {"rows": step * recipe.batch.rows})
                    if validates or saves:
                        speed.start()
        except KeyboardInterrupt:
            writer.save(int(state.step), state.params, self._training(state), {"rows": int(state.step) * recipe.batch.rows})
            writer.close()
            raise KeyboardInterrupt(f"saved at step {int(state.step)}; the same command goes on from there") from None
        finally:
            writer.close()
            records.close()
        return state

    @staticmethod
    def _training(state: State) -> dict[str, Any]:
        return {"step": state.step, "optimizer": state.optimizer}

    def _validate(self, state: State, step: int, final: bool, records: Records) -> None:
        """Measures every source's validation text and records nats per token, perplexity and bits per byte."""
        spec = self.recipe.validation
        told = []
        for name, source in self.sources.items():
            folder = self.prepared / source["folder"] / "validation"
            most = spec.final_rows if final else spec.rows
            sums = np.zeros(3)
            batches = validation_batches(folder, self.rows.T, self.B, most, self.keep)
            for batch in self._placed(batches, leading=0):
                sums += np.asarray(self.validation_step(state.params, batch, self.bytes_V), np.float64)
            nats, targets, size = sums
            loss = nats / targets
            bits = nats / np.log(2) / size
            records.write(
                "validation", step, source=name, loss=loss, perplexity=float(np.exp(loss)), bits_per_byte=bits,
                targets=int(targets), bytes=int(size), final=final,
            )  # fmt: skip
            told.append(f"{name} {loss:.3f} ({bits:.2f})" if len(self.sources) > 1 else f"{name} {loss:.4f} nats a token, {bits:.3f} bits a byte")
        self.console.print(f"step {step}: validation " + ", ".join(told))

    def _placed(self, batches: Iterator[Batch], leading: int) -> Iterator[Batch]:
        """Every host's rows as one array over the mesh."""
        place = batch_sharding(self.mesh, leading)
        for batch in batches:
            yield Batch(*(jax.make_array_from_process_local_data(place, array) for array in batch))


def _mesh(recipe: Recipe) -> jax.sharding.Mesh:
    spec = recipe.mesh
    data = spec.data or max(1, jax.device_count() // (spec.fsdp * spec.tensor))
    return make_mesh(data, spec.fsdp, spec.tensor)


def _own_rows(mesh: jax.sharding.Mesh, B: int) -> slice:
    """The rows of a batch that this host's devices hold."""
    held = [places[0].indices(B) for places in batch_sharding(mesh).addressable_devices_indices_map((B,)).values()]
    return slice(min(start for start, _, _ in held), max(stop for _, stop, _ in held))


def _finite(metrics: dict[str, jax.Array], step: int) -> float:
    loss = float(metrics["loss"])
    if not np.isfinite(loss):
        raise ValueError(f"step {step}: the loss is {loss}; lower optimizer.learning_rate, then start again from the last checkpoint")
    return loss


def _check_continues(run: Path, recipe: Recipe) -> None:
    if not (run / "recipe.json").exists():
        if run.exists() and any(run.iterdir()):
            raise ValueError(f"run={run}: the folder is not empty and holds no run of gptjax; choose another with --run")
        return
    if differing := changes((run / "recipe.json").read_text(encoding="utf-8"), to_json(recipe)):
        listed = "\n  ".join(differing)
        raise ValueError(
            f"run={run} was started with another recipe:\n  {listed}\n"
            "start a new run with --run runs/another-name, or repeat the old command to continue this one"
        )


def _check_disk(recipe: Recipe, config: ModelConfig) -> None:
    folder = next(parent for parent in [recipe.run.absolute(), *recipe.run.absolute().parents] if parent.exists())
    needed = config.parameters * 3 * 4 * (recipe.checkpoint.keep + 1)
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise ValueError(
            f"disk: {recipe.checkpoint.keep + 1} checkpoints of {config.parameters / 1e6:.1f}M parameters with their moments need "
            f"{needed / 1e9:.1f} GB, {folder} has {free / 1e9:.1f} GB free; free some, or set --run on another disk"
        )


def _open_run(run: Path, recipe: Recipe, config: ModelConfig, tokenizer: Tokenizer, prepared: Path) -> None:
    """Writes what describes the run; what a run directory already has must agree."""
    if (run / "model.json").exists():
        kept = load_model_config(run / "model.json")
        if kept != config:
            was, now = dataclasses.asdict(kept), dataclasses.asdict(config)
            listed = ", ".join(f"model.{name}: {was[name]!r} -> {now[name]!r}" for name in was if was[name] != now[name])
            raise ValueError(f"run={run} holds another model ({listed}); choose another folder with --run")
        held = Tokenizer.load(run / "tokenizer.json").fingerprint
        if held != tokenizer.fingerprint:
            raise ValueError(
                f"run={run} holds another tokenizer (SHA-256 {held[:12]} -> {tokenizer.fingerprint[:12]}): "
                "the text has changed since; choose another folder with --run"
            )
    if jax.process_index() != 0:
        return
    run.mkdir(parents=True, exist_ok=True)
    save_model_config(config, run / "model.json")
    tokenizer.save(run / "tokenizer.json")
    description = (prepared / "prepared.json").read_text(encoding="utf-8")
    write_whole(run / "data.json", description)
    write_whole(run / "ATTRIBUTION.md", attribution(json.loads(description)["sources"]))
    write_whole(run / "environment.json", json.dumps(environment(), indent=1) + "\n")
    write_whole(run / "recipe.json", to_json(recipe))  # last: marks the folder as a run


def _restore(run: Path, abstract: State, console: Console) -> State:
    step = steps(run)[-1]
    verify(run, step)
    params = restore(run, step, "params", abstract.params)
    training = restore(run, step, "training", {"step": abstract.step, "optimizer": abstract.optimizer})
    console.print(f"continuing {run} from step {step}, saved {manifest(run, step)['saved']}")
    return State(training["step"], params, training["optimizer"])


def _say_results(run: Path, console: Console) -> None:
    """Bits per byte of every source beside xz."""
    from rich.table import Table

    records = [json.loads(line) for line in (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    last = {record["source"]: record for record in records if record["kind"] == "validation"}
    xz = json.loads((run / "xz.json").read_text(encoding="utf-8"))
    table = Table(title="bits per byte of held-out text (lower is better)")
    for heading in ("source", "this model", "xz -9 alone", "xz given the training text"):
        table.add_column(heading, justify="left" if heading == "source" else "right")
    for name, record in last.items():
        table.add_row(name, f"{record['bits_per_byte']:.3f}", f"{xz[name]['alone']:.3f}", f"{xz[name]['after_training_text']:.3f}")
    console.print(table)
