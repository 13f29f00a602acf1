"""Models that are spoilt or hostile: every one refused in a clear line, soon, and with nothing run or left behind."""

import itertools
import json
import os
import pickle
import struct
import time
import tracemalloc
from pathlib import Path

import numpy as np
import pytest

import gptjax
from gptjax.exchange.gguf_model import read_gguf
from gptjax.exchange.hf_config import model_of
from gptjax.exchange.hf_folder import read_folder
from gptjax.exchange.hf_params import HEAD
from gptjax.files.bounded_files import LARGEST
from gptjax.inference.template import render
from tests.gguf_writer import gguf_bytes, setting, settings_of, tensors_of, text
from tests.hf_models import GPT2, LLAMA, LLAMA3, MISTRAL, QWEN2, QWEN3, SMOLLM3, WINDOWED, weights, write_folder
from tests.tiny_run import bpe

SECONDS, MEGABYTES = 10, 100  # that a refusal may take, on a machine that is busy
WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"
UP = "model.layers.1.mlp.up_proj.weight"


class Attack:
    """Makes a file when it is unpickled."""

    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def header(entries, size=0, pad=b""):
    """A safetensors file with this header and so many bytes behind it."""
    raw = entries if isinstance(entries, bytes) else json.dumps(entries).encode()
    return struct.pack("<Q", len(raw)) + raw + bytes(size) + pad


def entry(begin, end, shape, dtype="F32"):
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


def put(name, content):
    """Writes one file of the folder."""

    def spoil(folder):
        raw = content(folder) if callable(content) else content
        (folder / name).write_bytes(raw if isinstance(raw, bytes) else json.dumps(raw).encode())

    return spoil


def config(**change):
    """Fields of a llama model, some changed; None leaves one out."""
    return put("config.json", {name: value for name, value in (LLAMA | change).items() if value is not None})


def change_weights(change):
    def spoil(folder):
        from safetensors.numpy import save_file

        save_file(change(weights(LLAMA)), folder / WEIGHTS)

    return spoil


def only_pickle(folder):
    (folder / WEIGHTS).unlink()
    (folder / "pytorch_model.bin").write_bytes(pickle.dumps(Attack(folder / "attacked")))


def index_to(file):
    def spoil(folder):
        (folder.parent / "outside.safetensors").write_bytes((folder / WEIGHTS).read_bytes())
        put(INDEX, {"weight_map": dict.fromkeys(weights(LLAMA), file(folder) if callable(file) else file)})(folder)

    return spoil


def spoilt(name, value):
    """The weights with one value of a tensor replaced."""

    def change(tensors):
        tensors[name].flat[5] = value
        return tensors

    return change_weights(change)


def rules(**change):
    """tokenizer.json with some of its parts changed."""
    return put("tokenizer.json", lambda folder: json.loads((folder / "tokenizer.json").read_text()) | change)


FOLDERS = {
    # safetensors: the header
    "empty file": (put(WEIGHTS, b""), r"model.safetensors: is no safetensors file, or cut short"),
    "header beyond the file": (
        put(WEIGHTS, struct.pack("<Q", 2**63) + b"{}  "),
        "a header of 9223372036854775808 bytes in 12",
    ),
    "header too large": (
        put(WEIGHTS, lambda _: header(b"{" + b" " * LARGEST + b"}")),
        "at most 16777216 are read",
    ),
    "header no JSON": (put(WEIGHTS, header(b"{'a': 1}")), "model.safetensors: not JSON: "),
    "header no UTF-8": (put(WEIGHTS, header(b'{"\xff": 1}')), "is no JSON: 'utf-8' codec"),
    "header a list": (put(WEIGHTS, header([1, 2, 3])), "is no JSON object but a list"),
    "header nested": (put(WEIGHTS, header(b'{"a":' * 200_000)), "it is nested too deeply"),
    "number of a million digits": (
        put(WEIGHTS, header(b'{"a":' + b"9" * 10**6 + b"}")),
        "model.safetensors: .* a whole number has too many digits",
    ),
    "name twice": (put(WEIGHTS, header(b'{"a": 1, "b": 2, "a": 3}')), "holds 'a' twice"),
    "entry a number": (put(WEIGHTS, header({"a": 1})), "'a': its entry is not dtype, shape and data_offsets"),
    "dtype unknown": (put(WEIGHTS, header({"a": entry(0, 4, [1], "F4")}, 4)), "dtype 'F4' is none of F64, F32"),
    "shape negative": (
        put(WEIGHTS, header({"a": entry(0, 4, [-1])}, 4)),
        r"shape \[-1\] is no list of at most 8 whole",
    ),
    "shape overflows": (put(WEIGHTS, header({"a": entry(0, 0, [2**40, 2**40])})), "do not hold F32"),
    "offsets overflow": (
        put(WEIGHTS, header({"a": entry(2**64 - 4, 2**64, [1])})),
        "data_offsets .* are not two whole numbers",
    ),
    "offsets reversed": (put(WEIGHTS, header({"a": entry(4, 0, [1])}, 4)), "do not hold F32"),
    "offsets beyond": (
        put(WEIGHTS, header({"a": entry(0, 8, [2])}, 4)),
        r"\[0, 8\] of 4 bytes do not hold F32 \[2\], 8 bytes",
    ),
    "tensors overlap": (
        put(WEIGHTS, header({"a": entry(0, 8, [2]), "b": entry(4, 12, [2])}, 12)),
        "'b' begins at byte 4, but",
    ),
    "gap": (put(WEIGHTS, header({"a": entry(0, 4, [1]), "b": entry(8, 12, [1])}, 12)), "'b' begins at byte 8, but"),
    "bytes left over": (put(WEIGHTS, header({"a": entry(0, 4, [1])}, 8)), "its tensors end at byte 4 of 8"),
    "5,000 tensors": (
        put(WEIGHTS, lambda _: header({f"t{n}": entry(0, 0, [0]) for n in range(5000)})),
        "tensor 'lm_head.weight' is missing",
    ),
    "cut short": (put(WEIGHTS, lambda folder: (folder / WEIGHTS).read_bytes()[:-9]), "bytes do not hold F32"),
    "pickle renamed": (
        put(WEIGHTS, lambda folder: pickle.dumps(Attack(folder / "attacked"))),
        "is no safetensors file, or cut short",
    ),
    "pickle alone": (only_pickle, "pytorch_model.bin is a pickle, which can run any program and is not read"),
    # safetensors: the index
    "index up and out": (index_to("../outside.safetensors"), "lies in '../outside.safetensors'; must be"),
    "index absolute": (
        index_to(lambda folder: str(folder.parent / "outside.safetensors")),
        "must be a .safetensors file beside",
    ),
    "index to a pickle": (index_to("pytorch_model.bin"), "must be a .safetensors file beside it"),
    "index to nothing": (index_to("part.safetensors"), "lies in 'part.safetensors', which is missing"),
    "index of another": (put(INDEX, {"weight_map": {"a": WEIGHTS}}), "tensor 'a' is missing, though"),
    "index beside a single file": (
        lambda folder: (
            put("part.safetensors", (folder / WEIGHTS).read_bytes())(folder),
            put(INDEX, {"weight_map": dict.fromkeys(weights(LLAMA), "part.safetensors")})(folder),
        ),
        "has model.safetensors, but model.safetensors.index.json lists other files",
    ),
    "index too large": (
        lambda folder: (put(INDEX, b"{")(folder), os.truncate(folder / INDEX, 2**32)),
        "has 4294967296 bytes; at most 16777216 are read",
    ),
    "a pipe": (
        lambda folder: ((folder / WEIGHTS).unlink(), os.mkfifo(folder / WEIGHTS)),
        "model.safetensors: is missing, or is no regular file",
    ),
    "index a list": (put(INDEX, {"weight_map": [WEIGHTS]}), "has no weight_map from tensors to files"),
    # the tensors
    "tensor missing": (change_weights(lambda w: {n: w[n] for n in w if n != UP}), f"tensor '{UP}' is missing"),
    "tensor renamed": (
        change_weights(lambda w: {n.replace("up_proj", "upp_proj"): w[n] for n in w}),
        "up_proj.weight' is missing, and 2 more are",
    ),
    "layers as many as tensors": (
        config(num_hidden_layers=30),
        r"tensor 'model.layers.10.input_layernorm.weight' is missing, and 242 more are",
    ),
    "a buffer of another family": (
        change_weights(lambda w: w | {"model.layers.0.adapter.attn.bias": np.full(3, np.nan, np.float32)}),
        "tensor 'model.layers.0.adapter.attn.bias' is none of this model's",
    ),
    "tensor too many": (change_weights(lambda w: w | {"extra": w[UP]}), "tensor 'extra' is none of this model's"),
    "tensor turned": (
        change_weights(lambda w: w | {UP: np.ascontiguousarray(w[UP].T)}),
        r"has shape \[24, 37\]; the config makes it \[37, 24\]",
    ),
    "tensor of integers": (
        change_weights(lambda w: w | {UP: w[UP].astype(np.int32)}),
        "is of dtype int32; must be one of float32",
    ),
    "NaN": (spoilt(UP, np.nan), f"tensor '{UP}' holds 1 values that are NaN or infinite"),
    "infinity": (spoilt(HEAD, -np.inf), f"tensor '{HEAD}' holds 1 values that are NaN or infinite"),
    # the config
    "config no JSON": (put("config.json", b"{"), r"config.json: not JSON: "),
    "class unknown": (
        config(architectures=["MixtralForCausalLM"]),
        r"architectures is \['MixtralForCausalLM'\]; this can be",
    ),
    "type of another": (config(model_type="qwen3"), "model_type is 'qwen3'; of a LlamaForCausalLM it is 'llama'"),
    "field unknown": (config(embedding_multiplier=12.0), "field 'embedding_multiplier', here '12.0', is not supported"),
    "field missing": (config(hidden_size=None), "field 'hidden_size' is missing"),
    "width a text": (config(hidden_size="24"), "field 'hidden_size' is '24'; must be of type int"),
    "width true": (config(hidden_size=True), "field 'hidden_size' is 'True'; must be of type int"),
    "layers by the billion": (config(num_hidden_layers=2**31 - 1), "30 tensors cannot be a model of 2147483647 layers"),
    "layers beyond": (config(num_hidden_layers=2**40), "is 1099511627776; must be above 0 and below"),
    "vocabulary by the billion": (config(vocab_size=2**31 - 1), "the tokenizer has 290 ids"),
    "width by the billion": (config(intermediate_size=2**31 - 1), r"the config makes it \[2147483647, 24\]"),
    "yarn": (config(rope_scaling={"rope_type": "yarn", "factor": 2.0}), "rope_type 'yarn' is not supported"),
    "rope of two types": (
        config(rope_scaling={"type": "linear", "rope_type": "default", "factor": 2.0}),
        "rotary settings: type is 'linear', but rope_type 'default'",
    ),
    "rope with half a token": (
        config(rope_scaling=LLAMA3 | {"original_max_position_embeddings": 24.5}),
        "original_max_position_embeddings is 24.5; must be a whole number",
    ),
    "qwen3 without key heads": (
        put("config.json", {name: value for name, value in QWEN3.items() if name != "num_key_value_heads"}),
        "field 'num_key_value_heads' is missing",
    ),
    "llama3 half": (config(rope_scaling={"rope_type": "llama3", "factor": 2.0}), "rope_type 'llama3' takes"),
    "rope twice": (
        config(rope_scaling=LLAMA3, rope_parameters={"rope_type": "default", "rope_theta": 700.0}),
        "'rope_parameters' says",
    ),
    "partly rotary": (config(partial_rotary_factor=0.5), "field 'partial_rotary_factor' is 0.5; only 1.0 is supported"),
    "window": (config(sliding_window=128), "field 'sliding_window' is 128; only null"),
    "activation": (config(hidden_act="gelu"), "field 'hidden_act' is 'gelu'; only 'silu' is supported"),
    "quantised": (config(quantization_config={"bits": 4}), "field 'quantization_config' is {'bits': 4}; only None"),
    "code of its own": (config(auto_map={"AutoModel": "evil.Model"}), "field 'auto_map' is"),
    "odd heads": (config(head_dim=7), "model.head_width=7 is odd"),
    "a window of another type": (
        config(use_sliding_window="yes"),
        "'use_sliding_window' is 'yes'; must be of type bool",
    ),
    "a negative window": (put("config.json", MISTRAL | {"sliding_window": -1}), "model.window=-1"),
    "layers without names": (
        put("config.json", QWEN3 | {"layer_types": ["full_attention", "sliding_attention"]}),
        "must be 'full_attention' or 'sliding_attention' for 3 layers",
    ),
    "layers that slide nowhere": (
        put("config.json", QWEN3 | {"layer_types": ["full_attention", "full_attention", "sliding_attention"]}),
        "'sliding_window' says nothing of how far",
    ),
    "layers that look further": (
        put("config.json", QWEN2 | WINDOWED | {"max_window_layers": 2}),
        "some layers look 6 tokens back, some at all 48",
    ),
    "too few layers with and without positions": (
        put("config.json", SMOLLM3 | {"no_rope_layers": [1, 0]}),
        "must be a list of 1 or 0, one a layer of 3",
    ),
    "positions in no layers": (
        put("config.json", SMOLLM3 | {"no_rope_layers": None, "no_rope_layer_interval": 0}),
        "'no_rope_layer_interval' is 0; must be a whole number above 0",
    ),
    "a billion layers without a list": (
        put("config.json", SMOLLM3 | {"no_rope_layers": None, "num_hidden_layers": 2**30}),
        "'num_hidden_layers' is 1073741824; at most 10000",
    ),
    "gemma": (
        put("config.json", LLAMA | {"architectures": ["Gemma2ForCausalLM"]}),
        "Gemma is not read: it multiplies its embeddings and gates by GELU",
    ),
    "gpt2 scaled by layer": (
        put("config.json", GPT2 | {"scale_attn_by_inverse_layer_idx": True}),
        "'scale_attn_by_inverse_layer_idx' is True",
    ),
    # the texts
    "no tokenizer": (lambda folder: (folder / "tokenizer.json").unlink(), r"tokenizer.json: is missing"),
    "tokenizer no JSON": (put("tokenizer.json", b"{"), "tokenizer.json: is not a tokenizer"),
    "tokenizer that panics": (
        rules(normalizer={"type": "Precompiled", "precompiled_charsmap": "AAAA"}),
        "tokenizer.json: is not a tokenizer that can be used",
    ),
    "tokenizer without its token for the unknown": (
        rules(
            model={"type": "WordLevel", "vocab": {"<|bos|>": 0, "<|eos|>": 1}, "unk_token": "[UNK]"}, added_tokens=[]
        ),
        "tokenizer.json: is not a tokenizer that can be used",
    ),
    "token that tokenizer.json lacks": (
        put("tokenizer_config.json", {"added_tokens_decoder": {"295": {"content": "<x>"}}}),
        "added_tokens_decoder has '<x>' as id 295, tokenizer.json has not",
    ),
    "special token a number": (put("tokenizer_config.json", {"bos_token": 5}), "bos_token is '5'; must be a text"),
    "tokenizer with more ids": (config(vocab_size=280), "the tokenizer has 290 ids, the model's vocabulary 280"),
    "tokenizer with far fewer ids": (
        lambda folder: (
            config(vocab_size=5000)(folder),
            change_weights(
                lambda w: w | {n: np.zeros((5000, 24), np.float32) for n in (HEAD, "model.embed_tokens.weight")}
            )(folder),
        ),
        "the tokenizer has 290 ids, the model's vocabulary 5000",
    ),
    "tokenizer that ends texts": (
        put(
            "tokenizer.json",
            lambda folder: (
                (folder / "tokenizer.json")
                .read_bytes()
                .replace(
                    b'"single": [\n      {', b'"single": [\n      {"Sequence": {"id": "A", "type_id": 0}},\n      {'
                )
            ),
        ),
        "puts more than BOS round a text",
    ),
    "special token unknown": (put("tokenizer_config.json", {"eos_token": "<nowhere>"}), "looked for <nowhere>"),
    "end a text": (put("generation_config.json", {"eos_token_id": "2"}), "eos_token_id is '2'; must be"),
    "a link to nowhere": (
        lambda folder: (
            (folder / "tokenizer_config.json").unlink(),
            (folder / "tokenizer_config.json").symlink_to(folder / "blob"),
        ),
        "tokenizer_config.json: is missing, or is no regular file",
    ),
    "half a surrogate pair": (
        put("tokenizer_config.json", b'{"chat_template": "\\ud800"}'),
        "tokenizer_config.json: half of a surrogate pair",
    ),
    "no end at all": (put("generation_config.json", {"eos_token_id": []}), r"eos_token_id is '\[\]'; must be"),
    "templates without a default": (
        put("tokenizer_config.json", {"chat_template": [{"name": ["rag"], "template": "x"}]}),
        "of 1 chat templates, not one is named 'default'",
    ),
    "heads by the thousand": (
        put("class_heads.json", {f"h{n}": {"classes": ["a"], "pair": False} for n in range(1000)}),
        "class_heads.json: names 1000 heads; from 1 to 64 are read",
    ),
    "a head as wide as a mountain": (
        lambda folder: (
            put("class_heads.json", {"a": {"classes": ["a"] * 200_000, "pair": False}})(folder),
            put("class_heads.safetensors", header({}))(folder),
        ),
        "tensor 'a.weight' is missing",
    ),
    "template a number": (put("tokenizer_config.json", {"chat_template": 7}), "chat_template is '7', not a text"),
}


@pytest.fixture
def watched(tmp_path):
    """Checks that the test left no file and took little time and memory."""
    tracemalloc.start()
    began = time.monotonic()
    yield
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert time.monotonic() - began < SECONDS
    assert peak < MEGABYTES * 1e6
    assert not [*tmp_path.rglob("attacked")]


def refused(path: Path, said: str) -> None:
    before = sorted(path.parent.rglob("*"))
    with pytest.raises(ValueError, match=said) as caught:
        gptjax.load(path)
    assert str(path) in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1
    assert len(str(caught.value)) < 800
    assert sorted(path.parent.rglob("*")) == before


@pytest.mark.parametrize("case", FOLDERS)
def test_a_spoilt_folder_is_refused(case, tmp_path, watched):
    spoil, said = FOLDERS[case]
    folder = write_folder(tmp_path / "model", LLAMA)
    spoil(folder)
    refused(folder, said)


def settings(**change):
    """Those of a good file, some changed, with __ for a dot; None leaves one out."""
    renamed = {key.replace("__", "."): value for key, value in change.items()}
    return {key: value for key, value in (settings_of(LLAMA) | renamed).items() if value is not None}


def file_of(change=None, **changed):
    tensors = tensors_of(LLAMA)
    return gguf_bytes(settings(**changed), change(tensors) if change else tensors)


def counts(tensors, keys, rest=b""):
    """The beginning of a file that says it has so many of them."""
    return b"GGUF" + struct.pack("<IQQ", 3, tensors, keys) + rest


def first_tensor(name="token_embd.weight", **change):
    """The entry of the first tensor, changed: rank, kind, offset."""
    fields = {"shape": (1, 32), "kind": 0, "offset": 0} | change
    shape = fields["shape"]
    raw = text(name) + struct.pack(f"<I{len(shape)}Q", len(shape), *shape)
    return counts(1, 0) + raw + struct.pack("<IQ", fields["kind"], fields["offset"]) + bytes(400)


def with_nan(tensors):
    kind, shape, content = tensors["blk.1.ffn_up.weight"]
    return tensors | {"blk.1.ffn_up.weight": (kind, shape, struct.pack("<f", np.nan) + content[4:])}


def renamed_entry(tensors):
    return {("blk.01.ffn_up.weight" if name == "blk.1.ffn_up.weight" else name): tensors[name] for name in tensors}


def overlapping():
    raw = file_of()
    place = raw.index(b"output_norm.weight") + len(b"output_norm.weight") + 4 + 8 + 4
    return raw[:place] + struct.pack("<Q", 32) + raw[place + 8 :]


FILES = {
    "gguf empty": (lambda: b"", "model.gguf: "),
    "gguf of another kind": (lambda: b"GGML" + bytes(40), "does not begin with GGUF"),
    "gguf a pickle": (lambda: pickle.dumps(Attack(Path("attacked"))), "does not begin with GGUF"),
    "gguf of version 1": (lambda: b"GGUF" + struct.pack("<IQQ", 1, 0, 0), "is GGUF of version 1; 2 and 3 can be read"),
    "gguf big-endian": (lambda: b"GGUF" + struct.pack(">IQQ", 3, 0, 0), "is GGUF of version 50331648"),
    "gguf of 2**60 tensors": (lambda: counts(2**60, 0), "1152921504606846976 tensors; at most 100000"),
    "gguf of 2**60 settings": (lambda: counts(0, 2**60), "1152921504606846976 settings; at most 100000"),
    "gguf of 100,000 settings that are not there": (lambda: counts(0, 100_000), "is cut short: 8 more bytes"),
    "gguf with an endless text": (
        lambda: counts(0, 1, struct.pack("<Q", 2**63)),
        "9223372036854775808 bytes in a text",
    ),
    "gguf with an endless array": (
        lambda: counts(0, 1, text("a") + struct.pack("<IIQ", 9, 4, 2**62)),
        "4611686018427387904 values in an array",
    ),
    "gguf with an array beyond the file": (
        lambda: counts(0, 1, text("a") + struct.pack("<IIQ", 9, 4, 10**6)),
        "is cut short: 4000000 more bytes",
    ),
    "gguf with arrays in arrays": (
        lambda: counts(0, 1, text("a") + struct.pack("<IIQ", 9, 9, 1)),
        "setting 'a' is an array of unknown type 9",
    ),
    "gguf with a setting of unknown type": (
        lambda: counts(0, 1, text("a") + struct.pack("<I", 77)),
        "of unknown type 77",
    ),
    "gguf with a setting twice": (lambda: counts(0, 2, (text("a") + setting(1)) * 2), "setting 'a' is there twice"),
    "gguf with odd alignment": (lambda: counts(0, 1, text("general.alignment") + setting(7)), "general.alignment is 7"),
    "gguf of 9 axes": (lambda: first_tensor(shape=(1,) * 9), "has 9 axes; from 1 to 4"),
    "gguf of type IQ4_NL": (lambda: first_tensor(kind=20), "is of type IQ4_NL; only F32, F16, Q4_0, Q4_1, Q5_0, Q5_1"),
    "gguf with half a block": (lambda: first_tensor(shape=(48,), kind=8), "rows of 48 are not whole blocks of 32"),
    "gguf with an offset beyond": (lambda: first_tensor(offset=2**63), "ends at byte .* the file was cut short"),
    "gguf with a shape beyond": (lambda: first_tensor(shape=(2**60, 2**60)), "the file was cut short"),
    "gguf not aligned": (lambda: first_tensor(offset=4), "within another or not at a multiple of 32"),
    "gguf that overlaps": (overlapping, "within another"),
    "gguf cut short": (lambda: file_of()[:-100], "the file was cut short"),
    "gguf of another architecture": (
        lambda: file_of(general__architecture="gemma3"),
        "general.architecture is 'gemma3'",
    ),
    "gguf with experts": (
        lambda: file_of(llama__expert_count=8),
        "setting 'llama.expert_count', here '8', is not supported",
    ),
    "gguf of an adapter": (lambda: file_of(general__type="adapter"), "general.type is 'adapter'; only 'model'"),
    "gguf with a number for a yes": (
        lambda: file_of(tokenizer__ggml__add_bos_token=1),
        "tokenizer.ggml.add_bos_token is 1; must be true or false",
    ),
    "gguf without a context": (
        lambda: file_of(llama__context_length=None),
        "setting 'llama.context_length' is missing",
    ),
    "gguf with heads by layer": (
        lambda: file_of(llama__attention__head_count_kv=[2, 2, 4]),
        "'num_key_value_heads' is",
    ),
    "gguf partly rotary": (
        lambda: file_of(llama__rope__dimension_count=4),
        "'llama.rope.dimension_count' is 4; only 6",
    ),
    "gguf yarn": (lambda: file_of(llama__rope__scaling__type="yarn"), "rope_type 'yarn' is not supported"),
    "gguf with frequencies": (
        lambda: file_of(lambda t: t | {"rope_freqs.weight": (0, (3,), bytes(12))}),
        "'rope_freqs.weight' is none of this",
    ),
    "gguf without embedding": (
        lambda: file_of(lambda t: {n: t[n] for n in t if n != "token_embd.weight"}),
        "tensor 'token_embd.weight' is missing",
    ),
    "gguf with a tensor renamed": (lambda: file_of(renamed_entry), r"up_proj.weight' is missing"),
    "gguf NaN": (lambda: file_of(with_nan), "up_proj.weight' holds 1 values that are NaN"),
    "gguf SentencePiece": (
        lambda: file_of(tokenizer__ggml__model="llama"),
        "tokenizer.ggml.model is 'llama'; only 'gpt2'",
    ),
    "gguf cut otherwise": (lambda: file_of(tokenizer__ggml__pre="tekken"), "tokenizer.ggml.pre is 'tekken'; only"),
    "gguf without tokens": (lambda: file_of(tokenizer__ggml__tokens=None), "tokenizer.ggml.tokens is missing"),
    "gguf of other merges": (
        lambda: file_of(tokenizer__ggml__merges=["xyzzy q"]),
        "'xyzzy q' does not join two tokens",
    ),
    "gguf of a larger vocabulary": (
        lambda: file_of(
            tokenizer__ggml__tokens=[f"t{n}" for n in range(400)],
            tokenizer__ggml__token_type=[1] * 400,
            tokenizer__ggml__merges=["t1 t2"],
        ),
        "does not join two tokens|they are not of one model",
    ),
    "gguf that ends beyond": (
        lambda: file_of(tokenizer__ggml__eos_token_id=999),
        "eos_token_id is 999, beyond the 290 tokens",
    ),
    "gguf that ends texts": (lambda: file_of(tokenizer__ggml__add_eos_token=True), "add_eos_token is true"),
}


@pytest.mark.parametrize("case", FILES)
def test_a_spoilt_gguf_file_is_refused(case, tmp_path, watched):
    make, said = FILES[case]
    (tmp_path / "model.gguf").write_bytes(make())
    refused(tmp_path / "model.gguf", said)


TEMPLATES = {
    "reaches out": "{{ messages.__class__.__base__.__subclasses__() }}",
    "reaches out by a filter": "{{ (''|attr('__class__')).__mro__ }}",
    "changes the conversation": "{{ messages.append(1) }}",
    "opens a file": "{% include '/etc/passwd' %}",
    "counts for ever": "{% for a in range(1000000000) %}{% endfor %}",
    "is malformed": "{% for message in messages %}",
    "refuses": "{{ raise_exception('no system role') }}",
}


@pytest.mark.parametrize("case", TEMPLATES)
def test_a_hostile_chat_template_does_nothing(case, watched):
    """It is not run by loading; asked for, it is refused in a sandbox."""
    with pytest.raises(ValueError, match="the model's chat template cannot write this conversation"):
        render(TEMPLATES[case], [{"role": "user", "content": "hello"}], {"bos_token": bpe().token(1)}, bpe())


STRANGE = (None, -1, 0, 2**70, 1.5, 1e400, "x", "", [], [1], ["a"], {}, {"a": 1}, True, False)


def test_any_strange_value_of_any_field_is_refused_or_understood():
    """Nothing but ValueError comes of a config, whichever field holds whatever."""
    refusals = 0
    for fields in (LLAMA | {"rope_scaling": LLAMA3}, QWEN3, GPT2):
        extra = {
            "rope_parameters": 0,
            "layer_types": 0,
            "sliding_window": 0,
            "auto_map": 0,
            "head_dim": 0,
            "n_inner": 0,
        }
        for name, value in itertools.product(fields | extra, STRANGE):
            try:
                model_of(fields | {name: value})
            except ValueError:
                refusals += 1
    for name, value in itertools.product(LLAMA3, STRANGE):
        try:
            model_of(LLAMA | {"rope_scaling": LLAMA3 | {name: value}})
        except ValueError:
            refusals += 1
    assert refusals > 500


def test_any_strange_setting_of_a_gguf_file_is_refused_or_understood(tmp_path):
    good, tensors, refusals = settings(), tensors_of(LLAMA), 0
    for key, value in itertools.product(good | {"general.alignment": 0}, (7, -2.5, "x", True, [1], ["a"], [0.5])):
        (tmp_path / "model.gguf").write_bytes(gguf_bytes(good | {key: value}, tensors))
        try:
            read_gguf(tmp_path / "model.gguf")
        except ValueError:
            refusals += 1
    assert refusals > 90


@pytest.mark.parametrize("kind", ["gguf", "safetensors"])
def test_any_byte_that_flips_in_a_header_is_refused_or_understood(kind, tmp_path):
    """100 files with a byte changed somewhere in front of the tensors."""
    draw = np.random.default_rng(0)
    folder = write_folder(tmp_path / "model", LLAMA)
    path = tmp_path / "model.gguf" if kind == "gguf" else folder / WEIGHTS
    raw = file_of() if kind == "gguf" else path.read_bytes()
    outcomes = set()
    for place in draw.integers(0, raw.index(b"output_norm") if kind == "gguf" else 2000, 100):
        path.write_bytes(raw[:place] + bytes([draw.integers(0, 256)]) + raw[place + 1 :])
        try:
            read_gguf(path) if kind == "gguf" else read_folder(folder)
            outcomes.add("understood")
        except ValueError:
            outcomes.add("refused")
    assert "refused" in outcomes


def test_there_are_more_than_forty_of_them():
    assert len(FOLDERS) + len(FILES) + len(TEMPLATES) > 100
