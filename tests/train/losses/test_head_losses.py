"""Losses of output heads against plain NumPy in float64: every kind and pooling, their gradients and their scores."""

import dataclasses
import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from gptjax.batch import Batch, ClassHead, text_batch
from gptjax.config import ModelConfig
from gptjax.nn.model import Transformer, init_params
from gptjax.sharding import batch_sharding, make_mesh
from tests.train.test_step import stop_flag
from train.losses.loss import Seen
from train.losses.table import loss_named
from train.losses.terms import term_losses
from train.objectives import LossSpec, Term
from train.recipe import OptimizerSpec
from train.step import abstract_state, make_train_step

KINDS, POOLS = ("classes", "labels", "values"), ("last", "mean", "attention")
SHAPE = {"T": 24, "D": 16, "L": 2, "N": 2, "K": 2, "F": 24, "vocabulary": 100}
SEGMENT_BT = np.array([[1] * 9 + [2] * 12 + [0] * 3, [1] * 5 + [2] * 7 + [3] * 11 + [0]])
AT_BQ = np.array([[8, 20, 20, 0], [4, 11, 22, 22]])  # a segment may have two targets
WEIGHT_BQ = np.array([[1.0, 0.5, 2.0, 0.0], [1.0, 3.0, 0.25, 1.0]])
LABEL_BQ = np.array([[0, 2, 1, 0], [1, 2, 0, 2]])
LABELS = (  # the same of labels: of a segment all three, one after another
    np.array([[8, 8, 8, 20, 20, 20, 0], [4, 4, 4, 22, 22, 22, 0]]),
    np.array([[1.0, 0.5, 2.0, 1.0, 1.0, 0.25, 0.0], [1.0, 3.0, 0.25, 1.0, 0.0, 1.0, 0.0]]),
    np.array([[0, 1, 2, 0, 1, 2, 0]] * 2),
)


def head(kind, pool, name="judge"):
    return ClassHead(name=name, classes=("a",) if kind == "values" else ("a", "b", "c"), kind=kind, pool=pool)


def term_of(number: int, kind: str, **settings) -> Term:
    return Term(f"t{number}", 1, number, kind, shares=(0.0,), weights=(1.0,), expected=None, **settings)


def targets_of(kind):
    """(at, weight, label) of every target, [B, Q]."""
    return LABELS if kind == "labels" else (AT_BQ, WEIGHT_BQ, LABEL_BQ)


def batch_of(kind, values_BQ, head=0) -> Batch:
    inside = (SEGMENT_BT > 0).astype(np.int32)
    draw = np.random.default_rng(4)
    tokens = draw.integers(3, 100, SEGMENT_BT.shape, dtype=np.int32) * inside
    place = np.concatenate([np.arange(n) for n in (9, 12, 3, 5, 7, 11, 1)]).reshape(2, 24).astype(np.int32)
    bare = text_batch(tokens, tokens, inside * 0.0, inside, SEGMENT_BT.astype(np.int32), place, inside > 0)
    at_BQ, weight_BQ, label_BQ = targets_of(kind)
    return bare._replace(
        label_BQ=label_BQ.astype(np.int32), value_BQ=np.asarray(values_BQ, np.float32), at_BQ=at_BQ.astype(np.int32),
        head_BQ=np.full(at_BQ.shape, head, np.int32), label_weight_BQ=weight_BQ.astype(np.float32),
    )  # fmt: skip


def drawn_values(kind):
    draw = np.random.default_rng(5).normal(size=targets_of(kind)[0].shape)
    return draw if kind == "values" else (draw > 0).astype(float)


def oracle(kind, pool, params, hidden_BTD, values_BQ, smoothing):
    """(loss, gradients of the bank, bias, query and states), by the formulas of a textbook."""
    bank_DC, bias_C, query_D = (np.asarray(params[name][0], np.float64) for name in sorted(params))
    of = {"bank": np.zeros_like(bank_DC), "bias": np.zeros_like(bias_C), "query": np.zeros_like(query_D)}
    of["hidden"], loss, D = np.zeros(hidden_BTD.shape), 0.0, len(query_D)
    at_BQ, weight_BQ, label_BQ = targets_of(kind)
    for b, q in itertools.product(range(2), range(at_BQ.shape[1])):
        own = np.flatnonzero(SEGMENT_BT[b] == SEGMENT_BT[b, at_BQ[b, q]])
        state_ID = np.asarray(hidden_BTD[b, own], np.float64)
        score_I = state_ID @ query_D / np.sqrt(D)
        share_I = {
            "last": (own == at_BQ[b, q]) * 1.0,
            "mean": np.full(len(own), 1 / len(own)),
            "attention": np.exp(score_I - score_I.max()) / np.exp(score_I - score_I.max()).sum(),
        }[pool]
        read_D = share_I @ state_ID
        z_C, label, value = read_D @ bank_DC + bias_C, label_BQ[b, q], values_BQ[b, q]
        slope_C = np.zeros_like(z_C)
        if kind == "classes":
            p_C = np.exp(z_C) / np.exp(z_C).sum()
            target_C = (1 - smoothing) * np.eye(3)[label] + smoothing / 3
            nats, slope_C = -(target_C * np.log(p_C)).sum(), p_C - target_C
        elif kind == "labels":
            p, target = 1 / (1 + np.exp(-z_C[label])), (1 - smoothing) * value + smoothing / 2
            nats = -(target * np.log(p) + (1 - target) * np.log(1 - p))
            slope_C[label] = p - target
        else:
            nats, slope_C[0] = (z_C[0] - value) ** 2, 2 * (z_C[0] - value)
        w = weight_BQ[b, q]
        loss += w * nats
        of["bank"] += w * np.outer(read_D, slope_C)
        of["bias"] += w * slope_C
        slope_D = w * bank_DC @ slope_C
        of["hidden"][b, own] += np.outer(share_I, slope_D)
        if pool == "attention":
            of_share_I = state_ID @ slope_D
            of_score_I = share_I * (of_share_I - share_I @ of_share_I) / np.sqrt(D)
            of["hidden"][b, own] += np.outer(of_score_I, query_D)
            of["query"] += of_score_I @ state_ID
    return loss, of


@pytest.mark.parametrize(("kind", "pool"), list(itertools.product(KINDS, POOLS)))
def test_losses_and_gradients_are_those_of_the_formulas(kind, pool):
    """Within 1e-5, with weights of classes and label smoothing; the smoothing does move them."""
    config = ModelConfig(**SHAPE, class_heads=(head(kind, pool),))
    draw = np.random.default_rng(1)
    shapes = {
        "class_heads": (1, 16, config.C), "class_heads_bias": (1, config.C), "class_heads_query": (1, 16)
    }  # fmt: skip
    params = {name: jnp.asarray(draw.normal(size=shape), jnp.float32) for name, shape in shapes.items()}
    hidden_BTD = jnp.asarray(draw.normal(size=(2, 24, 16)), jnp.float32)
    values_BQ = drawn_values(kind)
    batch, loss = jax.tree.map(jnp.asarray, batch_of(kind, values_BQ)), loss_named(kind)

    term = term_of(0, kind, smoothing=0.2)

    def summed(params, hidden_BTD):
        [loss_BQ] = loss.losses(Seen(params, config, batch, hidden_BTD, 1), [term])
        return jnp.sum(loss_BQ * loss.weights(batch, term))

    nats, (of_params, of_hidden) = jax.jit(jax.value_and_grad(summed, argnums=(0, 1)))(params, hidden_BTD)
    wanted, of = oracle(kind, pool, params, hidden_BTD, values_BQ, 0.2)
    assert nats == pytest.approx(wanted, rel=1e-5)
    gradients = {"bank": of_params["class_heads"][0], "bias": of_params["class_heads_bias"][0]}
    gradients |= {"query": of_params["class_heads_query"][0], "hidden": of_hidden}
    for name, wanted_gradient in of.items():
        np.testing.assert_allclose(gradients[name], wanted_gradient, atol=1e-5 * max(1, abs(wanted)), err_msg=name)
    assert (np.abs(of["query"]).max() > 1e-3) == (pool == "attention")
    if kind != "values":
        assert oracle(kind, pool, params, hidden_BTD, values_BQ, 0.0)[0] != pytest.approx(wanted, rel=1e-3)


BANK = (head("classes", "last", "one"), head("labels", "mean", "many"), head("values", "attention", "grade"))
CONFIG = ModelConfig(**SHAPE, class_heads=BANK)
MODEL = Transformer(CONFIG)
TERMS = [term_of(number, kind) for number, kind in enumerate(KINDS)]


@functools.cache
def params_of():
    params = jax.tree.map(lambda leaf: leaf * 5, nn.unbox(init_params(MODEL, jax.random.key(0))))
    query = jax.random.normal(jax.random.key(2), params["class_heads_query"].shape) * 3
    return params | {"class_heads_query": query}


def segments(*lengths: int, T: int = 24) -> Batch:
    """A row of texts for every head; what they are depends on their lengths alone."""
    tokens, segment, position = (np.zeros((3, T), np.int32) for _ in range(3))
    at, label, value, weight = (np.zeros((3, 3 * len(lengths))) for _ in range(4))
    start = 0
    for number, length in enumerate(lengths):
        place = slice(start, start + length)
        tokens[:, place] = (np.arange(length) * 7 + length * 13) % 100
        segment[:, place], position[:, place] = number + 1, np.arange(length)
        start += length
        for head, q in ((0, slice(number, number + 1)), (1, slice(3 * number, 3 * number + 3)), (2, number)):
            at[head, q], weight[head, q], value[head, q] = start - 1, 1, length % 2
            label[head, q] = (length % 3, np.arange(3), 0)[head]
    inside = (segment > 0).astype(np.int32)
    return text_batch(tokens, tokens, inside * 0.0, inside, segment, position, inside > 0)._replace(
        label_BQ=label.astype(np.int32), value_BQ=value.astype(np.float32), at_BQ=at.astype(np.int32),
        head_BQ=np.arange(3, dtype=np.int32)[:, None].repeat(at.shape[1], 1), label_weight_BQ=weight.astype(np.float32),
    )  # fmt: skip


def test_a_text_costs_the_same_alone_padded_and_packed():
    """Within 1e-5, of every kind and pooling; another text costs something else."""
    params = params_of()
    run = jax.jit(lambda batch: term_losses(params, MODEL, batch, TERMS, 1))
    alone = [run(segments(length, T=length)) for length in (9, 6)]
    padded = [run(segments(length)) for length in (9, 6)]
    np.testing.assert_allclose(padded, alone, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(run(segments(9, 6)), alone[0] + alone[1], rtol=1e-5, atol=1e-5)
    assert (np.abs(alone[0] - alone[1]) > 1e-3).all()


def test_what_a_head_reads_is_dropped_with_a_key_alone():
    """Another share of it for another key; without a share, and without a key, nothing."""
    batch, params = jax.tree.map(jnp.asarray, segments(9, 6)), params_of()
    dropped = [term._replace(dropout=0.5) for term in TERMS]

    def nats(terms, key):
        return np.asarray(jax.jit(lambda key: term_losses(params, MODEL, batch, terms, 1, key))(key))

    first, second, none = nats(dropped, jax.random.key(1)), nats(dropped, jax.random.key(2)), nats(dropped, None)
    assert (np.abs(first - second) > 1e-4).all()
    np.testing.assert_allclose(none, nats(TERMS, jax.random.key(1)), rtol=1e-6)
    assert (np.abs(first - none) > 1e-4).all()


def test_a_text_is_read_and_scored_once_whatever_the_number_of_its_labels():
    """Operations grow as the labels do, not as their square; the labels of a text lose the same states."""
    batch = jax.tree.map(jnp.asarray, segments(9, 6))
    hidden_BTD = jnp.asarray(np.random.default_rng(3).normal(size=(3, 24, 16)), jnp.float32)

    def flops(labels):
        config = ModelConfig(
            **SHAPE, class_heads=(ClassHead(name="many", classes=tuple(map(str, range(labels))), kind="labels"),)
        )
        wide = batch._replace(
            **{n: jnp.zeros((3, 2 * labels), getattr(batch, n).dtype) for n in batch._fields if n.endswith("_BQ")}
        )
        params = {"class_heads": jnp.zeros((1, 16, config.C)), "class_heads_bias": jnp.zeros((1, config.C))}
        run = jax.jit(
            lambda params: loss_named("labels").losses(
                Seen(params, config, wide, hidden_BTD, 1), [TERMS[1]._replace(head=0)]
            )
        )
        return run.lower(params).compile().cost_analysis()["flops"]

    assert flops(128) < 10 * flops(16)
    params = params_of() | {
        "class_heads": jnp.ones_like(params_of()["class_heads"]),
        "class_heads_bias": jnp.zeros((3, CONFIG.C)),
    }
    seen = Seen(params, CONFIG, batch, hidden_BTD, 1, jax.random.key(1))
    [nats_BQ] = loss_named("labels").losses(seen, [TERMS[1]._replace(dropout=0.5)])
    of_texts = np.asarray(nats_BQ[1]).reshape(2, 3)
    np.testing.assert_array_equal(of_texts, of_texts[:, :1].repeat(3, 1))
    assert abs(of_texts[0, 0] - of_texts[1, 0]) > 1e-3


def test_scores_count_every_target_once_in_the_users_units():
    """Weights of classes weigh the loss alone. Against the definitions, of all three kinds."""
    config = dataclasses.replace(CONFIG, class_heads=(*BANK[:2], dataclasses.replace(BANK[2], mean=3.0, scale=2.0)))
    draw = np.random.default_rng(7)
    hidden_BTD = jnp.asarray(draw.normal(size=(2, 24, 16)), jnp.float32)
    params = params_of()
    for number, kind in enumerate(KINDS):
        loss, true_BQ = loss_named(kind), drawn_values(kind)
        _, weight_BQ, label_BQ = targets_of(kind)
        batch, term = batch_of(kind, true_BQ, number), term_of(number, kind, scale=2.0)
        [sums] = loss.sums(Seen(params, config, jax.tree.map(jnp.asarray, batch), hidden_BTD, 1), [term])
        sums = {name: np.asarray(value, np.float64) for name, value in sums.items()}
        counts, details = weight_BQ > 0, loss.details(term, sums, config)
        name, baseline = loss.baseline(term, [batch], None, None)  # pyright: ignore[reportArgumentType]
        assert sums["weight"] == pytest.approx(weight_BQ.sum())
        if kind == "classes":
            confusion = np.array(details["confusion"])
            assert confusion.sum() == counts.sum() == 7
            assert loss.score(sums) == pytest.approx(np.trace(confusion) / 7)
            assert (confusion.sum(axis=1) == np.bincount(label_BQ[counts])).all()
            assert baseline == pytest.approx(3 / 7)
        elif kind == "labels":
            right, answered, true = (np.array(details[key]) for key in ("right", "answered", "true"))
            assert (true == np.bincount(label_BQ[counts], true_BQ[counts], minlength=3)).all()
            assert (right <= np.minimum(answered, true)).all()
            assert loss.score(sums) == pytest.approx(2 * right.sum() / (answered + true).sum())
            assert 0 < baseline <= 1
        else:
            true = true_BQ[counts]
            assert loss.score(sums) > 0
            assert details["r2"] == pytest.approx(1 - loss.score(sums) / (2.0 * true).var(), abs=1e-4)
            assert -1 <= details["pearson"] <= 1
            assert (name, baseline) == ("always says the mean", pytest.approx(4 * np.square(true).mean(), rel=1e-5))


def test_a_step_of_heads_alone_needs_no_backward_pass_through_the_layers():
    """It costs little more than one forward pass, and a step of all weights about three; only heads move."""
    config = dataclasses.replace(CONFIG, D=64, F=192, N=4, K=4, L=3)
    model = Transformer(config, unroll=3)
    mesh = make_mesh(1, 1, 1, devices=jax.devices()[:1])
    loss_spec = LossSpec(tuple(TERMS), config.class_heads, (0.0,), "static", 6)
    batch = jax.tree.map(lambda *rows: np.concatenate(rows)[None], *[segments(9, 6) for _ in range(2)])
    flops = {}
    for name, frozen in {"all": ((".*", 0.0),), "heads": (("class_heads.*", 0.0), (".*", 1.0))}.items():
        spec = OptimizerSpec(learning_rate=1e-2, warmup=0, frozen=frozen)
        with jax.set_mesh(mesh):
            abstract, fresh = abstract_state(model, spec, loss_spec, 10, mesh, seed=0)
            step = make_train_step(model, spec, loss_spec, 10, abstract, mesh, 4, seed=0)
            compiled = step.lower(abstract, batch, stop_flag(mesh)).compile()
            flops[name] = compiled.cost_analysis()["flops"]
            before = jax.tree.map(np.asarray, fresh().params)
            state, _ = compiled(fresh(), jax.device_put(batch, batch_sharding(mesh, leading=1)), stop_flag(mesh))
        moved = {
            path for path, leaf in jax.tree_util.tree_leaves_with_path(state.params)
            if not np.array_equal(leaf, dict_at(before, path))
        }  # fmt: skip
        assert all("class_heads" in str(path[0]) for path in moved) == (name == "heads")
        assert any("class_heads_query" in str(path[0]) for path in moved)
    one = jax.tree.map(lambda array: array[0], batch)
    forward = jax.jit(lambda params, batch: term_losses(params, model, batch, TERMS, 1))
    once = forward.lower(abstract.params, one).compile().cost_analysis()["flops"]
    assert flops["heads"] < 1.25 * once
    assert flops["all"] > 2.5 * once


def dict_at(tree, path):
    for step in path:
        tree = tree[step.key]
    return tree
