"""Adapters of PEFT: its logits, every field understood or refused, each for its own base."""

import dataclasses
import json
import re

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import gptjax
from gptjax import cli
from gptjax.config import Lora
from gptjax.exchange.export import logits_of
from gptjax.exchange.hf_config import model_of
from gptjax.exchange.peft_adapter import BASE, CONFIG, WEIGHTS, read_adapter, write_adapter
from gptjax.inference.language_model import LanguageModel
from gptjax.nn.fingerprint import fingerprint
from gptjax.nn.lora import adapters_of, with_adapters
from gptjax.sharding import make_mesh
from tests.campaigns.golden_transformers import kept
from tests.campaigns.peft_live import GOLDEN, drawn
from tests.hf_models import GPT2, LLAMA, PROMPT, QWEN3, write_folder
from tests.tiny_run import random_model, write_run

BASES = {"llama": LLAMA, "qwen3": QWEN3}
CONFIG_OF_LLAMA = dataclasses.replace(model_of(LLAMA)[0], lora=Lora(rank=3, alpha=5.0))


@pytest.fixture(scope="module")
def golden():
    with np.load(GOLDEN) as file:
        return dict(file)


def theirs(folder, name, golden):
    """The folder that PEFT wrote."""
    folder.mkdir()
    for file in (CONFIG, WEIGHTS):
        (folder / file).write_bytes(golden[f"{name} {file}"].tobytes())
    return folder


def scores(model):
    return kept(logits_of(model, [[id % model.config.vocabulary for id in PROMPT]])[0])


def distance(found, wanted):
    return np.abs(found - wanted).max() / np.abs(wanted).max()


def written(folder, config=CONFIG_OF_LLAMA, **change):
    """An adapter of ours; fields in `change` are added to its config."""
    write_adapter(folder, drawn(config), config, "0" * 32)
    fields = json.loads((folder / CONFIG).read_text())
    (folder / CONFIG).write_text(json.dumps(fields | change))
    return folder


@pytest.mark.parametrize("name", BASES)
def test_an_adapter_of_peft_gives_the_logits_that_peft_gives(name, golden, tmp_path):
    """Within 1e-5 of the largest, and far from the base: ranks, alphas, rank-stabilised scale; on a mesh too."""
    base = write_folder(tmp_path / "base", BASES[name])
    adapter = theirs(tmp_path / "adapter", name, golden)
    wanted = golden[f"{name} logits"]
    assert distance(scores(gptjax.load(base, adapter=adapter)), wanted) < 1e-5
    assert distance(scores(gptjax.load(base)), wanted) > 0.1
    mesh = make_mesh(1, 2, 1, devices=jax.devices()[:2])
    assert distance(scores(gptjax.load(base, adapter=adapter, mesh=mesh)), wanted) < 1e-5


@pytest.mark.parametrize("name", BASES)
def test_what_is_written_is_what_was_trained(name, tmp_path):
    """Kind and leaves bit for bit, and the scores of the model with its adapters in place."""
    base = write_folder(tmp_path / "base", BASES[name])
    model = gptjax.load(base)
    lora = Lora(rank=3, alpha=2.5, dropout=0.25, targets=("query", "down"), rank_stabilised=True)
    config = dataclasses.replace(model.config, lora=lora)
    params = with_adapters(model.params, drawn(config))
    write_adapter(tmp_path / "adapter", params, config, fingerprint(params, config))
    again = read_adapter(tmp_path / "adapter", model.config)
    assert again.lora == lora
    jax.tree.map(np.testing.assert_array_equal, again.leaves, adapters_of(params))
    wanted = scores(LanguageModel(config, model.tokenizer, params))
    assert distance(scores(gptjax.load(base, adapter=tmp_path / "adapter")), wanted) < 1e-5
    assert distance(scores(model), wanted) > 0.1


def test_a_run_writes_its_adapter_by_one_command_and_its_base_alone_takes_it(tmp_path, capsys):
    """Merged into the base it is the run; another base is refused with both hashes, and nothing half-made stays."""
    base = random_model()
    config = dataclasses.replace(base.config, lora=Lora(rank=2, targets=("value", "up")))
    params = with_adapters(base.params, drawn(config))
    run = write_run(tmp_path / "run", LanguageModel(config, base.tokenizer, params))
    plain = write_run(tmp_path / "plain", base)
    louder = jax.tree.map(lambda leaf: leaf * 1.5, base.params)
    other = write_run(tmp_path / "other", LanguageModel(base.config, base.tokenizer, louder))
    cli.parse(["export", str(run), str(tmp_path / "adapter"), "--only-adapter"]).run()
    cli.parse(["export", str(plain), str(tmp_path / "whole"), "--adapter", str(tmp_path / "adapter")]).run()
    capsys.readouterr()
    wanted = scores(gptjax.load(run))
    assert distance(scores(gptjax.load(tmp_path / "whole")), wanted) < 1e-5
    assert distance(scores(gptjax.load(plain)), wanted) > 1e-2
    hashes = (fingerprint(model.params, model.config) for model in (base, gptjax.load(other)))
    with pytest.raises(ValueError, match=".*".join(hashes)):
        gptjax.load(other, adapter=tmp_path / "adapter")
    (tmp_path / "adapter" / BASE).unlink()
    gptjax.load(other, adapter=tmp_path / "adapter")  # as from PEFT, which does not say
    with pytest.raises(ValueError, match="trained without adapters"):
        gptjax.export_adapter(plain, tmp_path / "none")
    assert not [path for path in tmp_path.iterdir() if "none" in path.name]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"peft_type": "IA3"}, "'peft_type' is 'IA3'; only 'LORA'"),
        ({"use_dora": True}, "'use_dora', here 'True', is not supported"),
        ({"bias": "all"}, "'bias' is 'all'; only 'none'"),
        ({"modules_to_save": ["lm_head"]}, "'modules_to_save'"),
        ({"init_lora_weights": "pissa"}, "'init_lora_weights' is 'pissa'"),
        ({"layer_replication": [[0, 2]]}, "'layer_replication'"),
        ({"fan_in_fan_out": True}, "'fan_in_fan_out'"),
        ({"r": "3"}, "'r' is '3'; must be a number"),
        ({"lora_alpha": None}, "'lora_alpha' is 'None'; must be a number"),
        ({"rank_pattern": {"(": 2}}, "'rank_pattern': "),
        ({"alpha_pattern": [2]}, "'alpha_pattern' is '[2]'"),
        ({"r": 4}, "has shape [3, 24]; the config makes it [4, 24]"),
    ],
    ids=str,
)
def test_a_field_that_asks_for_more_is_refused_by_file_and_name(change, said, tmp_path):
    read_adapter(written(tmp_path / "good", megatron_core="megatron.core", use_dora=False), CONFIG_OF_LLAMA)
    with pytest.raises(ValueError, match=re.escape(said)) as error:
        read_adapter(written(tmp_path / "adapter", **change), CONFIG_OF_LLAMA)
    assert str(tmp_path / "adapter") in str(error.value)


PLACE = "base_model.model.model.layers.0.self_attn.q_proj"


@pytest.mark.parametrize(
    ("name", "tensor", "said"),
    [
        (f"{PLACE}.lora_B.weight", None, f"tensor '{PLACE}.lora_B.weight' is missing"),
        (f"{PLACE}.lora_A.weight", np.zeros((3, 23), np.float32), "has shape [3, 23]; the config makes it [3, 24]"),
        (f"{PLACE}.lora_A.weight", np.full((3, 24), np.nan, np.float32), "72 values that are NaN or infinite"),
        (f"{PLACE}.lora_magnitude_vector", np.zeros(3, np.float32), "is no adapter of a linear layer"),
        ("base_model.model.model.embed_tokens.lora_embedding_A", np.zeros((3, 9), np.float32), "is no adapter"),
        (PLACE.replace("layers.0", "layers.3") + ".lora_A.weight", np.zeros((3, 24), np.float32), "is no adapter"),
    ],
    ids=["missing", "shape", "NaN", "DoRA", "embedding", "layer"],
)
def test_a_tensor_that_does_not_fit_the_base_is_refused_by_file_and_name(name, tensor, said, tmp_path):
    folder = written(tmp_path / "adapter")
    tensors = load_file(folder / WEIGHTS)
    tensors = (
        {key: value for key, value in tensors.items() if key != name} if tensor is None else {**tensors, name: tensor}
    )
    save_file(tensors, folder / WEIGHTS)
    with pytest.raises(ValueError, match=re.escape(said)) as error:
        read_adapter(folder, CONFIG_OF_LLAMA)
    assert str(folder / WEIGHTS) in str(error.value)


def test_adapters_of_gpt2_are_refused_both_ways_with_the_reason(golden, tmp_path):
    config = dataclasses.replace(model_of(GPT2)[0], lora=Lora())
    with pytest.raises(ValueError, match=r"c_attn.*export the merged model"):
        write_adapter(tmp_path / "adapter", drawn(config), config, "0" * 32)
    with pytest.raises(ValueError, match="c_attn"):
        read_adapter(theirs(tmp_path / "theirs", "llama", golden), config)
    with pytest.raises(ValueError, match=r"no adapter_config\.json"):
        read_adapter(tmp_path / "nowhere", CONFIG_OF_LLAMA)


def test_a_folder_that_is_there_is_left_alone(tmp_path):
    folder = written(tmp_path / "adapter")
    before = (folder / WEIGHTS).read_bytes()
    with pytest.raises(ValueError, match="exists already"):
        written(tmp_path / "adapter")
    assert (folder / WEIGHTS).read_bytes() == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["adapter"]


def test_a_command_that_takes_an_adapter_out_and_puts_one_in_is_refused():
    with pytest.raises(ValueError, match="use one of them"):
        cli.parse(["export", "run", "folder", "--adapter", "a", "--only-adapter"])


def test_layers_without_an_adapter_get_zeros(tmp_path):
    """As PEFT's `layers_to_transform` leaves them out."""
    folder = written(tmp_path / "adapter")
    tensors = {name: value for name, value in load_file(folder / WEIGHTS).items() if "layers.1." not in name}
    save_file(tensors, folder / WEIGHTS)
    for leaf in jax.tree.leaves(read_adapter(folder, CONFIG_OF_LLAMA).leaves):
        assert not leaf[1].any()
        assert leaf[0].any()
        assert leaf[2].any()
