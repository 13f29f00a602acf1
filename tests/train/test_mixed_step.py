"""One step of several tasks is the sum of steps of one: whatever the mesh, the micro-batches and what is absent."""

import functools
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gptjax.batch import Batch
from gptjax.config import ClassHead, ModelConfig
from gptjax.nn.model import Transformer
from gptjax.sharding import make_mesh
from tests.train.test_step import adam, equal, stop_flag
from train.objectives import LossSpec, Term
from train.recipe import OptimizerSpec
from train.step import State, abstract_state, make_train_step

T, ROWS, C = 16, 8, 2
HEADS = {"position": ("a", "b", "c", "d"), "continuity": ("next", "swapped", "random")}
CONFIG = ModelConfig(
    T=T, D=32, L=1, N=8, K=8, head_width=4, F=64, vocabulary=1000, tied=False,
    class_heads=tuple(ClassHead(name=name, classes=classes) for name, classes in HEADS.items()),
)  # fmt: skip
SPEC = OptimizerSpec(learning_rate=3e-3, warmup=0, clip=1e9, schedule="constant")
STEPS, SPARSE, DENSE = 100, 40, 60  # of the run; steps in its first and in its second phase
LAMBDA = (1.0, 0.5, 2.0, 0.25)


def terms() -> tuple[Term, ...]:
    """Words, masked words, positions by a head of their own, and a class of a whole segment.

    At step k of 0 to 3 term k alone has weight, from step 10 on all have theirs, at step 90 the third has lost its own.
    The third is rare: 0.9 targets a step are expected in the first half, 9 in the second.
    """
    shares = (0.0, 0.01, 0.02, 0.03, 0.1, 0.7, 0.9)
    alone = np.eye(4).tolist()
    made = []
    for k, (name, head) in enumerate({"causal_lm": None, "masked_lm": None, "position": 0, "continuity": 1}.items()):
        weights = (*alone[k], LAMBDA[k], LAMBDA[k], 0.0 if name == "position" else LAMBDA[k])
        expected = (0.9, 9.0) if name == "position" else None
        made.append(Term(name, k + 1, head, "classes" if name == "continuity" else "tokens", shares, weights, expected))
    return tuple(made)


def loss_spec(combine: Any = "static", only: int | None = None) -> LossSpec:
    found = terms() if only is None else terms()[only : only + 1]
    return LossSpec(terms=found, heads=HEADS, phases=(0.0, 0.5), combine=combine, targets=C)


def batch_of(A: int = 1, only: int | None = None, without: tuple[int, ...] = (), seed: int = 0) -> Batch:
    """Two rows a task, [A, 8 / A, T]: uneven numbers of targets, so that most micro-batches lack most tasks.

    `only`, `without`: the weights of other tasks, or of these, are 0; the rows stay what they are.
    """
    draw = np.random.default_rng(seed)
    task = np.repeat(np.arange(4), 2)
    kept = np.array([(only is None or k == only) and k not in without for k in task])
    place = np.broadcast_to(np.arange(T, dtype=np.int32), (ROWS, T))
    weights = (place < np.array([15, 3, 2, 5, 8, 1, 0, 0])[:, None]) & kept[:, None]
    targets = np.where(task[:, None] == 2, draw.integers(0, 4, (ROWS, T)), draw.integers(4, 1000, (ROWS, T)))
    label_weight = (task[:, None] == 3) & kept[:, None] & (np.arange(C) < np.array([0] * 6 + [2, 1])[:, None])
    batch = Batch(
        tokens_BT=draw.integers(4, 1000, (ROWS, T), dtype=np.int32), targets_BT=targets.astype(np.int32),
        weights_BT=weights.astype(np.float32), task_BT=np.broadcast_to(task[:, None] + 1, (ROWS, T)).astype(np.int32),
        segment_BT=np.ones((ROWS, T), np.int32), position_BT=place,
        visible_BT=np.broadcast_to(task[:, None] > 0, (ROWS, T)),
        label_BQ=draw.integers(0, 3, (ROWS, C), dtype=np.int32), value_BQ=np.zeros((ROWS, C), np.float32),
        at_BQ=np.full((ROWS, C), T - 1, np.int32),
        head_BQ=np.ones((ROWS, C), np.int32), label_weight_BQ=label_weight.astype(np.float32),
    )  # fmt: skip
    return Batch(*(array.reshape(A, ROWS // A, *array.shape[1:]) for array in batch))


ALONE, SPREAD, IN_PARTS = ((1, 1, 1), 1), ((2, 2, 2), 1), ((2, 1, 1), 4)  # devices, micro-batches


class Compiled(NamedTuple):
    mesh: Any
    start: State
    step: Any


@functools.cache
def compiled(loss_spec: Any, shape: tuple[int, int, int] = (1, 1, 1), A: int = 1) -> Compiled:
    mesh, model = make_mesh(*shape, devices=jax.devices()[: math.prod(shape)]), Transformer(CONFIG)
    with jax.set_mesh(mesh):
        abstract, fresh = abstract_state(model, SPEC, loss_spec(), STEPS, mesh, seed=0)
        return Compiled(
            mesh, fresh(), make_train_step(model, SPEC, loss_spec(), STEPS, abstract, mesh, ROWS // A, seed=0)
        )


mixed = loss_spec
single = tuple(functools.partial(loss_spec, only=k) for k in range(4))
famo, pcgrad = functools.partial(loss_spec, "famo"), functools.partial(loss_spec, "pcgrad")


def once(parts: Compiled, batch: Batch, number: int = DENSE, state: State | None = None) -> tuple[State, Any, Any]:
    """(state, metrics, gradient) of step `number`, from the first state or another, which is kept."""
    state = jax.tree.map(jnp.copy, parts.start if state is None else state)
    before = jax.device_get(adam(state).mu)
    with jax.set_mesh(parts.mesh):
        place = jax.tree.map(lambda leaf: leaf.sharding, state.step)
        state, metrics = parts.step(
            state._replace(step=jax.device_put(np.int32(number), place)), jax.device_put(batch), stop_flag(parts.mesh)
        )
    after = jax.device_get(adam(state).mu)
    gradient = jax.tree.map(lambda a, b: (a - SPEC.beta1 * b) / (1 - SPEC.beta1), after, before)
    return state, jax.device_get(metrics), gradient


def assert_near(found, wanted, least: float = 0.0) -> None:
    """Every leaf within 1e-5 of its length."""
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(wanted), strict=True):
        assert np.linalg.norm(a - b) <= 1e-5 * np.linalg.norm(b) + 1e-9
        assert np.linalg.norm(b) >= least


def norm(tree) -> float:
    return math.sqrt(sum(float(np.sum(np.square(leaf))) for leaf in jax.tree.leaves(tree)))


@pytest.mark.parametrize(("shape", "A"), [ALONE, SPREAD, IN_PARTS])
def test_losses_and_gradients_of_a_mixed_step_are_those_of_steps_of_one_task_each(shape, A):
    """Figure 1; traps 3, 4, 5 and 6: same normalisers, uneven rows, tasks absent from a micro-batch or device."""
    parts, gradients = compiled(mixed, shape, A), []
    for k, term in enumerate(terms()):
        _, wanted, gradient = once(compiled(single[k]), batch_of(only=k), number=k)
        _, found, same = once(parts, batch_of(A), number=k)
        for name in (f"loss/{term.name}", f"weight/{term.name}"):
            np.testing.assert_allclose(found[name], wanted[name], rtol=1e-5)
        assert_near(same, gradient)
        assert norm(gradient) > 1e-3
        gradients.append(gradient if term.expected is None else jax.tree.map(lambda leaf: leaf / 10, gradient))
    _, _, whole = once(parts, batch_of(A), number=DENSE)
    assert_near(whole, jax.tree.map(lambda *leaves: sum(map(np.multiply, LAMBDA, leaves)), *gradients), least=1e-3)
    assert parts.step._cache_size() == 1


def loops_in(parts: Compiled) -> int:
    with jax.set_mesh(parts.mesh):
        return str(parts.step.trace(parts.start, batch_of(), stop_flag(parts.mesh)).jaxpr).count("while[")


def sparse() -> LossSpec:
    """The mixed step again, told that few positions are targets."""
    return mixed()._replace(terms=tuple(term._replace(sparse=term.head is None) for term in terms()))


@pytest.mark.parametrize(("shape", "A"), [ALONE, SPREAD, IN_PARTS])
def test_a_step_that_scores_its_targets_alone_is_the_step_that_scores_all(shape, A):
    """Within 1e-5 in every loss and gradient, also where no target is for the head of the tokens."""
    for without in ((), (0, 1)):
        _, wanted, gradient = once(compiled(mixed), batch_of(without=without))
        _, found, same = once(compiled(sparse, shape, A), batch_of(A, without=without))
        for term in terms():
            np.testing.assert_allclose(found[f"loss/{term.name}"], wanted[f"loss/{term.name}"], rtol=1e-5)
        assert_near(same, gradient)
        assert norm(gradient) > 1e-3
    loops = [loops_in(compiled(spec)) for spec in (sparse, mixed)]
    assert loops[0] == loops[1] + 2  # forward, and back


@pytest.mark.parametrize(("shape", "A"), [ALONE, IN_PARTS])
def test_a_task_that_is_absent_gives_finite_metrics_and_its_head_no_gradient(shape, A):
    """Trap 6: exactly 0, where it is not 0 when the task is there."""
    parts = compiled(mixed, shape, A)
    _, metrics, gradient = once(parts, batch_of(A, without=(2,)))
    _, _, there = once(parts, batch_of(A))
    for name in ("class_heads", "class_heads_bias"):
        assert not gradient[name][0].any()
        assert there[name][0, :, :4].any() if name == "class_heads" else there[name][0].any()
        assert gradient[name][1].any()
    assert all(np.isfinite(value).all() for value in metrics.values())
    assert metrics["weight/position"] == metrics["loss/position"] == 0
    _, nothing, none = once(parts, batch_of(A, without=(0, 1, 2, 3)))
    assert nothing["loss"] == norm(none) == 0


def test_a_weight_that_has_come_down_to_zero_leaves_its_head_alone():
    """Halfway down it pulls half as hard; the number of its targets and its loss are still told."""
    parts = compiled(mixed)
    at = {number: once(parts, batch_of(), number) for number in (70, 80, 90)}
    heads = {number: gradient["class_heads"] for number, (_, _, gradient) in at.items()}
    np.testing.assert_allclose(heads[80][0], heads[70][0] / 2, rtol=1e-4, atol=1e-9)
    np.testing.assert_allclose(heads[80][1], heads[70][1], rtol=1e-5, atol=1e-9)
    assert not heads[90][0].any()
    assert [round(float(metrics["coefficient/position"]), 5) for _, metrics, _ in at.values()] == [2, 1, 0]
    assert at[90][1]["loss/position"] == at[70][1]["loss/position"] > 0


def test_a_rare_task_in_one_of_ten_steps_has_on_average_the_gradient_of_the_dense_run():
    """Trap 40: 9 targets in one step of ten, 0.9 expected; and in each of ten, 9 expected."""
    parts = compiled(mixed)
    _, _, other = once(parts, batch_of(without=(2,)), SPARSE)
    _, _, rare = once(parts, batch_of(), SPARSE)
    _, _, dense = once(parts, batch_of(), DENSE)
    assert_near(jax.tree.map(lambda a, b: (9 * a + b) / 10, other, rare), dense)
    assert norm(dense["class_heads"][0]) > 1e-3


def test_all_phases_absences_and_weights_are_one_compilation():
    """Trap 26."""
    parts = compiled(mixed)
    for number, batch in ((0, batch_of()), (49, batch_of(without=(2,))), (50, batch_of(seed=1)), (99, batch_of())):
        once(parts, batch, number)
    assert parts.step._cache_size() == 1


def test_what_a_combiner_knows_is_left_alone_by_a_step_that_is_no_number():
    """And changed by one that is; and of a term that is absent nothing new is known."""
    parts = compiled(famo)
    known, metrics, _ = once(parts, batch_of())
    assert not equal(known.combiner, parts.start.combiner)
    broken = batch_of()
    broken.weights_BT[0, 0, 0] = np.nan
    after, metrics, _ = once(parts, broken, state=known)
    assert metrics["skipped"]
    assert equal((after.combiner, after.params), (known.combiner, known.params))
    after, metrics, _ = once(parts, batch_of(without=(2,)), state=known)
    assert not metrics["skipped"]
    changed = np.asarray(after.combiner["loss"]) != np.asarray(known.combiner["loss"])
    assert changed.tolist() == [True, True, False, True]
    assert not np.allclose([metrics[f"coefficient/{term.name}"] for term in terms()], LAMBDA)


def test_pcgrad_is_the_same_on_one_and_on_eight_devices():
    """Trap 36: what is projected is the whole step's gradient; and something is."""
    batch = batch_of(seed=1)
    _, metrics, alone = once(compiled(pcgrad), batch)
    _, found, gradient = once(compiled(pcgrad, *SPREAD), batch)
    np.testing.assert_allclose(found["loss"], metrics["loss"], rtol=1e-5)
    assert_near(gradient, alone, least=1e-3)
    _, _, plain = once(compiled(mixed), batch)
    assert norm(jax.tree.map(np.subtract, alone, plain)) > 2e-4 * norm(plain)
