"""What a model answers where its tasks ask: examples of the held-out text, with its own answers."""

import dataclasses
import json
from pathlib import Path

import jax
import numpy as np
import pytest
from flax import linen as nn

from data.rows.rows import Builder, HeldOutRows, open_corpus
from data.tasks.classify import Classify
from data.tasks.continuity import Continuity
from gptjax.batch import Batch
from gptjax.inference.language_model import LanguageModel
from gptjax.inference.scoring import Row
from gptjax.nn.model import Transformer, init_params
from tests.tiny_recipe import recipe, write_text
from train.assemble import config_of, mesh_of, open_text
from train.losses.terms import term_answers
from train.objectives import Objectives
from train.report.report_tasks import examples
from train.report.task_examples import _of_tokens, write_task_examples

ROWS = ("causal_lm", "prefix_lm=0.1", "masked_lm=0.1", "position=0.1", "order=0.1", "continuity=0.1", "classify=0.1")


@pytest.fixture(scope="module")
def asked(tmp_path_factory):
    """(text of a run of all tasks, a random model for it, its examples)."""
    folder = write_text(tmp_path_factory.mktemp("asked"))
    tasks = {"continuity": Continuity(shortest=8, longest=48), "classify": Classify(labels=("source",), longest=48)}
    made = recipe(folder, "run", objectives=Objectives(rows=ROWS, **tasks))
    made = dataclasses.replace(made, model=dataclasses.replace(made.model, T=128, dropout=0.0))
    text = open_text(made)
    config = config_of(made, text.tokenizer.size, mesh_of(made), text.loss_spec.heads)
    params = nn.unbox(init_params(Transformer(config), jax.random.key(0)))
    model = LanguageModel(config, text.tokenizer, params)
    write_task_examples(folder, text.prepared, text.rows, text.loss_spec.terms, model)
    return text, model, json.loads((folder / "task_examples.json").read_text(encoding="utf-8"))


def test_every_task_that_does_not_continue_a_text_has_examples_with_answers(asked):
    text, _, found = asked
    assert set(found) == {term.name for term in text.loss_spec.terms} - {"causal_lm", "prefix_lm"}
    assert [one["source"] for one in found["masked_lm"]] == list(text.rows.sources)
    for of_term in found.values():
        assert all(any("said" in part for part in one["parts"]) for one in of_term)


def test_with_the_right_answers_put_in_an_example_is_held_out_text(asked):
    _, _, found = asked
    for term in ("masked_lm", "order"):
        for one in found[term]:
            whole = "".join(part.get("right", part["text"]) for part in one["parts"]).replace("⏎\n", "\n").strip("…")
            written = Path(one["source"].removeprefix("files:")).read_text(encoding="utf-8")
            assert whole.removeprefix("<|bos|>").removesuffix("<|eos|>") in written
            read = "".join(part["text"] for part in one["parts"])
            assert term == "order" or "<|mask|>" in read


def test_the_answers_are_those_of_the_models_own_scoring_from_both_sides(asked):
    text, model, _ = asked
    corpus, name = open_corpus(text.prepared, "validation"), "masked_lm"
    builder = Builder(corpus, text.rows.builder.tasks, text.rows.T)
    batch = HeldOutRows(corpus, 0, builder, name, text.rows.T, 1).batch(np.arange(1))
    terms = [term for term in text.loss_spec.terms if term.name == name]
    on_device = jax.tree.map(jax.numpy.asarray, batch)
    said_T = np.asarray(term_answers(model.params, Transformer(model.config), on_device, terms, 1)[name])[0]
    own_T = batch.segment_BT[0] == 1
    at = np.flatnonzero((batch.weights_BT[0] > 0) & own_T).tolist()
    ids = batch.tokens_BT[0][own_T].tolist()
    [scores] = model.score([Row(ids, at, [0] * len(at))], view="bidirectional")
    np.testing.assert_array_equal(said_T[at], scores.argmax)
    assert len(at) > 1


def test_a_run_of_next_words_alone_has_none(asked, tmp_path):
    text, model, _ = asked
    words = [term for term in text.loss_spec.terms if term.name == "causal_lm"]
    write_task_examples(tmp_path, text.prepared, text.rows, words, model)
    assert not list(tmp_path.iterdir())


def test_an_answer_that_looks_right_and_is_another_token_is_wrong(asked):
    """Parts of characters are all shown alike."""
    tokenizer = asked[0].tokenizer
    alike = [id for id in range(tokenizer.size) if tokenizer.token(id) == "�"]
    zeros = np.zeros((1, 4), np.int32)
    batch = Batch(*[zeros] * len(Batch._fields))._replace(
        tokens_BT=np.array([[tokenizer.bos, alike[0], tokenizer.mask, alike[0]]]), segment_BT=zeros + 1,
        weights_BT=np.array([[0, 1.0, 0, 0]]), targets_BT=np.array([[0, alike[0], 0, 0]]),
    )  # fmt: skip
    for said, is_right in ((alike[0], True), (alike[1], False)):
        [_, answer, _] = _of_tokens(batch, np.full((1, 4), said), None, tokenizer)
        assert answer["said"] == answer["right"] == "�"
        assert answer["is_right"] == is_right


def test_the_report_shows_a_right_answer_a_wrong_one_and_what_was_learnt():
    right, wrong = {"said": "x&", "right": "x&", "is_right": True}, {"said": "z", "right": "z", "is_right": False}
    parts = [{"text": "a <b>"}, {"text": "<mask>", **right}, {"text": "?", **wrong}]
    record = {
        "kind": "final_task", "step": 9, "task": "masked_lm", "loss": 1.0, "accuracy": 0.31, "targets": 1200,
        "baseline": "a guess", "baseline_accuracy": 0.14, "by_source": {}, "confusion": None, "classes": None,
    }  # fmt: skip
    shown = {"masked_lm": [{"source": "plays", "parts": parts}]}
    page = examples(shown, [record])
    assert "a &lt;b&gt;&lt;mask&gt; [<b>x&amp;</b> ✓]? [<s>z</s> ✗ <b>z</b>]" in page
    assert "has 14.0% right answers on held-out text; the model, with 31.0% of 1,200 targets, is better" in page
    assert "is no better than that" in examples(shown, [record | {"baseline_accuracy": 0.4}])
    assert examples({}, [record]) == ""
