"""Losses are sums over a whole step, divided once, a task at a time."""

import jax.numpy as jnp
import numpy as np

from gptjax.batch import TASKS, text_batch
from train.objectives import WEIGHTS, by_task, coefficients


def batch(weights, task):
    zeros = np.zeros_like(task)
    return text_batch(zeros, zeros, np.asarray(weights, np.float32), task, zeros, zeros, zeros.astype(bool))


def test_sums_are_kept_apart_by_task():
    sums = by_task(jnp.array([[1.0, 2.0], [4.0, 8.0]]), jnp.array([[1, 0], [1, 1]]))
    np.testing.assert_array_equal(sums, [2.0, 13.0])


def test_a_tasks_factor_is_its_lambda_over_its_weight_in_all_micro_batches():
    task = np.ones((2, 2, 2), np.int32)
    factor_K, count_K = coefficients(batch([[[1, 1], [0, 0]], [[0.5, 0], [0, 0]]], task))
    assert count_K[1] == 2.5
    assert factor_K[1] == WEIGHTS["causal_lm"] / 2.5


def test_a_task_that_is_absent_has_factor_zero_and_no_nan():
    factor_K, _ = coefficients(batch(np.zeros((1, 2, 2)), np.ones((1, 2, 2), np.int32)))
    np.testing.assert_array_equal(factor_K, np.zeros(len(TASKS)))


def test_every_objective_with_a_weight_is_a_task_of_the_batch_contract():
    assert WEIGHTS.keys() == set(TASKS) - {"padding"}
