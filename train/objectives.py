"""The table of objectives: how much each task's loss counts, and how sums over tokens become one loss.

Axes: A micro-batch  B batch  T position  K tasks (gptjax.batch.TASKS).
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from gptjax.batch import TASKS, Batch

WEIGHTS = {"causal_lm": 1.0}  # lambda of every task: its share of the gradient, whatever its share of the rows


def by_task(values: Array, task: Array) -> Float[Array, "K"]:
    """Sum of the values at the positions of each task."""
    return jnp.stack([jnp.sum(jnp.where(task == k, values, 0.0)) for k in range(len(TASKS))])


def coefficients(batch_ABT: Batch) -> tuple[Float[Array, "K"], Float[Array, "K"]]:
    """(factor of each task's summed nats in the loss, loss weight of each task in the whole step).

    The factor is lambda / N, with N the task's loss weight over all devices and micro-batches of the step: the loss is
    a sum of task means and never a mean of means. A task that is absent has factor 0.
    """
    count_K = by_task(batch_ABT.weights_BT, batch_ABT.task_BT)
    weight_K = jnp.array([WEIGHTS.get(name, 0.0) for name in TASKS])
    factor_K = jnp.where(count_K > 0, weight_K / jnp.maximum(count_K, 1.0), 0.0)
    return jax.lax.stop_gradient(factor_K), count_K
