"""GGUF's blocks unpack, bit for bit, to what the package gguf makes of them."""

import numpy as np
import pytest

from gptjax.exchange.gguf_blocks import OTHERS, TYPES, unpacked
from tests.campaigns.golden_gguf import GOLDEN, blocks


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


def test_every_type_has_one_name():
    assert not TYPES.keys() & OTHERS.keys()
