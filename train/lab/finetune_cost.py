"""What a step of fine-tuning costs, by what trains: operations, memory, seconds.

    python -m train.lab.finetune_cost runs/laptop --rows 8 --length 64 --classes 12

A head of classes reads whole texts, one a row, of random tokens: what they are changes no cost. `gradual` is shown stage
by stage, each compiled for what trains in it; as one run it costs what all costs from its first step on.
"""

import dataclasses
import gc
import statistics
import sys
import time
from collections.abc import Iterator
from typing import Annotated, Any, NamedTuple

import jax
import numpy as np
import tyro
from rich.table import Table

from data.examples.example_spec import ExamplesSpec
from data.examples.head_spec import HeadSpec
from data.spec import DataSpec
from gptjax.batch import Batch, ClassHead, text_batch
from gptjax.command.console import make_console, print_any_text
from gptjax.command.options import print_mistake, read
from gptjax.nn.model import Transformer
from gptjax.sharding import batch_sharding
from train.assemble import Assembly, assemble, mesh_of
from train.losses.terms import term_losses
from train.objectives import LossSpec, Term
from train.recipe import BatchSpec, ComputeSpec, OptimizerSpec
from train.tuning.base import Base, open_base
from train.tuning.strategies import groups, trained_by
from train.tuning.tune_recipe import TuneRecipe

HEAD = ClassHead(name="cost", classes=("one", "other"))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Asked:
    """What is measured."""

    base: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="BASE")] = "runs/laptop"
    """a run, a folder of Hugging Face, a .gguf file, or smollm2; its weights are not read"""
    rows: int = 8  # texts a step
    length: int = 64  # tokens of each
    classes: int = 8  # of the head
    steps: int = 10  # that are timed, after two that are not; 0 = none
    dtype: str = "bfloat16"  # of products, or float32
    only: tuple[
        str, ...
    ] = ()  # words of --train, such as head top-2; () = head, top-2, gradual stage by stage, all, lora

    def __post_init__(self):
        for name, least in (("rows", 1), ("length", 3), ("classes", 2), ("steps", 0)):
            if getattr(self, name) < least:
                raise ValueError(f"--{name} {getattr(self, name)}: must be at least {least}")


class Cost(NamedTuple):
    """Of one step."""

    what: str
    trained: int  # values
    flops: float  # as the compiler counts them, loops once
    held_bytes: int  # parameters, moments, batch
    peak_bytes: int  # the same and what the step needs beside them at most
    seconds: tuple[float, ...]  # of each timed step


def costs(asked: Asked) -> Iterator[Cost]:
    """Each strategy in turn. Raises ValueError for a base that there is not, and words that are none."""
    base = open_base(asked.base)
    for what, word in strategies(asked, base.architecture.L):
        recipe = recipe_of(asked, base, word)
        mesh = mesh_of(recipe, jax.devices()[:1])
        with jax.set_mesh(mesh):
            parts = assemble(recipe, base.tokenizer.size, loss_spec_of(asked), mesh)
            yield cost_of(what, parts, random_batch(asked, parts), asked.steps)
        gc.collect()


def strategies(asked: Asked, L: int) -> list[tuple[str, str]]:
    """(what it is called, its word)."""
    if asked.only:
        return [(word, word) for word in asked.only]
    trained = [L - part.start for part in groups(L)]
    stages = ["head", *(f"top-{count}" for count in trained[:-1]), "all"]
    gradual = [(f"gradual, stage {n} of {len(stages)} ({word})", word) for n, word in enumerate(stages, start=1)]
    return [("head", "head"), (f"top-{min(2, L)}", f"top-{min(2, L)}"), *gradual, ("all", "all"), ("lora", "lora")]


def recipe_of(asked: Asked, base: Base, word: str) -> TuneRecipe:
    """A recipe in which trains what the word says."""
    plain = TuneRecipe(
        base=asked.base, data=DataSpec(sources=("chitchat",)), model=base.architecture, run=base.path / "never",
        examples=ExamplesSpec(sources=("wiki_leads/en",), length=asked.length, head=HeadSpec(kind="classes")),
        optimizer=OptimizerSpec(warmup=0), batch=BatchSpec(rows=asked.rows), steps=100,
        compute=ComputeSpec(dtype=asked.dtype, unroll=True),  # pyright: ignore[reportArgumentType]
    )  # fmt: skip
    return trained_by(plain, word)


def loss_spec_of(asked: Asked) -> LossSpec:
    """One head of so many classes, one text a row."""
    head = dataclasses.replace(HEAD, classes=tuple(map(str, range(asked.classes))))
    term = Term("cost", 1, head=0, loss="classes", shares=(0.0,), weights=(1.0,), expected=None)
    return LossSpec(terms=(term,), heads=(head,), phases=(0.0,), combine="static", targets=1)


def random_batch(asked: Asked, parts: Assembly) -> Batch:
    """Texts of random tokens, each a row long, seen from both sides; [1, B, T]."""
    draw, shape = np.random.default_rng(0), (1, asked.rows, asked.length)
    tokens = draw.integers(1, parts.config.vocabulary, shape).astype(np.int32)
    ones, weights = np.ones(shape, np.int32), np.zeros(shape, np.float32)
    place = np.broadcast_to(np.arange(asked.length, dtype=np.int32), shape)
    batch = text_batch(tokens, tokens, weights, ones, ones, place, np.ones(shape, bool), Q=1)
    batch = batch._replace(
        label_BQ=draw.integers(0, asked.classes, (*shape[:2], 1)).astype(np.int32),
        at_BQ=np.full((*shape[:2], 1), asked.length - 1, np.int32),
        label_weight_BQ=np.ones((*shape[:2], 1), np.float32),
    )
    return jax.device_put(batch, batch_sharding(parts.mesh, leading=1))


def cost_of(what: str, parts: Assembly, batch: Batch, steps: int) -> Cost:
    """Compiles the step of training, and times it."""
    stop = parts.stop_flag(stop=False)
    compiled = parts.train_step.lower(parts.abstract, batch, stop).compile()  # pyright: ignore[reportFunctionMemberAccess]
    memory, flops = compiled.memory_analysis(), flops_of(compiled)
    held = memory.argument_size_in_bytes
    peak = held + memory.temp_size_in_bytes + memory.output_size_in_bytes - memory.alias_size_in_bytes
    seconds, state = [], jax.block_until_ready(parts.fresh()) if steps else None
    for _ in range(steps and steps + 2):
        began = time.perf_counter()
        state, _ = jax.block_until_ready(compiled(state, batch, stop))
        seconds.append(time.perf_counter() - began)
    trained = trained_values(parts)
    return Cost(what, trained, flops, held, peak, tuple(seconds[2:]))


def flops_of(compiled: Any) -> float:
    """Operations of a compiled program, as XLA counts them."""
    found = compiled.cost_analysis()
    return float((found[0] if isinstance(found, list) else found)["flops"])


def trained_values(parts: Assembly) -> int:
    """How many numbers a step may change."""
    from train.updates.optimizer import make_optimizer

    optimizer = make_optimizer(parts.recipe.optimizer, parts.recipe.steps, parts.abstract.params)
    trained = jax.eval_shape(optimizer.trainable, parts.abstract.params)
    return sum(leaf.size for leaf in jax.tree.leaves(trained))


def forward_flops(parts: Assembly, batch: Batch) -> float:
    """Operations of the loss alone, without a gradient: what no step can do without."""
    model: Transformer = parts.model
    first = jax.tree.map(lambda array: array[0], batch)

    def loss(params: Any, batch: Batch) -> jax.Array:
        return term_losses(params, model, batch, parts.loss_spec.terms, chunks=1)

    return flops_of(jax.jit(loss).lower(parts.abstract.params, first).compile())


def table(found: list[Cost], asked: Asked) -> Table:
    """For people."""
    whole = next((cost for cost in found if cost.what == "all"), found[-1])
    title = f"a step of {asked.rows} texts of {asked.length} tokens, {asked.base}, {asked.dtype}"
    table = Table(title=title, min_width=len(title))
    for heading in ("what trains", "values", "GFLOP", "of all", "held MB", "peak MB", "ms a step", "of all"):
        table.add_column(heading, justify="left" if heading == "what trains" else "right")
    for cost in found:
        timed = [statistics.median(one.seconds) if one.seconds else float("nan") for one in (cost, whole)]
        table.add_row(
            cost.what, f"{cost.trained:,}", f"{cost.flops / 1e9:,.2f}", f"{cost.flops / whole.flops:.0%}",
            f"{cost.held_bytes / 1e6:,.0f}", f"{cost.peak_bytes / 1e6:,.0f}",
            f"{1e3 * timed[0]:,.1f}" if cost.seconds else "", f"{timed[0] / timed[1]:.0%}" if cost.seconds else "",
        )  # fmt: skip
    return table


def main() -> int:
    """Returns the exit code."""
    print_any_text()
    try:
        asked = read(Asked, sys.argv[1:], "python -m train.lab.finetune_cost", about=__doc__)
        found = list(costs(asked))
    except (ValueError, OSError) as error:
        return print_mistake(error)
    make_console().print(table(found, asked))
    return 0


if __name__ == "__main__":
    sys.exit(main())
