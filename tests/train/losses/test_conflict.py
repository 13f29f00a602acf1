"""Terms that pull the shared layers in opposite directions are seen, and told of once."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from gptjax.batch import text_batch
from gptjax.config import ModelConfig
from gptjax.nn.model import Transformer, head, init_params
from gptjax.sharding import make_mesh, shardings
from train.losses.conflict import Conflicts, cosines, make_monitor

CONFIG = ModelConfig(T=16, D=32, L=2, N=8, K=8, head_width=4, F=64, vocabulary=100, tied=False)
NAMES = ("causal_lm", "masked_lm", "position")


def test_cosines_and_norms_are_of_whole_trees():
    """An absent term's are NaN and 0; None is a parameter that does not train."""
    gradient = np.random.default_rng(0).normal(size=(3, 10))
    gradient[1] = 0
    tree = {"a": jnp.float32(gradient[:, :6].reshape(3, 2, 3)), "b": jnp.float32(gradient[:, 6:]), "c": None}
    cosine, norm = cosines(tree)
    expected = np.linalg.norm(gradient, axis=1)
    np.testing.assert_allclose(norm, expected, rtol=1e-6)
    assert norm[1] == 0
    np.testing.assert_allclose(np.diag(cosine), [1, np.nan, 1], rtol=1e-6)
    np.testing.assert_allclose(cosine[0, 2], gradient[0] @ gradient[2] / (expected[0] * expected[2]), atol=1e-6)
    assert np.isnan(cosine[1]).all()
    assert np.isnan(cosine[:, 1]).all()


def batch():
    """Eight rows of random tokens; tasks 1 and 2 by turns."""
    generator = np.random.default_rng(0)
    tokens, targets = generator.integers(3, 100, (2, 8, 16), dtype=np.int32)
    task = np.broadcast_to(np.arange(16, dtype=np.int32) % 2 + 1, tokens.shape)
    place = np.broadcast_to(np.arange(16, dtype=np.int32), tokens.shape)
    one = np.ones_like(tokens)
    return text_batch(tokens, targets, np.ones(tokens.shape, np.float32), task, one, place, one == 0)


def test_the_monitor_measures_the_shared_layers_alone_on_any_mesh():
    """Against all layers' gradients by term. Term 1 is the opposite of term 0, term 2 another task, term 3 absent."""
    model = Transformer(CONFIG)

    def losses(params, batch):
        hidden_BTD, _ = model.apply(
            {"params": params}, batch.tokens_BT, batch.segment_BT, batch.position_BT, batch.visible_BT
        )
        nll_BTV = -jax.nn.log_softmax(hidden_BTD @ head(params)[: CONFIG.vocabulary].T)
        nll_BT = jnp.take_along_axis(nll_BTV, batch.targets_BT[..., None], axis=-1)[..., 0]
        means = [jnp.sum(jnp.where(batch.task_BT == k, nll_BT, 0)) / 64 for k in (1, 2, 3)]
        return jnp.stack([means[0], -means[0], means[1], means[2]])

    found = {}
    for shape in ((1, 1, 1), (2, 2, 2)):
        mesh = make_mesh(*shape, devices=jax.devices()[: int(np.prod(shape))])
        with jax.set_mesh(mesh):
            boxed = jax.jit(init_params, static_argnums=0)(model, jax.random.key(0))
            params = jax.device_put(nn.unbox(boxed), shardings(mesh, boxed))
            found[shape] = jax.device_get(make_monitor(losses, params, mesh)(params, batch()))
            if mesh.size == 1:
                jacobian = jax.jit(jax.jacrev(losses))(params, batch())["layers"]
    flat = np.concatenate([np.reshape(leaf, (4, -1)) for leaf in jax.tree.leaves(jacobian)], axis=1)
    for cosine, norm in found.values():
        np.testing.assert_allclose(norm, np.linalg.norm(flat, axis=1), rtol=1e-4)
        np.testing.assert_allclose(cosine[0, :2], [1, -1], rtol=1e-5)
        np.testing.assert_allclose(cosine[0, 2], flat[0] @ flat[2] / (norm[0] * norm[2]), atol=1e-4)
        assert norm[3] == 0
        assert np.isnan(cosine[3]).all()
        assert abs(cosine[0, 2]) < 0.99


def noted(*masked_and_position: float) -> tuple[Conflicts, list[list[str]]]:
    """(the record, the warnings of each measurement) after these cosines at steps 500, 1000, ...; saved in between."""
    conflicts, said = Conflicts(), []
    for number, cosine in enumerate(masked_and_position, start=1):
        cosine_KK = np.ones((3, 3), np.float32)
        cosine_KK[1, 2] = cosine_KK[2, 1] = cosine
        conflicts, warnings = conflicts.note(500 * number, NAMES, cosine_KK)
        conflicts = Conflicts(**json.loads(json.dumps(conflicts.as_json())))
        said.append(warnings)
    return conflicts, said


def test_a_pair_is_told_of_once_when_three_measurements_in_a_row_are_bad():
    _, said = noted(-0.23, -0.31)
    assert said == [[], []]
    _, said = noted(-0.23, -0.31, -0.18, -0.5, -0.5, -0.5, 0.5, -0.5, -0.5, -0.5)
    assert [len(warnings) for warnings in said] == [0, 0, 1] + [0] * 7
    assert "masked_lm and position" in said[2][0]
    assert "cosine -0.23, -0.31, -0.18 at steps 500, 1000, 1500" in said[2][0]


@pytest.mark.parametrize("better", [-0.09, 0.9])
def test_a_pair_that_recovers_begins_anew(better):
    conflicts, said = noted(-0.2, -0.2, better)
    assert conflicts == Conflicts()
    _, said = noted(-0.2, -0.2, better, -0.2, -0.2)
    assert not any(said)
    _, said = noted(-0.2, -0.2, better, -0.2, -0.2, -0.2)
    assert "2000, 2500, 3000" in said[5][0]


def test_a_measurement_without_one_of_the_two_says_nothing():
    _, said = noted(-0.2, -0.2, float("nan"), -0.2)
    assert [len(warnings) for warnings in said] == [0, 0, 0, 1]


def test_pairs_are_counted_apart():
    conflicts = Conflicts()
    for step in (1, 2, 3):
        cosine = np.full((3, 3), -0.5)
        cosine[0, 1] = 0.5 if step == 2 else -0.5
        conflicts, said = conflicts.note(step, NAMES, cosine)
    assert [warning.split(" pull")[0] for warning in said] == ["causal_lm and position", "masked_lm and position"]
