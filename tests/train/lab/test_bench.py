"""The benchmark measures the step that training takes, compiles it once, and says where the time went."""

import dataclasses
import json
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest
from rich.console import Console

from tests.tiny_recipe import recipe, write_text
from train.lab import bench as benchmark
from train.lab.bench import bench
from train.record.meter import Compilations


@pytest.fixture(scope="module")
def measured(tmp_path_factory):
    """A bench of a tiny run on eight fake devices, in two micro-batches, with dropout."""
    folder = write_text(tmp_path_factory.mktemp("bench"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(benchmark, "INPUT_TOKENS", 10_000)
        return bench(recipe(folder, "never written"), 5, time.perf_counter())


def test_the_step_is_compiled_once_and_nothing_is_when_warm(measured):
    assert measured.compilations["jit(step)"] == 1
    assert measured.compilations_when_warm == 0
    assert 0 < measured.compile_seconds < measured.start_seconds["compiling"]


def test_another_shape_would_be_seen_as_a_second_compilation():
    """The counter that the test above relies on: two shapes, two compilations, under the function's own name."""

    def doubled(x):
        return 2 * x

    with Compilations() as compilations:
        jitted = jax.jit(doubled)
        for size in (3, 4, 3):
            jitted(jnp.zeros(size))
    assert compilations.counts["jit(doubled)"] == 2


def test_the_stages_of_the_start_are_all_of_it(measured):
    assert list(measured.start_seconds) == ["imports", "text", "first state", "first batch", "compiling", "first step"]
    assert min(measured.start_seconds.values()) > 0
    assert measured.seconds_to_first_step == pytest.approx(sum(measured.start_seconds.values()))


def test_speed_and_mfu_follow_from_the_median_step(measured):
    assert len(measured.step_ms) == len(measured.input_ms) == 5
    assert all(waited < whole for waited, whole in zip(measured.input_ms, measured.step_ms, strict=True))
    known = dataclasses.replace(
        measured, step_ms=(9.0, 10.0, 400.0), tokens_per_step=256, flops_per_token=1000, measured_flops=1e8
    )
    assert known.tokens_per_second == 25_600
    assert known.mfu == pytest.approx(25_600 * 1000 / 1e8)
    assert known.quartiles_ms == (9.5, 205.0)


def test_table_and_json_tell_the_same(measured, tmp_path):
    found = json.loads(json.dumps(measured.as_json()))
    assert found["ms_per_step"] == measured.ms_per_step
    assert found["recipe"]["model"]["D"] == 32
    assert found["environment"]["jax"]
    assert found["peak_bytes"] > 1e7
    assert found["input_tokens_per_second"] > 0
    console = Console(record=True, width=150)
    console.print(measured.table())
    shown = console.export_text()
    assert f"{measured.ms_per_step:,.1f} median of 5" in shown
    assert "12 L N H T" in shown
    assert "data sheet" not in shown
    console.print(dataclasses.replace(measured, data_sheet_flops=1e12).table())
    assert "data sheet 1, of which" in console.export_text()


def test_no_run_directory_is_written(measured):
    assert not Path(measured.recipe["run"]).exists()
