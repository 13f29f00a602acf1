"""One optimizer step, compiled once: pure functions of state and batch, with every array's place on the mesh stated."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import linen as nn
from jax.sharding import Mesh

from gptjax.batch import TASKS, Batch
from gptjax.likelihood import chunks_for
from gptjax.model import Transformer, init_params
from gptjax.sharding import batch_sharding, local_rows, one_a_device, replicated, shardings
from train.ledger import rows_hash
from train.losses import micro_batch_loss, task_nats
from train.objectives import coefficients
from train.optimizer import cooldown_start, learning_rate, make_optimizer, merge
from train.recipe import OptimizerSpec

# On a CPU, running independent operations side by side costs 20 to 40 % of a step (docs/log.md, 2026-11-22).
COMPILER_OPTIONS = {"cpu": {"xla_cpu_enable_concurrency_optimized_scheduler": False}}


class State(NamedTuple):
    """All that a step changes."""

    step: jax.Array  # optimizer steps done, i32
    cooldown: jax.Array  # the step from which wsd falls, i32: where it was planned, or where patience ran out
    params: Any
    ema: Any  # moving average of the parameters, float32; None where none is kept
    optimizer: Any


def abstract_state(
    model: Transformer, spec: OptimizerSpec, steps: int, mesh: Mesh, seed: int
) -> tuple[State, Callable[[], State]]:
    """(shapes, dtypes and shardings of the state; a function that makes it there, nothing ever unsharded)."""

    def make(unbox: Callable[[Any], Any]) -> State:
        params = unbox(init_params(model, jax.random.key(seed)))
        ema = None if spec.ema is None else jax.tree.map(jnp.copy, params)
        moments = make_optimizer(spec, steps, params).init(params)
        return State(jnp.int32(0), jnp.int32(cooldown_start(spec, steps)), params, ema, moments)

    boxed = jax.eval_shape(lambda: make(lambda params: params))  # averages and moments lie where their parameters do
    placed = shardings(mesh, boxed)
    fresh = jax.jit(lambda: make(nn.unbox), out_shardings=placed)
    abstract = jax.tree.map(
        lambda leaf, place: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=place), nn.unbox(boxed), placed
    )
    return abstract, fresh


def make_train_step(
    model: Transformer, spec: OptimizerSpec, steps: int, abstract: State, mesh: Mesh, B: int, seed: int
) -> Callable[[State, Batch, jax.Array], tuple[State, dict[str, jax.Array]]]:
    """(state, batch [A, B, T], asks [devices]) -> (state, metrics). The state's memory is reused.

    A step whose loss or gradient is not a number changes nothing but the count of steps.
    `asks`: i32, one a device, above 0 where its host wants to stop: metrics["asked"] is the highest, on every host.

    Metrics, float32: `loss` (sum over tasks of lambda times mean nats), `loss/<task>` in nats per weighted token,
    `weight/<task>`, `gradient_norm` before clipping, `learning_rate`; `skipped`, bool; `rows_hash`, u32 [2].
    """
    chunks = chunks_for(local_rows(mesh, B), model.config.T, model.config.V)
    optimizer = make_optimizer(spec, steps, abstract.params)
    rate = learning_rate(spec, steps)

    def step(state: State, batch_ABT: Batch, asks: jax.Array) -> tuple[State, dict[str, jax.Array]]:
        factor_K, count_K = coefficients(batch_ABT)
        key = jax.random.fold_in(jax.random.key(seed), state.step) if model.config.dropout else None
        trained = optimizer.trainable(state.params)

        def loss_of(trained: Any, batch: Batch, dropout_key: Any) -> tuple[jax.Array, jax.Array]:
            return micro_batch_loss(merge(trained, state.params), model, batch, factor_K, chunks, dropout_key)

        def gradient_of(a, batch):
            dropout_key = None if key is None else jax.random.fold_in(key, a)
            (_, nats_K), gradient = jax.value_and_grad(loss_of, has_aux=True)(trained, batch, dropout_key)
            return gradient, nats_K

        def accumulate(sums, numbered):
            return jax.tree.map(jnp.add, sums, gradient_of(*numbered)), None

        A = batch_ABT.shape[0]
        numbered = (jnp.arange(A), batch_ABT)
        if A == 1:  # without a second copy of the gradient
            gradient, nats_K = gradient_of(*jax.tree.map(lambda array: array[0], numbered))
        else:
            nothing = (jax.tree.map(jnp.zeros_like, trained), jnp.zeros(len(TASKS)))
            (gradient, nats_K), _ = jax.lax.scan(accumulate, nothing, numbered)
        updates, moments, norm = optimizer.update(gradient, state.optimizer, state.params, state.step, state.cooldown)
        params = merge(optax.apply_updates(trained, updates), state.params)
        ema = None if spec.ema is None else _averaged(state.ema, params, state.step, spec.ema)
        loss = jnp.sum(nats_K * factor_K)
        finite = jnp.isfinite(loss) & jnp.isfinite(norm)
        changed, kept = (params, ema, moments), (state.params, state.ema, state.optimizer)
        metrics = {
            "loss": loss, "gradient_norm": norm, "learning_rate": rate(state.step, state.cooldown),
            "skipped": ~finite, "rows_hash": rows_hash(batch_ABT, jnp), "asked": jnp.max(asks),
        }  # fmt: skip
        for k, name in enumerate(TASKS[1:], start=1):
            metrics |= {f"loss/{name}": nats_K[k] / jnp.maximum(count_K[k], 1), f"weight/{name}": count_K[k]}
        return State(state.step + 1, state.cooldown, *chosen(finite, changed, kept)), metrics

    placed = jax.tree.map(lambda leaf: leaf.sharding, abstract)
    return jax.jit(
        step,
        in_shardings=(placed, batch_sharding(mesh, leading=1), one_a_device(mesh)),
        out_shardings=(placed, replicated(mesh)),
        donate_argnums=0,
        compiler_options=COMPILER_OPTIONS.get(mesh.devices.flat[0].platform),
    )


def chosen(first: jax.Array, one: Any, other: Any) -> Any:
    """The first of two trees, or the second, in one pass over both."""
    return jax.tree.map(lambda a, b: jnp.where(first, a, b), one, other)


def _averaged(ema: Any, params: Any, step: jax.Array, decay: float) -> Any:
    """The moving average after a step: a younger one forgets faster, by (1 + n) / (10 + n) after n steps."""
    forgetting = 1 - jnp.minimum(decay, (1.0 + step) / (10.0 + step))
    return optax.incremental_update(params, ema, forgetting)


def make_validation_step(model: Transformer, abstract: State, mesh: Mesh, B: int) -> Callable[..., jax.Array]:
    """(params, batch [B, T], bytes of each id [V], asks) -> sums, float32: [nats, targets, target bytes, asked].

    Dropout is off; `asks` as in `make_train_step`.
    """
    chunks = chunks_for(local_rows(mesh, B), model.config.T, model.config.V)

    def step(params: Any, batch: Batch, bytes_V: jax.Array, asks: jax.Array) -> jax.Array:
        nats = jnp.sum(task_nats(params, model, batch, chunks))
        target_bytes = jnp.sum(jnp.where(batch.weights_BT > 0, bytes_V[batch.targets_BT], 0))
        return jnp.stack([nats, jnp.sum(batch.weights_BT), target_bytes, jnp.max(asks).astype(jnp.float32)])

    placed = jax.tree.map(lambda leaf: leaf.sharding, abstract.params)
    places = (placed, batch_sharding(mesh), replicated(mesh), one_a_device(mesh))
    return jax.jit(step, in_shardings=places, out_shardings=replicated(mesh))
