"""What a model would say next at every place: at its end, and read out of the states behind its layers.

Axes: R rows of states  D residual  K likeliest tokens  V vocabulary  C layers  P places  T position.
"""

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from gptjax.nn.likelihood import logits_from
from gptjax.nn.model import Norm, Transformer, head

ROWS = 128  # states whose scores over the whole vocabulary exist at once
NEXT, OF_LAYER = 5, 3  # likeliest tokens that are kept at a place


class Likeliest(NamedTuple):
    """What would come next, by rows of states."""

    ids_RK: np.ndarray
    prob_RK: np.ndarray
    log_prob_R: np.ndarray  # nats: of the token that did come; NaN where none was named


@dataclasses.dataclass(frozen=True)
class Lens:
    """The same behind every layer that was asked for, at some places."""

    places: tuple[int, ...]
    ids_CPK: np.ndarray
    prob_CPK: np.ndarray
    log_prob_CP: np.ndarray  # nats: of the token that did come


def next_tokens(model: Transformer, params: Any, hidden_TD: Any, ids: Sequence[int]) -> Likeliest:
    """What would come behind every token of a text, from its states after the last norm."""
    return _likeliest(model, params, hidden_TD, [*ids[1:], -1], K=NEXT, normed=True)


def logit_lens(
    model: Transformer, params: Any, state_CTD: np.ndarray, places: Sequence[int], targets: Sequence[int]
) -> Lens:
    """What would come next if the layers ended here: each layer's state through the last norm and the token table.

    `targets`: the token that comes behind each place, -1 = none.

    Source: nostalgebraist 2020, "interpreting GPT: the logit lens".
    """
    C, P = len(state_CTD), len(places)
    rows_RD = state_CTD[:, list(places)].reshape(C * P, -1)
    found = _likeliest(model, params, rows_RD, [*targets] * C, K=OF_LAYER, normed=False)
    shaped = (found.ids_RK.reshape(C, P, -1), found.prob_RK.reshape(C, P, -1), found.log_prob_R.reshape(C, P))
    return Lens(tuple(places), *shaped)


def _likeliest(model: Transformer, params: Any, rows_RD: Any, targets: Sequence[int], *, K: int, normed: bool):
    rows_RD, target_R = np.asarray(rows_RD), np.array(targets, np.int32)
    count, K = len(rows_RD), min(K, model.config.vocabulary)
    found = []
    for first in range(0, count, ROWS):
        some_RD, some_R = rows_RD[first : first + ROWS], target_R[first : first + ROWS]
        short = ROWS - len(some_RD)
        found.append(
            _told(model, params, np.pad(some_RD, ((0, short), (0, 0))), np.pad(some_R, (0, short)), K=K, normed=normed)
        )
    ids_RK, prob_RK, log_prob_R = (np.concatenate(parts)[:count] for parts in zip(*jax.device_get(found), strict=True))
    return Likeliest(ids_RK, prob_RK, np.where(target_R < 0, np.nan, log_prob_R))


@functools.partial(jax.jit, static_argnames=("model", "K", "normed"))
def _told(model, params, rows_RD, target_R, *, K, normed):
    """By the model's own last norm, where the states have not been through it, and its own table."""
    config = model.config
    if not normed:
        rows_RD = Norm(config, config.family == "gpt2").apply({"params": params["final_norm"]}, rows_RD)
    rows_1RD = jnp.asarray(rows_RD, model.dtype)[None]
    logits_RV = logits_from(rows_1RD, head(params), config.vocabulary, config.logit_cap)[0]
    top_RK, ids_RK = jax.lax.top_k(logits_RV, K)
    total_R1 = jax.nn.logsumexp(logits_RV, axis=-1, keepdims=True)
    target_R1 = jnp.take_along_axis(logits_RV, jnp.maximum(target_R, 0)[:, None], axis=1)
    return ids_RK, jnp.exp(top_RK - total_R1), (target_R1 - total_R1)[:, 0]
