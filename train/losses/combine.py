"""How the losses of several terms become one gradient: a coefficient for each, made before the backward pass.

A term is a task's token loss or the loss of one output head. The loss of a step is the sum over terms of coefficient
times mean loss in nats; coefficients come from earlier steps alone, so that one backward pass is enough. Axes: J terms.
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

    init: Callable[[int], State]  # J terms -> state
    weigh: Callable[[State, Array], Array]  # (state, lambda_J: the recipe's weights) -> coefficient_J
    update: Callable[[State, Array, Array], State]  # (state, loss_J of a step, present_J) -> state after that step


def make_combiner(name: CombinerName) -> Combiner:
    return _COMBINERS[name]


def project(gradients_J: Any, key: Array) -> Any:
    """The sum of the terms' gradients after each lost what opposes another: PCGrad. Twice called alike, the same.

    `gradients_J`: every leaf has a leading axis J; already summed over all devices, for the projection of a sum is not
    the sum of projections. The order in which a term meets the others comes from `key`. Gradients that do not conflict
    are added up; an absent term's, zero, changes nothing.

    All that is ever subtracted is a multiple of an original gradient, so the J x J products say how often each counts.

    Source: Yu et al. 2020, arXiv:2001.06782, algorithm 1.
    """
    gram_JJ = gram(gradients_J)
    J = len(gram_JJ)

    def projected(k: Array, key: Array) -> Float[Array, "J"]:
        """How often each original gradient counts in term k's."""

        def against(multiple_J: Array, j: Array) -> tuple[Array, None]:
            dot, square = multiple_J @ gram_JJ[j], gram_JJ[j, j]
            conflict = (dot < 0) & (square > 0) & (j != k)
            return multiple_J.at[j].add(-jnp.where(conflict, dot / jnp.where(conflict, square, 1.0), 0.0)), None

        return jax.lax.scan(against, jax.nn.one_hot(k, J), jax.random.permutation(key, J))[0]

    with jax.default_matmul_precision("highest"):
        multiple_J = jnp.sum(jax.vmap(projected)(jnp.arange(J), jax.random.split(key, J)), axis=0)
        return jax.tree.map(lambda leaf_J: jnp.tensordot(multiple_J, leaf_J, 1), gradients_J)


def gram(gradients_J: Any) -> Float[Array, "J J"]:
    """Dot products of J whole trees with each other, in float32, from one tree with a leading axis J on every leaf."""

    def of_leaf(leaf_J: Array) -> Array:
        rest = tuple(range(1, leaf_J.ndim))  # not flattened: a reshape would gather what the mesh splits
        return jnp.tensordot(leaf_J, leaf_J, (rest, rest), precision="highest", preferred_element_type=jnp.float32)

    return sum(map(of_leaf, jax.tree.leaves(gradients_J)), start=jnp.float32(0))


def _nothing(J: int) -> State:
    return {}


def _static(state: State, lambda_J: Array) -> Array:
    return lambda_J


def _unchanged(state: State, loss_J: Array, present_J: Array) -> State:
    return state


def _uncertainty_init(J: int) -> State:
    return {"log_variance": jnp.zeros(J)}


def _uncertainty_weigh(state: State, lambda_J: Array) -> Float[Array, "J"]:
    """lambda x exp(-s), with s the log-variance of a term's noise."""
    return lambda_J * jnp.exp(-state["log_variance"])


def _uncertainty_update(state: State, loss_J: Float[Array, "J"], present_J: Bool[Array, "J"]) -> State:
    """A step down the slope of exp(-s) L + s / 2, by plain gradient descent: s goes to ln(2 L), as far as it may.

    The bound is on s itself: were it on the coefficient, one large loss could send s so far that it never came back.

    Source: Kendall et al. 2018, arXiv:1705.07115, section 3.
    """
    s_J = state["log_variance"]
    moved_J = s_J - UNCERTAINTY_RATE * (0.5 - jnp.exp(-s_J) * loss_J)
    return {"log_variance": jnp.where(present_J, jnp.clip(moved_J, -MOST, MOST), s_J)}


# The optimizer of the paper's appendix and code: rate 0.025, and a decay of 0.001 that is part of the gradient.
_famo_optimizer: Any = optax.chain(optax.add_decayed_weights(1e-3), optax.adam(0.025))


def _famo_init(J: int) -> State:
    logit_J = jnp.zeros(J)
    return {"logit": logit_J, "loss": jnp.zeros(J), "seen": jnp.zeros(J), "adam": _famo_optimizer.init(logit_J)}


def _famo_weigh(state: State, lambda_J: Array) -> Float[Array, "J"]:
    """lambda x z / L, scaled so that over the terms seen so far they sum to what lambda sums to; lambda for the others.

    This is the gradient of the sum of z log L: a term counts by the share of its loss that a step takes away.
    """
    seen_J = state["seen"] > 0
    pull_J = lambda_J * _famo_shares(state) / (state["loss"] + FAMO_MARGIN)
    total = jnp.sum(jnp.where(seen_J, lambda_J, 0.0))
    return jnp.where(seen_J, pull_J * total / jnp.maximum(jnp.sum(pull_J), 1e-12), lambda_J)


def _famo_update(state: State, loss_J: Float[Array, "J"], present_J: Bool[Array, "J"]) -> State:
    """Less weight for the terms whose log loss fell most.

    The paper measures the fall on the same batch after the update, in a forward pass of its own. Here it is that of an
    average over steps, from one step to the next: free, a step late, and 0 where the term is absent.

    Source: Liu et al. 2023, arXiv:2306.03792, algorithm 1, with appendix C's optimizer.
    """
    seen_J, old_J = state["seen"] > 0, state["loss"]
    averaged_J = jnp.where(seen_J, FAMO_SMOOTHING * old_J + (1 - FAMO_SMOOTHING) * loss_J, loss_J)
    new_J = jnp.where(present_J, averaged_J, old_J)
    fall_J = jnp.log(old_J + FAMO_MARGIN) - jnp.log(new_J + FAMO_MARGIN)
    z_J = _famo_shares(state)  # 0 where there was no loss to fall
    gradient_J = z_J * (fall_J - jnp.sum(z_J * fall_J))  # of z's product with the fall, by the logits
    moves_J, adam = _famo_optimizer.update(gradient_J, state["adam"], state["logit"])
    seen_J = (seen_J | present_J).astype(jnp.float32)
    return {"logit": state["logit"] + moves_J, "loss": new_J, "seen": seen_J, "adam": adam}


def _famo_shares(state: State) -> Float[Array, "J"]:
    """z: softmax of the logits over the terms seen so far, 0 for the others."""
    return jax.nn.softmax(state["logit"], where=state["seen"] > 0)


_COMBINERS: dict[CombinerName, Combiner] = {
    "static": Combiner(_nothing, _static, _unchanged),
    "uncertainty": Combiner(_uncertainty_init, _uncertainty_weigh, _uncertainty_update),
    "famo": Combiner(_famo_init, _famo_weigh, _famo_update),
    "pcgrad": Combiner(_nothing, _static, _unchanged),  # and `project`
}
