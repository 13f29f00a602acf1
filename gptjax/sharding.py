"""Where every array lives: the mesh and the shardings that the table of gptjax/mesh_axes.py gives."""

import math
from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import jax
import numpy as np
from flax import linen as nn
from jax.experimental import mesh_utils
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from gptjax.mesh_axes import LOGICAL, REMAINDER, axes_of, mesh_axes, row_axes, token_axes
from gptjax.spelling import did_you_mean

if TYPE_CHECKING:
    from gptjax.config import ModelConfig

# What each logical axis is called in an error, and the size of a model that it has.
CHECKED = {
    "model.D": ("embed", "D"),
    "model.N, query heads": ("heads", "N"),
    "model.K, key/value heads": ("heads", "K"),
    "model.F": ("mlp", "F"),
    "vocabulary rows V": ("vocabulary", "V"),
    "model.L, layers": ("layers", "L"),
}

SPLIT_CHIPS = (
    "TPU v5 lite",
    "TPU v5e",
)  # an axis of the mesh may part one of the chips' torus, as jax.make_mesh has it


def make_mesh(*sizes: int, devices: Sequence[Any] | None = None, **named: int) -> Mesh:
    """A mesh with so many devices along each axis of the table, in its order or by name; 1 where none is given.

    A slower network between some of them, as between TPU slices and nodes of GPUs, parts the first axes of the table:
    copies of the model rather than parts of it.

    Raises ValueError unless their product is the number of devices.
    """
    devices = jax.devices() if devices is None else devices
    axes = mesh_axes()
    if len(sizes) > len(axes) or named.keys() & set(axes[: len(sizes)]):
        raise ValueError(f"mesh {sizes}, {named}: one number for each of {', '.join(axes)}")
    if unknown := sorted(named.keys() - set(axes)):
        raise ValueError(f"mesh.{unknown[0]}: no such axis{did_you_mean(unknown[0], axes)}")
    shape = dict.fromkeys(axes, 1) | dict(zip(axes, sizes, strict=False)) | named
    if min(shape.values()) < 1 or math.prod(shape.values()) != len(devices):
        raise ValueError(
            f"mesh {' x '.join(f'{name}={size}' for name, size in shape.items())} = {math.prod(shape.values())}, "
            f"devices = {len(devices)}; for example use {REMAINDER}={len(devices)} and leave the others 1"
        )
    types = (AxisType.Auto,) * len(axes)
    slices = len({getattr(device, "slice_index", 0) for device in devices})
    if slices == 1:
        return jax.make_mesh(tuple(shape.values()), axes, devices=devices, axis_types=types)
    between, within = _parted(tuple(shape.values()), slices)
    split = devices[0].device_kind in SPLIT_CHIPS
    placed = mesh_utils.create_hybrid_device_mesh(within, between, devices, allow_split_physical_axes=split)
    return Mesh(placed, axes, axis_types=types)


def _parted(sizes: Sequence[int], slices: int) -> tuple[list[int], list[int]]:
    """Of each axis (parts that lie in different slices, parts within one); the first axes are parted first."""
    between = []
    for size in sizes:
        between.append(math.gcd(size, slices // math.prod(between)))
    return between, [size // parts for size, parts in zip(sizes, between, strict=True)]


def partition(names: Sequence[str | None]) -> PartitionSpec:
    """Logical axis names of an array -> its partition. Raises ValueError for an unknown name or a mesh axis twice."""
    used: dict[str, str] = {}
    for name in names:
        if name is None:
            continue
        if name not in LOGICAL:
            known = ", ".join(LOGICAL)
            raise ValueError(f"axis {name!r} of an array {tuple(names)} is not in the table; known: {known}")
        for axis in axes_of(name):
            if axis in used:
                raise ValueError(
                    f"array {tuple(names)}: axes {used[axis]!r} and {name!r} both lie on mesh axis {axis!r}"
                )
            used[axis] = name
    return PartitionSpec(*(axes_of(name) or None if name is not None else None for name in names))


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
            axes = axes_of(name) if name is not None else ()
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
    return NamedSharding(mesh, PartitionSpec(mesh_axes()))


def batch_sharding(mesh: Mesh, leading: int = 0) -> NamedSharding:
    """Rows over the axes that split a batch; `leading` axes before the row axis (micro-batches) are not split."""
    return NamedSharding(mesh, PartitionSpec(*(None,) * leading, row_axes() or None))


def check_divides(mesh: Mapping[str, int], config: "ModelConfig", *, rows: int, tokens: int) -> None:
    """Raises ValueError, before anything compiles, where the mesh does not divide a micro-batch or the model.

    `mesh`: devices along each axis; `rows`: of a micro-batch; `tokens`: of a row.
    """
    sizes = {what: (logical, getattr(config, letter)) for what, (logical, letter) in CHECKED.items()}
    of_batch = {"rows of a micro-batch": ("batch", rows), "tokens of a row": ("length", tokens)}
    for what, (logical, size) in (of_batch | sizes).items():
        axes = axes_of(logical)
        ways = math.prod(mesh[axis] for axis in axes)
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
    function: Any, in_names: Sequence[Sequence[str | None]], out_names: Any, *, over: Sequence[str] | None = None
) -> Any:
    """The function run by every device on its own part along these mesh axes, None = those that split the tokens of a
    batch; the others stay the compiler's affair.

    Names are logical axes, of an array's first axes or of all; they fit the trees of arguments and result from above.
    Weights come as those mesh axes split them: see `gather`. Outside of any mesh, or on one device, the function
    itself.
    """
    axes = token_axes() if over is None else over
    if _ways(*axes) == 1:
        return function

    def spec(names: Sequence[str | None]) -> PartitionSpec:
        return _along(names, axes)

    is_names = lambda tree: all(isinstance(name, str | None) for name in tree)  # noqa: E731
    # a kernel says nothing of how its result varies over the mesh, hence no check
    return jax.shard_map(
        function, in_specs=tuple(map(spec, in_names)), out_specs=jax.tree.map(spec, out_names, is_leaf=is_names),
        axis_names=set(axes), check_vma=False,
    )  # fmt: skip


def _along(names: Sequence[str | None], mesh_axes: Collection[str]) -> PartitionSpec:
    """The partition of an array with these logical axes, as far as these mesh axes split it."""
    rules = (axes_of(name) if name is not None else () for name in names)
    return PartitionSpec(*(tuple(axis for axis in rule if axis in mesh_axes) or None for rule in rules))


def gather(logical: str, x: jax.Array, axis: int) -> jax.Array:
    """Inside `per_device`: the whole of an array whose axis `axis` has this logical name."""
    split = _token_axes_of(logical)
    return x if _ways(*split) == 1 else jax.lax.all_gather(x, split, axis=axis, tiled=True)


def scatter(x: jax.Array, *names: str | None) -> jax.Array:
    """Inside `per_device`: the sum of every device's x, of which each keeps its own part, by the names of x's axes."""
    if _ways(*token_axes()) == 1:
        return x
    split = [_token_axes_of(name) if name is not None else () for name in names]
    for axis, own in enumerate(split):
        if own:
            x = jax.lax.psum_scatter(x, own, scatter_dimension=axis, tiled=True)
    return jax.lax.psum(x, [name for name in token_axes() if not any(name in own for own in split)])


def highest(x: jax.Array) -> jax.Array:
    """Inside `per_device`: the highest of every device's x."""
    return x if _ways(*token_axes()) == 1 else jax.lax.pmax(x, token_axes())


def _token_axes_of(logical: str) -> tuple[str, ...]:
    """The mesh axes that split a logical axis and the tokens of a batch."""
    return tuple(name for name in axes_of(logical) if name in token_axes())


def _ways(*mesh_axes: str) -> int:
    """Devices along these axes of the mesh in force; 1 outside of any mesh."""
    mesh = jax.sharding.get_abstract_mesh()
    return 1 if mesh.empty else math.prod(mesh.shape[axis] for axis in mesh_axes)


def row_ways() -> int:
    """Parts into which the mesh in force splits the rows of a batch; 1 outside of any mesh."""
    return _ways(*row_axes())


def length_ways() -> int:
    """Parts into which the mesh in force splits the tokens of a row; 1 outside of any mesh."""
    return _ways(*axes_of("length"))


def splits_evenly(x: jax.Array, *names: str | None) -> bool:
    """Whether the mesh in force splits an array with these logical axes into equal parts."""
    return all(name is None or size % _ways(*axes_of(name)) == 0 for size, name in zip(x.shape, names, strict=True))


def local_shape(mesh: Mesh, rows: int, T: int) -> tuple[int, int]:
    """(rows, tokens of each) of a batch that one device works on."""
    return tuple(  # pyright: ignore[reportReturnType]
        size // math.prod(mesh.shape[axis] for axis in axes_of(name)) for size, name in ((rows, "batch"), (T, "length"))
    )


def held_rows(mesh: Mesh, rows: int, devices: Sequence[Any]) -> np.ndarray:
    """Numbers of the rows of a batch that these devices hold, rising; on a TPU's torus they are not always neighbours.

    Hosts that share rows through `tensor` hold the same ones.
    """
    places = batch_sharding(mesh).devices_indices_map((rows,))
    return np.unique(np.concatenate([np.arange(rows)[places[device]] for device in devices]))
