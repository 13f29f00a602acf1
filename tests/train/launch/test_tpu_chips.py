"""Slices of TPUs by their names."""

import pytest

from train.launch.tpu_chips import Slice, slice_of


@pytest.mark.parametrize(
    ("name", "wanted", "hosts", "chips_of_host"),
    [
        ("v5e-256", Slice("v5e", "16x16"), 64, 4),
        ("v5e:4x4", Slice("v5e", "4x4"), 4, 4),
        ("v5litepod-16", Slice("v5e", "4x4"), 4, 4),
        ("v5e-1", Slice("v5e", "1x1"), 1, 1),
        ("v5p-8", Slice("v5p", "2x2x1"), 1, 4),  # its names count cores, two a chip
        ("v5p:4x4x8", Slice("v5p", "4x4x8"), 32, 4),
        ("v4-32", Slice("v4", "2x2x4"), 4, 4),
        ("v6e-256", Slice("v6e", "16x16"), 64, 4),
    ],
)
def test_a_name_says_topology_hosts_and_chips(name, wanted, hosts, chips_of_host):
    found = slice_of(name)
    assert (found, found.hosts, found.chips_of_host) == (wanted, hosts, chips_of_host)
    assert found.chips == hosts * chips_of_host


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("v5e-200", "no slice of v5e has 200 chips; did you mean 'v5e-256'"),
        ("v5p-10", "no slice of v5p has 10 cores, two a chip; did you mean 'v5p-8'"),
        ("v5e:16x15", "v5e has no such topology; did you mean '16x16'"),
        ("v5x-8", "did you mean 'v5"),
        ("v5e", "write generation and topology, such as v5e:16x16"),
    ],
)
def test_what_there_is_not_is_told_with_what_was_meant(name, message):
    with pytest.raises(ValueError, match=f"--tpu {name}: .*{message}"):
        slice_of(name)
