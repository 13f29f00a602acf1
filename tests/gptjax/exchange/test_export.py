"""Exports: what is in them, what proves them, and that a wrong one never appears."""

import dataclasses
import json
import resource
from pathlib import Path

import jax
import numpy as np
import pytest
import safetensors
import tokenizers
from flax import linen as nn

import gptjax
import gptjax.exchange.export
from gptjax.command.export_verb import Export
from gptjax.config import ClassHead, ModelConfig
from gptjax.decoding.sampling import Sampling
from gptjax.exchange import heads_file
from gptjax.exchange.export import PROOF, export
from gptjax.files.file_digest import sha256
from gptjax.inference.chat import LINES, TURNS, Chat
from gptjax.inference.generation_config import GenerationConfig
from gptjax.inference.language_model import LanguageModel
from gptjax.nn.model import Transformer, init_params
from gptjax.runs.rundir import CREDIT, GENERATION
from gptjax.sharding import make_mesh
from gptjax.text.tokenizer import Tokenizer
from tests.gguf_writer import neighbours
from tests.tiny_run import LLAMA, bpe, random_model, write_run

FILES = {
    "README.md", "config.json", "export_proof.json", "generation_config.json", "model.safetensors",
    "special_tokens_map.json", "tokenizer.json", "tokenizer_config.json",
}  # fmt: skip


@pytest.fixture(scope="module")
def exported(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("exports") / "model"
    export(random_model(), folder)
    return folder


def text_file(folder: Path, name: str):
    return json.loads((folder / name).read_text(encoding="utf-8"))


def equal_models(a: LanguageModel, b: LanguageModel) -> None:
    """But for the padding of their tables."""
    assert dataclasses.replace(a.config, head_width=a.config.H) == dataclasses.replace(b.config, head_width=b.config.H)
    assert a.generation_config == b.generation_config
    V = a.config.vocabulary
    jax.tree.map(lambda x, y: np.testing.assert_array_equal(x[:V], y[:V]), a.params, b.params)


def test_an_export_loads_as_the_model_that_it_was_made_of(exported):
    assert {path.name for path in exported.iterdir()} == FILES
    loaded = gptjax.load(exported)
    equal_models(loaded, random_model())
    texts = [model.generate("hello", temperature=0, tokens=12) for model in (loaded, random_model())]
    assert texts[0] == texts[1]


def test_the_proof_lists_every_file_and_what_was_compared(exported):
    proof = text_file(exported, PROOF)
    assert proof["files"].keys() == FILES - {PROOF}
    for name, entry in proof["files"].items():
        assert entry == {"bytes": (exported / name).stat().st_size, "sha256": sha256(exported / name)}
    assert proof["class"] == "Qwen3ForCausalLM"
    assert 0 < proof["logits"]["largest_difference"] < proof["logits"]["allowed_difference"]
    assert proof["logits"]["tokens"] > 2 * 64
    continuation = random_model().generate(proof["greedy"]["prompt"], temperature=0, tokens=16)[0][0]
    assert proof["greedy"]["continuation"] == list(continuation.ids)


def test_others_find_the_special_tokens_and_begin_texts_with_bos(exported):
    rules, tokenizer = tokenizers.Tokenizer.from_file(str(exported / "tokenizer.json")), bpe()
    assert rules.encode("hello there").ids == random_model().encode_prompt("hello there")
    assert rules.encode("hello", "there").ids == [1, *tokenizer.encode("hello"), *tokenizer.encode("there")]
    names = {"bos_token": "<|bos|>", "eos_token": "<|eos|>", "pad_token": "<|pad|>", "mask_token": "<|mask|>"}
    assert text_file(exported, "special_tokens_map.json") == names
    assert text_file(exported, "tokenizer_config.json").items() >= names.items()
    assert text_file(exported, "tokenizer_config.json")["chat_template"] == LINES
    assert text_file(exported, "generation_config.json") == {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}


def test_another_models_habits_go_with_it(tmp_path):
    """No BOS in front, two ends, a chat template and names of its own, settings for others that sample."""
    model = random_model()
    generation_config = GenerationConfig(
        ends=frozenset({2, 9}),
        begins_with_bos=False,
        chat_template="{{ messages }}",
        names={"eos_token": "<|eos|>", "unk_token": "a"},
        generation={"temperature": 0.6, "do_sample": True},
    )
    export(
        LanguageModel(model.config, model.tokenizer, model.params, generation_config=generation_config),
        tmp_path / "model",
    )
    assert gptjax.load(tmp_path / "model").generation_config == generation_config
    rules = tokenizers.Tokenizer.from_file(str(tmp_path / "model" / "tokenizer.json"))
    assert rules.encode("hello").ids == bpe().encode("hello")


@pytest.mark.parametrize("ends", [{2}, {2, 9}])
def test_a_run_that_was_taught_to_talk_is_exported_with_how(tmp_path, ends):
    """Its template and its ends; what is read again talks alike, token by token."""
    run = write_run(tmp_path / "run", random_model())
    talks = dataclasses.replace(GenerationConfig.of_turns(bpe()), ends=frozenset(ends))
    talks.save(run / GENERATION, bpe())
    export(gptjax.load(run), tmp_path / "model")
    assert text_file(tmp_path / "model", "tokenizer_config.json")["chat_template"] == TURNS
    loaded = gptjax.load(tmp_path / "model")
    assert loaded.generation_config == talks
    chats = [Chat(model, Sampling(temperature=0, tokens=12)) for model in (gptjax.load(run), loaded)]
    assert chats[0].tokens("the fox") == chats[1].tokens("the fox")
    assert [*chats[0].say("the fox")] == [*chats[1].say("the fox")]
    assert "How it talks" not in (tmp_path / "model" / "README.md").read_text()


def test_a_model_without_bos_and_template_gets_neither(tmp_path):
    """Our lines begin with BOS, so that they would put one in front."""
    model = random_model()
    generation_config = dataclasses.replace(model.generation_config, begins_with_bos=False)
    export(
        LanguageModel(model.config, model.tokenizer, model.params, generation_config=generation_config),
        tmp_path / "model",
    )
    assert "chat_template" not in text_file(tmp_path / "model", "tokenizer_config.json")
    assert gptjax.load(tmp_path / "model").generation_config == generation_config


def test_everybody_may_read_what_the_umask_lets_them(exported):
    """Also the weights, whose library would keep them to their owner."""
    assert len({path.stat().st_mode for path in exported.iterdir()}) == 1


def test_the_credit_that_texts_demand_goes_with_the_model(tmp_path, exported):
    run = write_run(tmp_path / "run", random_model())
    (run / CREDIT).write_text("by them, CC-BY-SA-4.0\n")
    for folder, source in (("model", run), ("again", tmp_path / "model")):
        export(gptjax.load(source), tmp_path / folder)
        assert (tmp_path / folder / CREDIT).read_text() == "by them, CC-BY-SA-4.0\n"
        assert CREDIT in (tmp_path / folder / "README.md").read_text()
    assert "\n# run\n" in (tmp_path / "model" / "README.md").read_text()
    assert "\n# A language model\n" in (tmp_path / "again" / "README.md").read_text()
    assert CREDIT not in (exported / "README.md").read_text()


def test_a_vocabulary_that_knows_no_character_of_the_fixed_texts_exports(tmp_path):
    """Of digits alone, and without a token for what it does not know."""
    rules = tokenizers.Tokenizer(tokenizers.models.BPE({"<|bos|>": 0, "<|eos|>": 1, "7": 2, "8": 3}, []))
    tokenizer = Tokenizer(rules)
    config = ModelConfig(T=32, vocabulary=tokenizer.size, **LLAMA)
    params = nn.unbox(init_params(Transformer(config), jax.random.key(0)))
    generation_config = dataclasses.replace(GenerationConfig.of_runs(tokenizer), begins_with_bos=False)
    proof = export(LanguageModel(config, tokenizer, params, generation_config=generation_config), tmp_path / "model")
    assert proof["logits"]["texts"] == 2


def test_a_large_model_is_cut_into_files_with_an_index(tmp_path, monkeypatch):
    monkeypatch.setattr(gptjax.exchange.export, "SHARD_BYTES", 30_000)
    export(random_model(), tmp_path / "model")
    index = text_file(tmp_path / "model", "model.safetensors.index.json")
    files = sorted(set(index["weight_map"].values()))
    assert files[0] == f"model-00001-of-{len(files):05}.safetensors"
    assert len(files) > 2
    sizes = [(tmp_path / "model" / file).stat().st_size for file in files]
    assert index["metadata"]["total_size"] < sum(sizes) < index["metadata"]["total_size"] + 3000 * len(files)
    assert max(sizes) < max(30_000, 290 * 32 * 4) + 3000
    equal_models(gptjax.load(tmp_path / "model"), random_model())


def test_class_heads_lie_beside_and_the_readme_says_so(tmp_path, exported):
    """A plain loader does not see them, ours does."""
    heads = (
        ClassHead(name="topic", classes=("law", "战争", "tea")),
        ClassHead(name="mood", classes=("good", "bad"), pair=True),
    )
    model = random_model()
    config = dataclasses.replace(model.config, class_heads=heads)
    draw = np.random.default_rng(0)
    bank = draw.normal(size=(2, config.D, 3)).astype(np.float32)
    bank[1, :, 2] = 0  # the room of a class that the head does not have
    biases = np.float32([[1, 2, 3], [4, 5, 0]])
    params = model.params | {"class_heads": jax.numpy.asarray(bank), "class_heads_bias": jax.numpy.asarray(biases)}
    export(LanguageModel(config, model.tokenizer, params), tmp_path / "model")
    assert {path.name for path in (tmp_path / "model").iterdir()} == FILES | {heads_file.NAMES, heads_file.WEIGHTS}
    equal_models(gptjax.load(tmp_path / "model"), LanguageModel(config, model.tokenizer, params))
    readme = (tmp_path / "model" / "README.md").read_text(encoding="utf-8")
    assert "A plain loader does not see them" in readme
    assert "- `topic`: law, 战争, tea" in readme
    assert "Output heads" not in (exported / "README.md").read_text(encoding="utf-8")
    assert sha256(tmp_path / "model" / "model.safetensors") == sha256(exported / "model.safetensors")


def test_a_model_spread_over_devices_exports_the_same_files(tmp_path, exported):
    run = write_run(tmp_path / "run", random_model())
    spread = gptjax.load(run, mesh=make_mesh(fsdp=4, tensor=2))
    export(spread, tmp_path / "spread")
    assert sha256(tmp_path / "spread" / "model.safetensors") == sha256(exported / "model.safetensors")


def test_the_verb_exports_a_run(tmp_path, capsys, exported):
    """From a checkpoint that eight devices saved; says what was proven. A mistake is told before anything is loaded."""
    model = random_model()
    run = write_run(tmp_path / "run", model)
    Export(directory=str(run), folder=str(tmp_path / "model")).run()
    said = capsys.readouterr().out
    assert f"model: Qwen3ForCausalLM, {model.config.parameters:,} parameters; 25 tensors equal, scores of up to" in said
    assert sha256(tmp_path / "model" / "model.safetensors") == sha256(exported / "model.safetensors")
    assert text_file(tmp_path / "model", PROOF)["step"] == 10
    with pytest.raises(ValueError, match="model: exists already"):
        Export(directory="no such run", folder=str(tmp_path / "model")).run()


def changed(change):
    """Writes other tensors than those of the model."""
    return lambda config, params: ((name, change(name, array)) for name, array in written(config, params))


def one_value(name, array):
    if name == "model.layers.1.mlp.up_proj.weight":
        array = array.copy()
        array[3, 4] += 1e-3
    return array


def interleaved(name, array):
    return neighbours(array, 4).copy() if "q_proj" in name else array


def tied(config, params):
    return written(config, params | {"head": params["embedding"]})


written = gptjax.exchange.export.written
WRONG_WEIGHTS = {
    "one value": (changed(one_value), "tensor 'model.layers.1.mlp.up_proj.weight' differs from the source by up to"),
    "permutation": (changed(interleaved), "tensor 'model.layers.0.self_attn.q_proj.weight' differs from the source by"),
    "tie": (tied, "tensor 'lm_head.weight' differs from the source by"),
}  # fmt: skip


@pytest.mark.parametrize("mistake", WRONG_WEIGHTS)
def test_wrong_weights_stop_an_export(mistake, tmp_path, monkeypatch):
    wrong, said = WRONG_WEIGHTS[mistake]
    monkeypatch.setattr(gptjax.exchange.export, "written", wrong)
    with pytest.raises(ValueError, match=f"^export: {said}.*; nothing was written"):
        export(random_model(), tmp_path / "model")
    assert not [*tmp_path.iterdir()]


WRONG_CONFIGS = {
    "theta": ("config.json", {"rope_parameters": {"rope_type": "default", "rope_theta": 9999.0}}, "scores of up to"),
    "epsilon": ("config.json", {"rms_norm_eps": 1e-2}, "every tensor is the source's, but scores of up to"),
    "tie": ("config.json", {"tie_word_embeddings": True}, "tensor 'lm_head.weight' is of no use to this config"),
    "no BOS": ("tokenizer.json", {"post_processor": None}, "tokenizer.json makes"),
    "activation": ("config.json", {"hidden_act": "gelu"}, "field 'hidden_act' is 'gelu'"),
    "old theta": ("config.json", {"rope_theta": 9999.0}, "field 'rope_theta' is 9999.0"),
    "old scaling": ("config.json", {"rope_scaling": {"rope_type": "linear", "factor": 4.0}}, "'rope_parameters' says"),
    "class": ("config.json", {"architectures": ["MixtralForCausalLM"]}, "architectures is"),
    "context": ("config.json", {"max_position_embeddings": 7}, "config.json says T=7, the source 64"),
    "role": ("tokenizer_config.json", {"pad_token": "<|eos|>"}, "generation_config: names is"),
    "end": ("generation_config.json", {"eos_token_id": 77}, "generation_config: ends is"),
    "template": (
        "tokenizer_config.json",
        {"chat_template": "nonsense"},
        "generation_config: chat_template is 'nonsense'",
    ),
    "rules": ("tokenizer.json", {"normalizer": {"type": "NFC"}}, "tokenizer.json has other rules than the source"),
}


@pytest.mark.parametrize("mistake", WRONG_CONFIGS)
def test_a_wrong_config_stops_an_export(mistake, tmp_path, monkeypatch):
    file, change, said = WRONG_CONFIGS[mistake]
    texts = gptjax.exchange.export.texts

    def spoilt(*of_what):
        files = texts(*of_what)
        return files | {file: json.dumps(json.loads(files[file]) | change)}

    monkeypatch.setattr(gptjax.exchange.export, "texts", spoilt)
    with pytest.raises(ValueError, match=said):
        export(random_model(), tmp_path / "model")
    assert not [*tmp_path.iterdir()]


def headed(bank, biases):
    """A model with a head of three classes and one of two, which leaves room for a third."""
    heads = (ClassHead(name="topic", classes=("law", "war", "tea")), ClassHead(name="mood", classes=("good", "bad")))
    model = random_model()
    config = dataclasses.replace(model.config, class_heads=heads)
    params = model.params | {"class_heads": jax.numpy.asarray(bank), "class_heads_bias": jax.numpy.asarray(biases)}
    return LanguageModel(config, model.tokenizer, params)


def test_what_lies_in_the_room_of_a_class_that_a_head_has_not_is_no_matter(tmp_path):
    """Training leaves there what it began with."""
    bank = np.arange(2 * 32 * 3, dtype=np.float32).reshape(2, 32, 3)
    export(headed(bank, bank[:, 0]), tmp_path / "model")
    found = gptjax.load(tmp_path / "model").params["class_heads"]
    np.testing.assert_array_equal(found[0], bank[0])
    np.testing.assert_array_equal(found[1, :, :2], bank[1, :, :2])
    assert not np.asarray(found[1, :, 2]).any()


def test_wrong_weights_of_a_head_stop_an_export(tmp_path, monkeypatch):
    weights = heads_file.weights
    monkeypatch.setattr(heads_file, "weights", lambda *of: {name: -x for name, x in weights(*of).items()})
    with pytest.raises(ValueError, match=r"class_heads of head 'topic' in class_heads.safetensors differ"):
        export(headed(np.ones((2, 32, 3)), np.ones((2, 3))), tmp_path / "model")
    assert not [*tmp_path.iterdir()]


def test_classes_in_another_order_stop_an_export(tmp_path, monkeypatch):
    model = random_model()
    config = dataclasses.replace(model.config, class_heads=(ClassHead(name="mood", classes=("good", "bad")),))
    params = model.params | {
        "class_heads": jax.numpy.ones((1, config.D, 2)),
        "class_heads_bias": jax.numpy.ones((1, 2)),
    }
    swapped = (ClassHead(name="mood", classes=("bad", "good")),)
    names_text = heads_file.names_text
    monkeypatch.setattr(heads_file, "names_text", lambda heads: names_text(swapped))
    with pytest.raises(ValueError, match=r"config.json says class_heads=.*; nothing was written"):
        export(LanguageModel(config, model.tokenizer, params), tmp_path / "model")
    assert not [*tmp_path.iterdir()]


def test_what_no_class_of_theirs_computes_leaves_nothing(tmp_path):
    config = ModelConfig(**{**dataclasses.asdict(random_model().config), "logit_cap": 5.0})
    with pytest.raises(ValueError, match=r"Qwen3ForCausalLM cannot have model.logit_cap=5.0"):
        export(LanguageModel(config, bpe(), random_model().params), tmp_path / "model")
    assert not [*tmp_path.iterdir()]


def test_a_full_disk_leaves_nothing(tmp_path, monkeypatch, exported):
    """Told before writing, where that can be foreseen; else in the middle of a file: the system allows 20 kB each."""
    full = type("Usage", (), {"free": 1000})
    with monkeypatch.context() as patch:
        patch.setattr(gptjax.exchange.export.shutil, "disk_usage", lambda path: full)
        with pytest.raises(OSError, match="does not fit, the disk has 0 MB left"):
            export(random_model(), tmp_path / "model")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, hard))
    try:
        with pytest.raises(OSError, match="File too large"):
            export(random_model(), tmp_path / "model")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert not [*tmp_path.iterdir()]


def test_plain_safetensors_reads_it(exported):
    """The library that others use; and its metadata, without which older transformers refuse a file."""
    with safetensors.safe_open(exported / "model.safetensors", "numpy") as file:
        assert file.metadata() == {"format": "pt"}
        assert file.get_tensor("model.embed_tokens.weight").shape == (bpe().size, 32)
