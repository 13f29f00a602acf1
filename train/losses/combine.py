"""How the losses of several terms become one gradient: a coefficient for each, made before the backward pass.

A term is a task's token loss or the loss of one output head. The loss of a step is the sum over terms of coefficient
times mean loss in nats; coefficients come from earlier steps alone, so that one backward pass is enough. Axes: K terms.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Bool, Float

from train.objectives import CombinerName

State = dict[str, Any]  # arrays that every device holds alike, and optax's state of them; empty where nothing is kept

UNCERTAINTY_RATE = 0.02  # a log-variance comes 1 / e nearer to where it goes in 2 / rate = 100 steps
MOST = math.log(10)  # of a log-variance, up or down: an easy term counts 10 times at most, a hard one a tenth at least
FAMO_SMOOTHING = 0.95  # decay of the average of a term's loss, per step that has the term
FAMO_MARGIN = 0.1  # nats: the lowest possible loss counts as so much, or else a term once learnt would take everything


class Combiner(NamedTuple):
    """Pure functions. The state is saved with the training state, and like it is left alone by a skipped step."""

    init: Callable[[int], State]  # K terms -> state
    weigh: Callable[[State, Array], Array]  # (state, lambda_K: the recipe's weights) -> coefficient_K
    update: Callable[[State, Array, Array], State]  # (state, loss_K of a step, present_K) -> state after that step


def make_combiner(name: CombinerName) -> Combiner:
    return _COMBINERS[name]


def project(gradients_K: Any, key: Array) -> Any:
    """The sum of the terms' gradients after each lost what opposes another: PCGrad. Twice called alike, the same.

    `gradients_K`: every leaf has a leading axis K; already summed over all devices, for the projection of a sum is not
    the sum of projections. The order in which a term meets the others comes from `key`. Gradients that do not conflict
    are added up; an absent term's, zero, changes nothing.

    All that is ever subtracted is a multiple of an original gradient, so the K x K products say how often each counts.

    Source: Yu et al. 2020, arXiv:2001.06782, algorithm 1.
    """
    gram_KK = gram(gradients_K)
    K = len(gram_KK)

    def projected(k: Array, key: Array) -> Float[Array, "K"]:
        """How often each original gradient counts in term k's."""

        def against(multiple_K: Array, j: Array) -> tuple[Array, None]:
            dot, square = multiple_K @ gram_KK[j], gram_KK[j, j]
            conflict = (dot < 0) & (square > 0) & (j != k)
            return multiple_K.at[j].add(-jnp.where(conflict, dot / jnp.where(conflict, square, 1.0), 0.0)), None

        return jax.lax.scan(against, jax.nn.one_hot(k, K), jax.random.permutation(key, K))[0]

    with jax.default_matmul_precision("highest"):
        multiple_K = jnp.sum(jax.vmap(projected)(jnp.arange(K), jax.random.split(key, K)), axis=0)
        return jax.tree.map(lambda leaf_K: jnp.tensordot(multiple_K, leaf_K, 1), gradients_K)


def gram(gradients_K: Any) -> Float[Array, "K K"]:
    """Dot products of K whole trees with each other, in float32, from one tree with a leading axis K on every leaf."""

    def of_leaf(leaf_K: Array) -> Array:
        rest = tuple(range(1, leaf_K.ndim))  # not flattened: a reshape would gather what the mesh splits
        return jnp.tensordot(leaf_K, leaf_K, (rest, rest), precision="highest", preferred_element_type=jnp.float32)

    return sum(map(of_leaf, jax.tree.leaves(gradients_K)), start=jnp.float32(0))


def _nothing(K: int) -> State:
    return {}


def _static(state: State, lambda_K: Array) -> Array:
    return lambda_K


def _unchanged(state: State, loss_K: Array, present_K: Array) -> State:
    return state


def _uncertainty_init(K: int) -> State:
    return {"log_variance": jnp.zeros(K)}


def _uncertainty_weigh(state: State, lambda_K: Array) -> Float[Array, "K"]:
    """lambda x exp(-s), with s the log-variance of a term's noise."""
    return lambda_K * jnp.exp(-state["log_variance"])


def _uncertainty_update(state: State, loss_K: Float[Array, "K"], present_K: Bool[Array, "K"]) -> State:
    """A step down the slope of exp(-s) L + s / 2, by plain gradient descent: s goes to ln(2 L), as far as it may.

    The bound is on s itself: were it on the coefficient, one large loss could send s so far that it never came back.

    Source: Kendall et al. 2018, arXiv:1705.07115, section 3.
    """
    s_K = state["log_variance"]
    moved_K = s_K - UNCERTAINTY_RATE * (0.5 - jnp.exp(-s_K) * loss_K)
    return {"log_variance": jnp.where(present_K, jnp.clip(moved_K, -MOST, MOST), s_K)}


# The optimizer of the paper's appendix and code: rate 0.025, and a decay of 0.001 that is part of the gradient.
_famo_optimizer: Any = optax.chain(optax.add_decayed_weights(1e-3), optax.adam(0.025))


def _famo_init(K: int) -> State:
    logit_K = jnp.zeros(K)
    return {"logit": logit_K, "loss": jnp.zeros(K), "seen": jnp.zeros(K), "adam": _famo_optimizer.init(logit_K)}


def _famo_weigh(state: State, lambda_K: Array) -> Float[Array, "K"]:
    """lambda x z / L, scaled so that over the terms seen so far they sum to what lambda sums to; lambda for the others.

    This is the gradient of the sum of z log L: a term counts by the share of its loss that a step takes away.
    """
    seen_K = state["seen"] > 0
    pull_K = lambda_K * _famo_shares(state) / (state["loss"] + FAMO_MARGIN)
    total = jnp.sum(jnp.where(seen_K, lambda_K, 0.0))
    return jnp.where(seen_K, pull_K * total / jnp.maximum(jnp.sum(pull_K), 1e-12), lambda_K)


def _famo_update(state: State, loss_K: Float[Array, "K"], present_K: Bool[Array, "K"]) -> State:
    """Less weight for the terms whose log loss fell most.

    The paper measures the fall on the same batch after the update, in a forward pass of its own. Here it is that of an
    average over steps, from one step to the next: free, a step late, and 0 where the term is absent.

    Source: Liu et al. 2023, arXiv:2306.03792, algorithm 1, with appendix C's optimizer.
    """
    seen_K, old_K = state["seen"] > 0, state["loss"]
    averaged_K = jnp.where(seen_K, FAMO_SMOOTHING * old_K + (1 - FAMO_SMOOTHING) * loss_K, loss_K)
    new_K = jnp.where(present_K, averaged_K, old_K)
    fall_K = jnp.log(old_K + FAMO_MARGIN) - jnp.log(new_K + FAMO_MARGIN)
    z_K = _famo_shares(state)  # 0 where there was no loss to fall
    gradient_K = z_K * (fall_K - jnp.sum(z_K * fall_K))  # of z's product with the fall, by the logits
    moves_K, adam = _famo_optimizer.update(gradient_K, state["adam"], state["logit"])
    seen_K = (seen_K | present_K).astype(jnp.float32)
    return {"logit": state["logit"] + moves_K, "loss": new_K, "seen": seen_K, "adam": adam}


def _famo_shares(state: State) -> Float[Array, "K"]:
    """z: softmax of the logits over the terms seen so far, 0 for the others."""
    return jax.nn.softmax(state["logit"], where=state["seen"] > 0)


_COMBINERS: dict[CombinerName, Combiner] = {
    "static": Combiner(_nothing, _static, _unchanged),
    "uncertainty": Combiner(_uncertainty_init, _uncertainty_weigh, _uncertainty_update),
    "famo": Combiner(_famo_init, _famo_weigh, _famo_update),
    "pcgrad": Combiner(_nothing, _static, _unchanged),  # and `project`
}
