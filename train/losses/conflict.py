"""Do terms of the loss pull the shared layers in opposite directions? Measured now and then, outside the step.

Axes: J terms of the loss.
"""

import dataclasses
import functools
import itertools
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, Float

from gptjax.batch import Batch
from gptjax.nn.likelihood import chunks_for
from gptjax.sharding import batch_sharding, local_shape, replicated
from train.losses.combine import gram
from train.losses.terms import counts, term_losses

if TYPE_CHECKING:
    from data.rows.rows import Rows
    from train.assemble import Assembly

CONFLICT = -0.1  # cosine below which two gradients work against each other
BATCHES = 2  # that a measurement is the mean of, as one batch has few rows of each task
IN_A_ROW = 3  # measurements in conflict that are no accident


def cosines(gradients_J: Any) -> tuple[Float[Array, "J J"], Float[Array, "J"]]:
    """(cosine of every pair, norm of each) of J gradients: one tree with a leading axis J on every leaf.

    A zero gradient, that of an absent term, has norm 0 and cosines NaN.
    """
    gram_JJ = gram(gradients_J)
    norm_J = jnp.sqrt(jnp.diagonal(gram_JJ))
    return gram_JJ / jnp.outer(norm_J, norm_J), norm_J


def make_monitor(
    loss_J_of: Callable[[Any, Batch], Array], abstract_params: Any, mesh: Mesh
) -> Callable[[Any, Batch], tuple[Array, Array]]:
    """(params, batch [B, T]) -> `cosines` of the gradients of J mean losses, by the shared layers' parameters alone.

    `loss_J_of(params, batch)`: mean loss of each term, 0 for an absent one. Costs a forward pass, J backward passes
    one after the other, and room for J gradients of the layers.
    """

    def measure(params: Any, batch: Batch) -> tuple[Array, Array]:
        loss_J, backward = jax.vjp(lambda layers: loss_J_of(params | {"layers": layers}, batch), params["layers"])
        (gradients_J,) = jax.lax.map(backward, jnp.eye(len(loss_J), dtype=loss_J.dtype))
        return cosines(gradients_J)

    placed = jax.tree.map(lambda leaf: leaf.sharding, abstract_params)
    return jax.jit(measure, in_shardings=(placed, batch_sharding(mesh)), out_shardings=replicated(mesh))


class Monitor:
    """Measures conflicts on rows that are about to be trained on; compiles at its first measurement."""

    def __init__(self, parts: "Assembly", rows: "Rows"):
        self._parts, self._rows = parts, rows

    @functools.cached_property
    def _monitor(self) -> Callable[[Any, Batch], tuple[Array, Array]]:
        parts = self._parts
        terms, B, config = parts.loss_spec.terms, parts.layout.micro_rows, parts.config
        chunks = chunks_for(*local_shape(parts.mesh, B, parts.recipe.row_length), config.V)
        model = parts.model.clone(unroll=1)  # compiles sooner, and is not called often

        def losses(params: Any, batch: Batch) -> Array:
            return term_losses(params, model, batch, terms, chunks) / jnp.maximum(counts(batch, terms), 1)

        return make_monitor(losses, parts.abstract.params, parts.mesh)

    def measure(
        self, params: Any, first_row: int, progress: Callable[[], None]
    ) -> tuple[Float[np.ndarray, "J J"], Float[np.ndarray, "J"]]:
        """`cosines`, the mean over a few batches of rows from `first_row` on, in which the tasks take turns."""
        parts, rows, found = self._parts, self._rows, []
        B = parts.layout.micro_rows
        for row_B in rows.taking_turns(first_row, BATCHES * B).reshape(BATCHES, B):
            batch = rows.builder.batch(rows.text(row_B), rows.tasks_of(row_B))
            found.append(jax.device_get(self._monitor(params, parts.loader.of(batch))))
            progress()
        cosine_JJ, norm_J = (_mean_of_known(np.stack(arrays)) for arrays in zip(*found, strict=True))
        return cosine_JJ, norm_J


def _mean_of_known(values_I: np.ndarray) -> np.ndarray:
    """The mean over the first axis of what is no NaN; NaN where nothing else is."""
    known_I = ~np.isnan(values_I)
    count = known_I.sum(axis=0)
    return np.where(count > 0, np.where(known_I, values_I, 0).sum(axis=0) / np.maximum(count, 1), np.nan)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Conflicts:
    """Which terms have been in conflict of late: kept in every checkpoint, as JSON."""

    newest: dict[str, list[tuple[int, float]]] = dataclasses.field(default_factory=dict)  # of a pair: (step, cosine)
    warned: list[str] = dataclasses.field(default_factory=list)  # pairs that a warning has told of

    def note(self, step: int, names: Sequence[str], cosine_JJ: np.ndarray) -> tuple["Conflicts", list[str]]:
        """(the record with one more measurement, warnings): one for a pair, ever, when the third in a row is bad.

        A measurement that lacks one of the two terms says nothing about the pair.
        """
        newest, warned, said = dict(self.newest), list(self.warned), []
        for i, j in itertools.combinations(range(len(names)), 2):
            pair, cosine = f"{names[i]} and {names[j]}", float(cosine_JJ[i, j])
            if pair in warned or np.isnan(cosine):
                continue
            found = [*newest.pop(pair, []), (step, cosine)]
            if cosine >= CONFLICT:
                continue
            if len(found) < IN_A_ROW:
                newest[pair] = found
                continue
            warned.append(pair)
            values, steps = (", ".join(texts) for texts in zip(*((f"{c:.2f}", str(s)) for s, c in found), strict=True))
            said.append(
                f"{pair} pull the shared layers in opposite directions: cosine {values} at steps {steps}. "
                "Compare with runs that have one of the two; if both do worse together, give one less weight"
            )
        return Conflicts(newest=newest, warned=warned), said

    def as_json(self) -> dict[str, Any]:
        return dataclasses.asdict(self)
