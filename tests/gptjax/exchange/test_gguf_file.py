"""GGUF: values unpacked, rotary rows put in order, settings and tokenizer understood or refused."""

import struct

import jax
import numpy as np
import pytest

import gptjax
from gptjax.config import RopeScaling
from gptjax.exchange.gguf_file import read_file, unpacked
from gptjax.exchange.gguf_model import config_fields, halves, read_gguf
from gptjax.exchange.hf_config import model_of
from gptjax.exchange.hf_params import read_params
from tests.gguf_writer import gguf_bytes, neighbours, settings_of, tensors_of, write_gguf
from tests.hf_models import CASES, LLAMA, QWEN2, QWEN3, weights
from tests.tiny_run import bpe

LINEAR = CASES["llama tied, heads of 8, linear"]


def halfs(*numbers):
    return struct.pack(f"<{len(numbers)}e", *numbers)


def test_blocks_unpack_to_the_values_of_the_format():
    """Two blocks of each kind, beside the formula value by value."""
    draw = np.random.default_rng(0)
    q = draw.integers(-128, 128, (2, 32))
    raw = b"".join(halfs(d) + row.astype(np.int8).tobytes() for d, row in zip((0.5, -0.125), q, strict=True))
    wanted = [d * int(value) for d, row in zip((0.5, -0.125), q, strict=True) for value in row]
    np.testing.assert_array_equal(unpacked("Q8_0", np.frombuffer(raw, np.uint8)), np.float32(wanted))

    q = draw.integers(0, 16, (2, 32))
    packed = [bytes(int(low) | int(high) << 4 for low, high in zip(row[:16], row[16:], strict=True)) for row in q]
    raw = b"".join(halfs(d) + row for d, row in zip((0.5, 3.0), packed, strict=True))
    wanted = [d * (int(value) - 8) for d, row in zip((0.5, 3.0), q, strict=True) for value in row]
    np.testing.assert_array_equal(unpacked("Q4_0", np.frombuffer(raw, np.uint8)), np.float32(wanted))
    raw = b"".join(halfs(d, m) + row for (d, m), row in zip(((0.5, -4.0), (3.0, 1.0)), packed, strict=True))
    wanted = [d * int(v) + m for (d, m), row in zip(((0.5, -4.0), (3.0, 1.0)), q, strict=True) for v in row]
    np.testing.assert_array_equal(unpacked("Q4_1", np.frombuffer(raw, np.uint8)), np.float32(wanted))
    np.testing.assert_array_equal(unpacked("F16", np.frombuffer(halfs(1.5, -2), np.uint8)), np.float32([1.5, -2]))


def test_rotary_rows_come_back_in_halves():
    """`halves` undoes what the writer did to each head, and does something."""
    rows = np.arange(24.0).reshape(12, 2)
    np.testing.assert_array_equal(halves(neighbours(rows, 2), 2), rows)
    np.testing.assert_array_equal(neighbours(rows, 2)[:4, 0] / 2, [0, 3, 1, 4])


@pytest.mark.parametrize("fields", [LLAMA, LINEAR, QWEN2, QWEN3], ids=["llama", "linear", "qwen2", "qwen3"])
def test_a_file_is_the_model_that_the_folder_of_its_weights_is(fields, tmp_path):
    """Whose logits test_hf_params.py compares with those of transformers."""
    found = read_gguf(write_gguf(tmp_path / "model.gguf", fields))
    config, _ = model_of(fields)
    assert found.config == config
    jax.tree.map(np.testing.assert_array_equal, found.params, read_params(config, weights(fields)))


def test_a_file_loads_and_writes(tmp_path):
    model = gptjax.load(write_gguf(tmp_path / "model.gguf", LLAMA))
    [[sample]] = model.generate("hello", temperature=0, tokens=5)
    assert len(sample.ids) == 5
    assert model.encode_prompt("hello") == [1, *bpe().encode("hello")]


def test_quantised_tensors_are_found_at_their_places(tmp_path):
    """One of each kind behind the others, read back by name."""
    draw = np.random.default_rng(1)
    kinds = {"a": (8, (3, 32), 34 * 3), "b": (2, (2, 64), 18 * 4), "c": (3, (32,), 20), "d": (1, (5, 3), 30)}
    contents = {name: draw.integers(0, 100, size, np.uint8) for name, (_, _, size) in kinds.items()}
    tensors = {name: (kind, shape, contents[name].tobytes()) for name, (kind, shape, _) in kinds.items()}
    (tmp_path / "x.gguf").write_bytes(gguf_bytes({"general.alignment": 32}, tensors))
    _, found = read_file(tmp_path / "x.gguf")
    assert found.shapes == {name: shape for name, (_, shape, _) in kinds.items()}
    for name, kind in zip("abcd", ("Q8_0", "Q4_0", "Q4_1", "F16"), strict=True):
        np.testing.assert_array_equal(found[name].reshape(-1), unpacked(kind, contents[name]))


def test_numbers_of_settings_are_the_decimals_that_were_meant():
    """1e-5 is stored in 32 bits and comes back as 1e-5."""
    settings = settings_of(LLAMA) | {"llama.attention.layer_norm_rms_epsilon": float(np.float32(1e-5))}
    shapes = {name: shape for name, (_, shape, _) in tensors_of(LLAMA).items()}
    assert config_fields(settings, shapes)["rms_norm_eps"] == 1e-5


def test_a_rotary_factor_without_a_type_is_linear(tmp_path):
    """As llama.cpp has it; without a factor there is none."""
    for settings, wanted in (
        ({}, None),
        ({"llama__rope__scaling__factor": 4.0}, RopeScaling(kind="linear", factor=4.0)),
    ):
        found = read_gguf(write_gguf(tmp_path / "model.gguf", LLAMA, **settings))
        assert found.config.rope_scaling == wanted


def test_a_file_names_its_ends_and_its_special_tokens(tmp_path):
    """EOS, and where a turn or a message ends; for templates, those that it has and no others."""
    ends = {"tokenizer__ggml__eot_token_id": 9, "tokenizer__ggml__eom_token_id": 17, "quantize__imatrix__file": "x"}
    generation_config = read_gguf(write_gguf(tmp_path / "model.gguf", LLAMA, **ends)).generation_config
    assert generation_config.ends == {2, 9, 17}
    assert generation_config.names == {"bos_token": "<|bos|>", "eos_token": "<|eos|>"}


def test_the_tokenizer_encodes_as_the_one_it_was_made_of(tmp_path):
    tokenizer = read_gguf(write_gguf(tmp_path / "model.gguf", LLAMA)).tokenizer
    for text in ("hello there, 1234 foxes", "曹操 🦊\n\n  two", "<|eos|> is text"):
        assert tokenizer.encode(text) == bpe().encode(text)
    assert (tokenizer.bos, tokenizer.eos) == (bpe().bos, bpe().eos)


def test_every_known_way_to_cut_words_gives_text_back_and_they_differ(tmp_path):
    cuts = {}
    for pre in ("gpt-2", "smollm", "qwen2"):
        tokenizer = read_gguf(write_gguf(tmp_path / pre, LLAMA, tokenizer__ggml__pre=pre)).tokenizer
        text = "I'LL pay 1234 $\r\n\t now "
        assert tokenizer.decode(tokenizer.encode(text)) == text
        cuts[pre] = [word for word, _ in tokenizer._rules.pre_tokenizer.pre_tokenize_str(text)]
    assert cuts["gpt-2"][:4] == ["I", "'", "LL", "Ġpay"]
    assert cuts["smollm"][4:8] == ["Ġ", "1", "2", "3"]
    assert cuts["qwen2"][:2] == ["I", "'LL"]
