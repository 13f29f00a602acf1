"""Held-out scores: every target once, whatever the batches; baselines checked by hand; the same every time."""

import dataclasses
from typing import Any, NamedTuple

import jax
import numpy as np
import pytest

from data.rows.rows import Builder, HeldOutRows, Rows, open_corpus
from data.tasks.causal_lm import CausalLM
from data.tasks.continuity import Continuity
from data.tasks.order import Order
from data.tasks.position import Position
from gptjax.inference.generation_config import GenerationConfig
from gptjax.sharding import make_mesh
from gptjax.text.tokenizer import train_bpe
from tests.tiny_recipe import recipe
from tests.tiny_text import stories, write_prepared
from train.assemble import Assembly, Text, assemble
from train.losses.terms import term_sums
from train.measuring.validate import HeldOut, overall
from train.objectives import Objectives, loss_spec
from train.recipe import BatchSpec, MeshSpec
from train.record.metrics import Findings, Score, TermScore

T, B = 64, 4
OBJECTIVES = Objectives(
    causal_lm=CausalLM(rows=0.4), position=Position(rows=0.2), order=Order(rows=0.2, sources=("q",)),
    continuity=Continuity(rows=0.2, shortest=8, longest=24),
)  # fmt: skip
MOST, TASK_ROWS = B + 3, 2 * (B + 3)  # rows of each source; of each task, over two sources


class Setting(NamedTuple):
    parts: Assembly
    text: Text
    params: Any


@pytest.fixture(scope="module")
def setting(tmp_path_factory):
    folder = tmp_path_factory.mktemp("validate")
    texts = {"p": stories(60, 20), "q": stories(60, 20, seed=1)}
    tokenizer = train_bpe([*texts["p"], *texts["q"]], 400)  # a word is a token: blocks of few hold sentences
    prepared = write_prepared(folder / "prepared", texts, tokenizer=tokenizer)
    rows = Rows(prepared, T, 0, None, OBJECTIVES.tasks)
    settings = recipe(folder, "run", objectives=OBJECTIVES, batch=BatchSpec(rows=B), mesh=MeshSpec(data=1))
    settings = dataclasses.replace(settings, model=dataclasses.replace(settings.model, T=T, L=1))
    mesh = make_mesh(devices=jax.devices()[:1])
    talks = GenerationConfig.of_runs(rows.corpus.tokenizer)
    text = Text(prepared, rows.corpus.tokenizer, rows, loss_spec(rows, B, "static"), talks)
    with jax.set_mesh(mesh):
        parts = assemble(settings, text.tokenizer.size, text.loss_spec, mesh)
        params = jax.tree.map(lambda leaf: leaf * 4, parts.fresh().params)
    return Setting(parts, text, params)


def measure(setting: Setting, held_out: Any = None, params: Any = None, stop: bool = False) -> Findings | None:
    with jax.set_mesh(setting.parts.mesh):
        held_out = held_out or HeldOut(setting.parts, setting.text)
        stop_flag = lambda: setting.parts.stop_flag(stop)  # noqa: E731
        return held_out.findings(params or setting.params, MOST, TASK_ROWS, stop_flag, lambda: None)


@pytest.fixture(scope="module")
def found(setting):
    return measure(setting)


def rows_of(setting: Setting, name: str) -> dict[str, HeldOutRows]:
    """The rows that a measurement reads, by source."""
    corpus = open_corpus(setting.text.prepared, "validation")
    builder, sources = Builder(corpus, OBJECTIVES.tasks, T), ("q",) if name == "order" else ("p", "q")
    most = MOST if name == "causal_lm" else TASK_ROWS // len(sources)
    return {source: HeldOutRows(corpus, "pq".index(source), builder, name, T, most) for source in sources}


def test_rows_measured_in_batches_of_which_the_last_is_short_are_rows_measured_one_by_one(setting, found):
    """Trap 31: 4 + 3 rows of each source; every loss and accuracy is a sum over targets, never a mean of means."""
    parts = setting.parts
    terms = parts.loss_spec.terms
    score = jax.jit(lambda params, batch: term_sums(params, parts.model, batch, terms, 1))
    for term in terms:
        sums = {}
        for source, rows in rows_of(setting, term.name).items():
            assert rows.count == (2 * MOST if term.name == "order" else MOST)
            with jax.set_mesh(parts.mesh):
                each = [jax.device_get(score(setting.params, rows.batch(np.array([r])))) for r in range(rows.count)]
            own = [[one[term.name][what] for what in ("loss", "weight", "correct")] for one in each]
            sums[source] = np.sum(own, axis=0, dtype=np.float64)
        if term.name == "causal_lm":
            for source, (nll, targets, _) in sums.items():
                assert found.sources[source].loss == pytest.approx(nll / targets, rel=1e-5)
                assert found.sources[source].targets == targets
            continue
        nll, targets, correct = sum(sums.values())
        score_of_term = found.terms[term.name]
        assert score_of_term.loss == pytest.approx(nll / targets, rel=1e-5)
        assert (score_of_term.targets, score_of_term.measured["accuracy"]) == (
            targets,
            pytest.approx(correct / targets),
        )
        assert score_of_term.by_source == {
            source: (pytest.approx(correct / targets), targets) for source, (_, targets, correct) in sums.items()
        }


def test_bits_per_byte_are_of_the_bytes_of_the_targets(setting, found):
    tokenizer = setting.text.tokenizer
    for source, rows in rows_of(setting, "causal_lm").items():
        batch = rows.batch(np.arange(rows.count))
        score = found.sources[source]
        assert score.bytes == np.array(tokenizer.byte_lengths())[batch.targets_BT[batch.weights_BT > 0]].sum()
        assert score.bits_per_byte == pytest.approx(score.loss * score.targets / np.log(2) / score.bytes)


def test_baselines_are_correct_as_often_as_counted_by_hand(setting, found):
    """Of classes the commonest, of segments and of positions; of shuffled trigrams what stands there."""
    correct = total = 0
    labels, distances = [], []
    for name in ("order", "position", "continuity"):
        for rows in rows_of(setting, name).values():
            batch = rows.batch(np.arange(rows.count))
            labels += batch.label_BQ[batch.label_weight_BQ > 0].tolist()
            if name == "position":
                distances += batch.targets_BT[batch.weights_BT > 0].tolist()
            elif name == "order":
                for row, t in np.argwhere(batch.weights_BT > 0):
                    correct += batch.tokens_BT[row, (t + 1) % T] == batch.targets_BT[row, t]
                    total += 1
    for name, classes in (("continuity", labels), ("position", distances)):
        commonest = np.bincount(classes).max() / len(classes)
        assert found.terms[name].measured["baseline_accuracy"] == pytest.approx(commonest)
        assert found.terms[name].baseline == "always says what is commonest"
    assert found.terms["order"].measured["baseline_accuracy"] == pytest.approx(correct / total)
    assert found.terms["order"].baseline == "the token that stands there"
    assert 0 < found.terms["order"].measured["baseline_accuracy"] < 1


def labels_of(setting: Setting, name: str) -> list[int]:
    """How many targets of each class there are."""
    batches = [rows.batch(np.arange(rows.count)) for rows in rows_of(setting, name).values()]
    return np.bincount(np.concatenate([batch.label_BQ[batch.label_weight_BQ > 0] for batch in batches])).tolist()


def test_a_confusion_matrix_has_a_row_a_class_and_its_diagonal_counts_the_right_ones(setting, found):
    confusion = np.array(found.terms["continuity"].measured["confusion"])
    assert confusion.shape == (3, 3)
    assert confusion.sum(axis=1).tolist() == labels_of(setting, "continuity")
    assert np.trace(confusion) / confusion.sum() == pytest.approx(found.terms["continuity"].measured["accuracy"])
    assert confusion.sum(axis=0).tolist() != confusion.sum(axis=1).tolist()
    assert found.terms["order"].measured["confusion"] is None


def test_two_measurements_are_equal_and_those_of_a_run_with_another_seed_too(setting, found):
    """Traps 20 and 32: no dropout, no chance, nothing of the run; other parameters move all."""
    assert setting.parts.recipe.model.dropout > 0
    held_out = HeldOut(setting.parts, setting.text)
    assert measure(setting, held_out) == measure(setting, held_out) == found
    other = setting.text._replace(rows=Rows(setting.text.prepared, T, 1, 10**6, OBJECTIVES.tasks))
    assert measure(setting._replace(text=other)) == found
    moved = measure(setting, params=jax.tree.map(lambda leaf: leaf / 2, setting.params))
    assert not any(moved.sources[source].loss == score.loss for source, score in found.sources.items())
    assert not any(moved.terms[term].loss == score.loss for term, score in found.terms.items())


def test_asked_to_stop_it_finds_nothing(setting):
    assert measure(setting, stop=True) is None


def test_one_number_for_a_measurement_is_that_of_next_words_else_of_the_terms_by_weight(setting):
    score, of_term = Score(2.0, 0.0, 0.0, 1, 1), TermScore(loss=1.0, targets=1)
    both = Findings({"p": score, "q": score._replace(loss=4.0)}, {"order": of_term})
    terms = setting.parts.loss_spec.terms
    assert overall(both, {"p": 3, "q": 1}, terms) == (3 * 2 + 4) / 4
    without = Findings({}, {"order": of_term, "continuity": of_term._replace(loss=5.0)})
    assert overall(without, {"p": 3, "q": 1}, terms) == pytest.approx(0.2 * 1 + 0.2 * 5)
