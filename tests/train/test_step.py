"""One step: the same on any mesh, in any micro-batches; compiled once, nothing left whole that the table splits."""

import dataclasses
import functools
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gptjax.batch import Batch, text_batch
from gptjax.config import Lora, ModelConfig
from gptjax.nn.model import Transformer
from gptjax.sharding import batch_sharding, make_mesh, one_a_device
from train.objectives import causal_only
from train.recipe import OptimizerSpec
from train.record.ledger import rows_hash
from train.step import State, abstract_state, make_train_step, make_validation_step

CONFIG = ModelConfig(T=16, D=32, L=2, N=8, K=8, head_width=4, F=64, vocabulary=1000, tied=False)
SPEC = OptimizerSpec(learning_rate=3e-3, warmup=0)  # full rate from the first step
ROWS = 8
MESHES = {"8x1x1": (8, 1, 1), "1x8x1": (1, 8, 1), "1x1x8": (1, 1, 8), "2x2x2": (2, 2, 2)}


def uneven_batch(seed: int, A: int = 1, rows: int = ROWS) -> Batch:
    """Rows of unequal loss weight, [A, rows/A, T]: row r has loss on its first r + 1 positions, row 0 is padding."""
    generator = np.random.default_rng(seed)
    tokens = generator.integers(3, 1000, (rows, CONFIG.T), dtype=np.int32)
    place = np.broadcast_to(np.arange(CONFIG.T, dtype=np.int32), tokens.shape)
    row = np.arange(rows)[:, None]
    weights = ((place <= row) & (row > 0)).astype(np.float32)
    inside = (row > 0).astype(np.int32) * np.ones_like(tokens)
    batch = text_batch(
        tokens, np.roll(tokens, -1, 1), weights, inside, inside, place * inside, np.zeros(tokens.shape, bool)
    )
    return Batch(*(array.reshape(A, rows // A, *array.shape[1:]) for array in batch))


class Run(NamedTuple):
    """What some steps gave."""

    metrics: list[dict[str, np.ndarray]]  # of every step
    gradient: dict  # of the first step, clipped: Adam's first moment over 1 - beta1
    state: State  # at the end
    step: Any  # the compiled step


def stop_flag(mesh, *devices: int):
    """Those devices want to stop, the others go on."""
    wants = np.isin(np.arange(mesh.size), devices).astype(np.int32)
    return jax.device_put(wants, one_a_device(mesh))


@functools.cache
def trained(shape: tuple[int, int, int] = (1, 1, 1), *, A: int = 1, dropout: float = 0.0) -> Run:
    """Twenty steps of uneven batches on a mesh of that shape."""
    mesh = make_mesh(*shape, devices=jax.devices()[: math.prod(shape)])
    config = dataclasses.replace(CONFIG, dropout=dropout)
    model = Transformer(config)
    with jax.set_mesh(mesh):
        abstract, fresh = abstract_state(model, SPEC, causal_only(), 100, mesh, seed=0)
        state, metrics, gradient = fresh(), [], {}
        step = make_train_step(model, SPEC, causal_only(), 100, abstract, mesh, ROWS // A, seed=0)
        for number in range(20):
            state, measured = step(state, jax.device_put(uneven_batch(number, A)), stop_flag(mesh))
            metrics.append(jax.device_get(measured))
            gradient = gradient or jax.tree.map(lambda mu: np.asarray(mu) / (1 - SPEC.beta1), adam(state).mu)
    assert step._cache_size() == 1, "compiled more than once"
    return Run(metrics, gradient, state, step)


def adam(state: State) -> Any:
    """The moments, wherever the optimizer keeps them."""
    return next(
        part for part in jax.tree.leaves(state.optimizer, is_leaf=lambda x: hasattr(x, "mu")) if hasattr(part, "mu")
    )


def losses(run: Run) -> list[float]:
    return [float(metrics["loss"]) for metrics in run.metrics]


def assert_same_gradient(found: Run, wanted: Run) -> None:
    """Every leaf within 1e-5, relative to its length; and no leaf that gets none."""
    for a, b in zip(jax.tree.leaves(found.gradient), jax.tree.leaves(wanted.gradient), strict=True):
        assert np.linalg.norm(a - b) <= 1e-5 * np.linalg.norm(b)
        assert np.linalg.norm(b) > 0


@pytest.mark.parametrize("shape", MESHES.values(), ids=MESHES)
def test_twenty_steps_at_full_rate_and_the_first_gradient_are_those_of_one_device(shape):
    """Trap 5: rows of unequal weight on unequal devices; the first row is padding (trap 17)."""
    alone, spread = trained(), trained(shape)
    np.testing.assert_allclose(losses(spread), losses(alone), rtol=1e-5)
    assert_same_gradient(spread, alone)
    assert abs(losses(alone)[-1] - losses(alone)[0]) > 0.01


def test_no_leaf_that_the_table_splits_is_replicated():
    """On 2x2x2 every matrix, and both its Adam moments, lie in at least two different parts."""
    state = trained((2, 2, 2)).state
    checked = 0
    for path, leaf in jax.tree_util.tree_leaves_with_path(state):
        name = jax.tree_util.keystr(path)
        if leaf.ndim >= 2 and "norm" not in name:
            assert not leaf.sharding.is_fully_replicated, name
            assert leaf.addressable_shards[0].data.size * 4 == leaf.size, name
            checked += 1
    assert checked == 9 * 3  # embedding, head, seven matrices of a layer; parameters and two moments


def test_micro_batches_of_uneven_weight_make_the_step_of_one_batch():
    """Trap 4: loss and gradient divide by the weight of the whole step, never by a micro-batch's own."""
    one, four = trained(), trained(A=4)
    np.testing.assert_allclose(losses(four), losses(one), rtol=1e-5)
    assert_same_gradient(four, one)
    assert four.metrics[0]["weight/causal_lm"] == one.metrics[0]["weight/causal_lm"] == sum(range(2, 9))


def test_dropout_is_the_same_on_every_mesh_and_moves_the_loss():
    """Trap 20."""
    one, eight = trained(dropout=0.3), trained((2, 2, 2), dropout=0.3)
    np.testing.assert_allclose(losses(eight), losses(one), rtol=1e-5)
    assert abs(losses(one)[0] - losses(trained())[0]) > 1e-4


def test_it_overfits_eight_rows():
    """A model that cannot learn eight rows by heart has a wrong loss, a wrong shift or a dead gradient."""
    mesh = make_mesh(devices=jax.devices()[:1])
    model, spec = Transformer(CONFIG), OptimizerSpec(learning_rate=1e-2, warmup=5, weight_decay=0.0)
    with jax.set_mesh(mesh):
        abstract, fresh = abstract_state(model, spec, causal_only(), 150, mesh, seed=0)
        step, state = make_train_step(model, spec, causal_only(), 150, abstract, mesh, ROWS, seed=0), fresh()
        for _ in range(150):
            state, metrics = step(state, jax.device_put(uneven_batch(0)), stop_flag(mesh))
        validate = make_validation_step(model, causal_only(), abstract, mesh, ROWS)
        batch = jax.tree.map(lambda array: array[0], uneven_batch(0))
        sums, size, asked = validate(state.params, batch, jnp.full(CONFIG.V, 3.0), stop_flag(mesh))
    assert metrics["loss"] < 0.05
    loss, targets, correct = (sums["causal_lm"][name] for name in ("loss", "weight", "correct"))
    assert loss / targets < 0.05  # validation measures the same thing
    assert size == 3 * targets == 3 * correct == 3 * batch.weights_BT.sum()
    assert asked == 0


def test_a_step_without_any_target_is_finite_and_has_no_gradient():
    empty = uneven_batch(0)._replace(weights_BT=np.zeros((1, ROWS, CONFIG.T), np.float32))
    with jax.set_mesh(mesh := make_mesh(devices=jax.devices()[:1])):
        state, metrics = trained().step(jax.tree.map(jnp.copy, trained().state), jax.device_put(empty), stop_flag(mesh))
    assert metrics["loss"] == metrics["gradient_norm"] == 0
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(jax.device_get(state.params)))


@functools.cache
def compiled(spec: OptimizerSpec) -> tuple[Any, Any, Any]:
    """(fresh, step, nobody asks) on one device."""
    mesh = make_mesh(devices=jax.devices()[:1])
    abstract, fresh = abstract_state(Transformer(CONFIG), spec, causal_only(), 100, mesh, seed=0)
    step = make_train_step(Transformer(CONFIG), spec, causal_only(), 100, abstract, mesh, ROWS, seed=0)
    return fresh, step, stop_flag(mesh)


def once(state: State, batch: Batch, spec: OptimizerSpec = SPEC) -> tuple[State, dict]:
    """One step on one device; the state that went in is kept."""
    _, step, nobody = compiled(spec)
    with jax.set_mesh(make_mesh(devices=jax.devices()[:1])):
        return step(jax.tree.map(jnp.copy, state), jax.device_put(batch), nobody)


def equal(a, b) -> bool:
    return all(np.array_equal(x, y) for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True))


@pytest.mark.fault(31)
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_step_whose_loss_is_no_number_changes_nothing_but_the_count(bad):
    """Parameters and moments stay, bit for bit; the next step with numbers moves them, as if there had been none."""
    before = trained().state
    broken = uneven_batch(3)
    broken.weights_BT[0, 5, 0] = bad
    after, metrics = once(before, broken)
    assert metrics["skipped"]
    assert equal((after.params, after.optimizer), (before.params, before.optimizer))
    assert int(after.step) == int(before.step) + 1
    good, metrics = once(after, uneven_batch(3))
    assert not metrics["skipped"]
    assert not equal(good.params, before.params)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(jax.device_get(good.params)))


def test_the_average_follows_the_parameters_and_leaves_them_alone():
    """After n steps a tenth of the way at n = 0, then (1 + n) / (10 + n) is kept, at most the decay that was asked."""
    spec = dataclasses.replace(SPEC, ema=0.5)
    with jax.set_mesh(make_mesh(devices=jax.devices()[:1])):
        state = start = compiled(spec)[0]()
    assert equal(state.ema, state.params)
    wanted = np.asarray(state.ema["embedding"])
    for number in range(12):
        state, _ = once(state, uneven_batch(number), spec)
        keep = min(0.5, (1 + number) / (10 + number))
        wanted = keep * wanted + (1 - keep) * np.asarray(state.params["embedding"])
        np.testing.assert_allclose(state.ema["embedding"], wanted, rtol=1e-5, atol=1e-7)
    plain = start._replace(ema=None)
    for number in range(12):
        plain, _ = once(plain, uneven_batch(number))
    assert equal(plain.params, state.params)
    assert not equal(state.ema, state.params)


def test_rows_have_the_same_hash_on_every_mesh_and_in_any_micro_batches():
    """And that hash is what NumPy makes of the rows; other rows have another."""
    hashes = [[tuple(metrics["rows_hash"]) for metrics in run.metrics] for run in (
        trained(), trained((2, 2, 2)), trained((1, 8, 1)), trained(A=4)
    )]  # fmt: skip
    assert hashes[0] == hashes[1] == hashes[2] == hashes[3]
    assert hashes[0][0] == tuple(rows_hash(uneven_batch(0), np))
    assert len(set(hashes[0])) == 20


@pytest.mark.fault(20)
def test_one_device_that_wants_to_stop_is_heard_by_all():
    mesh = make_mesh(2, 2, 2)
    with jax.set_mesh(mesh):
        for wants in ((), (5,)):
            state = jax.tree.map(jnp.copy, trained((2, 2, 2)).state)
            _, metrics = trained((2, 2, 2)).step(state, jax.device_put(uneven_batch(0)), stop_flag(mesh, *wants))
            assert metrics["asked"] == len(wants)
            assert metrics["asked"].is_fully_replicated


class Steps(NamedTuple):
    """What four steps of a model gave whose layers are written out: only so are their operations all counted."""

    first: State
    last: State
    losses: list[float]
    flops: float  # of one step


@functools.cache
def four_steps(
    config: ModelConfig, spec: OptimizerSpec, shape: tuple[int, int, int] = (1, 1, 1), A: int = 1, **of_model: Any
) -> Steps:
    mesh = make_mesh(*shape, devices=jax.devices()[: math.prod(shape)])
    model = Transformer(config, **{"unroll": config.L, **of_model})
    with jax.set_mesh(mesh):
        abstract, fresh = abstract_state(model, spec, causal_only(), 100, mesh, seed=0)
        step = make_train_step(model, spec, causal_only(), 100, abstract, mesh, ROWS // A, seed=0)
        compiled = step.lower(abstract, uneven_batch(0, A), stop_flag(mesh)).compile()
        state, losses = fresh(), []
        for number in range(4):
            batch = jax.device_put(uneven_batch(number, A), batch_sharding(mesh, leading=1))
            state, metrics = compiled(state, batch, stop_flag(mesh))
            losses.append(float(metrics["loss"]))
        return Steps(fresh(), state, losses, compiled.cost_analysis()["flops"])


@pytest.mark.slow
def test_a_step_of_adapters_alone_moves_no_weight_keeps_no_moment_of_one_and_costs_less():
    """At most 0.75 of the operations of a full step; the same on a mesh."""
    config = dataclasses.replace(CONFIG, D=128, F=384)
    adapted = dataclasses.replace(config, lora=Lora())
    alone = dataclasses.replace(SPEC, frozen=((".*_lora_[ab]", 0.0), (".*", 1.0)))
    small = four_steps(adapted, alone)
    for (path, old), new in zip(
        jax.tree_util.tree_leaves_with_path(small.first.params), jax.tree.leaves(small.last.params), strict=True
    ):
        assert np.array_equal(old, new) == ("_lora_" not in jax.tree_util.keystr(path)), path
    assert adam(small.last).mu.keys() == {f"layers/{name}_lora_{part}" for name in config.projections for part in "ab"}
    assert small.flops <= 0.75 * four_steps(config, SPEC).flops
    spread = four_steps(adapted, alone, (2, 2, 2), A=2, unroll=1)
    np.testing.assert_allclose(spread.losses, small.losses, rtol=0, atol=1e-5)


DEEP = dataclasses.replace(CONFIG, D=64, F=128, L=4)
TOP_HALF = (("layers/[01]/.*|embedding|head", 1.0), (".*", 0.0))


def products(config: ModelConfig) -> int:
    """Operations of the products with weights in one layer, forward, over all tokens of a step."""
    return sum(2 * ROWS * config.T * width * height for width, height in config.projections.values())


@pytest.mark.slow
def test_layers_below_the_lowest_trained_one_cost_no_backward_pass():
    """It is twice the forward pass: one product for the inputs, one for the weights. Above a table that trains, one."""
    full, top = four_steps(DEEP, SPEC), four_steps(DEEP, dataclasses.replace(SPEC, frozen=TOP_HALF))
    assert full.flops - top.flops > 2 * 2 * products(DEEP)
    middle = ((r"layers/[12]/(up|down|gate)", 1.0), (".*", 0.0))
    held = four_steps(DEEP, dataclasses.replace(SPEC, frozen=middle))
    thin = 3 * 2 * ROWS * DEEP.T * DEEP.D * DEEP.F
    assert 2 * thin < full.flops - held.flops < 2.5 * thin
    assert adam(top.last).mu["layers/query"].shape[0] == 2
    assert adam(held.last).mu["layers/query"].shape[0] == 4
    assert adam(held.last).mu["layers/up"].shape[0] == 2


IN_PARTS = {
    "the lower half": (TOP_HALF, {}),
    "every other layer, part of another": (
        (("layers/[02]/.*|layers/3/(up|query_norm/.*)", 1.0), (".*", 0.0)),
        {"unroll": 1, "remat": "full"},
    ),
    "thawing one by one": (
        (("layers/0/.*", 1.0), ("layers/1/.*", 0.02), ("layers/2/up", 0.01), (".*", 0.0)),
        {"unroll": 1},
    ),
}


@pytest.mark.parametrize(("frozen", "of_model"), IN_PARTS.values(), ids=IN_PARTS)
def test_a_stack_run_in_parts_learns_what_a_whole_one_learns(frozen, of_model, monkeypatch):
    """Losses and parameters within 1e-5 of a step that differentiates by whole stacks; frozen layers stay."""
    spec = dataclasses.replace(SPEC, frozen=frozen)
    found = four_steps(DEEP, spec, **of_model)
    monkeypatch.setattr("train.updates.optimizer.runs_alike", lambda trained, layers: None)
    wanted = four_steps.__wrapped__(DEEP, spec, **of_model)
    np.testing.assert_allclose(found.losses, wanted.losses, rtol=0, atol=1e-5)
    jax.tree.map(
        functools.partial(np.testing.assert_allclose, rtol=0, atol=1e-5), found.last.params, wanted.last.params
    )
    up = found.last.params["layers"]["up"] != found.first.params["layers"]["up"]
    assert not up[0].any()
    assert up.any()


def test_a_stack_in_parts_is_the_same_on_a_mesh_in_micro_batches():
    spec = dataclasses.replace(SPEC, frozen=TOP_HALF)
    spread = four_steps(DEEP, spec, (2, 2, 2), A=2, unroll=1)
    np.testing.assert_allclose(spread.losses, four_steps(DEEP, spec).losses, rtol=0, atol=1e-5)
