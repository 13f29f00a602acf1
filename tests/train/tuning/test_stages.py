"""Stages by words: each a run that begins where the one before ended, with the heads that it had."""

import io
import json

import jax
import numpy as np
import pytest
from rich.console import Console

from data.tasks.augment import Augment
from gptjax.batch import ClassHead
from gptjax.config import load_model_config
from gptjax.loading import abstract_params
from gptjax.runs.checkpoint import restore
from tests.tiny_recipe import recipe, steps_alone, write_text
from train.objectives import Objectives
from train.recipe import BatchSpec, MeshSpec, from_json, to_json
from train.recipes import laptop
from train.tuning.base import open_base
from train.tuning.beginning import heads_taken, with_heads
from train.tuning.finetune import chained, parse
from train.tuning.stages import stage_words, text_rows

WORDS = ("fox", "dog", "box", "quartz")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with text, a base with heads of its own in `base`, and labelled.jsonl."""
    made = write_text(tmp_path_factory.mktemp("staged"))
    steps_alone(
        recipe(
            made,
            "base",
            steps=2,
            objectives=Objectives(rows=("causal_lm=0.8", "classify=0.2")),
            mesh=MeshSpec(data=8),
            batch=BatchSpec(rows=8),
        )
    )
    lines = [json.dumps({"text": f"the {word} {n}", "label": word}) for n in range(12) for word in WORDS]
    (made / "labelled.jsonl").write_text("\n".join(lines))
    return made


def asked(folder, *words):
    return parse([
        str(folder / "base"), "--data", str(folder / "labelled.jsonl"), "--as", "classes", "--run", str(folder / "run"),
        "--data.prepared", str(folder / "prepared"), "--steps", "2", "--optimizer.warmup", "1", "--batch.rows", "8",
        "--checkpoint.keep", "3", *words,
    ])[1]  # fmt: skip


def params_of(run, step):
    config = load_model_config(run / "model.json")
    tree = restore(run, step, "params", abstract_params(config, None))
    return {jax.tree_util.keystr(path): np.asarray(leaf) for path, leaf in jax.tree.leaves_with_path(tree)}


@pytest.mark.slow
def test_heads_of_the_base_are_kept_bit_for_bit_where_heads_train_alone_and_else_left_behind(folder, capsys):
    """They would not fit the weights as another stage makes them."""
    text, after = chained(asked(folder, "--stages", "text,head"))
    (alone,) = asked(folder, "--train", "head")
    assert [stage.run.name for stage in (text, after)] == ["run.stage-1", "run"]
    told = []
    for stage in (text, alone):
        assert from_json(to_json(stage)) == stage
        steps_alone(stage, Console(file=(said := io.StringIO()), width=1000))
        told.append(said.getvalue())
    heads = load_model_config(folder / "base" / "model.json").class_heads
    old = [one.name for one in heads]
    names = [[one.name for one in load_model_config(stage.run / "model.json").class_heads] for stage in (text, alone)]
    assert old
    assert names == [[], ["label", *old]]
    assert f"left behind: head {old[0]!r}" in told[0]
    assert "left behind" not in told[1]
    began, ended = ([params_of(stage.run, step) for stage in (text, alone)] for step in (0, 2))
    base = params_of(folder / "base", 2)["['class_heads']"]
    for number, one in enumerate(heads):
        C = len(one.classes)
        np.testing.assert_array_equal(ended[1]["['class_heads']"][1 + number, :, :C], base[number, :, :C])
    moved = [
        {name for name, leaf in end.items() if not np.array_equal(leaf, start[name])}
        for start, end in zip(began, ended, strict=True)
    ]
    assert {"['layers']['query']", "['embedding']"} < moved[0]
    assert moved[1] == {"['class_heads']", "['class_heads_bias']"}
    for name in ended[1].keys() - moved[1]:
        np.testing.assert_array_equal(ended[1][name], began[1][name])


def base_with(objectives, folder, tmp_path):
    (tmp_path / "recipe.json").write_text(to_json(recipe(folder, "other", objectives=objectives)))
    return open_base(str(folder / "base"))._replace(path=tmp_path)


@pytest.mark.slow
def test_the_text_stage_learns_as_the_base_did(folder, tmp_path):
    base = open_base(str(folder / "base"))
    noise = ("--augment.embedding-noise", "5", "--augment.delete", "0.1")
    text, head = asked(folder, "--stages", "text,head", *noise)
    assert (head.augment, text.augment) == (Augment(embedding_noise=5, delete=0.1), Augment())
    assert text.text_rows == ("causal_lm",) == text_rows(base)
    assert {name for name, task in text.objectives.tasks.items() if task.ever} == {"causal_lm"}
    assert text.optimizer.schedule == "slanted"
    rows = Objectives(rows=("causal_lm=0.6", "masked_lm=0.2", "classify=0.2"))
    assert text_rows(base_with(rows, folder, tmp_path)) == ("causal_lm", "masked_lm=0.25")


@pytest.mark.parametrize(
    "rows", [Objectives(rows=("causal_lm", "masked_lm=0.33333", "prefix_lm=0.33333")), laptop.recipe().objectives]
)
def test_the_rows_of_a_text_stage_are_all_rows_whatever_their_shares_are(folder, tmp_path, rows):
    found = Objectives(rows=text_rows(base_with(rows, folder, tmp_path))).tasks
    over_text = {name: rows.tasks[name].rows for name in ("causal_lm", "masked_lm", "prefix_lm")}
    for name, share in over_text.items():
        assert found[name].rows == pytest.approx(share / sum(over_text.values()), abs=2e-4)


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
    with pytest.raises(ValueError, match="lora as one of --stages"):
        asked(folder, "--stages", "head,all", "--lora.rank", "2")


def test_a_head_is_taken_by_its_name_if_it_tells_the_same():
    given = [ClassHead(name="topic", classes=("a", "b")), ClassHead(name="mood", classes=("x", "y", "z"))]
    same = ClassHead(name="mood", classes=("z", "x", "y"))
    taken = heads_taken(given, [same])
    assert taken["mood"] == (0, 1, [2, 0, 1])
    bank, fresh = np.arange(18.0).reshape(2, 3, 3), np.full((1, 3, 4), -1.0)
    found = with_heads("class_heads", jax.numpy.asarray(fresh), jax.numpy.asarray(bank), taken)
    np.testing.assert_array_equal(found[0, :, :3], bank[1][:, [2, 0, 1]])
    np.testing.assert_array_equal(found[0, :, 3], [-1.0] * 3)
    assert heads_taken(given, [ClassHead(name="mood", classes=("x", "y"))]) == {}
    assert heads_taken(given, [ClassHead(name="topic", classes=("a", "b"), kind="labels")]) == {}
    assert stage_words("text, head,top-2") == ["text", "head", "top-2"]
