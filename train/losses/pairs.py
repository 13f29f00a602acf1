"""The loss of segments in two parts: -log p of the class of the pair, by a head that compares the parts.

Axes: B batch  Q places that are looked at  D residual.
"""

from jaxtyping import Array, Float

from gptjax.nn.class_heads import pair_states
from train.losses.classes import Classes
from train.losses.loss import Seen


class Pairs(Classes):
    """How two parts of a segment belong together."""

    def read(self, seen: Seen) -> Float[Array, "B Q D"]:
        """What the parts before and from each target's place have in common."""
        return pair_states(seen.hidden_BTD, seen.batch.segment_BT, seen.batch.at_BQ)
