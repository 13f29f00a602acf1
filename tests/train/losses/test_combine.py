"""How the losses of several terms become one gradient."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from gptjax.sharding import make_mesh
from train.losses.combine import FAMO_MARGIN, FAMO_SMOOTHING, gram, make_combiner, project

LAMBDA = np.float32([1.0, 0.5, 2.0])


def after(name: str, loss_NJ, present_NJ=None):
    """The state after so many steps."""
    combiner = make_combiner(name)
    present_NJ = np.ones(loss_NJ.shape, bool) if present_NJ is None else present_NJ
    steps = (np.float32(loss_NJ), present_NJ)
    return jax.lax.scan(
        lambda state, step: (combiner.update(state, *step), None), combiner.init(loss_NJ.shape[1]), steps
    )[0]


def coefficients(name: str, loss_NJ, present_NJ=None, lambda_J=LAMBDA):
    """The coefficients after so many steps."""
    return np.asarray(make_combiner(name).weigh(after(name, loss_NJ, present_NJ), lambda_J))


@pytest.mark.parametrize("name", ["static", "pcgrad"])
def test_fixed_weights_stay_what_the_recipe_says_whatever_the_losses(name):
    np.testing.assert_array_equal(coefficients(name, np.random.default_rng(0).uniform(1, 9, (50, 3))), LAMBDA)
    assert make_combiner(name).init(3) == {}


@pytest.mark.parametrize("name", ["uncertainty", "famo"])
def test_learnt_weights_begin_as_the_recipe_says_and_move_away(name):
    combiner = make_combiner(name)
    np.testing.assert_array_equal(combiner.weigh(combiner.init(3), LAMBDA), LAMBDA)
    moved = coefficients(name, np.tile([4.0, 2.0, 1.0], (300, 1)))
    assert np.all(np.abs(moved / LAMBDA - 1) > 0.1)


@pytest.mark.parametrize("loss", [0.08, 1.0, 4.0])
def test_a_log_variance_goes_to_the_logarithm_of_twice_a_constant_loss(loss):
    """Trap 35; and it is there within some hundred steps."""
    state = after("uncertainty", np.full((800, 1), loss))
    np.testing.assert_allclose(state["log_variance"], np.log(2 * loss), atol=2e-3)


def test_uncertainty_counts_no_term_tenfold_or_a_tenth_and_comes_back_from_a_spike():
    extreme = np.tile([1e-6, 1e3, 1.0], (400, 1))
    found = coefficients("uncertainty", extreme) / LAMBDA
    np.testing.assert_allclose(found[:2], [10, 0.1], rtol=1e-5)
    spike = np.r_[extreme, [[1e6, 1e6, 1e6]], np.full((800, 3), 0.5)]
    np.testing.assert_allclose(coefficients("uncertainty", spike), LAMBDA, rtol=0.02)


@pytest.mark.parametrize("name", ["uncertainty", "famo"])
def test_an_absent_term_keeps_what_is_known_of_it_whatever_its_loss_reads(name):
    """A term never seen has the recipe's weight; what an absent one reads, were it NaN, is not looked at."""
    loss = np.random.default_rng(0).uniform(1, 9, (40, 3))
    present = np.ones((40, 3), bool)
    present[:, 2] = False
    present[20:, 1] = False
    changed = np.where(present, loss, np.nan)
    state, other = after(name, loss, present), after(name, changed, present)
    jax.tree.map(np.testing.assert_array_equal, state, other)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(state))
    found = coefficients(name, loss, present)
    assert found[1] != LAMBDA[1]
    assert found[2] == LAMBDA[2]
    before, known = after(name, loss[:20], present[:20]), "loss" if name == "famo" else "log_variance"
    np.testing.assert_array_equal(state[known][1:], before[known][1:])
    assert state[known][0] != before[known][0]


def test_no_term_at_all_is_fine():
    """A step of padding alone, first of all."""
    for name in ("uncertainty", "famo"):
        np.testing.assert_array_equal(coefficients(name, np.full((2, 3), np.nan), np.zeros((2, 3), bool)), LAMBDA)


def famo_by_hand(loss_NJ, gamma=1e-3, rate=0.025, beta1=0.9, beta2=0.999):
    """(weights z, coefficients) by the paper's algorithm with Adam, the losses of every step being measured anew."""
    K = loss_NJ.shape[1]
    w, m, v = np.zeros(K), np.zeros(K), np.zeros(K)
    level_NJ = loss_NJ + FAMO_MARGIN
    for t in range(1, len(loss_NJ)):
        z = np.exp(w) / np.exp(w).sum()
        jacobian = np.diag(z) - np.outer(z, z)
        d = jacobian @ (np.log(level_NJ[t - 1]) - np.log(level_NJ[t])) + gamma * w
        m, v = beta1 * m + (1 - beta1) * d, beta2 * v + (1 - beta2) * d**2
        w -= rate * (m / (1 - beta1 ** (t + 1))) / (np.sqrt(v / (1 - beta2 ** (t + 1))) + 1e-8)
    z = np.exp(w) / np.exp(w).sum()
    c = 1 / np.sum(z / level_NJ[-1])
    return z, c * z / level_NJ[-1]


def test_famo_is_the_papers_update_of_the_averaged_losses():
    """The recipe's weights are equal here, as in the paper; then the coefficients are the paper's, times their sum.

    The first step has nothing to compare with, and counts as one in which no loss fell.
    """
    loss = np.exp(-np.linspace(0, 1, 60)[:, None] * [2.0, 0.5, 0.0]) * [6.0, 3.0, 1.0]
    averaged = loss.copy()
    for t in range(1, len(loss)):
        averaged[t] = FAMO_SMOOTHING * averaged[t - 1] + (1 - FAMO_SMOOTHING) * loss[t]
    z, expected = famo_by_hand(averaged)
    state = after("famo", loss)
    np.testing.assert_allclose(jax.nn.softmax(state["logit"]), z, rtol=1e-3)
    found = make_combiner("famo").weigh(state, np.ones(3, np.float32))
    np.testing.assert_allclose(found, 3 * expected, rtol=1e-3)
    assert z[0] < z[1] < z[2], "the term that falls fastest needs the least weight"


def test_famo_shares_out_what_the_recipes_weights_sum_to():
    """Among the terms seen so far; the weight of one relative to another still counts, and 0 is still off."""
    loss = np.random.default_rng(0).uniform(1, 9, (30, 3))
    present = np.ones((30, 3), bool)
    present[:, 0] = False
    found = coefficients("famo", loss, present)
    np.testing.assert_allclose(found[1] + found[2], LAMBDA[1] + LAMBDA[2], rtol=1e-6)
    plain = coefficients("famo", loss, present, np.ones(3, np.float32))
    np.testing.assert_allclose(found[2] / found[1], 4 * plain[2] / plain[1], rtol=1e-5)
    np.testing.assert_array_equal(coefficients("famo", loss, lambda_J=np.float32([0, 0, 1])), [0, 0, 1])
    np.testing.assert_array_equal(coefficients("famo", loss, lambda_J=np.zeros(3, np.float32)), [0, 0, 0])


summed = jax.jit(project)


def tree_of(gradient_KD):
    """K gradients of D numbers, as one tree of two leaves; None is a parameter that does not train."""
    K = len(gradient_KD)
    return {
        "a": jnp.float32(gradient_KD[:, :6].reshape(K, 2, 3)),
        "b": {"c": jnp.float32(gradient_KD[:, 6:])},
        "d": None,
    }


def flat(tree):
    return np.concatenate([np.ravel(tree["a"]), np.ravel(tree["b"]["c"])])


def by_loops(gradient_KD, key):
    """The algorithm as the paper prints it."""
    K = len(gradient_KD)
    total = np.zeros(gradient_KD.shape[1])
    for i, its_key in enumerate(jax.random.split(key, K)):
        g = gradient_KD[i].copy()
        for j in np.asarray(jax.random.permutation(its_key, K)):
            if j != i and g @ gradient_KD[j] < 0:
                g -= (g @ gradient_KD[j]) / (gradient_KD[j] @ gradient_KD[j]) * gradient_KD[j]
        total += g
    return total


def at_angles(*degrees):
    """Gradients of length 1 in a plane."""
    angles = np.deg2rad(degrees)
    return np.pad(np.stack([np.cos(angles), np.sin(angles)], axis=1), ((0, 0), (0, 8)))


@pytest.mark.parametrize("seed", range(5))
def test_projecting_by_dot_products_is_the_printed_algorithm(seed):
    """Five random gradients of ten numbers, many of which conflict; the fourth term is absent."""
    gradient = np.random.default_rng(seed).normal(size=(5, 10))
    gradient[3] = 0
    key = jax.random.key(seed)
    found = summed(tree_of(gradient), key)
    np.testing.assert_allclose(flat(found), by_loops(gradient, key), atol=2e-6)
    assert found["d"] is None
    assert np.abs(flat(found) - gradient.sum(0)).max() > 0.1, "no conflict in this test"


@pytest.mark.parametrize("size", [0, 1e-30])
def test_a_gradient_of_nothing_or_nearly_changes_nothing(size):
    """The square of 1e-30 is 0 in float32."""
    gradient = np.random.default_rng(0).normal(size=10) * [[1.0], [-size]]
    np.testing.assert_array_equal(flat(summed(tree_of(gradient), jax.random.key(0))), np.float32(gradient[0]))


def test_the_order_of_projections_is_the_keys():
    gradient = np.random.default_rng(0).normal(size=(5, 10))
    found = [flat(summed(tree_of(gradient), jax.random.key(seed))) for seed in (0, 0, 1)]
    np.testing.assert_array_equal(found[0], found[1])
    assert np.abs(found[0] - found[2]).max() > 1e-3


def test_gradients_that_agree_are_added_up_and_others_are_not():
    """In two dimensions: at 60 degrees nothing is lost; at 120, each loses what opposes the other."""
    key, agreeing = jax.random.key(0), at_angles(0, 60)
    np.testing.assert_array_equal(flat(summed(tree_of(agreeing), key)), np.float32(agreeing).sum(0))
    found = flat(summed(tree_of(at_angles(0, 120)), key))
    np.testing.assert_allclose(found[:2], [3 / 4, np.sqrt(3) * 3 / 4], atol=1e-6)  # the sum is (1/2, sqrt(3) / 2)


@pytest.mark.parametrize("seed", range(3))
def test_a_gradient_never_meets_itself(seed):
    """Projected twice, the first of these opposes what it was; as printed, that is no conflict."""
    gradient, key = at_angles(0, 170, 230), jax.random.key(seed)
    np.testing.assert_allclose(flat(summed(tree_of(gradient), key)), by_loops(gradient, key), atol=1e-6)


def test_dot_products_are_of_whole_trees():
    gradient = np.random.default_rng(0).normal(size=(4, 10))
    np.testing.assert_allclose(gram(tree_of(gradient)), gradient @ gradient.T, atol=1e-5)


def terms_of(weight_DF, x_BD, y_BKF):
    """Mean squared error of three terms that share a matrix."""
    return jnp.mean((jnp.einsum("BD,DF->BF", x_BD, weight_DF)[:, None] - y_BKF) ** 2, axis=(0, 2))


@functools.partial(jax.jit, static_argnums=0)
def projected(sharding, weight, x, y, key):
    gradients = jax.jacrev(terms_of)(weight, x, y)
    if sharding is not None:
        gradients = jax.lax.with_sharding_constraint(gradients, sharding)
    return project({"layers": gradients}, key)["layers"]


@pytest.mark.parametrize("split", [None, (None, "data", None)])
def test_projected_gradients_are_the_same_on_eight_devices(split):
    """Trap 36: rows over eight devices, gradients whole or split too. Projected device by device, they would differ."""
    generator = np.random.default_rng(0)
    weight, x, y = (np.float32(generator.normal(size=size)) for size in ((16, 8), (8, 16), (8, 3, 8)))
    weight, y[:, 2] = weight / 8, -y[:, 0]  # the terms differ by more than they share
    key = jax.random.key(1)
    alone = projected(None, weight, x, y, key)
    mesh = make_mesh(8)
    rows = [jax.device_put(array, NamedSharding(mesh, PartitionSpec("data"))) for array in (x, y)]
    gradients = None if split is None else NamedSharding(mesh, PartitionSpec(*split))
    np.testing.assert_allclose(projected(gradients, weight, *rows, key), alone, atol=1e-6)
    one_by_one = [projected(None, weight, x[row : row + 1], y[row : row + 1], key) for row in range(8)]
    assert np.abs(np.mean(one_by_one, axis=0) - alone).max() > 1e-2
    plain = jax.grad(lambda weight: terms_of(weight, x, y).sum())(weight)
    assert np.abs(plain - alone).max() > 1e-2, "no conflict in this test"
