"""The model: what a token may see, against NumPy from the definitions, and that no setting changes the numbers."""

import dataclasses
import functools
import math
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from gptjax.config import ModelConfig, RopeScaling, llama
from gptjax.nn.attention import Rule, attention_mask
from gptjax.nn.model import Block, Cache, Norm, Transformer, init_params, rotary_angles, rotary_frequencies

TINY = {"vocabulary": 60, "T": 16, "D": 16, "L": 3, "N": 4, "K": 2, "head_width": 6, "F": 24}
GPT2 = {"family": "gpt2", "activation": "gelu", "qk_norm": False, "K": 4, "head_width": 4, "norm_epsilon": 1e-5}
FAMILIES = {"llama": {}, "gpt2": GPT2}
NOPE = {"nope_layers": (1,), "qkv_bias": True}
both_families = pytest.mark.parametrize("family", FAMILIES)


def config_of(family="llama", **fields):
    return ModelConfig(**{**TINY, **FAMILIES[family], **fields})


def parameters(config, seed=0):
    """Every leaf drawn from N(0, 0.3), so that no bias is 0 and no scale 1."""
    tree = nn.unbox(jax.eval_shape(lambda key: init_params(Transformer(config), key), jax.random.key(0)))
    draw = np.random.default_rng(seed)
    return jax.tree.map(lambda leaf: jnp.asarray(0.3 * draw.standard_normal(leaf.shape), leaf.dtype), tree)


def initial(config):
    """As training begins."""
    return nn.unbox(jax.jit(lambda key: init_params(Transformer(config), key))(jax.random.key(0)))


def row(tokens, segment=None, position=None, visible=None):
    """One row, as the model takes it; without more said, one causal document."""
    T = len(tokens)
    given = (segment or [1] * T, position or list(range(T)), visible or [False] * T)
    return tuple(jnp.array([values]) for values in (tokens, *given))


@functools.partial(jax.jit, static_argnames=("config", "dtype"))
def hidden(config, params, *batch, dtype=jnp.float32):
    return Transformer(config, dtype=dtype).apply({"params": params}, *batch)[0]


@functools.partial(jax.jit, static_argnums=(0, 1))
def through_a_cache(config, parts, params, *batch, **cache):
    return Transformer(config, parts=parts).apply({"params": params}, *batch, **cache)


def qwen3(config, params, tokens):
    """Qwen3's final hidden state for one causal document, in float64 from the definition (arXiv:2505.09388, section 2).

    Rotary positions turn pair (i, i + H/2), as one complex number, by position x theta^(-2i/H); but in layers without.
    """
    N, K, H, T = config.N, config.K, config.H, len(tokens)

    def norm(x, scale):
        return x / np.sqrt((x * x).mean(axis=-1, keepdims=True) + config.norm_epsilon) * scale

    def product(y, w, name, head):
        columns = slice(head * H, (head + 1) * H)
        return y @ w[name][:, columns] + (w[f"{name}_bias"][columns] if config.qkv_bias else 0)

    def turn(x):
        pairs = x[:, : H // 2] + 1j * x[:, H // 2 :]
        pairs = pairs * np.exp(1j * np.outer(np.arange(T), config.rope_theta ** (-2.0 * np.arange(H // 2) / H)))
        return np.concatenate([pairs.real, pairs.imag], axis=1)

    params = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), params)
    x = params["embedding"][tokens]
    for layer in range(config.L):
        w = jax.tree.map(lambda leaf, layer=layer: leaf[layer], params["layers"])
        y = norm(x, w["attention_norm"]["scale"])
        heads = []
        for n in range(N):
            k = n // (N // K)  # neighbouring query heads share a key head
            q_TH = norm(product(y, w, "query", n), w["query_norm"]["scale"])
            k_TH = norm(product(y, w, "key", k), w["key_norm"]["scale"])
            if layer not in config.nope_layers:
                q_TH, k_TH = turn(q_TH), turn(k_TH)
            scores = np.exp(np.tril(np.ones((T, T))) * (q_TH @ k_TH.T / math.sqrt(H))) * np.tril(np.ones((T, T)))
            heads.append(scores / scores.sum(axis=1, keepdims=True) @ product(y, w, "value", k))
        x = x + np.concatenate(heads, axis=1) @ w["attention_out"]
        y = norm(x, w["feed_forward_norm"]["scale"])
        gate = y @ w["gate"]
        x = x + (gate / (1 + np.exp(-gate)) * (y @ w["up"])) @ w["down"]
    return norm(x, params["final_norm"]["scale"])


def openai_gpt2(config, params, tokens):
    """GPT-2's final hidden state for one causal document, in float64 from the definition.

    Source: Radford et al. 2019, section 2.3.
    """
    N, H, T = config.N, config.H, len(tokens)

    def norm(x, w):
        return (x - x.mean(axis=-1, keepdims=True)) / np.sqrt(x.var(axis=-1, keepdims=True) + 1e-5) * w["scale"] + w[
            "bias"
        ]

    params = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), params)
    x = params["embedding"][tokens] + params["position_embedding"][:T]
    for layer in range(config.L):
        w = jax.tree.map(lambda leaf, layer=layer: leaf[layer], params["layers"])
        y = norm(x, w["attention_norm"])
        q, k, v = (y @ w[name] + w[f"{name}_bias"] for name in ("query", "key", "value"))
        heads = []
        for n in range(N):
            here = slice(n * H, (n + 1) * H)
            scores = np.exp(np.where(np.tri(T, dtype=bool), q[:, here] @ k[:, here].T / math.sqrt(H), -np.inf))
            heads.append(scores / scores.sum(axis=1, keepdims=True) @ v[:, here])
        x = x + np.concatenate(heads, axis=1) @ w["attention_out"] + w["attention_out_bias"]
        y = norm(x, w["feed_forward_norm"]) @ w["up"] + w["up_bias"]
        y = 0.5 * y * (1 + np.tanh(math.sqrt(2 / math.pi) * (y + 0.044715 * y**3)))
        x = x + y @ w["down"] + w["down_bias"]
    return norm(x, params["final_norm"])


@pytest.mark.parametrize(
    ("family", "more", "oracle"),
    [("llama", {}, qwen3), ("llama", NOPE, qwen3), ("gpt2", {}, openai_gpt2)],
    ids=["llama", "llama without positions", "gpt2"],
)
def test_the_forward_pass_is_the_published_one(family, more, oracle):
    """Qwen3 and GPT-2, written out in NumPy from their papers, give the same hidden states; so do Qwen3 without rotary
    positions in its middle layer, and GPT-2's biases on its queries, keys and values."""
    config = config_of(family, **more)
    params, tokens = parameters(config), [5, 3, 3, 59, 0, 7, 8]
    np.testing.assert_allclose(
        hidden(config, params, *row(tokens))[0], oracle(config, params, tokens), atol=1e-4, rtol=1e-4
    )


@both_families
def test_no_token_sees_a_later_one(family):
    """Changing token 4 leaves positions 0 to 3 bit-identical and moves every later one."""
    config, tokens = config_of(family), [5, 3, 9, 1, 2, 7, 8]
    params = parameters(config)
    before = hidden(config, params, *row(tokens))
    after = hidden(config, params, *row([*tokens[:4], 6, *tokens[5:]]))
    np.testing.assert_array_equal(before[:, :4], after[:, :4])
    assert (before[:, 4:] != after[:, 4:]).any(axis=-1).all()


@both_families
@pytest.mark.parametrize("visible", [False, True], ids=["causal", "bidirectional"])
def test_a_document_never_sees_another(family, visible):
    """Changing document 1 moves all of it and leaves document 2 and the padding bit-identical, and the reverse."""
    config = config_of(family)
    params = parameters(config)
    places = ([1] * 3 + [2] * 3 + [0] * 2, [0, 1, 2, 0, 1, 2, 0, 0], [visible] * 6 + [False] * 2)
    base, first, second = (
        hidden(config, params, *row(tokens, *places))
        for tokens in ([1, 2, 3, 4, 5, 6, 0, 0], [9, 8, 7, 4, 5, 6, 0, 0], [1, 2, 3, 9, 8, 7, 0, 0])
    )
    np.testing.assert_array_equal(base[:, 3:], first[:, 3:])
    np.testing.assert_array_equal(base[:, :3], second[:, :3])
    assert (base[:, :3] != first[:, :3]).any(axis=-1).all()
    assert (base[:, 3:6] != second[:, 3:6]).any(axis=-1).all()


@both_families
def test_packed_is_the_same_as_alone(family):
    """Two documents in one row give what each gives in a row of its own; with positions that run on they do not."""
    config = config_of(family)
    params, first, second = parameters(config), [5, 3, 9, 1], [2, 7, 8]
    segment = [1] * 4 + [2] * 3
    alone = np.concatenate([hidden(config, params, *row(first)), hidden(config, params, *row(second))], axis=1)
    packed = hidden(config, params, *row([*first, *second], segment, [0, 1, 2, 3, 0, 1, 2]))
    np.testing.assert_allclose(packed, alone, atol=1e-5)
    if family == "gpt2":  # rotary positions are relative, so a shift of a whole document is invisible there
        running = hidden(config, params, *row([*first, *second], segment))
        assert np.abs(running - alone)[:, 4:].max() > 1e-2


def test_a_layer_without_positions_is_the_same_however_it_is_run():
    """Packed behind another text, and token by token in parts with a cache, it gives what it gives whole; with
    positions in that layer it gives another."""
    config, tokens = config_of(**NOPE, L=2), [5, 3, 9, 1, 7]
    params = parameters(config)
    wanted = hidden(config, params, *row(tokens))
    packed = hidden(config, params, *row([2, 2, *tokens], [1] * 2 + [2] * 5, [0, 1, *range(5)]))
    np.testing.assert_allclose(packed[:, 2:], wanted, atol=1e-5)
    parts = {f"layers_{n}": jax.tree.map(lambda leaf: leaf[n : n + 1], params["layers"]) for n in range(2)}  # noqa: B023
    parts |= {name: leaf for name, leaf in params.items() if name != "layers"}
    cache = Cache.empty(config, 1, 8, jnp.float32, (1, 1))
    for place, token in enumerate(tokens):
        batch = row([token], position=[place])
        found, cache = through_a_cache(config, (1, 1), parts, *batch, cache=cache, slot_B=jnp.array([place]))
        np.testing.assert_allclose(found[:, 0], wanted[:, place], atol=1e-5)
    assert np.abs(wanted - hidden(config_of(qkv_bias=True, L=2), params, *row(tokens))).max() > 1e-3


@both_families
def test_what_is_visible_reaches_earlier_tokens_of_its_document_only(family):
    """Six tokens by hand: which positions move when one changes, causal, with a prefix of two, and bidirectional."""
    config = config_of(family)
    params, tokens = parameters(config), [1, 2, 3, 4, 5, 6]
    segment, position = [1, 1, 1, 1, 2, 2], [0, 1, 2, 3, 0, 1]

    def moved(visible, changed):
        before, after = (
            hidden(config, params, *row(list(words), segment, position, visible))[0]
            for words in (tokens, [9 if place == changed else token for place, token in enumerate(tokens)])
        )
        return [int(place) for place in np.flatnonzero((before != after).any(axis=-1))]

    causal, prefix, everyone = [False] * 6, [True, True] + [False] * 4, [True] * 6
    assert [moved(causal, place) for place in range(6)] == [[0, 1, 2, 3], [1, 2, 3], [2, 3], [3], [4, 5], [5]]
    assert [moved(prefix, place) for place in range(6)] == [[0, 1, 2, 3], [0, 1, 2, 3], [2, 3], [3], [4, 5], [5]]
    assert [moved(everyone, place) for place in range(6)] == [[0, 1, 2, 3]] * 4 + [[4, 5]] * 2


@both_families
def test_a_row_of_padding_is_finite_with_finite_gradients(family):
    """A batch may hold a row of nothing but padding."""
    config = config_of(family)
    padding = tuple(jnp.zeros((1, 8), dtype) for dtype in (jnp.int32, jnp.int32, jnp.int32, bool))
    loss = jax.value_and_grad(lambda params: jnp.square(hidden(config, params, *padding)).sum())
    value, gradient = jax.jit(loss)(parameters(config))
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves((value, gradient)))


def test_a_model_that_is_all_causal_does_not_read_what_is_visible():
    """Bit for bit the hidden states of a batch in which nothing is, with a window too."""
    for config in (config_of(), config_of(window=3)):
        params, plain, seen = parameters(config), row([5, 3, 9, 1, 2]), row([5, 3, 9, 1, 2], visible=[True] * 5)
        found = jax.jit(Transformer(config, causal=True).apply)({"params": params}, *seen)[0]
        np.testing.assert_array_equal(found, hidden(config, params, *plain))
        assert np.abs(found - hidden(config, params, *seen)).max() > 1e-2


@both_families
def test_the_scan_is_a_loop_over_layers(family):
    """A Python loop over Block with slices of the stacked parameters gives the same, in that order and no other."""
    config = config_of(family)
    params, batch = parameters(config), row([5, 3, 9, 1, 2, 7, 8])
    tokens_BT, segment_BT, position_BT, visible_BT = batch
    mask_BTS = attention_mask(Rule.of(segment_BT, visible_BT))

    @functools.partial(jax.jit, static_argnums=0)
    def loop(layers, params):
        x_BTD = params["embedding"][tokens_BT]
        if family == "gpt2":
            x_BTD = x_BTD + params["position_embedding"][position_BT]
        for layer in layers:
            w = jax.tree.map(lambda leaf: leaf[layer], params["layers"])  # noqa: B023  (used at once)
            block = Block(config, "xla", deterministic=True)
            angle_BTh = rotary_angles(config, position_BT)
            (x_BTD, _), _ = block.apply({"params": w}, (x_BTD, None), None, None, mask_BTS, angle_BTh)
        return Norm(config, centred=family == "gpt2").apply({"params": params["final_norm"]}, x_BTD)

    found = hidden(config, params, *batch)
    np.testing.assert_allclose(found, loop((0, 1, 2), params), atol=1e-5)
    assert np.abs(found - loop((1, 0, 2), params)).max() > 1e-2


SETTINGS = [("none", 1), ("none", 2), ("products", 1), ("full", 2)]


def step(config, batch, **settings):
    """A compiled loss with gradients, with dropout on."""
    model = Transformer(config, **settings)

    def loss(params):
        rngs = {"dropout": jax.random.key(7)}
        return jnp.square(model.apply({"params": params}, *batch, deterministic=False, rngs=rngs)[0]).mean()

    return jax.jit(jax.value_and_grad(loss))


def test_no_policy_and_no_unrolling_changes_loss_or_gradients():
    """By any remat policy, scanned or unrolled, the loss and every gradient agree, dropout masks included (trap 19)."""
    config = config_of(L=2, dropout=0.2)
    params, batch = parameters(config), row([5, 3, 9, 1, 2, 7, 8])
    results = [step(config, batch, remat=remat, unroll=unroll)(params) for remat, unroll in SETTINGS]
    for other in results[1:]:
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), results[0], other)
    assert all(np.abs(leaf).max() > 0 for leaf in jax.tree.leaves(results[0]))


@pytest.mark.parametrize(
    "unroll",
    [
        pytest.param(1, marks=pytest.mark.xfail(strict=True, reason="0.614: docs/log.md, 2026-11-30")),
        3,
    ],
)
def test_policies_trade_memory_for_products(unroll):
    """`full` computes more than `products`, that more than `none`; memory goes the other way, unrolled or not."""
    config = config_of(D=64, F=256, head_width=32, T=64, L=2 if unroll == 1 else unroll)
    batch = tuple(jnp.ones((8, 64), dtype) for dtype in (jnp.int32, jnp.int32, jnp.int32, bool))
    params = parameters(config)
    lowered = [step(config, batch, remat=remat, unroll=unroll).lower(params) for remat in ("none", "products", "full")]
    products = [len(re.findall(r"stablehlo\.dot_general", found.as_text())) for found in lowered]
    assert products == sorted(set(products)), products
    none, full = (lowered[place].compile().memory_analysis().temp_size_in_bytes for place in (0, 2))
    assert full < 0.6 * none, (full, none)


def test_dropout_differs_from_layer_to_layer():
    """Two layers that add a row of ones, each dropped by half: sums of 0, 1 and 2 kept ones all occur (trap 19)."""
    config = config_of("gpt2", D=64, N=4, head_width=16, L=2, dropout=0.5)
    params = jax.tree.map(jnp.zeros_like, parameters(config))
    params["layers"]["down_bias"] += 1.0
    params["final_norm"]["scale"] += 1.0
    apply = jax.jit(Transformer(config).apply, static_argnames="deterministic")
    x = apply({"params": params}, *row([1]), deterministic=False, rngs={"dropout": jax.random.key(0)})[0]
    assert len(np.unique(np.round(x, 3))) == 3


def test_dropout_is_off_in_evaluation_and_decided_by_its_key():
    """Evaluation ignores the rate; in training the same key gives the same masks, another key others (trap 20)."""
    config, batch = config_of(dropout=0.5), row([5, 3, 9, 1])
    params, model = parameters(config), Transformer(config)

    @jax.jit
    def trained(key):
        return model.apply({"params": params}, *batch, deterministic=False, rngs={"dropout": jax.random.key(key)})[0]

    np.testing.assert_array_equal(hidden(config, params, *batch), hidden(config_of(), params, *batch))
    np.testing.assert_array_equal(trained(0), trained(0))
    assert (trained(0) != trained(1)).mean() > 0.9
    assert (trained(0) != hidden(config, params, *batch)).mean() > 0.9


@both_families
def test_bfloat16_products_stay_near_float32(family):
    """Parameters as they are initialised: hidden states of unit size within 0.008 (RMS); parameters stay float32."""
    config = config_of(family, D=64, head_width=16)
    params = initial(config)
    batch = row([5, 3, 9, 1, 2, 7, 8])
    half = hidden(config, params, *batch, dtype=jnp.bfloat16)
    assert half.dtype == jnp.bfloat16
    difference = half.astype(jnp.float32) - hidden(config, params, *batch)
    assert 1e-4 < np.sqrt(np.square(difference).mean()) < 0.008
    assert {leaf.dtype for leaf in jax.tree.leaves(params)} == {jnp.dtype("float32")}


def test_gradients_of_matrices_alone_are_added_up_in_bfloat16_where_that_is_asked_for():
    """They have no more digits then, the table of tokens has; each is within a hundredth of the other."""
    config = config_of(L=1)
    params, batch = parameters(config), row([1, 2, 3] * 4)

    def gradients(dtype):
        model = Transformer(config, jnp.bfloat16, gradient_dtype=dtype)
        sums = jax.jit(jax.grad(lambda params: model.apply({"params": params}, *batch)[0].astype(jnp.float32).sum()))
        return sums(params)

    whole, short = gradients(jnp.float32), gradients(jnp.bfloat16)
    for one in (whole, short):
        assert (one["embedding"] != one["embedding"].astype(jnp.bfloat16)).any()
    for name in config.projections:
        found, exact = short["layers"][name], whole["layers"][name]
        assert (found == found.astype(jnp.bfloat16)).all()
        assert (exact != exact.astype(jnp.bfloat16)).any()
        assert float(jnp.linalg.norm(found - exact)) < 0.01 * float(jnp.linalg.norm(exact))


@both_families
def test_a_frequent_tokens_gradient_is_added_up_in_float32(family):
    """4,096 times the same token under bfloat16: its gradient, and its position's, is that of float32 within 2 %."""
    config = config_of(family)
    params = initial(config)
    batch = tuple(jnp.full((512, 8), value) for value in (3, 1, 2, False))

    def gradient(dtype):
        first = lambda params: hidden(config, params, *batch, dtype=dtype).astype(jnp.float32)[..., 0].sum()  # noqa: E731
        return jax.jit(jax.grad(first))(params)

    exact, half = gradient(jnp.float32), gradient(jnp.bfloat16)
    for name, place in {"embedding": 3, "position_embedding": 2}.items():
        if name in params:
            a, b = exact[name][place], half[name][place]
            assert np.abs(a - b).max() < 0.02 * np.abs(a).max()
            assert np.abs(a).max() > 0


@both_families
@pytest.mark.parametrize("prefix", [0, 3])
def test_reading_through_the_cache_is_reading_all_at_once(family, prefix):
    """Five tokens at once into a row of three, then one by one with its neighbours: the hidden states of the whole."""
    config, tokens = config_of(family), [5, 3, 9, 1, 2, 7, 8, 4]
    params = parameters(config)
    batch = row(tokens, visible=[place < prefix for place in range(8)])
    whole = hidden(config, params, *batch)
    cache = Cache.empty(config, 3, 16, jnp.float32, [config.L])
    first = (array[:, :5] for array in batch)
    x, cache = through_a_cache(config, None, params, *first, cache=cache, slot_B=jnp.array([0]), row=1)
    found = [x]
    for place in range(5, 8):
        piece = (jnp.repeat(array[:, place : place + 1], 3, axis=0) for array in batch)
        slots_B = jnp.array([place - 5, place, 16])
        x, cache = through_a_cache(config, None, params, *piece, cache=cache, slot_B=slots_B)
        found.append(x[1:2])
    np.testing.assert_allclose(np.concatenate(found, axis=1)[0], whole[0], atol=1e-5)
    assert not np.allclose(x[0], whole[0, -1:], atol=1e-3)


# Hugging Face transformers 5.23.0, LlamaRotaryEmbedding.inv_freq: width 64, 4 heads, theta 500,000.
SCALED = {
    "linear": (
        RopeScaling(kind="linear", factor=4.0),
        (0.25, 0.04848069, 0.0094015077, 0.0018231663, 0.00035355336, 6.8562047e-05, 1.3295739e-05, 2.5783463e-06),
    ),
    "llama3": (
        RopeScaling(kind="llama3", factor=8.0),
        (1.0, 0.19392276, 0.037606031, 0.0072926651, 0.00052484602, 3.4281024e-05, 6.6478697e-06, 1.2891732e-06),
    ),
}


@pytest.mark.parametrize("kind", SCALED)
def test_scaled_rotary_frequencies_are_those_of_transformers(kind):
    """To float32 rounding; without scaling they are others."""
    scaling, theirs = SCALED[kind]
    config = llama(D=64, L=1, N=4, rope_theta=500_000.0, rope_scaling=scaling)
    np.testing.assert_allclose(rotary_frequencies(config), theirs, rtol=2e-6)
    plain = rotary_frequencies(dataclasses.replace(config, rope_scaling=None))
    assert np.abs(plain / np.array(theirs) - 1).max() > 1


def test_a_window_hides_what_is_further_away_than_all_layers_reach():
    """Three layers of window 2 reach three tokens back: the first token moves the first four places alone."""
    params = parameters(config_of(window=2))
    tokens = [5, 3, 9, 1, 2, 7, 8]
    one, other = (hidden(config_of(window=2), params, *row([first, *tokens[1:]])) for first in (5, 6))
    moved = np.abs(one - other).max(axis=(0, 2)) > 0
    assert moved.tolist() == [True] * 4 + [False] * 3
    everywhere = np.abs(hidden(config_of(), params, *row(tokens)) - one).max(axis=(0, 2)) > 1e-4
    assert everywhere.tolist() == [False] * 2 + [True] * 5


def test_the_backward_pass_keeps_no_float32_parts_of_norms_and_activations():
    """Of what has a value a channel, only the residual stream's own dtype: rows of 4 x 32, of width 16 and more."""
    config = ModelConfig(T=32, D=16, L=2, N=2, K=2, F=48, vocabulary=100)
    model, tokens_BT = Transformer(config, jnp.bfloat16), jnp.ones((4, 32), jnp.int32)
    params = nn.unbox(jax.eval_shape(lambda: init_params(model, jax.random.key(0))))

    def hidden(params):
        return model.apply({"params": params}, tokens_BT, tokens_BT, tokens_BT, tokens_BT > 1)[0]

    kept = jax.tree.leaves(jax.eval_shape(lambda params: jax.vjp(hidden, params)[1], params))
    wide = [
        leaf for leaf in kept if leaf.ndim >= 3 and leaf.shape[-1] > 1 and 4 in leaf.shape and leaf.size >= 4 * 32 * 16
    ]
    assert {leaf.dtype.name for leaf in wide if jnp.issubdtype(leaf.dtype, jnp.floating)} == {"bfloat16"}
