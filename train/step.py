"""One optimizer step, compiled once: pure functions of state and batch, with every array's place on the mesh stated."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import linen as nn
from jax.sharding import Mesh

from gptjax.batch import Batch
from gptjax.nn.likelihood import chunks_for
from gptjax.nn.model import Transformer, init_params
from gptjax.sharding import batch_sharding, local_shape, one_a_device, replicated, shardings
from train.losses.loss import Sums
from train.losses.terms import Objective, StepLoss, term_sums
from train.objectives import LossSpec, Term
from train.recipe import OptimizerSpec
from train.record.ledger import rows_hash
from train.updates.optimizer import cooldown_start, learning_rate, make_optimizer

# On a CPU, running independent operations side by side costs 20 to 40 % of a step (docs/log.md, 2026-11-22).
COMPILER_OPTIONS = {"cpu": {"xla_cpu_enable_concurrency_optimized_scheduler": False}}


class State(NamedTuple):
    """All that a step changes."""

    step: jax.Array  # optimizer steps done, i32
    cooldown: jax.Array  # the step from which wsd falls, i32: where it was planned, or where patience ran out
    params: Any
    ema: Any  # moving average of the parameters, float32; None where none is kept
    optimizer: Any
    combiner: Any  # what the weights of the terms depend on; {} where they do not change


def abstract_state(
    model: Transformer, spec: OptimizerSpec, loss_spec: LossSpec, steps: int, mesh: Mesh, seed: int
) -> tuple[State, Callable[[], State]]:
    """(shapes, dtypes and shardings of the state; a function that makes it there, nothing ever unsharded)."""

    def make(unbox: Callable[[Any], Any]) -> State:
        params = unbox(init_params(model, jax.random.key(seed)))
        ema = None if spec.ema is None else jax.tree.map(jnp.copy, params)
        moments = make_optimizer(spec, steps, params).init(params)
        combiner = Objective(loss_spec, model, chunks=1).start()
        named = (nn.LogicallyPartitioned(leaf, (None,) * jnp.ndim(leaf)) for leaf in jax.tree.leaves(combiner))
        combiner = unbox(jax.tree.unflatten(jax.tree.structure(combiner), named))
        return State(jnp.int32(0), jnp.int32(cooldown_start(spec, steps)), params, ema, moments, combiner)

    boxed = jax.eval_shape(lambda: make(lambda params: params))  # averages and moments lie where their parameters do
    placed = shardings(mesh, boxed)
    fresh = jax.jit(lambda: make(nn.unbox), out_shardings=placed)
    abstract = jax.tree.map(
        lambda leaf, place: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=place), nn.unbox(boxed), placed
    )
    return abstract, fresh


def make_train_step(
    model: Transformer,
    spec: OptimizerSpec,
    loss_spec: LossSpec,
    steps: int,
    abstract: State,
    mesh: Mesh,
    B: int,
    seed: int,
) -> Callable[[State, Batch, jax.Array], tuple[State, dict[str, jax.Array]]]:
    """(state, batch [A, B, T], stop_flag [devices]) -> (state, metrics). The state's memory is reused.

    A step whose loss or gradient is not a number changes nothing but the count of steps.
    `stop_flag`: i32, one a device, above 0 where its host wants to stop: metrics["asked"] is the highest of all.

    Metrics, float32: `loss` (sum over terms of coefficient times mean loss), of each term `loss/<term>`, a
    target, `weight/<term>` (targets) and `coefficient/<term>`, `gradient_norm` before clipping, `learning_rate`;
    `skipped`, bool; `rows_hash`, u32 [2].
    """
    optimizer = make_optimizer(spec, steps, abstract.params, model.dtype)
    rate = learning_rate(spec, steps)

    def step(state: State, batch_ABT: Batch, stop_flag: jax.Array) -> tuple[State, dict[str, jax.Array]]:
        progress = state.step / jnp.float32(steps)
        earlier = jnp.where(state.step >= state.cooldown, cooldown_start(spec, steps) - state.cooldown, 0)
        weighed_at = progress + earlier / jnp.float32(steps)  # weights fall when the rate does
        key = jax.random.fold_in(jax.random.key(seed), state.step)
        trained = optimizer.trainable(state.params)
        T = batch_ABT.tokens_BT.shape[-1]
        in_parts = model.clone(parts=optimizer.parts)
        objective = Objective(loss_spec, in_parts, chunks_for(*local_shape(mesh, B, T), model.config.V))

        def whole(trained: Any) -> Any:
            return optimizer.in_parts(trained, state.params)

        found = objective.loss(trained, whole, batch_ABT, state.combiner, progress, weighed_at, key)
        updates, moments, norm = optimizer.update(
            found.gradient, state.optimizer, state.params, state.step, state.cooldown
        )
        params = optimizer.merge(optax.apply_updates(trained, updates), state.params)
        ema = None if spec.ema is None else _averaged(state.ema, params, state.step, spec.ema)
        finite = jnp.isfinite(found.loss) & jnp.isfinite(norm)
        changed = (params, ema, moments, found.combiner)
        kept = (state.params, state.ema, state.optimizer, state.combiner)
        metrics = {
            "loss": found.loss, "gradient_norm": norm, "learning_rate": rate(state.step, state.cooldown),
            "skipped": ~finite, "rows_hash": rows_hash(batch_ABT, jnp), "asked": jnp.max(stop_flag),
        }  # fmt: skip
        metrics |= _metrics_of_terms(loss_spec.terms, found)
        return State(state.step + 1, state.cooldown, *chosen(finite, changed, kept)), metrics

    placed = jax.tree.map(lambda leaf: leaf.sharding, abstract)
    return jax.jit(
        step,
        in_shardings=(placed, batch_sharding(mesh, leading=1), one_a_device(mesh)),
        out_shardings=(placed, replicated(mesh)),
        donate_argnums=0,
        compiler_options=COMPILER_OPTIONS.get(mesh.devices.flat[0].platform),
    )


def _metrics_of_terms(terms: Sequence[Term], found: StepLoss) -> dict[str, jax.Array]:
    metrics = {}
    for j, term in enumerate(terms):
        metrics |= {
            f"loss/{term.name}": found.mean_J[j],
            f"weight/{term.name}": found.count_J[j],
            f"coefficient/{term.name}": found.coefficient_J[j],
        }
    return metrics


def chosen(first: jax.Array, one: Any, other: Any) -> Any:
    """The first of two trees, or the second, in one pass over both."""
    return jax.tree.map(lambda a, b: jnp.where(first, a, b), one, other)


def _averaged(ema: Any, params: Any, step: jax.Array, decay: float) -> Any:
    """The moving average after a step: a younger one forgets faster, by (1 + n) / (10 + n) after n steps."""
    forgetting = 1 - jnp.minimum(decay, (1.0 + step) / (10.0 + step))
    return optax.incremental_update(params, ema, forgetting)


def make_validation_step(
    model: Transformer, loss_spec: LossSpec, abstract: State, mesh: Mesh, B: int
) -> Callable[..., tuple[dict[str, Sums], jax.Array, jax.Array]]:
    """(params, batch [B, T], bytes of each id [V], stop_flag) -> (sums of each term, bytes of its targets, asked).

    Dropout is off; `stop_flag` as in `make_train_step`.
    """

    def step(
        params: Any, batch: Batch, bytes_V: jax.Array, stop_flag: jax.Array
    ) -> tuple[dict[str, Sums], jax.Array, jax.Array]:
        chunks = chunks_for(*local_shape(mesh, *batch.shape), model.config.V)
        target_bytes = jnp.sum(jnp.where(batch.weights_BT > 0, bytes_V[batch.targets_BT], 0))
        return term_sums(params, model, batch, loss_spec.terms, chunks), target_bytes, jnp.max(stop_flag)

    placed = jax.tree.map(lambda leaf: leaf.sharding, abstract.params)
    places = (placed, batch_sharding(mesh), replicated(mesh), one_a_device(mesh))
    return jax.jit(step, in_shardings=places, out_shardings=replicated(mesh))
