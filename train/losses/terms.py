"""The loss of a step and its gradient: a loop over the terms of the loss spec, each of its own kind of loss.

The loss is a sum of task means, each over all devices and micro-batches of the step, and never a mean of means: what a
micro-batch gives are sums. Axes: A micro-batch  B batch  T position  Q places that are looked at  J terms of the loss.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from gptjax.batch import Batch
from gptjax.nn.model import Transformer, draws
from train.losses.combine import State, make_combiner, project
from train.losses.loss import Seen, Sums, total
from train.losses.table import loss_named
from train.objectives import LossSpec, Term


def term_losses(
    params: Any, model: Transformer, batch: Batch, terms: Sequence[Term], chunks: int, dropout_key: Array | None = None
) -> Float[Array, "J"]:
    """The weighted loss of each term, summed over the batch in float32. Without a key, dropout is off."""
    seen = see(params, model, batch, chunks, dropout_key)
    of_term: dict[str, Array] = {}
    for loss, own in by_kind(terms):
        for term, loss_BQ in zip(own, loss.losses(seen, own), strict=True):
            of_term[term.name] = total(loss_BQ, loss.weights(batch, term))
    return jnp.stack([of_term[term.name] for term in terms])


def term_sums(params: Any, model: Transformer, batch: Batch, terms: Sequence[Term], chunks: int) -> dict[str, Sums]:
    """What the scores of each term are made of, without dropout: see `Loss.sums`."""
    seen = see(params, model, batch, chunks)
    found = [zip(own, loss.sums(seen, own), strict=True) for loss, own in by_kind(terms)]
    return {term.name: sums for of_kind in found for term, sums in of_kind}


def term_answers(
    params: Any, model: Transformer, batch: Batch, terms: Sequence[Term], chunks: int
) -> dict[str, Int[Array, "*axes"]]:
    """What is most probable at every target of terms that are classified: ids of tokens, numbers of classes."""
    seen = see(params, model, batch, chunks)
    found = [zip(own, loss.answers(seen, own), strict=True) for loss, own in by_kind(terms)]
    return {term.name: argmax for of_kind in found for term, (_, argmax) in of_kind}


def by_kind(terms: Sequence[Term]) -> list[tuple[Any, list[Term]]]:
    """(kind of loss, its terms) in the order in which the kinds first come."""
    names = dict.fromkeys(term.loss for term in terms)
    return [(loss_named(name), [term for term in terms if term.loss == name]) for name in names]


def see(params: Any, model: Transformer, batch: Batch, chunks: int, dropout_key: Array | None = None) -> Seen:
    """What the model makes of a batch's tokens. Without a key, dropout is off."""
    hidden_BTD, _ = model.apply(
        {"params": params}, batch.tokens_BT, batch.segment_BT, batch.position_BT, batch.visible_BT,
        deterministic=dropout_key is None, rngs={} if dropout_key is None else {"dropout": dropout_key},
    )  # fmt: skip
    return Seen(params, model.config, batch, hidden_BTD, chunks, dropout_key)


def counts(batch_ABT: Batch, terms: Sequence[Term]) -> Float[Array, "J"]:
    """The weight of each term's targets in the whole step, over all devices and micro-batches."""
    return jnp.stack([jnp.sum(loss_named(term.loss).weights(batch_ABT, term)) for term in terms])


def lambdas(loss_spec: LossSpec, progress: Array) -> Float[Array, "J"]:
    """The recipe's weight of each term at a share of the run."""
    return jnp.stack(
        [jnp.interp(progress, jnp.array(term.shares), jnp.array(term.weights)) for term in loss_spec.terms]
    )


def normalisers(loss_spec: LossSpec, count_J: Array, progress: Array) -> Float[Array, "J"]:
    """What each term's summed loss is divided by: its targets in this step, or as many as are to be expected of one
    whose targets are rare, so that its gradient does not grow where they are few. Where none are to be expected, the
    last step of a phase may yet have some, of the next phase: then these count."""
    phase = jnp.searchsorted(jnp.array(loss_spec.phases), progress, side="right") - 1
    expected_J = jnp.array([term.expected or (0.0,) * len(loss_spec.phases) for term in loss_spec.terms])[:, phase]
    return jnp.maximum(jnp.where(expected_J > 0, expected_J, count_J), 1e-6)


def scales(coefficient_J: Array, normaliser_J: Array, count_J: Array) -> Float[Array, "J"]:
    """What each term's summed loss is multiplied by, made before the backward pass; 0 for a term that is absent."""
    return jax.lax.stop_gradient(jnp.where(count_J > 0, coefficient_J / normaliser_J, 0.0))


class StepLoss(NamedTuple):
    """What the objective makes of one step."""

    gradient: Any  # of the loss, as the trained parameters
    loss: Array  # sum over terms of coefficient times mean loss
    mean_J: Float[Array, "J"]  # loss of each term, a target
    count_J: Float[Array, "J"]  # weight of its targets
    coefficient_J: Float[Array, "J"]
    combiner: State  # what the coefficients of the next step depend on


@dataclasses.dataclass(frozen=True)
class Objective:
    """What a run minimises: the one entry from a step to the losses."""

    loss_spec: LossSpec
    model: Transformer
    chunks: int  # pieces of T whose logits over the vocabulary may exist one at a time

    @property
    def terms(self) -> tuple[Term, ...]:
        return self.loss_spec.terms

    def start(self) -> State:
        """What the coefficients of the first step depend on."""
        return make_combiner(self.loss_spec.combine).init(len(self.terms))

    def loss(
        self,
        trained: Any,
        whole: Callable[[Any], Any],
        batch_ABT: Batch,
        combiner: State,
        progress: Array,
        weighed_at: Array,
        key: Array,
    ) -> StepLoss:
        """The loss of a whole step and its gradient by `trained`; `whole` makes all parameters of them.

        `progress` is the share of the run that is done; the recipe's weights are those of the share `weighed_at`.
        """
        weigh, update = make_combiner(self.loss_spec.combine)[1:]
        lambda_J = lambdas(self.loss_spec, weighed_at)
        count_J = counts(batch_ABT, self.terms)
        coefficient_J = weigh(combiner, lambda_J)
        scale_J = scales(coefficient_J, normalisers(self.loss_spec, count_J, progress), count_J)
        gradient, sum_J = self._accumulated(trained, whole, batch_ABT, scale_J, key)
        mean_J = sum_J / jnp.maximum(count_J, 1e-6)
        combiner = update(combiner, mean_J, count_J > 0)
        return StepLoss(gradient, jnp.sum(sum_J * scale_J), mean_J, count_J, coefficient_J, combiner)

    def _accumulated(
        self, trained: Any, whole: Callable[[Any], Any], batch_ABT: Batch, scale_J: Array, key: Array
    ) -> tuple[Any, Float[Array, "J"]]:
        """(gradient, summed loss of each term) over all micro-batches, one after another."""
        one_by_one = self.loss_spec.combine == "pcgrad"
        drops = draws(self.model) or any(term.dropout > 0 for term in self.terms)

        def losses_of(trained: Any, batch: Batch, dropout_key: Array | None) -> tuple[Array, Array]:
            sum_J = term_losses(whole(trained), self.model, batch, self.terms, self.chunks, dropout_key)
            return sum_J * scale_J, jax.lax.stop_gradient(sum_J)

        def gradient_of(a: Array, batch: Batch) -> tuple[Any, Array]:
            """The gradient of the loss; with `one_by_one`, those of its terms, along a first axis."""
            dropout_key = jax.random.fold_in(key, a) if drops else None
            _, pull_back, sum_J = jax.vjp(lambda trained: losses_of(trained, batch, dropout_key), trained, has_aux=True)
            if one_by_one:
                return jax.lax.map(lambda one_J: pull_back(one_J)[0], jnp.eye(len(self.terms))), sum_J
            return pull_back(jnp.ones(len(self.terms)))[0], sum_J

        def accumulate(sums: Any, numbered: Any) -> tuple[Any, None]:
            return jax.tree.map(jnp.add, sums, gradient_of(*numbered)), None

        A = batch_ABT.shape[0]
        numbered = (jnp.arange(A), batch_ABT)
        first = jax.tree.map(lambda array: array[0], numbered)
        if A == 1:  # without a second copy of the gradient
            gradient, sum_J = gradient_of(*first)
        else:
            nothing = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), jax.eval_shape(gradient_of, *first))
            (gradient, sum_J), _ = jax.lax.scan(accumulate, nothing, numbered)
        return (project(gradient, jax.random.fold_in(key, A)) if one_by_one else gradient), sum_J
