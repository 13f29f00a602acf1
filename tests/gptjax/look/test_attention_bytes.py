"""gptjax.look.attention_bytes: what is packed is what a reader of it finds."""

import base64
import zlib

import numpy as np

import gptjax.look.attention_bytes as attention_bytes
from gptjax.look.attention_bytes import packed


def unpacked(found, shape):
    """As the page's program does."""
    bytes_I = np.frombuffer(zlib.decompress(base64.b64decode(found["bytes"])), np.uint8).astype(int)
    rows, shares = int(np.prod(shape[:-1])), found["shares"]
    count, high = bytes_I[:rows], bytes_I[rows : 2 * rows]
    key_I = bytes_I[2 * rows : 2 * rows + shares] + 256 * bytes_I[2 * rows + shares : 2 * rows + 2 * shares]
    maps = np.zeros((rows, shape[-1]))
    maps[np.repeat(np.arange(rows), count + 256 * high), key_I] = (bytes_I[2 * rows + 2 * shares :] / 255) ** 2
    return maps.reshape(shape)


def random_maps(T, seed=0):
    prob_CnTS = np.random.default_rng(seed).dirichlet(np.full(T, 0.05), size=(2, 3, T)).astype(np.float32)
    return np.tril(prob_CnTS)


def test_shares_come_back_within_half_a_step():
    """Over more than 256 keys, of two maps in one; what is below the least is 0."""
    one, other = random_maps(300), random_maps(300, seed=1)
    found = packed([one, other])
    back = unpacked(found, (2, *one.shape))
    for prob_CnTS, back_CnTS in zip((one, other), back, strict=True):
        kept_CnTS = prob_CnTS >= found["least"]
        np.testing.assert_allclose(back_CnTS[kept_CnTS], prob_CnTS[kept_CnTS], atol=0.004)
        assert (back_CnTS[~kept_CnTS] == 0).all()
    assert found["least"] == attention_bytes.LEAST[0]


def test_small_shares_are_dropped_until_all_fit(monkeypatch):
    """By how many there are, and by how long they are when packed."""
    maps = [random_maps(60)]
    most = packed(maps)
    monkeypatch.setattr(attention_bytes, "MOST_SHARES", most["shares"] - 1)
    fewer = packed(maps)
    assert fewer["least"] > most["least"]
    assert fewer["shares"] < most["shares"]
    monkeypatch.setattr(attention_bytes, "MOST_LETTERS", len(fewer["bytes"]) - 1)
    assert packed(maps)["least"] > fewer["least"]
