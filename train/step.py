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
from gptjax.sharding import batch_sharding, local_rows, replicated, shardings
from train.losses import micro_batch_loss, task_nats
from train.objectives import coefficients

# On a CPU, running independent operations side by side costs 20 to 40 % of a step (docs/log.md, 2026-11-22).
COMPILER_OPTIONS = {"cpu": {"xla_cpu_enable_concurrency_optimized_scheduler": False}}


class State(NamedTuple):
    """All that a step changes."""

    step: jax.Array  # optimizer steps done, i32
    params: Any
    optimizer: Any


def abstract_state(
    model: Transformer, optimizer: optax.GradientTransformation, mesh: Mesh, seed: int
) -> tuple[State, Callable[[], State]]:
    """(shapes, dtypes and shardings of the state; a function that makes it there, nothing ever unsharded)."""

    def make() -> Any:
        boxed = init_params(model, jax.random.key(seed))
        return boxed, optimizer.init(boxed)

    boxed_params, boxed_moments = jax.eval_shape(make)
    placed = State(
        replicated(mesh),  # pyright: ignore[reportArgumentType]  (a tree of shardings, shaped like the state)
        shardings(mesh, boxed_params),
        shardings(mesh, boxed_moments),  # moments lie where their parameters do, counters are everywhere
    )

    def fresh() -> State:
        params = nn.unbox(init_params(model, jax.random.key(seed)))
        return State(jnp.int32(0), params, optimizer.init(params))

    abstract = jax.tree.map(
        lambda leaf, place: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=place), jax.eval_shape(fresh), placed
    )
    return abstract, jax.jit(fresh, out_shardings=placed)


def make_train_step(
    model: Transformer, optimizer: optax.GradientTransformation, abstract: State, mesh: Mesh, B: int, seed: int
) -> Callable[[State, Batch], tuple[State, dict[str, jax.Array]]]:
    """(state, batch [A, B, T]) -> (state, metrics). The state's memory is reused.

    Metrics, float32: `loss` (sum over tasks of lambda times mean nats), `loss/<task>` in nats per weighted token,
    `weight/<task>`, `gradient_norm` before clipping.
    """
    chunks = chunks_for(local_rows(mesh, B), model.config.T, model.config.V)

    def step(state: State, batch_ABT: Batch) -> tuple[State, dict[str, jax.Array]]:
        factor_K, count_K = coefficients(batch_ABT)
        key = jax.random.fold_in(jax.random.key(seed), state.step) if model.config.dropout else None

        def gradient_of(a, batch):
            dropout_key = None if key is None else jax.random.fold_in(key, a)
            value_and_grad = jax.value_and_grad(micro_batch_loss, has_aux=True)
            (_, nats_K), gradient = value_and_grad(state.params, model, batch, factor_K, chunks, dropout_key)
            return gradient, nats_K

        def accumulate(sums, numbered):
            return jax.tree.map(jnp.add, sums, gradient_of(*numbered)), None

        A = batch_ABT.shape[0]
        numbered = (jnp.arange(A), batch_ABT)
        if A == 1:  # without a second copy of the gradient
            gradient, nats_K = gradient_of(*jax.tree.map(lambda array: array[0], numbered))
        else:
            nothing = (jax.tree.map(jnp.zeros_like, state.params), jnp.zeros(len(TASKS)))
            (gradient, nats_K), _ = jax.lax.scan(accumulate, nothing, numbered)
        updates, moments = optimizer.update(gradient, state.optimizer, state.params)
        params = optax.apply_updates(state.params, updates)
        metrics = {"loss": jnp.sum(nats_K * factor_K), "gradient_norm": optax.tree.norm(gradient)}
        for k, name in enumerate(TASKS[1:], start=1):
            metrics |= {f"loss/{name}": nats_K[k] / jnp.maximum(count_K[k], 1), f"weight/{name}": count_K[k]}
        return State(state.step + 1, params, moments), metrics

    placed = jax.tree.map(lambda leaf: leaf.sharding, abstract)
    return jax.jit(
        step,
        in_shardings=(placed, batch_sharding(mesh, leading=1)),
        out_shardings=(placed, replicated(mesh)),
        donate_argnums=0,
        compiler_options=COMPILER_OPTIONS.get(mesh.devices.flat[0].platform),
    )


def make_validation_step(model: Transformer, abstract: State, mesh: Mesh, B: int) -> Callable[..., jax.Array]:
    """(params, batch [B, T], bytes of each id [V]) -> summed [nats, targets, target bytes], float32, no dropout."""
    chunks = chunks_for(local_rows(mesh, B), model.config.T, model.config.V)

    def step(params: Any, batch: Batch, bytes_V: jax.Array) -> jax.Array:
        nats = jnp.sum(task_nats(params, model, batch, chunks))
        target_bytes = jnp.sum(jnp.where(batch.weights_BT > 0, bytes_V[batch.targets_BT], 0))
        return jnp.stack([nats, jnp.sum(batch.weights_BT), target_bytes])

    placed = jax.tree.map(lambda leaf: leaf.sharding, abstract.params)
    return jax.jit(step, in_shardings=(placed, batch_sharding(mesh), replicated(mesh)), out_shardings=replicated(mesh))
