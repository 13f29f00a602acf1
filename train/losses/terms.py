"""How a micro-batch is scored: summed nats of each term of the loss, never divided here.

Axes: A micro-batch  B batch  T position  Q places that are looked at  D residual  C classes of a head  K terms.
"""

from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from gptjax.batch import Batch
from gptjax.config import ModelConfig
from gptjax.nn.class_heads import class_logits, class_nats, pair_states, states_at
from gptjax.nn.likelihood import token_nats, token_scores
from gptjax.nn.model import Transformer, head
from train.objectives import Curriculum, Term


def term_nats(
    params: Any, model: Transformer, batch: Batch, terms: Sequence[Term], chunks: int, dropout_key: Array | None = None
) -> Float[Array, "K"]:
    """Weighted nats of each term, summed over the batch in float32. Without a key, dropout is off."""
    hidden_BTD, config = hidden_states(params, model, batch, dropout_key), model.config
    nats_BT = token_nats(
        hidden_BTD, head(params), batch.targets_BT,
        vocabulary=config.vocabulary, chunks=chunks, cap=config.logit_cap,
    )  # fmt: skip
    logits = class_scores(params, config, batch, terms, hidden_BTD)
    sums = []
    for term in terms:
        nats = class_nats(logits[term.name], labels(batch, term)) if term.name in logits else nats_BT
        weights = target_weights(batch, term)
        sums.append(jnp.sum(jnp.where(weights > 0, nats * weights, 0.0)))
    return jnp.stack(sums)


class Scores(NamedTuple):
    """Sums over a batch, float32."""

    nats_K: Float[Array, "K"]
    targets_K: Float[Array, "K"]
    right_K: Float[Array, "K"]  # targets that were the likeliest
    confusions: dict[str, Float[Array, "C C"]]  # of each term over sequences: targets by label and likeliest class


def term_scores(params: Any, model: Transformer, batch: Batch, terms: Sequence[Term], chunks: int) -> Scores:
    """How well the targets of each term are predicted, without dropout. Every target counts by its weight."""
    hidden_BTD, config = hidden_states(params, model, batch), model.config
    nats_BT, likeliest_BT = token_scores(
        hidden_BTD, head(params), batch.targets_BT,
        vocabulary=config.vocabulary, chunks=chunks, cap=config.logit_cap,
    )  # fmt: skip
    logits = class_scores(params, config, batch, terms, hidden_BTD)
    sums, confusions = [], {}
    for term in terms:
        label, weights, nats, likeliest = labels(batch, term), target_weights(batch, term), nats_BT, likeliest_BT
        if term.name in logits:
            nats, likeliest = class_nats(logits[term.name], label), jnp.argmax(logits[term.name], axis=-1)
        if term.sequences:
            count = logits[term.name].shape[-1]
            told_BQC, likeliest_BQC = (jax.nn.one_hot(ids, count) for ids in (label, likeliest))
            confusions[term.name] = jnp.einsum("BQ,BQC,BQc->Cc", weights, told_BQC, likeliest_BQC)
        right = jnp.where(likeliest == label, weights, 0.0)
        sums.append([jnp.sum(jnp.where(weights > 0, nats * weights, 0.0)), jnp.sum(weights), jnp.sum(right)])
    nats_K, targets_K, right_K = jnp.array(sums).T
    return Scores(nats_K, targets_K, right_K, confusions)


def class_scores(
    params: Any, config: ModelConfig, batch: Batch, terms: Sequence[Term], hidden_BTD: Float[Array, "B T D"]
) -> dict[str, Float[Array, "B Q C"]]:
    """Scores of the classes of every term that has an output head of its own, at all of its places."""
    read: dict[str, Array] = {"tokens": hidden_BTD}
    if "segments" in (kinds := {_kind(term, config) for term in terms}):
        read["segments"] = states_at(hidden_BTD, batch.at_BC)
    if "pairs" in kinds:
        read["pairs"] = pair_states(hidden_BTD, batch.segment_BT, batch.at_BC)
    return {
        term.name: class_logits(params, config, read[_kind(term, config)], term.head)
        for term in terms
        if term.head is not None
    }


def _kind(term: Term, config: ModelConfig) -> Literal["tokens", "segments", "pairs"]:
    """What a term's output head reads."""
    if not term.sequences or term.head is None:
        return "tokens"
    return "pairs" if config.class_heads[term.head].pair else "segments"


def hidden_states(
    params: Any, model: Transformer, batch: Batch, dropout_key: Array | None = None
) -> Float[Array, "B T D"]:
    """What the model makes of a batch's tokens. Without a key, dropout is off."""
    hidden_BTD, _ = model.apply(
        {"params": params}, batch.tokens_BT, batch.segment_BT, batch.position_BT, batch.visible_BT,
        deterministic=dropout_key is None, rngs={} if dropout_key is None else {"dropout": dropout_key},
    )  # fmt: skip
    return hidden_BTD


def labels(batch: Batch, term: Term) -> Int[Array, "*axes"]:
    """What a term's targets are: by position, or of sequences."""
    return batch.label_BC if term.sequences else batch.targets_BT


def target_weights(batch: Batch, term: Term) -> Float[Array, "*axes"]:
    """The weight of every target of a term, 0 for those of others: by position, or of sequence-level targets."""
    if term.sequences:
        return jnp.where(batch.head_BC == term.head, batch.label_weight_BC, 0.0)
    return jnp.where(batch.task_BT == term.task, batch.weights_BT, 0.0)


def counts(batch_ABT: Batch, terms: Sequence[Term]) -> Float[Array, "K"]:
    """Loss weight of each term in the whole step, over all devices and micro-batches."""
    return jnp.stack([jnp.sum(target_weights(batch_ABT, term)) for term in terms])


def lambdas(curriculum: Curriculum, progress: Array) -> Float[Array, "K"]:
    """The recipe's weight of each term at a share of the run."""
    return jnp.stack(
        [jnp.interp(progress, jnp.array(term.shares), jnp.array(term.weights)) for term in curriculum.terms]
    )


def divisors(curriculum: Curriculum, count_K: Array, progress: Array) -> Float[Array, "K"]:
    """What each term's summed nats are divided by: its targets in this step, or as many as are to be expected of one
    whose targets are rare, so that its gradient does not grow where they are few. Where none are to be expected, the
    last step of a phase may yet have some, of the next phase: then these count."""
    phase = jnp.searchsorted(jnp.array(curriculum.phases), progress, side="right") - 1
    expected_K = jnp.array([term.expected or (0.0,) * len(curriculum.phases) for term in curriculum.terms])[:, phase]
    return jnp.maximum(jnp.where(expected_K > 0, expected_K, count_K), 1e-6)


def factors(coefficient_K: Array, divisor_K: Array, count_K: Array) -> Float[Array, "K"]:
    """The factor of each term's summed nats in the loss, made before the backward pass; 0 for a term that is absent.

    The loss is a sum of task means, each over all devices and micro-batches of the step, and never a mean of means.
    """
    return jax.lax.stop_gradient(jnp.where(count_K > 0, coefficient_K / divisor_K, 0.0))
