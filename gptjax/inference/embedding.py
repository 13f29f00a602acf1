"""What a model makes of whole texts: one vector each, for searching, comparing and classifying.

Axes: I texts  B batch  T position  D residual.
"""

import functools
from collections.abc import Sequence
from typing import Any, Unpack

import jax
import jax.numpy as jnp
import numpy as np

from gptjax.inference.scoring import NOT_NUMBERS, ScoreOptions, check_ids, states, text_batches
from gptjax.nn.model import Transformer


def mean_states(
    model: Transformer, params: Any, texts: Sequence[Sequence[int]], **options: Unpack[ScoreOptions]
) -> np.ndarray:
    """The mean of the final hidden states of each text of ids, each of which has seen what is before it: f32 [I,D].

    They are not scaled to length 1. `options` and what the numbers depend on: see gptjax.inference.scoring.score.

    Raises ValueError for a text that is empty, beyond the context or the vocabulary, and where states are no numbers.
    """
    check_ids("text", texts, model.config)
    found_ID = np.zeros((len(texts), model.config.D), np.float32)
    for number_B, read in text_batches(texts, model.config, **options):
        found_ID[number_B] = np.asarray(_means(model, params, *read))[: len(number_B)]
    finite_I = np.isfinite(found_ID).all(axis=1)
    if not finite_I.all():
        raise ValueError(f"the model's states of text {int(finite_I.argmin())} {NOT_NUMBERS}")
    return found_ID


@functools.partial(jax.jit, static_argnames="model")
def _means(model: Transformer, params: Any, tokens_BT: Any, length_B: Any) -> jax.Array:
    hidden_BTD = states(model, params, tokens_BT, length_B, False)
    inside_BT = jnp.arange(tokens_BT.shape[1])[None, :] < length_B[:, None]
    sum_BD = jnp.sum(hidden_BTD.astype(jnp.float32) * inside_BT[..., None], axis=1)
    return sum_BD / jnp.maximum(1, length_B)[:, None]
