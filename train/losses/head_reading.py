"""What losses of segments share: an output head reads its segment, in training with dropout, and says what it finds.

Axes: B batch  Q places that are looked at  C classes of a head.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from gptjax.nn.class_heads import class_logits, head_states
from train.losses.loss import Seen
from train.objectives import Term

DROPS = 1 << 16  # what a head drops is drawn with numbers from here on, which no micro-batch has


def head_number(term: Term) -> int:
    """The number of the term's head in the bank."""
    assert term.head is not None  # of a segment there is nothing but what its own head tells
    return term.head


def head_output(seen: Seen, term: Term, read_BQD: Float[Array, "B Q D"] | None = None) -> Float[Array, "B Q C"]:
    """What the term's head says at every place, float32; only those of its own targets mean anything.

    `read_BQD`: what it reads; None = as the head itself says.
    """
    head, batch = head_number(term), seen.batch
    if read_BQD is None:
        read_BQD = head_states(seen.params, seen.config, seen.hidden_BTD, batch.segment_BT, batch.at_BQ, head)
    if seen.dropout_key is not None and term.dropout > 0:
        key = jax.random.fold_in(seen.dropout_key, DROPS + head)
        kept_BQD = jax.random.bernoulli(key, 1 - term.dropout, read_BQD.shape)
        read_BQD = jnp.where(kept_BQD, read_BQD / (1 - term.dropout), 0).astype(read_BQD.dtype)
    return class_logits(seen.params, seen.config, read_BQD, head)
