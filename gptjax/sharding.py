"""Where every array lives: the mesh and the one table from logical axis names to mesh axes."""

import math
from collections.abc import Collection, Sequence
from typing import Any

import jax
import numpy as np
from flax import linen as nn
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

MESH_AXES = ("data", "fsdp", "tensor")
ROW_AXES = ("data", "fsdp")  # those that split the rows of a batch

# Logical axis -> mesh axes that split it; None = every device holds all of it.
RULES: dict[str, tuple[str, ...] | None] = {
    "batch": ROW_AXES,
    "length": None,
    "embed": ("fsdp",),  # residual axis of a weight
    "residual": None,  # residual axis of an activation
    "heads": ("tensor",),  # heads x width, flattened
    "mlp": ("tensor",),
    "vocabulary": ("tensor",),
    "layers": None,
    "matrices": MESH_AXES,  # whole matrices that are dealt out: Muon's
    "width": None,  # small vectors: norms, biases, positions
}


def make_mesh(data: int = 1, fsdp: int = 1, tensor: int = 1, devices: Sequence[Any] | None = None) -> Mesh:
    """A mesh of data x fsdp x tensor devices. Raises ValueError unless their product is the number of devices."""
    devices = jax.devices() if devices is None else devices
    shape = (data, fsdp, tensor)
    if min(shape) < 1 or math.prod(shape) != len(devices):
        raise ValueError(
            f"mesh data={data} x fsdp={fsdp} x tensor={tensor} = {math.prod(shape)}, devices = {len(devices)}; "
            f"for example use data={len(devices)} and leave the others 1"
        )
    return jax.make_mesh(shape, MESH_AXES, devices=devices, axis_types=(AxisType.Auto,) * 3)


def partition(names: Sequence[str | None]) -> PartitionSpec:
    """Logical axis names of an array -> its partition. Raises ValueError for an unknown name or a mesh axis twice."""
    used: dict[str, str] = {}
    for name in names:
        if name is None:
            continue
        if name not in RULES:
            raise ValueError(f"axis {name!r} of an array {tuple(names)} is not in the table; known: {', '.join(RULES)}")
        for axis in RULES[name] or ():
            if axis in used:
                raise ValueError(
                    f"array {tuple(names)}: axes {used[axis]!r} and {name!r} both lie on mesh axis {axis!r}"
                )
            used[axis] = name
    return PartitionSpec(*(RULES[name] if name is not None else None for name in names))


def shardings(mesh: Mesh, abstract: Any) -> Any:
    """Sharding of every leaf of an abstract Linen tree, from the logical names in its metadata.

    Raises ValueError naming the leaf, the size and the mesh axes where a size does not divide.
    """
    names = nn.get_partition_spec(abstract)
    plain = nn.unbox(abstract)

    def of_leaf(path, leaf, spec):
        if len(spec) != len(leaf.shape):
            raise ValueError(
                f"{jax.tree_util.keystr(path)}: shape {leaf.shape} needs a name for each axis, found {tuple(spec)}"
            )
        found = partition(tuple(spec))
        for size, name in zip(leaf.shape, spec, strict=True):
            axes = (RULES[name] or ()) if name is not None else ()
            ways = math.prod(mesh.shape[axis] for axis in axes)
            if size % ways:
                legal = [n for n in range(1, size + 1) if size % n == 0 and n <= 64]
                raise ValueError(
                    f"{jax.tree_util.keystr(path)}: axis {name!r} of size {size} does not divide over "
                    f"{' x '.join(axes)} = {ways} devices; it divides over any of {legal}"
                )
        return NamedSharding(mesh, found)

    return jax.tree_util.tree_map_with_path(of_leaf, plain, names)


def replicated(mesh: Mesh) -> NamedSharding:
    return NamedSharding(mesh, PartitionSpec())


def one_a_device(mesh: Mesh) -> NamedSharding:
    """A vector of as many numbers as there are devices, each on its own."""
    return NamedSharding(mesh, PartitionSpec(MESH_AXES))


def batch_sharding(mesh: Mesh, leading: int = 0) -> NamedSharding:
    """Rows over `data` and `fsdp`; `leading` axes before the row axis (micro-batches) are not split."""
    return NamedSharding(mesh, PartitionSpec(*(None,) * leading, RULES["batch"]))


def check_divides(mesh: Mesh, *, rows: int, D: int, N: int, K: int, F: int, V: int) -> None:
    """Raises ValueError, before anything compiles, where the mesh does not divide a micro-batch's rows or the model."""
    wanted = {
        "rows of a micro-batch": (rows, ("data", "fsdp")),
        "model.D": (D, ("fsdp",)),
        "model.N, query heads": (N, ("tensor",)),
        "model.K, key/value heads": (K, ("tensor",)),
        "model.F": (F, ("tensor",)),
        "vocabulary rows V": (V, ("tensor",)),
    }
    for what, (size, axes) in wanted.items():
        ways = math.prod(mesh.shape[axis] for axis in axes)
        if size % ways:
            raise ValueError(
                f"{what} = {size} does not divide over mesh {' x '.join(axes)} = {ways}; "
                f"use a multiple of {ways}, such as {(size // ways + 1) * ways}, or another mesh"
            )


def constrain(x: jax.Array, *names: str | None) -> jax.Array:
    """Pins an activation to its place on the mesh in force; outside of any mesh, x itself.

    Inside `per_device` an array is already the device's own part, and only the axes left to the compiler are pinned.
    """
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty:
        return x
    partition(names)  # refuses what the table does not know
    return jax.lax.with_sharding_constraint(x, _along(names, set(mesh.axis_names) - set(mesh.manual_axes)))


def per_device(
    function: Any, in_names: Sequence[Sequence[str]], out_names: Any, mesh_axes: Sequence[str] = ROW_AXES
) -> Any:
    """The function run by every device on its own part along these mesh axes; the others stay the compiler's affair.

    Names are logical axes, of an array's first axes or of all; `out_names` fits the result's tree from above. Weights
    come as `fsdp` splits them: see `gather_over`. Outside of any mesh, or on one device, the function itself.
    """
    if _ways(*mesh_axes) == 1:
        return function

    def spec(names: Sequence[str]) -> PartitionSpec:
        return _along(names, mesh_axes)

    is_names = lambda tree: all(isinstance(name, str) for name in tree)  # noqa: E731
    # a kernel says nothing of how its result varies over the mesh, hence no check
    return jax.shard_map(
        function, in_specs=tuple(map(spec, in_names)), out_specs=jax.tree.map(spec, out_names, is_leaf=is_names),
        axis_names=set(mesh_axes), check_vma=False,
    )  # fmt: skip


def _along(names: Sequence[str | None], mesh_axes: Collection[str]) -> PartitionSpec:
    """The partition of an array with these logical axes, as far as these mesh axes split it."""
    rules = (RULES[name] or () if name is not None else () for name in names)
    return PartitionSpec(*(tuple(axis for axis in rule if axis in mesh_axes) or None for rule in rules))


def gather_over(mesh_axis: str, x: jax.Array, axis: int) -> jax.Array:
    """Inside `per_device`: the whole of an array that a mesh axis splits along `axis`."""
    return x if _ways(mesh_axis) == 1 else jax.lax.all_gather(x, mesh_axis, axis=axis, tiled=True)


def scatter_over(mesh_axis: str, x: jax.Array, axis: int) -> jax.Array:
    """Inside `per_device`: the sum of every device's x, of which each keeps its own part along `axis`."""
    if _ways(*ROW_AXES) == 1:
        return x
    x = jax.lax.psum(x, [name for name in ROW_AXES if name != mesh_axis])
    return jax.lax.psum_scatter(x, mesh_axis, scatter_dimension=axis, tiled=True)


def _ways(*mesh_axes: str) -> int:
    """Devices along these axes of the mesh in force; 1 outside of any mesh."""
    mesh = jax.sharding.get_abstract_mesh()
    return 1 if mesh.empty else math.prod(mesh.shape[axis] for axis in mesh_axes)


def row_ways() -> int:
    """Parts into which the mesh in force splits the rows of a batch; 1 outside of any mesh."""
    return _ways(*ROW_AXES)


def local_rows(mesh: Mesh, rows: int) -> int:
    """Rows of a batch that one device holds."""
    return rows // int(np.prod([mesh.shape[axis] for axis in RULES["batch"] or ()]))


def held_rows(mesh: Mesh, rows: int, devices: Sequence[Any]) -> np.ndarray:
    """Numbers of the rows of a batch that these devices hold, rising; on a TPU's torus they are not always neighbours.

    Hosts that share rows through `tensor` hold the same ones.
    """
    places = batch_sharding(mesh).devices_indices_map((rows,))
    return np.unique(np.concatenate([np.arange(rows)[places[device]] for device in devices]))
