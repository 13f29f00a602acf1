"""Who trains and when, in which direction, how far, and what decays."""

import dataclasses
from typing import Any, get_args

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen as nn
from flax.traverse_util import flatten_dict, unflatten_dict

from gptjax.config import Lora, ModelConfig
from gptjax.nn.model import Transformer, head, init_params
from gptjax.sharding import make_mesh, shardings
from train.recipe import OptimizerName, OptimizerSpec
from train.updates.optimizer import cooldown_start, cooldown_steps, direction_of, learning_rate, make_optimizer

NAMES = get_args(OptimizerName)
GPT2 = ModelConfig(
    family="gpt2", T=8, D=16, L=2, N=2, K=2, head_width=8, F=32, activation="gelu", qk_norm=False, vocabulary=100
)
LLAMA = ModelConfig(T=8, D=16, L=2, N=2, K=2, head_width=8, F=32, vocabulary=100, tied=False)
# of sides of at least 128, adafactor keeps rows and columns
SHAPES = {"embedding": (128, 130), "layers/up": (2, 8, 12), "layers/norm/scale": (2, 8), "final_norm/bias": (8,)}


def tree(seed: int, scale: float = 1.0) -> Any:
    """Normal numbers in the shapes of a very small model."""
    random = np.random.default_rng(seed)
    flat = {name: jnp.asarray(scale * random.normal(size=shape), jnp.float32) for name, shape in SHAPES.items()}
    return unflatten_dict(flat, sep="/")


def abstract(config: ModelConfig) -> Any:
    """Boxed shapes of a model's parameters."""
    return jax.eval_shape(lambda: init_params(Transformer(config), jax.random.key(0)))


def flat(params: Any) -> dict[str, Any]:
    return flatten_dict(params, sep="/")


def steady(**fields: Any) -> OptimizerSpec:
    """The same learning rate at every step, and no clipping."""
    return OptimizerSpec(**{"learning_rate": 0.1, "schedule": "constant", "warmup": 0, "clip": 1e9, **fields})


def run(spec: OptimizerSpec, gradients: list[Any], params: Any, steps: int) -> tuple[Any, Any]:
    """(parameters after one step for each gradient, the last step's updates)."""
    optimizer = make_optimizer(spec, steps, params)
    state, updates = optimizer.init(params), None
    for k, gradient in enumerate(gradients):
        trained = optimizer.trainable(gradient), optimizer.trainable(params)
        updates, state, _ = optimizer.update(trained[0], state, params, jnp.int32(k), jnp.int32(steps))
        params = optimizer.merge(optax.apply_updates(trained[1], updates), params)
    return params, updates


GOLDEN = {  # a peak of 1 over 100 steps with 10 of warm-up and 20 of decay, ending at a tenth
    "constant": {0: 0.1, 9: 1.0, 50: 1.0, 100: 1.0},
    "linear": {0: 0.1, 9: 1.0, 10: 1.0, 55: 0.55, 100: 0.1},
    "cosine": {0: 0.1, 9: 1.0, 10: 1.0, 40: 0.775, 55: 0.55, 100: 0.1},
    "slanted": {0: 1 / 32, 5: 0.515625, 10: 1.0, 55: 0.515625, 100: 1 / 32},
    "wsd": {0: 0.1, 9: 1.0, 50: 1.0, 80: 1.0, 90: 0.55, 100: 0.1},
}


@pytest.mark.parametrize(("schedule", "wanted"), GOLDEN.items(), ids=GOLDEN)
def test_each_schedule_passes_through_its_golden_points(schedule, wanted):
    """Rates by step, by plain numbers and traced."""
    spec = OptimizerSpec(learning_rate=1.0, warmup=10, schedule=schedule, decay=0.2, final=0.1)
    rate, cooldown = learning_rate(spec, 100), cooldown_start(spec, 100)
    for step, value in wanted.items():
        assert float(rate(step, cooldown)) == pytest.approx(value, abs=1e-6), step
        assert jax.jit(rate)(jnp.int32(step), jnp.int32(cooldown)) == pytest.approx(value, abs=1e-6), step


def test_wsd_falls_from_wherever_the_cool_down_begins_and_then_stays_down():
    spec = OptimizerSpec(learning_rate=1.0, warmup=0, schedule="wsd", decay=0.2, final=0.1)
    assert (cooldown_start(spec, 100), cooldown_steps(spec, 100)) == (80, 20)
    rates = [float(learning_rate(spec, 100)(step, 30)) for step in (29, 30, 40, 50, 99)]
    assert rates == pytest.approx([1.0, 1.0, 0.55, 0.1, 0.1], abs=1e-6)


def test_other_schedules_have_no_cool_down():
    spec = OptimizerSpec(schedule="cosine")
    assert (cooldown_start(spec, 100), cooldown_steps(spec, 100)) == (100, 0)
    assert learning_rate(spec, 100)(50, 30) == learning_rate(spec, 100)(50, 100) != learning_rate(spec, 100)(60, 100)


# The same settings in optax's own words. b2 and the rest as in OptimizerSpec.
ALIASES = {
    "sgd": lambda rate, _: optax.sgd(rate),
    "momentum": lambda rate, _: optax.sgd(rate, momentum=0.9),
    "nesterov": lambda rate, _: optax.sgd(rate, momentum=0.9, nesterov=True),
    "adagrad": lambda rate, _: optax.adagrad(rate),
    "rmsprop": lambda rate, _: optax.rmsprop(rate, decay=0.99, eps_in_sqrt=False, bias_correction=True),
    "adam": lambda rate, _: optax.adam(rate, b1=0.9, b2=0.99),
    "adamw": lambda rate, mask: optax.adamw(rate, b1=0.9, b2=0.99, weight_decay=0.1, mask=mask),
    "adafactor": lambda rate, mask: optax.chain(  # its own decay is not scaled by the learning rate
        optax.adafactor(multiply_by_parameter_scale=False),
        optax.add_decayed_weights(-0.1, mask),
        optax.scale_by_learning_rate(rate, flip_sign=False),
    ),
    "lion": lambda rate, mask: optax.lion(rate, b1=0.9, b2=0.99, weight_decay=0.1, mask=mask),
    "muon": lambda rate, _: optax.contrib.muon(
        rate, beta=0.9, weight_decay=0.1, consistent_rms=0.2, adam_learning_rate=rate,
        muon_weight_dimension_numbers={"layers/up": optax.contrib.MuonDimensionNumbers(1, 2)},
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
def test_five_steps_equal_those_of_optax_own_alias(name):
    """Clipped, warmed up, with each name's usual weight decay; muon has adamw for all but layers/up."""
    spec = OptimizerSpec(name=name, learning_rate=1e-2, schedule="linear", warmup=2)
    gradients = [tree(seed) for seed in range(1, 6)]
    ours, _ = run(spec, gradients, tree(0), 10)

    rate = lambda count: learning_rate(spec, 10)(count, 10)  # noqa: E731
    apart = {"muon": ["layers/up"], "adamw": SHAPES.keys() - {"layers/up"}} if name == "muon" else {name: list(SHAPES)}
    wanted = flat(tree(0))
    clip = optax.clip_by_global_norm(1.0)
    clipped = [flat(clip.update(gradient, clip.init(gradient))[0]) for gradient in gradients]
    for alias, names in apart.items():
        mask = {key: not key.endswith(("scale", "bias")) for key in names}
        optimizer, params = ALIASES[alias](rate, mask), {key: wanted[key] for key in names}
        state = optimizer.init(params)
        for gradient in clipped:
            updates, state = optimizer.update({key: gradient[key] for key in names}, state, params)
            params = optax.apply_updates(params, updates)
        wanted |= params
    for key, found in flat(ours).items():
        np.testing.assert_allclose(found, wanted[key], rtol=0, atol=1e-5, err_msg=key)  # one more order of products
        assert not np.allclose(found, flat(tree(0))[key], atol=1e-4), key


@pytest.mark.parametrize("config", [GPT2, LLAMA], ids=["gpt2", "llama"])
def test_decay_moves_matrices_and_leaves_norms_and_biases_though_layers_are_stacked(config):
    """Zero gradient shrinks every matrix and keeps every scale and bias, [L, D] included, bit for bit: trap 21."""
    params = jax.tree.map(lambda leaf: np.full(leaf.shape, 2.0, np.float32), nn.unbox(abstract(config)))
    after, _ = run(steady(decays=((".*", 2.0),)), [jax.tree.map(np.zeros_like, params)], params, 10)
    kinds = {True: 0, False: 0}
    for (path, old), new in zip(jax.tree_util.tree_leaves_with_path(params), jax.tree.leaves(after), strict=True):
        is_vector = old.ndim == 1 or (old.ndim == 2 and "layers" in str(path))
        np.testing.assert_allclose(new, old if is_vector else 0.98 * old, rtol=0 if is_vector else 1e-5)
        kinds[is_vector] += 1
    assert min(kinds.values()) > 1


@pytest.mark.parametrize("name", NAMES)
def test_decay_is_decoupled_and_its_default_is_that_of_the_name(name):
    """Zero gradient: p falls by rate x decay x p, 0.1 for the names whose papers decay so and none for the others."""
    nothing = jax.tree.map(jnp.zeros_like, tree(0))
    usual, _ = run(steady(name=name), [nothing], tree(0), 10)
    asked, _ = run(steady(name=name, weight_decay=0.5), [nothing], tree(0), 10)
    shrunk = 0.99 if name in ("adamw", "adafactor", "lion", "muon") else 1.0
    np.testing.assert_allclose(usual["layers"]["up"], shrunk * tree(0)["layers"]["up"], rtol=1e-5)
    np.testing.assert_allclose(asked["layers"]["up"], 0.95 * tree(0)["layers"]["up"], rtol=1e-5)


def test_rates_and_decays_are_those_of_the_first_pattern_that_matches_the_whole_name():
    """`embed` is not yet embedding."""
    rates = (("embed|layers/.*", 0.5), ("layers/up|embedding", 0.25), (".*", 0.0))
    decays = (("embedding", 0.0), (".*", 1.0))
    _, updates = run(steady(name="sgd", rates=rates, decays=decays, weight_decay=1.0), [tree(1)], tree(0), 10)
    gradient, params = tree(1), tree(0)
    np.testing.assert_allclose(
        updates["layers"]["up"], -0.05 * (gradient["layers"]["up"] + params["layers"]["up"]), rtol=1e-4, atol=1e-7
    )
    np.testing.assert_allclose(updates["embedding"], -0.025 * gradient["embedding"], rtol=1e-5)
    assert not updates["final_norm"]["bias"].any()


@pytest.mark.parametrize("field", ["rates", "decays", "frozen"])
def test_lists_that_leave_a_parameter_out_or_name_none_are_refused(field):
    end = 0.0 if field == "frozen" else 1.0
    with pytest.raises(ValueError, match=rf"optimizer.{field}: no pattern matches .*final_norm.*'\.\*', {end}"):
        make_optimizer(OptimizerSpec(**{field: (("layers/.*", 0.5), ("embedding", 0.5))}), 10, tree(0))
    with pytest.raises(ValueError, match=rf"optimizer.{field}: 'embeding' matches no .* mean 'embedding'"):
        make_optimizer(OptimizerSpec(**{field: (("embeding", 0.5), (".*", 0.5))}), 10, tree(0))


def test_a_run_in_which_nothing_trains_is_refused():
    with pytest.raises(ValueError, match="nothing would train"):
        make_optimizer(OptimizerSpec(frozen=((".*", 1.0),)), 10, tree(0))


def test_a_long_gradient_is_clipped_and_a_short_one_is_not():
    """The norm told is the one before."""
    params = tree(0)
    optimizer = make_optimizer(steady(name="sgd", learning_rate=1.0, clip=1.0), 10, params)
    for length, clipped in ((4.0, 1.0), (0.5, 0.5)):
        gradient = jax.tree.map(lambda leaf: leaf * length / optax.tree.norm(tree(1)), tree(1))  # noqa: B023
        updates, _, norm = optimizer.update(gradient, optimizer.init(params), params, jnp.int32(0), jnp.int32(10))
        assert float(norm) == pytest.approx(length, rel=1e-5)
        assert float(optax.tree.norm(updates)) == pytest.approx(clipped, rel=1e-5)


def test_muon_is_for_the_matrices_of_the_layers_and_adamw_for_the_rest():
    """By name, for every parameter of both families: trap 22."""
    muon = {
        "gpt2": {"query", "key", "value", "attention_out", "up", "down"},
        "llama": {"query", "key", "value", "attention_out", "up", "gate", "down"},
    }
    for config in (GPT2, LLAMA):
        params = flat(nn.unbox(abstract(config)))
        found = {name for name in params if direction_of(OptimizerSpec(name="muon"), name) == "muon"}
        assert found == {f"layers/{name}" for name in muon[config.family]}
        assert all(params[name].ndim == 3 for name in found)
        assert {"embedding", "final_norm/scale", "layers/attention_norm/scale"} < params.keys() - found
        assert all(direction_of(OptimizerSpec(name="lion"), name) == "lion" for name in params)


@pytest.mark.parametrize("name", ["adamw", "muon"])
def test_the_update_of_stacked_layers_equals_that_of_each_layer_alone(name):
    """Trap 22. Three steps, so that momentum counts."""

    def layer(params, index):
        return {"layers": {"up": params["layers"]["up"][index : index + 1]}}

    def stack(seed):
        return {"layers": {"up": tree(seed)["layers"]["up"] * jnp.array([1.0, 5.0])[:, None, None]}}

    _, together = run(steady(name=name), [stack(1), stack(2), stack(3)], stack(0), 10)
    for index in (0, 1):
        gradients = [layer(stack(seed), index) for seed in (1, 2, 3)]
        _, alone = run(steady(name=name), gradients, layer(stack(0), index), 10)
        np.testing.assert_allclose(together["layers"]["up"][index], alone["layers"]["up"][0], rtol=1e-4, atol=1e-6)
    assert not np.allclose(together["layers"]["up"][0], together["layers"]["up"][1])


@pytest.mark.parametrize("name", NAMES)
def test_frozen_parameters_stay_bit_for_bit_and_the_others_move(name):
    """Over three steps with gradient and weight decay: trap 23."""
    spec = steady(name=name, weight_decay=0.5, frozen=(("embedding|layers/norm/.*", 1.0), (".*", 0.0)))
    after, _ = run(spec, [tree(1), tree(2), tree(3)], tree(0), 10)
    for key, old in flat(tree(0)).items():
        assert np.array_equal(flat(after)[key], old) == (key in ("embedding", "layers/norm/scale")), key


def test_frozen_parameters_hold_no_state_and_count_in_no_norm():
    """As if they were not there: state and clipped updates are those of a tree of the others alone: trap 24."""
    frozen = (("embedding", 1.0), (".*", 0.0))
    params, gradient = tree(0), tree(1)
    told = []
    for rules, kept in ((frozen, lambda t: t), (((".*", 0.0),), lambda t: {k: t[k] for k in t if k != "embedding"})):
        optimizer = make_optimizer(OptimizerSpec(warmup=0, clip=1.0, frozen=rules), 10, kept(params))
        state = optimizer.init(kept(params))
        trained = optimizer.trainable(kept(gradient))
        told.append((*optimizer.update(trained, state, kept(params), jnp.int32(0), jnp.int32(10)), state))
    (updates, *one), (wanted, *other) = told
    assert updates.pop("embedding") is None
    jax.tree.map(np.testing.assert_array_equal, (updates, *one), (wanted, *other))


def test_what_is_frozen_costs_no_backward_pass():
    """Operations of the lowered gradient: fewer without the tables', a third if only the last norm trains: trap 24."""
    config = dataclasses.replace(LLAMA, L=1)
    model, params, tokens = Transformer(config), nn.unbox(abstract(config)), jnp.ones((2, 8), jnp.int32)

    def operations(frozen):
        optimizer = make_optimizer(OptimizerSpec(frozen=frozen), 10, params)

        def loss(trained, params):
            whole = optimizer.merge(trained, params)
            hidden, _ = model.apply({"params": whole}, tokens, tokens, tokens, tokens > 1)
            return jax.nn.logsumexp(hidden @ head(whole).T)

        return jax.jit(jax.grad(loss)).lower(optimizer.trainable(params), params).cost_analysis()["flops"]

    everything = operations(((".*", 0.0),))
    without_tables = operations((("embedding|head", 1.0), (".*", 0.0)))
    last_norm = operations((("final_norm/.*", 0.0), (".*", 1.0)))
    assert last_norm < 0.6 * without_tables
    assert without_tables < 0.9 * everything


@pytest.mark.parametrize("name", ["momentum", "rmsprop", "adamw", "adafactor", "lion", "muon"])
def test_what_thaws_begins_as_a_fresh_run_does(name):
    """Still until step ceil(0.45 x 10), then the very first update of a run of its own, no longer: trap 25."""
    spec = steady(name=name, frozen=(("layers/.*", 0.45), (".*", 0.0)))
    gradients = [tree(seed, 10.0**seed) for seed in range(1, 7)]
    before, updates = run(spec, gradients[:5], tree(0), 10)
    assert not any(leaf.any() for leaf in jax.tree.leaves(updates["layers"]))
    jax.tree.map(np.testing.assert_array_equal, before["layers"], tree(0)["layers"])
    assert not np.array_equal(before["embedding"], tree(0)["embedding"])
    _, updates = run(spec, gradients, tree(0), 10)
    _, fresh = run(steady(name=name), [{"layers": gradients[5]["layers"]}], {"layers": tree(0)["layers"]}, 10)
    jax.tree.map(np.testing.assert_array_equal, updates["layers"], fresh["layers"])


def test_what_is_not_yet_thawed_counts_in_no_norm():
    params, gradient = tree(0), tree(1)
    optimizer = make_optimizer(OptimizerSpec(frozen=(("layers/.*", 0.07), (".*", 0.0))), 100, params)
    rest = optax.tree.norm({name: leaf for name, leaf in gradient.items() if name != "layers"})
    for step, wanted in ((6, rest), (7, optax.tree.norm(gradient))):  # 0.07 x 100 is 7.000000000000001
        _, _, norm = optimizer.update(gradient, optimizer.init(params), params, jnp.int32(step), jnp.int32(100))
        assert float(norm) == pytest.approx(float(wanted), rel=1e-6)


def test_one_compilation_serves_warm_up_thaws_and_a_moved_cool_down():
    """Trap 26."""
    spec = OptimizerSpec(schedule="wsd", warmup=2, frozen=(("layers/.*", 0.2), ("embedding", 0.4), (".*", 0.0)))
    params = tree(0)
    optimizer = make_optimizer(spec, 10, params)
    update = jax.jit(optimizer.update)
    state, lengths = optimizer.init(params), []
    for step in range(10):
        updates, state, _ = update(tree(1), state, params, jnp.int32(step), jnp.int32(8 if step < 5 else 5))
        lengths.append(float(optax.tree.norm(updates)))
    assert update._cache_size() == 1
    assert lengths[0] < lengths[1] < lengths[2] < lengths[4] > lengths[6] > lengths[7]


@pytest.mark.parametrize("name", NAMES)
def test_the_state_of_every_optimizer_has_a_place_on_a_mesh(name):
    """Boxed as plain; a moment lies where its parameter does, and what has another shape is on every device."""
    config = ModelConfig(T=8, D=128, L=2, N=2, K=2, F=128, vocabulary=128)
    boxed = abstract(config)
    optimizer = make_optimizer(OptimizerSpec(name=name, frozen=(("layers/up", 0.5), (".*", 0.0))), 10, boxed)
    mesh = make_mesh(2, 2, 2)
    state = jax.eval_shape(optimizer.init, boxed)
    places = shardings(mesh, state)
    assert jax.tree.structure(nn.unbox(state)) == jax.tree.structure(jax.eval_shape(optimizer.init, nn.unbox(boxed)))
    of_params = shardings(mesh, boxed)
    found = 0
    for (path, leaf), place in zip(
        jax.tree_util.tree_leaves_with_path(nn.unbox(state)), jax.tree.leaves(places), strict=True
    ):
        parameter = getattr(path[-1], "key", None)
        if parameter in flat(of_params) and leaf.shape == flat(nn.unbox(boxed))[parameter].shape:
            assert place == flat(of_params)[parameter]
            found += 1
        else:
            assert place.is_fully_replicated
    assert (found > 0) == (name != "sgd")


def deep(seed: int, rows: list[int] | None = None) -> Any:
    """A table and stacks of four layers, or of those rows of them."""
    random = np.random.default_rng(seed)
    shapes = {"embedding": (6, 5), "layers/up": (4, 8, 12), "layers/norm/scale": (4, 8)}
    flat = {name: jnp.asarray(random.normal(size=shape), jnp.float32) for name, shape in shapes.items()}
    if rows is not None:
        flat |= {name: leaf[np.array(rows)] for name, leaf in flat.items() if name.startswith("layers/")}
    return unflatten_dict(flat, sep="/")


@pytest.mark.parametrize("name", NAMES)
def test_frozen_layers_of_a_stack_are_as_if_they_were_not_there(name):
    """Updates and state of the others are, bit for bit, those of a stack of them alone; the frozen stay: trap 24."""
    spec = steady(name=name, weight_decay=0.5, clip=1.0, frozen=(("layers/[02]/.*", 1.0), (".*", 0.0)))
    after, _ = run(spec, [deep(1), deep(2), deep(3)], deep(0), 10)
    alone = [deep(seed, [1, 3]) for seed in range(4)]
    every = dataclasses.replace(spec, frozen=((".*", 0.0),))
    wanted, _ = run(every, alone[1:], alone[0], 10)
    np.testing.assert_array_equal(after["embedding"], wanted["embedding"])
    for key in ("layers/up", "layers/norm/scale"):
        np.testing.assert_array_equal(flat(after)[key][np.array([1, 3])], flat(wanted)[key])
        np.testing.assert_array_equal(flat(after)[key][np.array([0, 2])], flat(deep(0))[key][np.array([0, 2])])
        assert not np.array_equal(flat(after)[key][1], flat(deep(0))[key][1])
    states = (make_optimizer(spec, 10, deep(0)).init(deep(0)), make_optimizer(every, 10, alone[0]).init(alone[0]))
    kept, fewer = ([leaf.shape for leaf in jax.tree.leaves(state)] for state in states)
    assert kept == fewer


def test_rates_and_decays_may_differ_from_layer_to_layer():
    """By rules over single layers; where those agree, nothing is different from one rule for all."""
    rates = (("layers/0/.*", 0.5), (r"layers/[123]/.*", 0.25), (".*", 1.0))
    decays = (("layers/3/up", 0.0), (".*", 1.0))
    _, updates = run(steady(name="sgd", rates=rates, decays=decays, weight_decay=1.0), [deep(1)], deep(0), 10)
    gradient, params = deep(1)["layers"]["up"], deep(0)["layers"]["up"]
    for layer, (rate, decay) in enumerate(((0.05, 1), (0.025, 1), (0.025, 1), (0.025, 0))):
        wanted = -rate * (gradient[layer] + decay * params[layer])
        np.testing.assert_allclose(updates["layers"]["up"][layer], wanted, rtol=1e-5, atol=1e-7)
    one_by_one = tuple((f"layers/{layer}/.*", 0.5) for layer in range(4))
    _, same = run(steady(rates=(*one_by_one, (".*", 1.0))), [deep(1)], deep(0), 10)
    _, wanted = run(steady(rates=(("layers/.*", 0.5), (".*", 1.0))), [deep(1)], deep(0), 10)
    jax.tree.map(np.testing.assert_array_equal, same, wanted)


@pytest.mark.parametrize("name", ["momentum", "adamw", "muon"])
def test_each_layer_thaws_at_its_own_step_as_a_fresh_run_begins(name):
    """Layer 3 from the start, 2 from step 3, 1 from step 5, 0 never: trap 25."""
    frozen = (("layers/0/.*", 1.0), ("layers/1/.*", 0.5), ("layers/2/.*", 0.3), (".*", 0.0))
    spec = steady(name=name, frozen=frozen)
    gradients = [deep(seed) for seed in range(1, 7)]
    for step in range(6):
        _, updates = run(spec, gradients[: step + 1], deep(0), 10)
        for layer, row, start in ((1, 0, 5), (2, 1, 3), (3, 2, 0)):
            found = updates["layers"]["up"][row]
            if step < start:
                assert not found.any()
                continue
            alone = [{"layers": deep(seed, [layer])["layers"]} for seed in (0, *range(1 + start, 2 + step))]
            _, wanted = run(steady(name=name), alone[1:], alone[0], 10)
            if step == start:  # later ones decay by other parameters
                np.testing.assert_allclose(found, wanted["layers"]["up"][0], rtol=1e-5, atol=1e-7)
            assert found.any()
        assert updates["layers"]["up"].shape[0] == 3


def test_the_state_of_single_layers_lies_on_a_mesh_as_their_stack_does():
    boxed = abstract(ModelConfig(T=8, D=128, L=4, N=2, K=2, F=128, vocabulary=128))
    frozen = (("layers/[01]/.*", 1.0), ("layers/2/up", 0.5), (".*", 0.0))
    optimizer = make_optimizer(OptimizerSpec(frozen=frozen), 10, boxed)
    mesh = make_mesh(2, 2, 2)
    state = jax.eval_shape(optimizer.init, boxed)
    places, of_params = shardings(mesh, state), flat(shardings(mesh, boxed))
    for key, rows in (("adamw_from_0", 1), ("adamw_from_0.5", 1)):
        assert nn.unbox(state)[key].mu["layers/up"].shape[0] == rows
        assert places[key].mu["layers/up"] == of_params["layers/up"]
    assert nn.unbox(state)["adamw_from_0"].mu["layers/down"].shape[0] == 2


def test_adapters_are_matrices_to_muon_and_to_weight_decay():
    """As PEFT's users' optimizers have it, which decay all that is no bias and no norm."""
    config = dataclasses.replace(LLAMA, lora=Lora(rank=2))
    params = jax.tree.map(lambda leaf: np.full(leaf.shape, 2.0, np.float32), nn.unbox(abstract(config)))
    after, _ = run(steady(), [jax.tree.map(np.zeros_like, params)], params, 10)
    for part in "ab":
        name = f"layers/query_lora_{part}"
        assert direction_of(OptimizerSpec(name="muon"), name) == "muon"
        np.testing.assert_allclose(flat(after)[name], 0.99 * flat(params)[name], rtol=1e-5)
