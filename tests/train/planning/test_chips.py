"""Chips by name."""

import pytest

from train.planning.chips import CHIP_PEAKS, GPUS, TPUS, hertz_of, larger, machines, peak_of


@pytest.mark.parametrize(
    ("name", "slices", "wanted"),
    [
        ("v5p:4x4x8", 1, ("v5p:4x4x8", "tpu", 128, 1)),
        ("v5e-256", 2, ("v5e:16x16", "tpu", 256, 2)),
        ("h100:8x4", 1, ("h100:8x4", "gpu", 8, 4)),
        ("a100-40gb:4", 1, ("a100-40gb:4", "gpu", 4, 1)),
        ("h200-8", 1, ("h200-8", "gpu", 8, 1)),
    ],
)
def test_a_name_says_chips_and_groups(name, slices, wanted):
    found = machines(name, slices)
    assert (found.name, found.family, found.group, found.groups) == wanted
    assert found.chips == found.group * found.groups


@pytest.mark.parametrize(
    ("name", "slices", "said"),
    [
        ("h10:8", 1, "did you mean 'h100'"),
        ("v5q:4x4x8", 1, "did you mean 'v5"),
        ("v5p:4x4x9", 1, "--device v5p:4x4x9: v5p has no such topology; did you mean '4x4x8'"),
        ("h100", 1, "write GPUs a node, and nodes: h100:8 or h100:8x4"),
        ("h100:0", 1, "write GPUs a node"),
        ("h100:8", 2, "--device h100:8x2"),
        ("v5e:4x4", 0, "--slices 0: must be at least 1"),
    ],
)
def test_what_there_is_not_is_told_in_a_line(name, slices, said):
    with pytest.raises(ValueError, match=said.replace("(", r"\(")) as refusal:
        machines(name, slices)
    assert "\n" not in str(refusal.value)


def test_every_chip_has_its_peak_and_its_clock():
    """A TPU's clock times what its units do in a cycle is the peak; the longest name that fits counts."""
    assert all(chip.peak == CHIP_PEAKS[chip.kind] for chip in (*TPUS.values(), *GPUS.values()))
    assert peak_of("NVIDIA H100 PCIe") == 756e12
    assert peak_of("NVIDIA H100 80GB HBM3") == 989e12
    assert peak_of("cpu") is None
    assert hertz_of("TPU v5 lite") == 1.5e9
    assert hertz_of("TPU v5") == pytest.approx(1.75e9, rel=1e-3)
    assert hertz_of("NVIDIA H100") is None


def test_larger_machines_are_of_the_same_chips():
    assert [more.name for more in larger(machines("v5e:8x8"))] == ["v5e:8x16", "v5e:16x16"]
    assert [more.name for more in larger(machines("h100:8x2"))][:2] == ["h100:8x4", "h100:8x8"]
    assert larger(machines("a100-40gb:2"))[0].name == "a100-40gb:2x2"


def test_what_comes_in_from_near_is_half_of_what_goes_both_ways():
    """By Google's older sheets, in Gb/s one way over all links of a chip."""
    one_way = {"v4": 2400, "v5e": 1600, "v5p": 4800, "v6e": 3200}
    assert {name: chip.near * 8 / 1e9 for name, chip in TPUS.items()} == one_way
