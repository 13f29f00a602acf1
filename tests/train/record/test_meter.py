"""Numbers of a run on disk, and speed counted over finished steps."""

import types

import pytest

from train.record import meter
from train.record.meter import Speed, Start


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
    [
        ("TPU v5 lite", "bfloat16", 197e12),
        ("TPU v5", "bfloat16", 459e12),
        ("cpu", "float32", None),
        ("NVIDIA H100 80GB HBM3", "bfloat16", 989e12),
        ("NVIDIA H100 PCIe", "bfloat16", 756e12),
        ("NVIDIA H100 NVL", "bfloat16", 835e12),
        ("NVIDIA H200", "bfloat16", 989e12),
        ("NVIDIA H200 NVL", "bfloat16", 836e12),
        ("NVIDIA GH200 480GB", "bfloat16", 989e12),
        ("NVIDIA A100-SXM4-80GB", "bfloat16", 312e12),
        ("NVIDIA A100 80GB PCIe", "bfloat16", 312e12),
        ("NVIDIA B200", "bfloat16", 2250e12),
    ],
)
def test_a_known_chip_is_looked_up_and_another_is_measured(monkeypatch, kind, dtype, wanted):
    chip = types.SimpleNamespace(device_kind=kind)
    monkeypatch.setattr(meter.jax, "devices", lambda: [chip])
    found = meter.peak_flops(dtype)
    assert found > 1e9
    assert wanted is None or found == wanted * 8  # devices
