"""What the guards cost a run that needs none of them: `python -m tests.campaigns.guards_cost`, on a quiet machine.

Ten pairs of 200 steps of the default recipe's nano model, in turn, in one process: with rows hashed and the update
skipped where it is not finite, a ledger, a lease, a watchdog, signals and a look at every step; and without all that.
"""

import contextlib
import statistics
import sys
import tempfile
import time
from pathlib import Path

import jax
import numpy as np
from scipy import stats

import train.step
from gptjax.command.allocator import keep_freed_memory
from train.__main__ import parse
from train.assemble import Assembly, assemble, mesh_of, open_text
from train.recipe import StopSpec
from train.record.jsonl_log import JsonlLog
from train.record.ledger import entry_of
from train.stopping import Health
from train.supervision.lease import Lease
from train.supervision.watchdog import Watchdog

PAIRS, STEPS = 10, 200


def guarded(parts: Assembly, state, batches, run: Path):
    """Steps as train/loop.py takes them."""
    lease, health, said = Lease(run), Health(), []
    lease.take(said.append)
    watchdog, log = Watchdog(300.0, lambda *_: None), JsonlLog(run / "ledger.jsonl", lambda _: True, said.append)
    stop_flag = {stop: parts.stop_flag(stop) for stop in (False, True)}
    waiting = None

    def read(step: int, metrics) -> None:
        found = jax.device_get(metrics)
        watchdog.progress()
        lease.beat("step", step)
        entry = entry_of(step, step * 8, 8, found)
        log.note(entry._asdict())
        health.note_step(entry, StopSpec())
        assert not found["asked"]
        assert not lease.lost
        if step % 10 == 0:
            log.flush()

    for step, batch in enumerate(batches, start=1):
        with watchdog.phase("step"):
            state, metrics = parts.train_step(state, batch, stop_flag[False])
            if waiting is not None:
                read(*waiting)
            waiting = (step, metrics)
    read(*waiting)
    watchdog.stop()
    lease.release()
    log.close()
    return state


def bare(parts: Assembly, state, batches, run: Path):
    """Steps of which the loss is read, and nothing else done."""
    stop_flag, waiting, losses = parts.stop_flag(False), None, []
    for batch in batches:
        state, metrics = parts.train_step(state, batch, stop_flag)
        if waiting is not None:
            losses.append(float(waiting["loss"]))
        waiting = metrics
    losses.append(float(waiting["loss"]))
    return state


def main() -> None:
    keep_freed_memory()
    recipe = parse(["laptop", *sys.argv[1:]])
    mesh = mesh_of(recipe)
    text = open_text(recipe)
    ratios = []
    with jax.set_mesh(mesh), tempfile.TemporaryDirectory() as folder:
        ways = {guarded: assemble(recipe, text.tokenizer.size, text.loss_spec, mesh)}
        train.step.rows_hash = lambda batch, xp: xp.zeros(2, np.uint32)
        train.step.chosen = lambda first, one, other: one
        ways[bare] = assemble(recipe, text.tokenizer.size, text.loss_spec, mesh)
        states = {way: parts.fresh() for way, parts in ways.items()}
        for pair in range(-1, PAIRS):  # one to warm up
            seconds = {}
            for way in (guarded, bare) if pair % 2 else (bare, guarded):
                steps = STEPS if pair >= 0 else 5
                batches = ways[way].loader.training(text.rows, 0, steps + 1)
                with contextlib.closing(batches):
                    next(batches)  # the pipeline has started
                    began = time.perf_counter()
                    states[way] = jax.block_until_ready(way(ways[way], states[way], batches, Path(folder)))
                    seconds[way] = time.perf_counter() - began
            if pair < 0:
                continue
            ratios.append(seconds[guarded] / seconds[bare])
            each = {way.__name__: 1000 * seconds[way] / STEPS for way in (bare, guarded)}
            print(f"pair {pair + 1}: {each['bare']:.1f} and {each['guarded']:.1f} ms a step", flush=True)
    middle, error = statistics.mean(ratios), stats.sem(ratios) * stats.t.ppf(0.975, PAIRS - 1)
    print(
        f"guarded / bare over {PAIRS} pairs of {STEPS} steps: median {statistics.median(ratios):.4f}, "
        f"mean {middle:.4f}, 95 % interval {middle - error:.4f} to {middle + error:.4f}"
    )


if __name__ == "__main__":
    main()
