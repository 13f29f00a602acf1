"""What a step takes, by arithmetic alone: memory and time of one chip, and the bytes that chips exchange.

A model, not a measurement: of attention by a fused kernel, all exchanges spread over all links, and products at a fixed
share of the peak. It ranks what the compiler is then asked; for chips that have no compiler here it is all there is.
Axes of sizes: T position  D residual  N query heads  K kv heads  H head width  F mlp width  V vocabulary  L layers.
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence

import numpy as np

from gptjax.config import ModelConfig
from gptjax.mesh_axes import REMAINDER, axes_of, row_axes, token_axes
from gptjax.nn.likelihood import CHUNK_BYTES
from gptjax.nn.splash import LONGEST_FUSED
from train.planning.chips import Machines
from train.planning.state_bytes import StateBytes, state_bytes
from train.recipe import Recipe

BUSY = 0.65  # of the peak, in a step without waiting: what the compiler promises llama-7b on a v5e (docs/log.md)
KERNEL_BUSY = 0.5  # of the peak, in attention kernels
# Forward passes that the backward pass makes again: of products with weights, of attention.
REPEATED = {"none": 0.0, "products": 0.0, "full": 1.0}
ATTENTION_REPEATED = {"none": 0.0, "products": 1.0, "full": 1.0}
IN_THE_WAY = "all-reduce of activations"  # the next product waits for it, so that no computing hides it


@dataclasses.dataclass(frozen=True)
class Estimate:
    """Of one step on one chip."""

    state: StateBytes
    activations: float  # bytes beside the state, at the fullest moment
    compute_seconds: float
    near_bytes: dict[str, float]  # received within a group of chips, by kind of exchange
    far_bytes: dict[str, float]  # from other groups
    waited_seconds: float  # of near and far seconds, those that no computing hides
    tokens: int  # of a step, over all chips

    @property
    def memory(self) -> float:
        """Bytes in all."""
        return self.state.total + self.activations


def estimate(recipe: Recipe, config: ModelConfig, machines: Machines) -> Estimate:
    """Of a recipe on a mesh that is legal for these machines."""
    mesh = recipe.mesh.over(machines.chips)
    tokens = recipe.batch.rows * recipe.row_length
    own = tokens / machines.chips
    repeated, chip = REPEATED[recipe.compute.remat], machines.chip
    attention = 12 * config.L * config.N * config.H * config.T
    products = (config.flops_per_token - attention) * own * (3 + repeated) / 3
    computing = products / (_peak(recipe, machines) * BUSY) + kernel_seconds(recipe, config, machines)
    state = state_bytes(config, recipe.optimizer, recipe.steps, mesh)
    near, far = exchanged(recipe, config, machines, state)
    waited = near.get(IN_THE_WAY, 0.0) / chip.near + far.get(IN_THE_WAY, 0.0) / chip.far
    return Estimate(
        state=state, activations=_activations(recipe, config, mesh), compute_seconds=computing,
        near_bytes=near, far_bytes=far, waited_seconds=waited, tokens=tokens,
    )  # fmt: skip


def kernel_seconds(recipe: Recipe, config: ModelConfig, machines: Machines) -> float:
    """Of attention a step on one chip, causal, so that a query meets half of a row's keys or those of its window.

    Two products forward, each time; five backward, or seven where the splash kernel computes two of them once more.
    """
    tokens = recipe.batch.rows * recipe.row_length / machines.chips
    keys = config.T / 2 if config.window is None else min(config.T / 2, config.window)
    one_kernel = machines.family == "gpu" or (
        recipe.row_length <= LONGEST_FUSED and recipe.mesh.over(machines.chips)["context"] == 1
    )
    products = 2 * (1 + ATTENTION_REPEATED[recipe.compute.remat]) + (5 if one_kernel else 7)
    operations = products * 2 * keys * config.L * config.N * config.H * tokens
    return operations / (_peak(recipe, machines) * KERNEL_BUSY)


def _peak(recipe: Recipe, machines: Machines) -> float:
    """Operations a second of products in the recipe's dtype."""
    return machines.chip.peak if recipe.compute.dtype == "bfloat16" else machines.chip.peak / 4


def _activations(recipe: Recipe, config: ModelConfig, mesh: Mapping[str, int]) -> float:
    """Bytes beside the state: what layers keep for the backward pass, and the work on one of them, or on the head."""
    size = 2 if recipe.compute.dtype == "bfloat16" else 4
    tensor, ways = mesh["tensor"], math.prod(mesh[axis] for axis in token_axes())
    places = recipe.batch.micro_rows * recipe.row_length / ways
    D, heads = config.D, (config.N + 2 * config.K) * config.H / tensor
    wide = (2 if config.activation == "swiglu" else 1) * config.F / tensor
    results = heads + wide + 2 * D  # of all products of a layer, for one place
    every = results + heads + config.N * config.H / tensor + config.F / tensor + 3 * D
    kept = {"full": D, "products": D + results, "none": every}[recipe.compute.remat]
    layers = config.L * places * kept * size
    one = places * (every * size + 2 * max(D, config.F / tensor) * 4)
    weights = max(width * height for width, height in config.projections.values()) / tensor
    gathered = weights * (2 * size + 4) if ways > 1 else 0.0  # of two products, and the gradient of one
    table = config.V * D / tensor * (size + 4)
    logits = 2 * min(CHUNK_BYTES, places * config.V * 4 / tensor)
    return layers + max(one + gathered, table + logits)


def exchanged(
    recipe: Recipe, config: ModelConfig, machines: Machines, state: StateBytes
) -> tuple[dict[str, float], dict[str, float]]:
    """Bytes that a chip receives in a step, by kind of exchange: (within its group, from other groups).

    Weights are gathered over `fsdp` and `context` for the forward and again for the backward pass of each micro-batch,
    their gradients summed, in the recipe's dtype; over `data` what is left of them is; over `tensor` two sums of
    activations a layer and pass; over `context` keys and values of the rows.
    """
    mesh, size = recipe.mesh.over(machines.chips), 2 if recipe.compute.dtype == "bfloat16" else 4
    tensor, context = mesh["tensor"], mesh["context"]
    summed = 2 if recipe.compute.gradients == "bfloat16" else 4
    split = mesh["fsdp"] * context  # ways in which parameters are
    whole, parts = state.gradients / 4 * split, recipe.batch.micro_batches  # values of what one tensor part holds
    own = recipe.batch.rows * recipe.row_length / math.prod(mesh[axis] for axis in row_axes())  # tokens of its rows
    passes = config.L * (2 + REPEATED[recipe.compute.remat])
    sums = 2 * passes * 2 * own / context * config.D * size
    keys = passes * 2 * own * config.K * config.H / tensor * size
    near: dict[str, float] = {}
    far: dict[str, float] = {}
    for kind, size_of_result, axes in (
        ("all-gather of weights", 2 * whole * size * parts, axes_of("embed")),
        ("reduce-scatter of gradients", whole * summed * parts, axes_of("embed")),
        ("all-reduce of gradients", 2 * state.gradients / 4 * summed, (REMAINDER,)),
        (IN_THE_WAY, sums, axes_of("heads")),
        ("all-gather of keys and values", keys, axes_of("length")),
    ):
        ways, spanned = math.prod(mesh[axis] for axis in axes), _spanned(mesh, axes, machines.group)
        together = ways // spanned  # chips of one group in it
        if together > 1:
            near[kind] = size_of_result * (1 - 1 / ways)
        if spanned > 1:
            far[kind] = size_of_result * (1 - 1 / spanned) / together
    return near, far


def _spanned(mesh: Mapping[str, int], axes: Sequence[str], group: int) -> int:
    """Groups of so many neighbouring chips that an exchange over these axes spans; a mesh's last axis is innermost."""
    chips = np.arange(math.prod(mesh.values())).reshape(tuple(mesh.values()))
    one = chips[tuple(slice(None) if axis in axes else 0 for axis in mesh)]
    return len(np.unique(one // group))
