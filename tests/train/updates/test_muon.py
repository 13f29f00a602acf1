"""Muon's directions: orthogonal as optax has them, dealt out over a mesh, and with optax's state."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from gptjax.sharding import make_mesh
from train.updates.muon import muon, orthogonalised

SHAPES = {"query": (3, 16, 16), "out": (3, 16, 16), "up": (3, 16, 40), "down": (3, 40, 16)}
LAST_TWO = optax.contrib.MuonDimensionNumbers(-2, -1)


def matrices(shapes=SHAPES):
    """Normal numbers, every matrix of Frobenius norm 1."""
    random = np.random.default_rng(0)
    drawn = {name: random.normal(size=shape) for name, shape in shapes.items()}
    return {
        name: jnp.asarray(of / np.linalg.norm(of, axis=(1, 2), keepdims=True), jnp.float32)
        for name, of in drawn.items()
    }


def optaxs(of):
    """Without momentum nothing is left but the orthogonalisation."""
    alone = optax.contrib.scale_by_muon(beta=0.0, weight_dimension_numbers=lambda of: dict.fromkeys(of, LAST_TWO))
    return alone.update(of, alone.init(of))[0]


def test_every_matrix_becomes_what_optax_makes_of_it():
    """Square, wide and tall; in float32."""
    given = matrices()
    found, wanted = orthogonalised(given, jnp.float32), optaxs(given)
    assert list(found) == list(given)
    for name in given:
        np.testing.assert_allclose(found[name], wanted[name], atol=1e-5, err_msg=name)
        assert not np.allclose(found[name], given[name], atol=0.01)


def test_in_bfloat16_the_singular_values_are_as_near_1():
    """Between 0.6 and 1.3, as in float32; and the directions are nearly the same."""
    exact, rounded = (orthogonalised(matrices(), dtype) for dtype in (jnp.float32, jnp.bfloat16))
    for name, x in rounded.items():
        assert x.dtype == jnp.bfloat16
        for found in (exact[name], x):
            values = np.linalg.svd(np.asarray(found, np.float32), compute_uv=False)
            assert (values.min() > 0.6) & (values.max() < 1.3), name
        apart = np.linalg.norm(np.asarray(x, np.float32) - exact[name]) / np.linalg.norm(exact[name])
        assert 0 < apart < 0.05, name


@pytest.mark.parametrize(("axes", "share"), [((1, 8, 1), 0.25), ((2, 2, 2), 1.0)], ids=str)
def test_on_a_mesh_each_device_has_its_share_of_whole_matrices(axes, share):
    """The same numbers, in less memory than optax's way takes; neither six matrices nor nine divide by eight."""
    given = matrices({name: (count, 8 * x, 8 * y) for name, (count, x, y) in SHAPES.items()})
    mesh = make_mesh(*axes, devices=jax.devices()[:8])
    with jax.set_mesh(mesh):
        place = jax.NamedSharding(mesh, jax.P(None, "fsdp", "tensor"))
        held = {}
        for way in (lambda given: orthogonalised(given, jnp.float32), optaxs):
            run = jax.jit(way, in_shardings=place, out_shardings=place).lower(given).compile()
            held[way] = run.memory_analysis().temp_size_in_bytes
            found = run(jax.device_put(given, place))
            for name, wanted in optaxs(given).items():
                np.testing.assert_allclose(found[name], wanted, atol=1e-5, err_msg=name)
    ours, usual = held.values()
    assert ours < share * usual


def test_the_state_is_optax_own_so_that_older_checkpoints_go_on():
    of = matrices()
    ours = muon(0.9, jnp.bfloat16).init(of)
    usual = optax.chain(
        optax.contrib.scale_by_muon(beta=0.9, weight_dimension_numbers=lambda of: dict.fromkeys(of, LAST_TWO)),
        optax.stateless(lambda updates, _: updates),
    ).init(of)
    assert jax.tree.structure(ours) == jax.tree.structure(usual)
    jax.tree.map(np.testing.assert_array_equal, ours, usual)
