"""Numbers of a run on disk, and speed counted over finished steps."""

import json
import types

import pytest

from train import meter
from train.meter import Records, Speed, Start


def test_records_after_the_last_checkpoint_and_half_lines_are_dropped_on_restart(tmp_path):
    first = Records(tmp_path, 0)
    for step in (1, 2, 3):
        first.write("train", step, loss=float(step))
    first.close()
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"kind": "train", "step": 4, "lo')
    second = Records(tmp_path, 2)
    second.write("validation", 3, source="a", loss=9.0)
    second.close()
    kept = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [(record["kind"], record["step"]) for record in kept] == [("train", 1), ("train", 2), ("validation", 3)]


def test_speed_counts_steps_since_its_start_and_mfu_is_its_share_of_the_peak(monkeypatch):
    now = iter([0.0, 0.0, 2.0, 2.0, 10.0, 14.0])
    monkeypatch.setattr(meter.time, "perf_counter", lambda: next(now))
    speed = Speed(tokens_per_step=100, flops_per_token=50, peak=10_000.0)
    speed.start()
    speed.step()
    speed.step()
    assert speed.tokens_per_second == 100.0
    assert speed.mfu == 0.5
    speed.start()
    speed.step()
    assert speed.tokens_per_second == 25.0


def test_every_second_of_the_start_belongs_to_one_stage(monkeypatch):
    now = iter([3.0, 3.5, 10.0])
    monkeypatch.setattr(meter.time, "perf_counter", lambda: next(now))
    start = Start(1.0)
    for stage in ("imports", "text", "compiling"):
        start.finished(stage)
    assert start.seconds == {"imports": 2.0, "text": 0.5, "compiling": 6.5}
    assert str(start) == "9.0 s after the start: imports 2.0, text 0.5, compiling 6.5"


@pytest.mark.parametrize(
    ("kind", "dtype", "wanted"),
    [("TPU v5 lite", "bfloat16", 197e12), ("TPU v5", "bfloat16", 459e12), ("cpu", "float32", None)],
)
def test_a_known_chip_is_looked_up_and_another_is_measured(monkeypatch, kind, dtype, wanted):
    chip = types.SimpleNamespace(device_kind=kind)
    monkeypatch.setattr(meter.jax, "devices", lambda: [chip])
    found = meter.peak_flops(dtype)
    assert found > 1e9
    assert wanted is None or found == wanted * 8  # devices
