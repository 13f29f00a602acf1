"""What a step of training costs, measured on the text, the input pipeline and the compiled step that training uses."""

import dataclasses
import json
import resource
import statistics
import sys
import time
from typing import Any

import jax
from rich.table import Table

from data.prepare import vocabulary_bound
from data.rows.rows import Rows
from train.assemble import Assembly, assemble, config_of, mesh_of, open_text
from train.recipe import Recipe, to_json
from train.record.meter import Compilations, Start, data_sheet_flops, measured_flops
from train.record.provenance import environment
from train.record.step_time import WARM_UP, timed_steps

INPUT_TOKENS = 2_000_000  # that the pipeline alone is timed over


@dataclasses.dataclass(frozen=True, kw_only=True)
class Measured:
    """What one process found. A step is timed alone: its batch fetched and placed, its new state waited for."""

    step_ms: tuple[float, ...]  # of every timed step
    input_ms: tuple[float, ...]  # the part of each that went by before its batch was on the device
    tokens_per_step: int
    flops_per_token: int
    parameters: int
    dtype: str
    measured_flops: float  # operations a second of a matrix product in that dtype, timed in this run
    data_sheet_flops: float | None  # the maker's figure, for chips and dtypes that we know
    start_seconds: dict[str, float]  # from the program's start to the first finished step, by stage
    compile_seconds: float  # XLA's share of it, for the training step
    compilations: dict[str, int]  # by function, in the whole run
    compilations_when_warm: int  # of them, after the first step; anything but 0 spoils the times
    input_tokens_per_second: float  # the pipeline alone, nothing trained
    peak_bytes: int
    peak_of: str  # "process" (resident, on a CPU) or "device" (the fullest one)
    compilation_cache: str | None  # a folder that may have spared compile_seconds
    environment: dict[str, str]
    recipe: dict[str, Any]

    @property
    def ms_per_step(self) -> float:
        """The median."""
        return statistics.median(self.step_ms)

    @property
    def quartiles_ms(self) -> tuple[float, float]:
        low, _, high = statistics.quantiles(self.step_ms, n=4, method="inclusive")
        return low, high

    @property
    def tokens_per_second(self) -> float:
        return self.tokens_per_step / self.ms_per_step * 1000

    @property
    def mfu(self) -> float:
        """Model FLOPs utilisation: ModelConfig.flops_per_token x tokens a second / measured_flops."""
        return self.flops_per_token * self.tokens_per_second / self.measured_flops

    @property
    def seconds_to_first_step(self) -> float:
        return sum(self.start_seconds.values())

    def as_json(self) -> dict[str, Any]:
        derived = ("ms_per_step", "quartiles_ms", "tokens_per_second", "mfu", "seconds_to_first_step")
        return {name: getattr(self, name) for name in derived} | dataclasses.asdict(self)

    def table(self) -> Table:
        """The same for people."""
        rate, low, high = self.tokens_per_second, *self.quartiles_ms
        stages = ", ".join(f"{stage} {seconds:.1f}" for stage, seconds in self.start_seconds.items())
        others = {name: count for name, count in self.compilations.items() if name != "jit(step)"}
        flops = f"{self.flops_per_token / 1e6:,.1f} MFLOP a token x {rate:,.0f} tokens/s"
        lines = {
            "ms per step": f"[bold]{self.ms_per_step:,.1f}[/] median of {len(self.step_ms)} warm steps, each waited "
            f"for; min {min(self.step_ms):,.1f}, middle half {low:,.1f} to {high:,.1f}",
            "of it, waiting for input": f"{statistics.median(self.input_ms):,.1f} ms",
            "tokens/s": f"[bold]{rate:,.0f}[/], {self.tokens_per_step:,} a step",
            "MFU": f"[bold]{self.mfu:.1%}[/] = {flops} / {self.measured_flops / 1e12:,.2f} TFLOP/s",
            "FLOP a token": "6 for each weight in a product + 12 L N H T for attention "
            f"({self.parameters / 1e6:,.2f}M parameters)",
            "peak": f"{self.measured_flops / 1e12:,.2f} TFLOP/s, the fastest {self.dtype} product of this run",
            "seconds to the first step": f"[bold]{self.seconds_to_first_step:,.1f}[/]: {stages}",
            "seconds of compilation": f"{self.compile_seconds:,.1f} by XLA, for the step",
            "compilations of the step": f"{self.compilations['jit(step)']}; after the first step "
            f"{self.compilations_when_warm}; of other functions {sum(others.values())}",
            "input alone, tokens/s": f"{self.input_tokens_per_second:,.0f}",
            "peak memory": f"{self.peak_bytes / 1e6:,.0f} MB of the {self.peak_of}",
            "device": self.environment["devices"],
            "versions": ", ".join(f"{name} {self.environment[name]}" for name in ("jax", "jaxlib", "flax", "python")),
        }
        if self.data_sheet_flops is not None:
            share = self.flops_per_token * rate / self.data_sheet_flops
            lines["peak"] += f"; data sheet {self.data_sheet_flops / 1e12:,.0f}, of which {share:.1%} is reached"
        table = Table("", "", title="a step of training", show_header=False)
        for name, text in lines.items():
            table.add_row(name, text)
        return table


def bench(recipe: Recipe, steps: int, started: float) -> Measured:
    """Trains a few steps of a recipe from its start, `steps` of them timed; writes no run directory.

    `started` is when the program was, by time.perf_counter(). Raises ValueError where recipe, devices and text do not
    fit, before anything slow.
    """
    start = Start(started)
    start.finished("imports")
    mesh = mesh_of(recipe)
    config_of(recipe, vocabulary_bound(recipe.data), mesh)
    _, tokenizer, rows, loss_spec, _ = open_text(recipe)
    start.finished("text")
    with jax.set_mesh(mesh), Compilations() as compilations:
        parts = assemble(recipe, tokenizer.size, loss_spec, mesh)
        state = jax.block_until_ready(parts.fresh())
        start.finished("first state")
        batches = parts.loader.training(rows, 0, 1 + WARM_UP + steps)
        batch = next(batches)
        start.finished("first batch")
        state, metrics = parts.train_step(state, batch, parts.stop_flag(stop=False))
        start.finished("compiling")
        jax.block_until_ready((state, metrics))
        start.finished("first step")
        cold = compilations.counts.total()
        state, _ = timed_steps(parts, state, batches, WARM_UP)
        state, times = timed_steps(parts, state, batches, steps)
        warm = compilations.counts.total()
        peak_bytes, peak_of = _peak_memory()
    return Measured(
        step_ms=tuple(whole for whole, _ in times),
        input_ms=tuple(waited for _, waited in times),
        tokens_per_step=parts.tokens_per_step,
        flops_per_token=parts.config.flops_per_token,
        parameters=parts.config.parameters,
        dtype=recipe.compute.dtype,
        measured_flops=measured_flops(recipe.compute.dtype),
        data_sheet_flops=data_sheet_flops(recipe.compute.dtype),
        start_seconds=start.seconds,
        compile_seconds=compilations.seconds["jit(step)"],
        compilations=dict(compilations.counts),
        compilations_when_warm=warm - cold,
        input_tokens_per_second=_input_speed(parts, rows),
        peak_bytes=peak_bytes,
        peak_of=peak_of,
        compilation_cache=jax.config.jax_compilation_cache_dir,
        environment=environment(),
        recipe=json.loads(to_json(recipe)),
    )


def _input_speed(parts: Assembly, rows: Rows) -> float:
    """Tokens a second of the pipeline, read as fast as it goes, after its first batch."""
    steps = -(-INPUT_TOKENS // parts.tokens_per_step)
    batches = parts.loader.training_here(rows, 0, steps + 1)
    next(batches)
    began = time.perf_counter()
    for _ in batches:
        pass
    return steps * parts.tokens_per_step / (time.perf_counter() - began)


def _peak_memory() -> tuple[int, str]:
    """(most bytes in use so far, whose): of the fullest device, or of the process where devices do not count theirs."""
    stats = [device.memory_stats() for device in jax.local_devices()]
    if all(stats):
        return max(found["peak_bytes_in_use"] for found in stats), "device"
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit, "process"
