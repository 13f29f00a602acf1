"""The one table of the mesh: what each of its axes splits. Imports neither JAX nor TensorFlow.

A further axis is a line of MESH: mesh, settings, shardings, divisibility checks and the rows of a batch follow from it.
"""

from typing import NamedTuple


class MeshAxis(NamedTuple):
    """One axis of the mesh."""

    splits: tuple[str, ...]  # logical axes of arrays
    help: str  # what --mesh.NAME counts


MESH: dict[str, MeshAxis] = {
    "data": MeshAxis(
        ("batch", "matrices"), "copies of the model that share the rows; None = all devices the other axes leave"
    ),
    "fsdp": MeshAxis(("batch", "embed", "matrices"), "parts that parameters and rows are split into"),
    "tensor": MeshAxis(
        ("heads", "mlp", "vocabulary", "matrices"), "parts that heads, feed-forward width and vocabulary are split into"
    ),
    "context": MeshAxis(
        ("length", "embed", "matrices"),
        "parts that the tokens of each row and parameters are split into: for long rows",
    ),
}
REMAINDER = "data"  # the axis that takes the devices which the others leave

LOGICAL = (  # all that the axes of an array can be called
    "batch",
    "length",  # tokens of a row
    "slots",  # places of a cache
    "embed",  # residual axis of a weight
    "residual",  # residual axis of an activation
    "heads",  # heads x width, flattened
    "mlp",
    "vocabulary",
    "layers",
    "matrices",  # whole matrices that are dealt out: Muon's
    "width",  # small vectors: norms, biases, positions
)


def mesh_axes() -> tuple[str, ...]:
    """Names of the mesh axes, in their order."""
    return tuple(MESH)


def axes_of(logical: str) -> tuple[str, ...]:
    """The mesh axes that split a logical axis; () = every device holds all of it."""
    return tuple(name for name, axis in MESH.items() if logical in axis.splits)


def row_axes() -> tuple[str, ...]:
    """The mesh axes that split the rows of a batch."""
    return axes_of("batch")


def token_axes() -> tuple[str, ...]:
    """The mesh axes that split the tokens of a batch: its rows, or the tokens of a row."""
    return tuple(name for name in MESH if name in (*row_axes(), *axes_of("length")))
