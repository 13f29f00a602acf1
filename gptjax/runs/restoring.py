"""Trees read from the steps of a run: their shapes, their arrays onto any devices, and whether these are numbers."""

import contextlib
import logging
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import orbax.checkpoint as ocp

from gptjax.runs.manifest import folder_of

# Orbax misses, aloud, a file that our layout does without, and logs with all their frames errors that it raises too.
logging.getLogger("absl").addFilter(lambda record: "orbax" not in record.pathname)

# What a path must not hold: Orbax globs it, TensorStore takes a backslash for a slash, epath these folders for buckets.
NOT_PLAIN = re.compile(r"[][*?\\]|^/(gs|s3|az|hf)(/|$)")


def restore(run: Path, step: int, name: str, abstract: Any) -> Any:
    """One saved tree ("params", "training" or "ema") of a verified step, as arrays.

    `abstract`: the same tree of jax.ShapeDtypeStruct, which say the dtype and the sharding of each array. Raises
    ValueError, in one line, naming a leaf that only one of the two has, or whose shapes differ.
    """
    saved, wanted = leaf_shapes(saved_shapes(run, step, name)), leaf_shapes(abstract)
    for leaf in [*wanted, *saved]:
        if saved.get(leaf) != wanted.get(leaf):
            raise ValueError(
                f"step {step}: {name}/{leaf} is {saved.get(leaf, 'absent')} in the checkpoint, "
                f"{wanted.get(leaf, 'absent')} in this model; use the run's own model.json and recipe"
            )
    arguments = ocp.args.PyTreeRestore(
        item=abstract, restore_args=ocp.checkpoint_utils.construct_restore_args(abstract)
    )  # pyright: ignore[reportCallIssue]
    with plain(folder_of(run, step)) as folder, reader(abstract) as checkpointer:
        return checkpointer.restore(folder / name, args=arguments)


@contextlib.contextmanager
def plain(folder: Path) -> Iterator[Path]:
    """A path to a folder that Orbax does not misread, whatever the folder is called: see NOT_PLAIN.

    Most paths are their own; for others, Linux has a link by the number of the opened folder. Raises ValueError where
    the system has no such links.
    """
    path = folder.resolve()
    if not NOT_PLAIN.search(str(path)):
        yield path
        return
    opened = os.open(path, os.O_RDONLY)
    try:
        if not (link := Path(f"/proc/self/fd/{opened}")).is_dir():
            raise ValueError(
                f"{path}: on this system checkpoints cannot lie in a folder with [, ], *, ? or a backslash in its "
                "path, nor in /gs, /s3, /az or /hf; use another"
            )
        yield link
    finally:
        os.close(opened)


def reader(abstract: Any) -> ocp.Checkpointer:
    """What reads a tree: all processes of a run together, but this one alone if all arrays are to lie on its devices.

    Alone, the others are not waited for: they may be gone, or read something else.
    """
    places = [leaf.sharding for leaf in jax.tree.leaves(abstract) if getattr(leaf, "sharding", None) is not None]
    together = jax.process_count() == 1 or not all(place.is_fully_addressable for place in places)
    own = jax.process_index()
    options = ocp.options.MultiprocessingOptions(
        primary_host=0 if together else own,
        active_processes=None if together else {own},
        barrier_sync_key_prefix=None if together else f"alone-{own}",
    )
    return ocp.Checkpointer(
        ocp.PyTreeCheckpointHandler(multiprocessing_options=options), multiprocessing_options=options
    )


def saved_shapes(run: Path, step: int, name: str) -> Any:
    """A tree of a verified step as shapes and dtypes. Raises ValueError where the step has no such tree."""
    if not (folder_of(run, step) / name).is_dir():
        raise ValueError(f"step {step}: has no {name}")
    with plain(folder_of(run, step)) as folder, reader(()) as checkpointer:
        found = shapes_in(folder / name, checkpointer)
    if found is None:
        raise ValueError(f"step {step}: {name}: files that say what it holds are missing or damaged")
    return found


def shapes_in(folder: Path, checkpointer: ocp.Checkpointer) -> Any:
    """A tree as shapes and dtypes; None where Orbax cannot read what its arrays are."""
    found = checkpointer.metadata(folder).item_metadata
    return found and jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype),
        found.tree,
        is_leaf=lambda node: hasattr(node, "shape"),
    )


def refuse_nonfinite(step: int, name: str, tree: Any) -> None:
    """Raises ValueError naming the first leaf of a tree that holds NaN or infinity, and how many of them."""
    for path, count in jax.tree.leaves_with_path(_nonfinite(tree)):
        if count:
            leaf = f"{name}/{leaf_name(path)}"
            raise ValueError(f"step {step}: {leaf} has {count} values that are NaN or infinite; use an earlier step")


def leaf_name(path: Any) -> str:
    """Such as "layers/query"."""
    return jax.tree_util.keystr(path, simple=True, separator="/")


def leaf_shapes(tree: Any) -> dict[str, tuple[int, ...]]:
    """Name of a leaf -> its shape."""
    return {leaf_name(path): tuple(leaf.shape) for path, leaf in jax.tree.leaves_with_path(tree)}


@jax.jit
def _nonfinite(tree: Any) -> Any:
    return jax.tree.map(lambda leaf: (~jnp.isfinite(leaf)).sum(), tree)
