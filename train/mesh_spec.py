"""The settings of the mesh: a field for every axis of its table. Imports neither JAX nor TensorFlow."""

import dataclasses
import math
from typing import TYPE_CHECKING

from gptjax.mesh_axes import MESH, REMAINDER


class MeshSizes:
    """Devices along each mesh axis; their product is the number of devices."""

    def __post_init__(self):
        for name, size in dataclasses.asdict(self).items():  # pyright: ignore[reportArgumentType]
            if size is not None and not 0 < size < math.inf:
                raise ValueError(f"mesh.{name}={size}: must be a number above 0")

    def over(self, devices: int) -> dict[str, int]:
        """Devices along each axis, where there are so many in all."""
        sizes = dataclasses.asdict(self)  # pyright: ignore[reportArgumentType]
        others = math.prod(size for name, size in sizes.items() if name != REMAINDER)
        return sizes | {REMAINDER: sizes[REMAINDER] or max(1, devices // others)}


def mesh_spec() -> type[MeshSizes]:
    """The dataclass with a field for every axis of the mesh's table."""
    fields = []
    for name, axis in MESH.items():
        kind, default = (int | None, None) if name == REMAINDER else (int, 1)
        fields.append((name, kind, dataclasses.field(default=default, metadata={"help": axis.help})))
    return dataclasses.make_dataclass(
        "MeshSpec", fields, bases=(MeshSizes,), namespace={"__doc__": MeshSizes.__doc__}, module=__name__,
        frozen=True, kw_only=True,
    )  # fmt: skip


if TYPE_CHECKING:

    class MeshSpec(MeshSizes):
        def __init__(self, **sizes: int | None): ...
else:
    MeshSpec = mesh_spec()
