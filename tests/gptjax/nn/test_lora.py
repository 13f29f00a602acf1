"""Adapters: nothing at first, then what a matrix product says, merged or not."""

import dataclasses
import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

import gptjax
from gptjax.config import Lora, ModelConfig
from gptjax.inference.language_model import LanguageModel
from gptjax.nn.lora import adapters_of, fresh, merged, with_adapters, without_adapters
from gptjax.nn.model import Transformer, init_params
from gptjax.sharding import make_mesh, shardings
from tests.tiny_run import bpe, write_run

TINY = {"vocabulary": 60, "T": 16, "D": 16, "L": 3, "N": 4, "K": 2, "head_width": 6, "F": 24}
GPT2 = {"family": "gpt2", "activation": "gelu", "qk_norm": False, "K": 4, "head_width": 4}
FAMILIES = {"llama": {}, "relu2": {"activation": "relu2"}, "gpt2": GPT2}
TOKENS = jnp.array([[5, 3, 9, 7, 1, 2, 30, 41]])
families = pytest.mark.parametrize("family", FAMILIES)


def config_of(family="llama", lora=None, **fields):
    return ModelConfig(**{**TINY, **FAMILIES[family], **fields}, lora=lora)


def drawn(config, seed=0):
    """Every leaf drawn from N(0, 0.3), B of the adapters too."""
    tree = nn.unbox(jax.eval_shape(lambda: init_params(Transformer(config), jax.random.key(0))))
    draw = np.random.default_rng(seed)
    return jax.tree.map(lambda leaf: jnp.asarray(0.3 * draw.standard_normal(leaf.shape), leaf.dtype), tree)


@functools.partial(jax.jit, static_argnames=("config", "dtype"))
def hidden(config, params, key=None, dtype=jnp.float32):
    one = jnp.ones_like(TOKENS)
    rngs = {} if key is None else {"dropout": key}
    model = Transformer(config, dtype=dtype)
    place = jnp.cumsum(one, axis=1) - 1
    return model.apply({"params": params}, TOKENS, one, place, one > 1, deterministic=key is None, rngs=rngs)[0]


@families
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_before_any_step_a_model_with_adapters_is_its_base_bit_for_bit(family, dtype):
    """And no longer once B is not zero."""
    plain, adapted = config_of(family), config_of(family, Lora(rank=2))
    base = drawn(plain)
    begun = with_adapters(base, fresh(adapted, jax.random.key(1)))
    before = hidden(plain, base, dtype=dtype)
    np.testing.assert_array_equal(hidden(adapted, begun, dtype=dtype), before)
    moved = with_adapters(base, adapters_of(drawn(adapted)))
    assert not np.array_equal(hidden(adapted, moved, dtype=dtype), before)


@families
def test_merging_adapters_changes_no_hidden_state(family):
    """Within 1e-5; the weights beside adapters do change, and the others do not."""
    config = config_of(family, Lora(rank=3, alpha=4.0, targets=("query|up", "down")))
    params = drawn(config)
    plain, without = merged(params, config)
    assert without == config_of(family)
    np.testing.assert_allclose(hidden(without, plain), hidden(config, params), rtol=0, atol=1e-5)
    changed = {name for name, leaf in plain["layers"].items() if not isinstance(leaf, dict)
               and not np.array_equal(leaf, params["layers"][name])}  # fmt: skip
    assert changed == {"query", "up", "down"}


def test_the_merged_weight_is_w_plus_scale_a_b_of_each_layer():
    """In float64, with the usual scale and the rank-stabilised one."""
    for lora, scale in ((Lora(rank=4, alpha=6.0), 1.5), (Lora(rank=4, alpha=6.0, rank_stabilised=True), 3.0)):
        config = config_of(lora=lora)
        params = drawn(config)
        layers, found = params["layers"], merged(params, config)[0]["layers"]["key"]
        for layer in range(config.L):
            a, b, w = (np.float64(layers[name][layer]) for name in ("key_lora_a", "key_lora_b", "key"))
            np.testing.assert_allclose(found[layer], w + scale * a @ b, rtol=0, atol=1e-6)


def test_a_fresh_a_is_drawn_within_one_over_the_root_of_its_width_anew_in_every_layer():
    """As PEFT draws it, kaiming_uniform(a=sqrt 5); B is zero."""
    config = config_of(lora=Lora(rank=8), D=64)
    layers = fresh(config, jax.random.key(0))["layers"]
    assert layers.keys() == {f"{name}_lora_{part}" for name in config.projections for part in "ab"}
    for name, (width, _) in config.projections.items():
        a, b = np.asarray(layers[f"{name}_lora_a"]), layers[f"{name}_lora_b"]
        assert not b.any()
        assert 0.9 * width**-0.5 < abs(a).max() < width**-0.5
        assert a.std() == pytest.approx((3 * width) ** -0.5, rel=0.1)
        assert not np.array_equal(a[0], a[1])


def test_dropout_of_adapters_touches_their_part_alone():
    """With B zero no draw changes anything; with another B two draws differ, and without a key nothing is drawn."""
    config = config_of(lora=Lora(rank=2, dropout=0.5))
    zero = with_adapters(drawn(config), fresh(config, jax.random.key(1)))
    np.testing.assert_array_equal(hidden(config, zero, jax.random.key(2)), hidden(config, zero))
    params = drawn(config)
    one, other = (hidden(config, params, jax.random.key(seed)) for seed in (2, 3))
    assert not np.array_equal(one, other)
    without = dataclasses.replace(config, lora=Lora(rank=2))
    np.testing.assert_array_equal(hidden(config, params), hidden(without, params))
    assert config.drops
    assert not without.drops


def test_adapters_taken_out_and_put_back_are_the_same_tree():
    params = drawn(config_of(lora=Lora(rank=2)))
    adapters, base = adapters_of(params), without_adapters(params)
    assert not adapters["layers"].keys() & base["layers"].keys()
    jax.tree.map(np.testing.assert_array_equal, with_adapters(base, adapters), params)


def test_the_rank_of_an_adapter_lies_whole_on_every_device_and_its_widths_as_their_weight_does():
    config = config_of(lora=Lora(rank=3), D=128, F=128, head_width=32)
    boxed = jax.eval_shape(lambda: init_params(Transformer(config), jax.random.key(0)))
    layers = shardings(make_mesh(2, 2, 2), boxed)["layers"]
    for name in config.projections:
        into, out = layers[name].spec[1:]
        assert layers[f"{name}_lora_a"].spec[1:] == (into, None)
        assert layers[f"{name}_lora_b"].spec[1:] == (None, out)


@pytest.mark.parametrize("ways", [None, (2, 2, 2)], ids=["one device", "mesh"])
def test_a_run_with_adapters_is_loaded_as_the_merged_model(ways, tmp_path):
    """Its scores are those of the adapters in place, and its config has none."""
    config = config_of(lora=Lora(rank=3), vocabulary=bpe().size, D=128, F=128, head_width=32)
    params = drawn(config)
    run = write_run(tmp_path / "run", LanguageModel(config, bpe(), params))
    mesh = None if ways is None else make_mesh(*ways)
    model = gptjax.load(run, mesh=mesh)
    assert model.config == dataclasses.replace(config, lora=None)
    assert not adapters_of(model.params)["layers"]
    texts = [[5, 3, 9, 7, 1, 2]]
    wanted = LanguageModel(config, bpe(), params).log_probs(texts)[0]
    np.testing.assert_allclose(model.log_probs(texts)[0], wanted, rtol=0, atol=1e-4)
    base = LanguageModel(model.config, bpe(), without_adapters(params)).log_probs(texts)[0]
    assert abs(base - wanted).max() > 0.1


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"rank": 0}, "lora.rank=0: must be a whole number"),
        ({"alpha": 0.0}, "lora.alpha=0.0: must be a number above 0"),
        ({"dropout": 1.0}, "lora.dropout=1.0"),
        ({"targets": ()}, "lora.targets=()"),
        ({"targets": ("(",)}, "lora.targets: '(' is no regular expression"),
    ],
    ids=str,
)
def test_adapters_that_cannot_be_are_refused_with_their_values(fields, said):
    with pytest.raises(ValueError, match=re.escape(said)):
        Lora(**fields)


def test_a_target_that_matches_no_linear_layer_is_refused_with_those_there_are():
    """`gate` is one of a model that has a gate alone."""
    with pytest.raises(ValueError, match="'querry' matches no linear layer; did you mean 'query'"):
        config_of(lora=Lora(targets=("querry",)))
    with pytest.raises(ValueError, match=r"'gate' matches no linear layer.*up"):
        config_of("relu2", Lora(targets=("up", "gate")))
    assert list(config_of(lora=Lora(targets=("up", "gate"))).adapted) == ["gate", "up"]
