"""Class heads: the states that are read are exact, the loss is optax's, and padding of the bank never learns."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from gptjax.config import ClassHead, ModelConfig
from gptjax.nn.class_heads import class_logits, class_nll, pair_states, states_at
from gptjax.sharding import batch_sharding, make_mesh
from train.planning.hlo import COLLECTIVES

CONFIG = ModelConfig(
    T=8, D=16, L=1, N=2, K=2, F=16, vocabulary=100,
    class_heads=(ClassHead(name="two", classes=("a", "b")), ClassHead(name="five", classes=tuple("abcde"))),
)  # fmt: skip
KEYS = jax.random.split(jax.random.key(0), 4)
HIDDEN_BTD = jax.random.normal(KEYS[0], (3, 8, 16))
PARAMS = {
    "class_heads": jax.random.normal(KEYS[1], (2, 16, 5)),
    "class_heads_bias": jax.random.normal(KEYS[2], (2, 5)),
}


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_states_are_those_at_the_places_bit_for_bit_and_only_they_get_a_gradient(dtype):
    """A place that is asked for twice gets both."""
    hidden_BTD, at_BQ = HIDDEN_BTD.astype(dtype), jnp.array([[7, 0], [3, 3], [5, 6]])
    found, pull_back = jax.vjp(lambda hidden: states_at(hidden, at_BQ), hidden_BTD)
    np.testing.assert_array_equal(found, np.asarray(hidden_BTD)[np.arange(3)[:, None], at_BQ])
    assert found.dtype == dtype
    (gradient_BTD,) = pull_back(jnp.ones_like(found))
    asked_BT = np.zeros((3, 8))
    np.add.at(asked_BT, (np.arange(3)[:, None], np.asarray(at_BQ)), 1)
    np.testing.assert_array_equal(gradient_BTD[..., 0], asked_BT)


SEGMENT_BT = jnp.array([[1, 1, 1, 2, 2, 2, 2, 0], [1] * 8, [1, 1, 2, 2, 3, 3, 3, 3]])


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_a_pair_is_the_product_of_its_parts_mean_states(dtype):
    """Each mean at a root mean square of 1; the parts are those of one segment, cut at the place."""
    hidden_BTD = HIDDEN_BTD.astype(dtype)
    found = pair_states(hidden_BTD, SEGMENT_BT, jnp.array([[2, 5], [1, 7], [3, 6]]))
    assert found.dtype == dtype
    whole = np.asarray(hidden_BTD, np.float64)
    for (row, first, cut, stop), state in zip(
        [(0, 0, 2, 3), (0, 3, 5, 7), (1, 0, 1, 8), (1, 0, 7, 8), (2, 2, 3, 4), (2, 4, 6, 8)],
        np.asarray(found, np.float64).reshape(6, -1), strict=True,
    ):  # fmt: skip
        means = whole[row, first:cut].mean(0), whole[row, cut:stop].mean(0)
        wanted = np.prod([mean / np.sqrt(np.square(mean).mean()) for mean in means], axis=0)
        np.testing.assert_allclose(state, wanted, rtol=1e-5 if dtype == jnp.float32 else 0.02, atol=1e-5)


def test_a_pair_does_not_look_at_other_segments_and_is_the_same_on_eight_devices():
    """Of its own segment every state counts. Places of padding and of an empty part are finite."""
    at_BQ = jnp.array([[5, 7], [4, 0], [3, 5]])

    def of(hidden_BTD):
        return pair_states(hidden_BTD, SEGMENT_BT, at_BQ)

    slope_BTD = jax.grad(lambda hidden_BTD: of(hidden_BTD)[:, 0].sum())(HIDDEN_BTD)
    np.testing.assert_array_equal(np.abs(slope_BTD).max(-1) > 0, jnp.array([[2], [1], [2]]) == SEGMENT_BT)
    assert np.isfinite(of(HIDDEN_BTD)).all()
    mesh = make_mesh(2, 2, 2)
    many = (jnp.tile(array, (4,) + (1,) * (array.ndim - 1))[:8] for array in (HIDDEN_BTD, SEGMENT_BT, at_BQ))
    placed = [jax.device_put(array, batch_sharding(mesh)) for array in many]
    with jax.set_mesh(mesh):
        compiled = jax.jit(pair_states).lower(*placed).compile()
    np.testing.assert_allclose(np.asarray(compiled(*placed))[:3], of(HIDDEN_BTD), rtol=1e-5, atol=1e-5)
    assert not any(name in compiled.as_text() for name in COLLECTIVES)  # rows stay where they are


@pytest.mark.parametrize("head", [0, 1])
def test_nats_are_those_of_optax_over_the_heads_own_classes(head):
    count = len(CONFIG.class_heads[head].classes)
    label_BQ = jax.random.randint(KEYS[3], (3, 8), 0, count)
    logits_BQC = class_logits(PARAMS, CONFIG, HIDDEN_BTD, head)
    plain = jnp.matmul(HIDDEN_BTD, PARAMS["class_heads"][head], precision="highest")
    plain = plain + PARAMS["class_heads_bias"][head][None, None]
    np.testing.assert_allclose(logits_BQC, plain[..., :count], rtol=1e-5, atol=1e-5)
    wanted = optax.softmax_cross_entropy_with_integer_labels(plain[..., :count], label_BQ)
    np.testing.assert_allclose(class_nll(logits_BQC, label_BQ), wanted, rtol=1e-5, atol=1e-5)


def test_places_without_a_class_and_other_heads_get_no_gradient():
    """The head of two classes lies in a bank of five; what stands in the other places is not looked at."""
    label_BQ = jnp.zeros((3, 8), jnp.int32)

    def loss(params):
        return class_nll(class_logits(params, CONFIG, HIDDEN_BTD, 0), label_BQ).sum()

    gradient = jax.grad(loss)(PARAMS)
    for leaf in (gradient["class_heads"].swapaxes(1, 2), gradient["class_heads_bias"]):
        assert np.abs(leaf[0, :2]).min() > 0
        assert not leaf[0, 2:].any()
        assert not leaf[1].any()
    louder = jax.tree.map(lambda leaf: leaf.at[0, ..., 2:].set(1e9), PARAMS)
    assert loss(louder) == loss(PARAMS)


def test_scores_are_float32_under_bfloat16_and_near_those_of_float32():
    """Trap 37, of classes."""
    half = class_logits(PARAMS, CONFIG, HIDDEN_BTD.astype(jnp.bfloat16), 1)
    assert half.dtype == jnp.float32
    np.testing.assert_allclose(half, class_logits(PARAMS, CONFIG, HIDDEN_BTD, 1), atol=0.1)


def test_a_label_without_a_class_gives_a_finite_loss():
    """Padding slots have label 0 of head 0, whatever head looks at them; their weight is 0."""
    logits_BQC = class_logits(PARAMS, CONFIG, HIDDEN_BTD, 0)
    found = class_nll(logits_BQC, jnp.full((3, 8), 4))
    np.testing.assert_allclose(found, jax.nn.logsumexp(logits_BQC, axis=-1), rtol=1e-6)
