"""Stages by words: each a run that begins where the one before ended, with the heads that it had."""

import json

import jax
import numpy as np
import pytest

from gptjax.batch import ClassHead
from gptjax.config import load_model_config
from gptjax.loading import abstract_params
from gptjax.runs.checkpoint import restore
from tests.tiny_recipe import recipe, steps_alone, write_text
from train.objectives import Objectives
from train.recipe import from_json, to_json
from train.tuning.base import open_base
from train.tuning.beginning import heads_taken
from train.tuning.finetune import chained, parse
from train.tuning.stages import stage_words, text_rows

WORDS = ("fox", "dog", "box", "quartz")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with text, a base with heads of its own in `base`, and labelled.jsonl."""
    made = write_text(tmp_path_factory.mktemp("staged"))
    steps_alone(
        recipe(made, "base", steps=2, objectives=Objectives(rows=("causal_lm=0.6", "masked_lm=0.2", "classify=0.2")))
    )
    lines = [json.dumps({"text": f"the {word} {n}", "label": word}) for n in range(12) for word in WORDS]
    (made / "labelled.jsonl").write_text("\n".join(lines))
    return made


def asked(folder, *words):
    return parse([
        str(folder / "base"), "--data", str(folder / "labelled.jsonl"), "--as", "classes", "--run", str(folder / "run"),
        "--data.prepared", str(folder / "prepared"), "--steps", "2", "--optimizer.warmup", "1", "--batch.rows", "8",
        "--mesh.data", "8", *words,
    ])[1]  # fmt: skip


def params_of(run, step):
    config = load_model_config(run / "model.json")
    tree = restore(run, step, "params", abstract_params(config, None))
    return {jax.tree_util.keystr(path): np.asarray(leaf) for path, leaf in jax.tree.leaves_with_path(tree)}


def test_text_then_head_then_layers_keeps_every_head_and_moves_what_its_stage_trains(folder):
    """Old heads stay bit for bit in all stages; the new one is made in the second and goes on in the third."""
    stages = chained(asked(folder, "--stages", "text,head,top-1"))
    assert [stage.run.name for stage in stages] == ["run.stage-1", "run.stage-2", "run"]
    for stage in stages:
        assert from_json(to_json(stage)) == stage
        steps_alone(stage)
    text, head, top = (stage.run for stage in stages)
    old = load_model_config(folder / "base" / "model.json").class_heads
    names = [[one.name for one in load_model_config(run / "model.json").class_heads] for run in (text, head, top)]
    assert old
    assert names == [[one.name for one in old], *[["label", *(one.name for one in old)]] * 2]
    began = [params_of(run, 0) for run in (text, head, top)]
    ended = [params_of(run, 2) for run in (text, head, top)]
    base = params_of(folder / "base", 2)
    C = base["['class_heads']"].shape[-1]
    for found, first in ((ended[0], 0), (ended[1], 1), (ended[2], 1)):
        np.testing.assert_array_equal(found["['class_heads']"][first:, :, :C], base["['class_heads']"])
    moved = [{name for name in end if not np.array_equal(end[name], start[name])} for start, end in zip(began, ended)]
    assert "['layers']['query']" in moved[0]
    assert "['class_heads']" not in moved[0]
    assert moved[1] == {"['class_heads']", "['class_heads_bias']"}
    assert moved[2] > moved[1]
    assert "['embedding']" not in moved[2]
    for one, next_one in ((ended[0], began[1]), (ended[1], began[2])):
        for name in one.keys() - {"['class_heads']", "['class_heads_bias']"}:
            np.testing.assert_array_equal(one[name], next_one[name])
    np.testing.assert_array_equal(ended[1]["['class_heads']"], began[2]["['class_heads']"])


def test_the_text_stage_learns_as_the_base_did_and_reads_the_examples(folder):
    text, _ = asked(folder, "--stages", "text,head")
    assert text.text_rows == ("causal_lm=0.75", "masked_lm=0.25") == text_rows(open_base(str(folder / "base")))
    assert {name for name, task in text.objectives.tasks.items() if task.ever} == {"causal_lm", "masked_lm"}
    assert text.optimizer.schedule == "slanted"


@pytest.mark.parametrize(
    ("stages", "told"),
    [
        ("text,haed", "'haed' is no stage; did you mean 'head'"),
        ("head,text", "text goes first"),
        ("text,,head", "give words such as text,head,gradual"),
        ("stages.json", "a file that ends in .py"),
        ("head,top-x", "no such strategy"),
        ("head,top-9", "top-1 to top-2"),
    ],
)
def test_mistakes_in_stages_are_told_before_anything_is_read(folder, stages, told):
    with pytest.raises(ValueError, match=told):
        asked(folder, "--stages", stages)


def test_adapters_are_for_a_stage_that_trains_some(folder):
    made = asked(folder, "--stages", "head,lora", "--lora.rank", "2")
    assert [stage.lora and stage.lora.rank for stage in made] == [None, 2]
    with pytest.raises(ValueError, match="add lora to --stages"):
        asked(folder, "--stages", "head,all", "--lora.rank", "2")


def test_a_head_is_taken_by_its_name_if_it_tells_the_same():
    given = [ClassHead(name="topic", classes=("a", "b")), ClassHead(name="mood", classes=("x", "y", "z"))]
    same = ClassHead(name="mood", classes=("z", "x", "y"))
    assert heads_taken(given, [same])["mood"] == (0, 1, [2, 0, 1])
    assert heads_taken(given, [ClassHead(name="mood", classes=("x", "y"))]) == {}
    assert heads_taken(given, [ClassHead(name="topic", classes=("a", "b"), kind="labels")]) == {}
    assert stage_words("text, head,top-2") == ["text", "head", "top-2"]
