"""Exports to GGUF: what is in them, what proves them, what cannot be said, and that a wrong one never appears."""

import dataclasses

import jax
import numpy as np
import pytest
import tokenizers

import gptjax
from gptjax.command.export_verb import Export
from gptjax.config import ClassHead, Lora, RopeScaling, save_model_config
from gptjax.exchange import gguf_export
from gptjax.exchange.gguf_export import export_gguf
from gptjax.exchange.gguf_file import read_file
from gptjax.exchange.gguf_settings import DTYPES, described
from gptjax.inference.chat import TURNS
from gptjax.inference.generation_config import GenerationConfig
from gptjax.inference.language_model import LanguageModel
from gptjax.runs.rundir import GENERATION
from gptjax.text.tokenizer import Tokenizer
from tests.gguf_writer import write_gguf
from tests.hf_models import LLAMA
from tests.tiny_run import bpe, characters, random_model, write_run


def with_config(model: LanguageModel, **changes) -> LanguageModel:
    return LanguageModel(dataclasses.replace(model.config, **changes), model.tokenizer, model.params)


def with_habits(**changes) -> LanguageModel:
    model = random_model()
    habits = dataclasses.replace(model.generation_config, **changes)
    return LanguageModel(model.config, model.tokenizer, model.params, generation_config=habits)


def with_rules(change) -> LanguageModel:
    """The tiny model with other rules of its tokenizer."""
    rules = tokenizers.Tokenizer.from_str(bpe().content.decode())
    change(rules)
    return LanguageModel(random_model().config, Tokenizer(rules), random_model().params)


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """With two more ends, an output head, and texts whose authors ask to be named; the proof too."""
    folder = tmp_path_factory.mktemp("exports")
    model = with_config(random_model("gpt2"), class_heads=(ClassHead(name="topic", classes=("law", "tea")),))
    model.generation_config = dataclasses.replace(GenerationConfig.of_turns(bpe()), ends=frozenset({2, 9, 17}))
    model.credit = "by them, CC-BY-SA-4.0\n"
    bank = {"class_heads": jax.numpy.ones((1, 32, 2)), "class_heads_bias": jax.numpy.ones((1, 2))}
    model.params = model.params | bank
    return model, folder / "model.gguf", export_gguf(model, folder / "model.gguf")


def test_an_export_loads_as_the_model_that_it_was_made_of_without_its_heads(exported):
    """Weights, how it talks and ends, whose texts it read; the proof names what is left out."""
    model, path, proof = exported
    loaded = gptjax.load(path)
    wanted = dataclasses.replace(model.config, class_heads=(), head_width=None)  # which D and N make 8
    assert loaded.config == wanted
    V = model.config.vocabulary
    wanted = {name: leaf for name, leaf in model.params.items() if not name.startswith("class_heads")}
    jax.tree.map(lambda x, y: np.testing.assert_array_equal(x[:V], y[:V]), loaded.params, wanted)
    assert (loaded.generation_config.chat_template, loaded.credit) == (TURNS, model.credit)
    assert loaded.generation_config.ends == {2, 9, 17}
    assert loaded.encode_prompt("hello 曹操") == model.encode_prompt("hello 曹操")
    assert proof["left_out"] == ["topic"]
    assert proof["bytes"] == path.stat().st_size
    assert 0 < proof["logits"]["moved"] < proof["logits"]["allowed_moved"] == 1e-4
    assert [*path.parent.iterdir()] == [path]


def test_a_file_of_others_is_written_again_with_the_same_settings_and_tensors(tmp_path):
    """The tests' own writer made the first; what it does not say is added."""
    model = gptjax.load(write_gguf(tmp_path / "first.gguf", LLAMA))
    export_gguf(model, tmp_path / "second.gguf")
    (first, one), (second, two) = (read_file(tmp_path / f"{name}.gguf") for name in ("first", "second"))
    tokens = [f"tokenizer.ggml.{name}" for name in ("tokens", "token_type")]
    assert {key: first[key] for key in first if key not in (*tokens, "general.name")}.items() <= second.items()
    for key in tokens:
        assert second[key][:290] == first[key]
        assert len(second[key]) == 301
    assert set(second["tokenizer.ggml.token_type"][290:]) == {5}
    assert one.shapes == two.shapes
    for name in one:
        np.testing.assert_array_equal(one[name], two[name])


@pytest.mark.parametrize("dtype", DTYPES)
def test_matrices_have_the_type_that_was_asked_for_and_the_rest_is_exact(dtype):
    settings, entries = described(random_model("gpt2"), "model", dtype)
    kinds = {name: kind for name, kind, _ in entries}
    assert kinds["blk.1.ffn_up.weight"] == dtype.upper()
    assert kinds["token_embd.weight"] == kinds["output.weight"] == ("Q8_0" if dtype[:2] == "q4" else dtype.upper())
    assert {kinds[name] for name in ("blk.0.ffn_up.bias", "output_norm.weight", "position_embd.weight")} == {"F32"}
    assert ("general.quantization_version" in settings) == dtype.startswith("q")


def test_few_bits_are_proven_and_cost_what_they_may(tmp_path):
    proof = export_gguf(random_model("gpt2"), tmp_path / "model.gguf", "Q8_0")
    assert 1e-3 < proof["logits"]["moved"] < proof["logits"]["allowed_moved"]
    assert proof["logits"]["largest_difference"] < proof["logits"]["allowed_difference"]


def spaced(rules):
    rules.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=True)


def small_letters(rules):
    rules.normalizer = tokenizers.normalizers.Lowercase()


def stripping(rules):
    rules.add_tokens([tokenizers.AddedToken("<think>", lstrip=True)])


GROUPED = random_model
UNSAYABLE = {
    "rows of 48 in blocks": (GROUPED, "q8_0", "'blk.0.ffn_down.weight' have 48 values, no multiple of 32"),
    "an unknown dtype": (GROUPED, "q8_1", "dtype='q8_1'; did you mean 'q8_0'"),
    "a window": (lambda: with_config(random_model(), window=5), "f32", "model.window=5 is not written to GGUF"),
    "llama3's scaling": (
        lambda: with_config(random_model(), rope_scaling=RopeScaling()), "f32", "rope_scaling.kind='llama3' is not",
    ),
    "biases of qwen3": (lambda: with_config(random_model(), attention_bias=True), "f32", "qwen3 has no biases"),
    "layers without positions": (
        lambda: with_config(random_model(), nope_layers=(1,), qk_norm=False), "f32", r"model.nope_layers=\(1,\) is not",
    ),
    "adapters": (lambda: with_config(random_model(), lora=Lora()), "f32", "has adapters beside its weights"),
    "a prefix that is encoded": (lambda: with_habits(encodes_prompt=True), "f32", "from both sides"),
    "four ends": (lambda: with_habits(ends=frozenset({2, 5, 6, 7})), "f32", r"end with the tokens \[2, 5, 6, 7\]"),
    "no EOS among the ends": (lambda: with_habits(ends=frozenset({5})), "f32", r"GGUF can say EOS, here 2"),
    "a template that fills": (
        lambda: with_habits(chat_template="{{ pad_token }}"), "f32", "the chat template asks for pad_token",
    ),
    "a template's nameless BOS": (
        lambda: with_habits(chat_template="{{ bos_token }}", names={}), "f32", "the chat template asks for bos_token",
    ),
    "characters": (
        lambda: LanguageModel(random_model().config, characters(), random_model().params), "f32", "a byte-level BPE",
    ),
    "a space in front": (lambda: with_rules(spaced), "f32", "cuts words in a way for which GGUF has no name"),
    "small letters": (lambda: with_rules(small_letters), "f32", "cuts words in a way for which GGUF has no name"),
    "a token that strips": (lambda: with_rules(stripping), "f32", "cannot say lstrip of the token '<think>'"),
}  # fmt: skip


@pytest.mark.parametrize("case", UNSAYABLE)
def test_what_gguf_cannot_say_is_named_before_anything_is_written(case, tmp_path, monkeypatch):
    make, dtype, said = UNSAYABLE[case]
    monkeypatch.setattr(gguf_export, "appearing", None)  # nothing is even begun
    with pytest.raises(ValueError, match=said):
        export_gguf(make(), tmp_path / "model.gguf", dtype)
    assert not [*tmp_path.iterdir()]


def test_what_exists_is_left_as_it_is(tmp_path):
    (tmp_path / "model.gguf").write_text("mine")
    with pytest.raises(ValueError, match=r"model.gguf: exists already"):
        gptjax.export(random_model(), tmp_path / "model.gguf")
    assert (tmp_path / "model.gguf").read_text() == "mine"


def one_value(name, array):
    return array + (array == array.max()) * np.float32(1e-3) if name == "blk.1.ffn_up.weight" else array


def infinite(name, array):
    return array * np.float32(1e9)


WRONG = {
    "a value": ("tensors", one_value, "f32", "tensor 'blk.1.ffn_up.weight' differs from the source by up to"),
    "a value beyond float16": ("tensors", infinite, "f16", "tensor 'token_embd.weight': values of up to .* are beyond"),
    "epsilon": ("settings", {"gpt2.attention.layer_norm_epsilon": 1e-3}, "f32", "says norm_epsilon=0.001, the source"),
    "context": ("settings", {"gpt2.context_length": 7}, "f32", "position_embd|n_positions|transformer.wpe"),
    "BOS": ("settings", {"tokenizer.ggml.add_bos_token": False}, "f32", "begins_with_bos is 'False'"),
    "EOS": ("settings", {"tokenizer.ggml.eos_token_id": 3}, "f32", "the file's ends is"),
    "PAD": ("settings", {"tokenizer.ggml.padding_token_id": 3}, "f32", "the PAD token has id 3"),
    "template": ("settings", {"tokenizer.chat_template": "none"}, "f32", "chat_template is 'none'"),
    "cut": ("settings", {"tokenizer.ggml.pre": "smollm"}, "f32", "tokenizer.ggml.pre is smollm in the file"),
    "architecture": ("settings", {"general.architecture": "llama"}, "f32", "'gpt2.*' is not supported|setting 'gpt2"),
}


@pytest.mark.parametrize("mistake", WRONG)
def test_a_wrong_file_never_appears(mistake, tmp_path, monkeypatch):
    what, change, dtype, said = WRONG[mistake]
    if what == "tensors":
        written = gguf_export.tensors_of
        monkeypatch.setattr(
            gguf_export, "tensors_of", lambda *of: ((name, change(name, array)) for name, array in written(*of))
        )
    else:
        write_file = gguf_export.write_file
        monkeypatch.setattr(
            gguf_export, "write_file", lambda path, settings, *rest: write_file(path, settings | change, *rest)
        )
    with pytest.raises(ValueError, match=said):
        export_gguf(random_model("gpt2"), tmp_path / "model.gguf", dtype)
    assert not [*tmp_path.iterdir()]


def test_scores_that_move_further_than_a_type_may_stop_an_export(tmp_path, monkeypatch):
    monkeypatch.setitem(gguf_export.DTYPES, "f16", (1, 1e-9))
    with pytest.raises(ValueError, match="for f16 at most 1e-09 is allowed"):
        export_gguf(random_model("gpt2"), tmp_path / "model.gguf", "f16")
    assert not [*tmp_path.iterdir()]


def test_a_full_disk_leaves_nothing(tmp_path, monkeypatch):
    full = type("Usage", (), {"free": 1000})
    monkeypatch.setattr(gguf_export.shutil, "disk_usage", lambda path: full)
    with pytest.raises(OSError, match="does not fit, the disk has 0 MB left"):
        export_gguf(random_model(), tmp_path / "model.gguf")
    assert not [*tmp_path.iterdir()]


def test_the_verb_writes_a_file_by_its_ending(tmp_path, capsys):
    """And tells what was proven; a type of weights is for files alone."""
    run = write_run(tmp_path / "run", random_model("gpt2"))
    Export(directory=str(run), folder=str(tmp_path / "model.gguf"), dtype="q8_0").run()
    assert "model.gguf: GGUF, q8_0, " in capsys.readouterr().out
    assert gptjax.load(tmp_path / "model.gguf").config.F == random_model("gpt2").config.F
    with pytest.raises(ValueError, match=r"dtype=q8_0 is for a target that ends in .gguf"):
        Export(directory="run", folder="folder", dtype="q8_0")
    with pytest.raises(ValueError, match=r"dtype='q8_0' is for a .gguf file"):
        gptjax.export(random_model("gpt2"), tmp_path / "folder", "q8_0")
    with pytest.raises(ValueError, match="only_adapter writes a folder"):
        Export(directory="run", folder="a.gguf", only_adapter=True)


def test_a_run_that_a_form_cannot_say_is_refused_before_its_weights_are_read(tmp_path):
    """By what it is besides them: this one has none. Adapters are no hindrance, for they will be merged."""
    model, run = random_model(), tmp_path / "run"
    run.mkdir()
    save_model_config(dataclasses.replace(model.config, lora=Lora(rank=2, targets=("query",))), run / "model.json")
    model.tokenizer.save(run / "tokenizer.json")
    with pytest.raises(ValueError, match="48 values, no multiple of 32, so that they are not whole blocks of Q4_0"):
        Export(directory=str(run), folder=str(tmp_path / "a.gguf"), dtype="q4_0").run()
    both = dataclasses.replace(model.generation_config, encodes_prompt=True)
    both.save(run / GENERATION, model.tokenizer)
    with pytest.raises(ValueError, match="reads a conversation from both sides"):
        Export(directory=str(run), folder=str(tmp_path / "a.gguf")).run()
    with pytest.raises(ValueError, match="reads a conversation from both sides"):
        Export(directory=str(run), folder=str(tmp_path / "programs"), as_="stablehlo").run()
    assert [path.name for path in tmp_path.iterdir()] == ["run"]
