"""How long steps take, each waited for: of a benchmark, and of PCGrad before a run that uses it."""

import statistics
import time
from collections.abc import Iterator

import jax

from gptjax.batch import Batch
from train.assemble import Assembly, Text, assemble
from train.step import State

WARM_UP = 3  # steps after the first that are not timed


def timed_steps(
    parts: Assembly, state: State, batches: Iterator[Batch], steps: int
) -> tuple[State, list[tuple[float, float]]]:
    """(the state after `steps` steps; milliseconds of each, and of those the ones before its batch was there)."""
    times = []
    for _ in range(steps):
        began = time.perf_counter()
        batch = jax.block_until_ready(next(batches))
        there = time.perf_counter()
        state, metrics = parts.train_step(state, batch, parts.stop_flag(stop=False))
        jax.block_until_ready((state, metrics))
        times.append(((time.perf_counter() - began) * 1e3, (there - began) * 1e3))
    return state, times


def pcgrad_cost(parts: Assembly, text: Text) -> str:
    """What a step with PCGrad costs beside one with static weights, measured; a sentence."""
    static = assemble(parts.recipe, text.tokenizer.size, parts.loss_spec._replace(combine="static"), parts.mesh)
    medians = []
    for each in (parts, static):
        batches = each.loader.training(text.rows, 0, 1 + WARM_UP)
        state, _ = each.train_step(each.fresh(), next(batches), each.stop_flag(stop=False))
        _, times = timed_steps(each, jax.block_until_ready(state), batches, WARM_UP)
        medians.append(statistics.median(whole for whole, _ in times))
    ours, plain = medians
    return (
        f"objectives.combine=pcgrad: a step takes {ours:,.0f} ms, {ours / plain:.1f} times the {plain:,.0f} ms of "
        f"static weights; there are {len(parts.loss_spec.terms)} terms, each with a backward pass of its own"
    )
