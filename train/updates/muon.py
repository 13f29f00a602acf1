"""Muon's directions: momentum by optax, made orthogonal here, every matrix on one device and no matrix on two.

Axes: L matrices of one shape  X, Y sides of a matrix  S, s its shorter side.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float

from gptjax.mesh_axes import mesh_axes
from gptjax.nn.attention import product_precision
from gptjax.sharding import per_device

Matrices = dict[str, Float[Array, "L X Y"]]  # by parameter

ITERATIONS = 5
COEFFICIENTS = (3.4445, -4.7750, 2.0315)  # of x, x^3 and x^5, chosen by Jordan et al. for a steep slope at 0


def muon(beta: float, dtype: Any) -> optax.GradientTransformation:
    """Momentum (Nesterov's), orthogonal layer by layer, in steps as long as AdamW's usually are; products in `dtype`.

    The state is that of optax.contrib.scale_by_muon.

    Sources: Jordan et al. 2024, https://kellerjordan.github.io/posts/muon; Liu et al. 2025, arXiv:2502.16982, section
    2.2 (the length: 0.2 times the root of the longer side).
    """

    def last_two_axes(updates: Any) -> Any:
        return jax.tree.map(lambda _: optax.contrib.MuonDimensionNumbers(-2, -1), updates)

    def direction(updates: Any, _: Any) -> Any:
        orthogonal = orthogonalised(updates, dtype)
        return {
            name: 0.2 * max(update.shape[-2:]) ** 0.5 * orthogonal[name].astype(update.dtype)
            for name, update in updates.items()
        }

    # without iterations, optax's part is the momentum, each matrix of it divided by its Frobenius norm
    momentum = optax.contrib.scale_by_muon(beta=beta, ns_steps=0, weight_dimension_numbers=last_two_axes)
    return optax.chain(momentum, optax.stateless(direction))


def orthogonalised(matrices: Matrices, dtype: Any) -> Matrices:
    """Each matrix, of Frobenius norm 1, with singular values near 1; in `dtype`, which it takes before it travels.

    Those of one shape, wide or tall, are dealt out over all devices of the mesh in force and worked through one by
    one: a device holds the products of one whole matrix at a time.
    """
    wide = {name: jnp.swapaxes(x, 1, 2) if _is_tall(x) else x for name, x in matrices.items()}
    found: Matrices = {}
    for shape in sorted({x.shape[1:] for x in wide.values()}):
        alike = [name for name, x in wide.items() if x.shape[1:] == shape]
        stack_LSX = _dealt(jnp.concatenate([wide[name].astype(dtype) for name in alike]))
        ends = np.cumsum([len(wide[name]) for name in alike])
        found |= dict(zip(alike, jnp.split(stack_LSX, ends[:-1]), strict=True))
    return {name: jnp.swapaxes(found[name], 1, 2) if _is_tall(x) else found[name] for name, x in matrices.items()}


def _is_tall(x_LXY: Array) -> bool:
    return x_LXY.shape[1] > x_LXY.shape[2]


def _dealt(stack_LSX: Float[Array, "L S X"]) -> Float[Array, "L S X"]:
    """`newton_schulz` of each matrix, as many of them on every device; what is lacking to that is zeros."""
    ways = max(1, jax.sharding.get_abstract_mesh().size)
    one_by_one: Any = functools.partial(jax.lax.map, newton_schulz)
    filled_LSX = jnp.pad(stack_LSX, ((0, -len(stack_LSX) % ways), (0, 0), (0, 0)))
    run = per_device(one_by_one, (("matrices",),), ("matrices",), over=mesh_axes())
    return run(filled_LSX)[: len(stack_LSX)]


def newton_schulz(x_SX: Float[Array, "S X"]) -> Float[Array, "S X"]:
    """A matrix of Frobenius norm at most 1, no higher than wide, with its singular values moved near 1: 0.7 to 1.2.

    Products take x's dtype and accumulate in float32. This way round: a tall matrix takes a CPU twice as long.

    Source: Jordan et al. 2024, https://kellerjordan.github.io/posts/muon.
    """
    dtype, (a, b, c) = x_SX.dtype, COEFFICIENTS

    def product(spec: str, one: Array, other: Array) -> Array:
        exact = {"preferred_element_type": jnp.float32, "precision": product_precision(dtype)}
        return jnp.einsum(spec, one.astype(dtype), other.astype(dtype), **exact)

    def closer(_, x_SX: Array) -> Array:
        gram_Ss = product("SX,sX->Ss", x_SX, x_SX)
        polynomial_Ss = b * gram_Ss + c * product("Sr,rs->Ss", gram_Ss, gram_Ss)
        return (a * x_SX + product("Ss,sX->SX", polynomial_Ss, x_SX)).astype(dtype)

    return jax.lax.fori_loop(0, ITERATIONS, closer, x_SX)
