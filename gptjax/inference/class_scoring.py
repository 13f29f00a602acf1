"""How probable a class head finds the classes of whole texts.

Axes: B batch  T position  D residual  C classes of the head.
"""

import functools
from collections.abc import Sequence
from typing import Any, Unpack

import jax
import jax.numpy as jnp
import numpy as np

from gptjax.inference.scoring import NOT_NUMBERS, ScoreOptions, check_ids, states, text_batches
from gptjax.nn.class_heads import class_logits, states_at
from gptjax.nn.model import Transformer


def class_log_probs(
    model: Transformer, params: Any, texts: Sequence[Sequence[int]], head: int, **options: Unpack[ScoreOptions]
) -> np.ndarray:
    """Log-probabilities, nats, f32 [texts,C], of the classes of a head, by its number in the model's config.

    A head with one class finds a number, which stands in their place.

    A text is read as data.tasks.classify builds it: BOS, tokens, EOS, all seen from both sides; its class is read at
    the EOS. `options` and what the numbers depend on: see gptjax.inference.scoring.score.

    Raises ValueError for a text that is empty, beyond the context or the vocabulary, and where scores are no numbers.
    """
    check_ids("text", texts, model.config)
    found_IC = np.zeros((len(texts), len(model.config.class_heads[head].classes)), np.float32)
    for number_B, read in text_batches(texts, model.config, **options):
        log_prob_BC = np.asarray(_classes(model, params, *read, head=head))[: len(number_B)]
        found_IC[number_B] = log_prob_BC
        finite_B = np.isfinite(log_prob_BC).all(axis=1)
        if not finite_B.all():
            raise ValueError(f"the model's scores of text {number_B[int(finite_B.argmin())]} {NOT_NUMBERS}")
    return found_IC


@functools.partial(jax.jit, static_argnames=("model", "head"))
def _classes(model: Transformer, params: Any, tokens_BT: Any, length_B: Any, *, head: int) -> jax.Array:
    hidden_BTD = states(model, params, tokens_BT, length_B, True)
    end_B1D = states_at(hidden_BTD, jnp.maximum(length_B - 1, 0)[:, None])
    logits_BC = class_logits(params, model.config, end_B1D, head)[:, 0]
    return logits_BC if logits_BC.shape[-1] == 1 else jax.nn.log_softmax(logits_BC, axis=-1)
