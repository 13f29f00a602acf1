"""The loss of segments in two parts: -log p of the class of the pair, by a head that compares the parts.

Axes: B batch  Q places that are looked at  C classes of a head.
"""

from jaxtyping import Array, Float

from gptjax.nn.class_heads import pair_states
from train.losses.classes import Classes
from train.losses.head_reading import head_output
from train.losses.loss import Seen
from train.objectives import Term


class Pairs(Classes):
    """How two parts of a segment belong together."""

    def output(self, seen: Seen, term: Term) -> Float[Array, "B Q C"]:
        """From what the parts before and from each target's place have in common; so also in runs whose heads do not
        say yet that they compare."""
        return head_output(seen, term, pair_states(seen.hidden_BTD, seen.batch.segment_BT, seen.batch.at_BQ))
