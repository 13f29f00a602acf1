"""GGUF's blocks unpack, bit for bit, to what the package gguf makes of them, and values pack to its bytes."""

import numpy as np
import pytest

from gptjax.exchange.gguf_blocks import OTHERS, TYPES, WRITTEN, packed, unpacked
from tests.campaigns.golden_gguf import GOLDEN, blocks, values


@pytest.mark.parametrize("number", TYPES)
def test_random_blocks_unpack_to_the_values_of_gguf(number):
    kind, values, size = TYPES[number]
    with np.load(GOLDEN) as file:
        wanted = file[kind]
    found = unpacked(kind, blocks(kind, size).reshape(-1))
    assert (found.dtype, found.size) == (np.float32, 3 * values)
    np.testing.assert_array_equal(found.view(np.uint32), wanted.view(np.uint32))
    moved = blocks(kind, size)
    moved[1, -1] ^= 1
    assert not np.array_equal(unpacked(kind, moved.reshape(-1)), wanted)


@pytest.mark.parametrize("kind", WRITTEN)
def test_values_pack_to_the_bytes_of_gguf(kind):
    """Normal ones, zeros, and those that lie between two steps; another value makes another byte."""
    with np.load(GOLDEN) as file:
        wanted = file[f"bytes {kind}"]
    np.testing.assert_array_equal(packed(kind, values()), wanted)
    moved = values()
    moved[3, 5] *= -2
    assert not np.array_equal(packed(kind, moved), wanted)


@pytest.mark.parametrize(
    ("kind", "largest"), [("F16", 7e4), ("Q8_0", 1e7), ("Q4_0", 1e6), ("Q4_1", 1e6), ("BF16", 3.4e38)]
)
def test_a_value_beyond_its_type_is_refused(kind, largest):
    """Smaller ones are not."""
    row = np.zeros(32, np.float32)
    row[3] = largest
    with pytest.raises(ValueError, match=f"are beyond what {kind} can hold"):
        packed(kind, row)
    assert np.isfinite(unpacked(kind, packed(kind, row / 100))).all()


def test_every_type_has_one_name():
    assert not TYPES.keys() & OTHERS.keys()
