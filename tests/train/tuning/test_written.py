"""Answers where one is right: which examples are answered, what stands beside, and what the report shows of it."""

import dataclasses
import json
import sys
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from data.examples.example_spec import ExamplesSpec
from data.examples.preparing import Talks, prepare_examples
from data.spec import DataSpec
from gptjax.evaluation.text_figures import text_figures
from gptjax.files.plain_json import dumps
from gptjax.inference.generation_config import GenerationConfig
from gptjax.inference.language_model import LanguageModel
from tests.tiny_run import bpe, random_model
from train.report.report_written import written, written_rows
from train.tuning import finetune
from train.tuning.replies import Speaker
from train.tuning.retrieval import Lookup, training_pairs
from train.tuning.tune_recipe import TuneRecipe
from train.tuning.written import (
    AFTER,
    BEFORE,
    COPY,
    FIRST,
    LOOKED_UP,
    behind,
    first_sentence,
    held_out_items,
    written_figures,
)  # fmt: skip

WORDS = ["hello", "there", "the", "quick", "brown", "fox", "jumps", "over", "lazy", "dog"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Prepared pairs of source and target, and talks, of which no answer is right."""
    made = tmp_path_factory.mktemp("written")
    draw = np.random.default_rng(0)
    texts = sorted({" ".join(draw.choice(WORDS, 4)) for _ in range(24)})
    lines = [{"source": f"{text}. {text[:5]}", "target": text[::-1]} for text in texts]
    (made / "pairs.jsonl").write_text("".join(f"{dumps(line)}\n" for line in lines))
    said = [{"role": "user", "content": "hello"}, {"role": "assistant", "content": "there"}]
    talks = [{"messages": [{**said[0], "content": f"hello {n}"}, said[1]]} for n in range(12)]
    (made / "talks.jsonl").write_text("".join(f"{dumps(talk)}\n" for talk in talks))
    sources = tuple(str(made / name) for name in ("pairs.jsonl", "talks.jsonl"))
    spec = ExamplesSpec(sources=sources, held_out=5)
    talking = Talks(bpe(), GenerationConfig.of_turns(bpe()))
    return prepare_examples(spec, talking, 128, made / "prepared", running=None, replay=0.0)


def speaker(model) -> Speaker:
    talks = GenerationConfig.of_turns(model.tokenizer)
    return Speaker(LanguageModel(model.config, model.tokenizer, model.params, generation_config=talks))


def test_examples_of_a_form_with_one_right_answer_are_answered_and_no_others(folder):
    [(source, (form, items))] = held_out_items(folder, 100).items()
    assert source.endswith("pairs.jsonl")
    assert form == "source_target"
    assert 1 < len(items) <= 5
    assert all(item.wanted == item.source.split(".")[0][::-1] for item in items)
    assert held_out_items(folder, 1)[source][1] == items[:1]
    pairs = training_pairs(folder, source, bpe())
    assert len(pairs) + len(items) == 24 or len(pairs) >= 18
    assert all(answer == asked.split(".")[0][::-1] for asked, answer in pairs)
    assert not {asked for asked, _ in pairs} & {item.source for item in items}


def test_figures_are_those_of_what_is_written_beside_baselines(folder):
    """Of two models that write something; the baselines by hand; and the ten shown are the first."""
    model = random_model(T=256)
    found = written_figures(folder, {AFTER: speaker(model), BEFORE: Speaker(model)}, 3, pytest.fail)
    [(source, of_source)] = found.items()
    _, items = held_out_items(folder, 3)[source]
    names = ("bleu", "chrf", "rouge1", "rouge2", "rougeL")
    assert list(of_source["figures"]) == [AFTER, BEFORE, COPY, FIRST, LOOKED_UP]
    wanted = [item.wanted for item in items]
    for who, texts in (
        (COPY, [item.source for item in items]),
        (FIRST, [item.source.split(".")[0] + "." for item in items]),
        (AFTER, [sample[AFTER] for sample in of_source["samples"]]),
    ):
        assert of_source["figures"][who] == text_figures(names, texts, wanted)
    alone = speaker(model).write([items[0].messages], of_source["tokens"])
    assert of_source["samples"][0] == {
        "source": items[0].source, "wanted": wanted[0], AFTER: alone[0].strip(),
        BEFORE: of_source["samples"][0][BEFORE],
    }  # fmt: skip
    assert json.loads(dumps(found)) == found
    page = written(found)
    assert page.count("<tr>") == 1 + len(names) + 1 + len(items)
    assert "ROUGE-L" in page
    assert written({}) == ""
    assert [row[0] for row in written_rows(of_source)] == ["", "BLEU", "chrF", "ROUGE-1", "ROUGE-2", "ROUGE-L"]


def test_without_sacrebleu_the_other_figures_are_told_and_what_is_missing_before_training(folder, monkeypatch):
    recipe = TuneRecipe(base="a base", data=DataSpec(sources=("chitchat",)), run=Path("run"), steps=200)
    monkeypatch.setattr(finetune, "prepared_examples", lambda _: folder)
    monkeypatch.setattr(finetune, "running_text", lambda _: folder)
    monkeypatch.setattr(finetune, "talks_of", lambda _: Talks(bpe(), GenerationConfig.of_turns(bpe())))

    def told(recipe) -> str:
        console = Console(record=True, width=200)
        finetune.tell(recipe, console)
        return console.export_text()

    assert "sacrebleu" not in told(recipe)
    monkeypatch.setitem(sys.modules, "sacrebleu", None)  # as if it were not installed
    assert "not be measured by BLEU and chrF, which sacrebleu computes: pip install sacrebleu" in told(recipe)
    none = dataclasses.replace(recipe.examples, answered=0)
    assert "sacrebleu" not in told(dataclasses.replace(recipe, examples=none))
    [of_source] = written_figures(folder, {AFTER: Speaker(random_model(T=256))}, 2, pytest.fail).values()
    assert list(of_source["figures"][COPY]) == ["rouge1", "rouge2", "rougeL"]


def test_an_example_that_leaves_no_room_is_left_out_and_that_is_said(folder):
    told: list[str] = []
    assert written_figures(folder, {AFTER: speaker(random_model(T=48))}, 3, told.append) == {}
    assert "no held-out example leaves room for an answer of" in told[0]


def test_where_a_baseline_is_as_good_a_line_says_so():
    figures = {AFTER: {"f1": 50.0}, BEFORE: {"f1": 20.0}, COPY: {"f1": 50.0}}
    assert behind(figures) == [f"{COPY}: f1 50.0, not less than 50.0"]
    assert not behind({**figures, COPY: {"f1": 49.0}})


def _sublinear(count: np.ndarray) -> np.ndarray:
    return np.where(count > 0, 1 + np.log(np.maximum(count, 1)), 0)


def test_the_nearest_text_is_that_of_the_highest_cosine():
    """Of 30 texts by dense vectors, as scikit-learn weighs them with sublinear_tf; Chinese by characters."""
    draw = np.random.default_rng(0)
    texts = [" ".join(draw.choice(WORDS, 5)) for _ in range(30)]
    count = np.array([[text.split().count(word) for word in WORDS] for text in texts], float)
    idf = np.log((1 + 30) / (1 + (count > 0).sum(0))) + 1
    weights = _sublinear(count) * idf
    weights /= np.linalg.norm(weights, axis=1, keepdims=True)
    lookup = Lookup(texts)
    for _ in range(20):
        asked = " ".join(draw.choice(WORDS, 4))
        cosine = weights @ (_sublinear(np.array([asked.split().count(word) for word in WORDS])) * idf)
        assert cosine[lookup.nearest(asked)] == pytest.approx(cosine.max())
    assert Lookup(["天气好", "看电影"]).nearest("电影") == 1
    assert lookup.nearest("nothing of these") == 0


def test_a_first_sentence_ends_where_one_does():
    assert first_sentence(" One is here. Two is not.\nThree") == "One is here."
    assert first_sentence("今天天气好。我们去公园。") == "今天天气好。"
    assert first_sentence("no end") == "no end"
