"""What an output head tells of whole texts: how probable its classes or labels are, or a number.

Axes: I texts  B batch  T position  D residual  C classes of the head.
"""

import functools
from collections.abc import Sequence
from typing import Any, Unpack

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from gptjax.inference.scoring import NOT_NUMBERS, ScoreOptions, check_ids, states, text_batches
from gptjax.nn.class_heads import class_logits, head_states
from gptjax.nn.model import Transformer


def class_log_probs(
    model: Transformer, params: Any, texts: Sequence[Sequence[int]], head: int, **options: Unpack[ScoreOptions]
) -> np.ndarray:
    """What a head, by its number in the model's config, tells of texts of ids, f32 [I,C].

    Of classes log-probabilities, nats; of labels the log-probability of each, by itself; of a number that number, in
    the user's units.

    A text is read whole, from both sides unless the head is causal, as gptjax.inference.head_input makes it and
    data.tasks builds it: BOS, tokens, EOS, of which the head reads the last state or a mean. `options` and what the
    numbers depend on: see gptjax.inference.scoring.score.

    Raises ValueError for a text that is empty, beyond the context or the vocabulary, and where scores are no numbers.
    """
    check_ids("text", texts, model.config)
    found_IC = np.zeros((len(texts), len(model.config.class_heads[head].classes)), np.float32)
    for number_B, read in text_batches(texts, model.config, **options):
        told_BC = np.asarray(_told(model, params, *read, head=head))[: len(number_B)]
        found_IC[number_B] = told_BC
        finite_B = np.isfinite(told_BC).all(axis=1)
        if not finite_B.all():
            raise ValueError(f"the model's scores of text {number_B[int(finite_B.argmin())]} {NOT_NUMBERS}")
    return found_IC


@functools.partial(jax.jit, static_argnames=("model", "head"))
def _told(model: Transformer, params: Any, tokens_BT: Any, length_B: Any, *, head: int) -> Float[Array, "B C"]:
    return told(model, params, tokens_BT, length_B, head)


def told(
    model: Transformer, params: Any, tokens_BT: Any, length_B: Any, head: int, shift_BTD: Any = None
) -> Float[Array, "B C"]:
    """What a head tells of a batch of texts; `shift_BTD` as in gptjax.inference.scoring.states."""
    one = model.config.class_heads[head]
    hidden_BTD = states(model, params, tokens_BT, length_B, not one.causal, shift_BTD)
    inside_BT = jnp.arange(tokens_BT.shape[1])[None, :] < length_B[:, None]
    end_B1 = jnp.maximum(length_B - 1, 0)[:, None]
    read_B1D = head_states(params, model.config, hidden_BTD, inside_BT.astype(jnp.int32), end_B1, head)
    logits_BC = class_logits(params, model.config, read_B1D, head)[:, 0]
    if one.tells_number:
        return one.mean + one.scale * logits_BC
    return jax.nn.log_sigmoid(logits_BC) if one.kind == "labels" else jax.nn.log_softmax(logits_BC, axis=-1)
