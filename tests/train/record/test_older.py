"""Yesterday's recipe.json and command lines say today what they said; a newer gptjax's are refused."""

import dataclasses
import json

import pytest

from data.tasks.causal_lm import CausalLM
from data.tasks.classify import Classify
from data.tasks.masked_lm import MaskedLM
from data.tasks.order import Order
from data.tasks.position import Position
from gptjax.batch import ClassHead
from gptjax.config import Architecture, ModelConfig, Shape
from tests.tiny_recipe import recipe
from train.objectives import Objectives
from train.recipe import changes, from_json, to_json
from train.recipe_words import parse
from train.record.older import RECIPE_VERSION, check_same_tasks, recipe_tree, with_token_marks

FOUR_TASKS = Objectives(
    causal_lm=CausalLM(rows=0.6),
    masked_lm=MaskedLM(rows=0.2, weight=0.3, rate=0.4, later=((0.5, 0.2, 0.1), (1.0, 0.2, 0.0))),
    order=Order(rows=0.1, weight=0.01, sources=("letters",)),
    classify=Classify(rows=0.1, rare=False),
)


def yesterdays(made) -> str:
    """A recipe as JSON, as it was before the schedules were one table and a model a shape."""
    tree = json.loads(to_json(made))
    assert tree.pop("version") == RECIPE_VERSION
    tree["model"] = dataclasses.asdict(made.model.architecture())
    tree["objectives"] = {
        name: part for name, part in tree["objectives"].items() if name not in ("rows", "sources", "rare")
    }
    for name, task in made.objectives.tasks.items():
        schedule = json.loads(json.dumps(dataclasses.asdict(task.schedule)))
        rare = task.auxiliary if task.schedule.rare is None else task.schedule.rare
        tree["objectives"][name] |= {**schedule, "rare": rare}
    return json.dumps(tree)


@pytest.mark.parametrize("objectives", [Objectives(), FOUR_TASKS], ids=["next words", "four tasks"])
@pytest.mark.parametrize("model", [Shape(T=32), Architecture(T=32, head_width=8)], ids=["shape", "architecture"])
def test_a_recipe_of_yesterday_is_that_of_today(tmp_path, objectives, model):
    made = recipe(tmp_path, "run", objectives=objectives, model=model)
    assert from_json(yesterdays(made)) == made
    assert changes(yesterdays(made), to_json(made)) == []


def test_what_changed_since_yesterday_is_told(tmp_path):
    made = recipe(tmp_path, "run", objectives=FOUR_TASKS)
    other = dataclasses.replace(
        made,
        objectives=Objectives(),
        model=dataclasses.replace(made.model, head_width=16),
    )
    found = {change.field: change.kind for change in changes(yesterdays(made), to_json(other))}
    assert found.keys() == {
        "objectives.rows", "objectives.sources", "objectives.rare", "objectives.masked_lm.rate", "model.head_width",
    }  # fmt: skip
    assert found["model.head_width"] == "impossible"
    assert found["objectives.rows"] == "inexact"


def test_yesterdays_options_still_mean_what_they_meant():
    words = ["--objectives.causal-lm.rows", "0.75", "--objectives.masked-lm.rows=0.25", "--objectives.masked-lm.later"]
    words += ["0.5", "0.25", "0.1", "1.0", "0.25", "0", "--objectives.masked-lm.sources", "one", "two"]
    found = parse(["chinese", *words, "--model.head-width", "16", "--steps", "900"])
    masked = found.objectives.masked_lm.schedule
    assert (masked.rows, masked.weight, masked.sources) == (0.25, None, ("one", "two"))
    assert masked.later == ((0.5, 0.25, 0.1), (1.0, 0.25, 0.0))
    assert (found.model.architecture().head_width, found.steps) == (16, 900)
    plain = parse(["chinese", "--objectives.position.rows", "0.5", "--objectives.causal-lm.rows", "0.5"])
    assert plain.objectives.position.rare(plain.batch.rows)  # 4 rows a step: as it was
    said = parse(["chinese", *words[:3], "--objectives.masked-lm.rare"]).objectives
    assert said.masked_lm.schedule.rare is True


def test_one_option_is_next_words_only():
    """Of a recipe with four tasks, whatever their weights and later shares; settings of those that are left stay."""
    found = parse(["laptop", "--objectives.rows", "causal_lm"]).objectives
    assert found.only_causal
    assert dataclasses.replace(found, masked_lm=MaskedLM(), classify=Classify()) == Objectives()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--objectives.masked-lm.rows", "many"], "it is now --objectives.rows TASK=ROWS"),
        (["--objectives.masked-lm.later", "0.5", "1"], "it is now --objectives.rows TASK=ROWS:WEIGHT@SHARE"),
        (["--objectives.maskd-lm.rows", "1"], "no task 'maskd_lm'; did you mean 'masked_lm'?"),
    ],
)
def test_an_option_of_yesterday_that_cannot_be_names_that_of_today(words, said):
    with pytest.raises(ValueError, match=said.replace("?", r"\?")):
        parse(["chinese", *words])


def test_tasks_made_with_rows_keep_how_they_are_divided(tmp_path):
    """Position(rows=0.5) was divided by the targets to be expected, however many rows; so it is."""
    made = recipe(tmp_path, "run", objectives=Objectives(causal_lm=CausalLM(rows=0.5), position=Position(rows=0.5)))
    assert made.objectives.position.rare(made.batch.rows)
    today = recipe(tmp_path, "run", objectives=Objectives(rows=("causal_lm=0.5", "position=0.5")))
    assert not today.objectives.position.rare(today.batch.rows)


def versionless(text: str) -> dict:
    tree = json.loads(text)
    assert tree.pop("version") == RECIPE_VERSION
    return tree


def test_a_recipe_without_a_version_is_the_same_recipe_and_no_change(tmp_path):
    now = to_json(recipe(tmp_path, "run"))
    then = json.dumps(versionless(now))
    assert from_json(then) == from_json(now) == recipe(tmp_path, "run")
    assert changes(then, now) == []


def test_a_recipe_of_a_newer_gptjax_says_so():
    with pytest.raises(ValueError, match=f"version={RECIPE_VERSION + 1}: written by a newer gptjax"):
        recipe_tree({"version": RECIPE_VERSION + 1})


def test_a_shape_made_an_architecture_changes_in_the_fields_that_were_given_alone(tmp_path):
    one = recipe(tmp_path, "run", model=Shape(T=32, D=32, L=2, N=4, K=2, F=48))
    other = dataclasses.replace(one, model=dataclasses.replace(one.model.architecture(), rope_theta=500.0))
    assert [change.field for change in changes(to_json(one), to_json(other))] == ["model.rope_theta"]
    assert [change.field for change in changes(to_json(other), to_json(one))] == ["model.rope_theta"]


def test_a_mesh_axis_that_a_run_did_not_know_of_does_it_no_harm(tmp_path):
    tree = json.loads(to_json(recipe(tmp_path, "run")))
    del tree["mesh"]["tensor"]
    assert [change.kind for change in changes(json.dumps(tree), to_json(recipe(tmp_path, "run")))] == ["harmless"]


def test_options_of_single_tasks_and_the_table_are_not_mixed():
    words = ["laptop", "--objectives.masked-lm.weight", "0.5", "--objectives.rows", "causal_lm", "masked_lm=0.1"]
    with pytest.raises(ValueError, match=r"--objectives\.rows: cannot be said beside options of single tasks"):
        parse(words)
    assert parse(words[:3]).objectives.masked_lm.weights == [0.5]


# recipe.json of a fine-tuning run that gptjax wrote before it had labelled texts, augmentation and stages by words.
BEFORE_LABELLED = """
{"version": 2, "run": "runs/talk", "steps": 6, "samples": 2, "seed": 0, "hang_after": 300.0, "base": "runs/base",
"replay": 0.0, "lora": null, "data": {"sources": ["chitchat"], "mixture": "rates", "text_field": "text",
"label_field": null, "validation": "tail 0.1", "tokenizer": "characters", "vocabulary": 400, "prepared": "prepared"},
"objectives": {"rows": ["reply=1"], "sources": ["reply=chitchat"], "rare": null, "causal_lm": {}, "masked_lm":
{"rate": 0.3, "final_rate": 0.15, "span": 3, "unit": "word"}, "prefix_lm": {}, "position": {"rate": 0.25}, "order":
{"rate": 0.05}, "continuity": {"shortest": 16, "longest": 96}, "classify": {"labels": [], "shortest": 8, "longest":
64}, "reply": {}, "combine": "static", "by_repetition": true, "conflicts": null}, "model": {"family": "llama", "T":
32, "D": 32, "L": 2, "N": 4, "K": 2, "F": 48, "activation": "swiglu", "qk_norm": true, "tied": true, "dropout": 0.1,
"window": null, "head_width": 8, "attention_bias": false, "mlp_bias": false, "rope_theta": 10000.0, "rope_scaling":
null, "attention_cap": null, "logit_cap": null, "norm_epsilon": 1e-06}, "optimizer": {"name": "adamw",
"learning_rate": 0.01, "schedule": "cosine", "warmup": 2, "decay": 0.2, "final": 0.1, "beta1": 0.9, "beta2": 0.99,
"weight_decay": 0.0, "clip": 1.0, "ema": null, "rates": [[".*", 1.0]], "decays": [[".*", 1.0]], "frozen": [[".*",
0.0]]}, "batch": {"rows": 8, "micro_batches": 1}, "mesh": {"data": null, "fsdp": 1, "tensor": 1}, "compute": {"dtype":
"float32", "remat": "none", "kernel": null, "unroll": false}, "validation": {"every": 6, "rows": 4, "final_rows":
1000000, "task_rows": 64, "final_task_rows": 512}, "checkpoint": {"every": 2, "keep": 2, "if_it_fails": "stop"},
"stop": {"step": 3, "tokens": null, "epochs": null, "minutes": null, "loss": null, "patience": null, "skipped": 5,
"divergence": 3.0}, "examples": {"sources": ["chitchat"], "form": null, "columns": [], "learn": "all", "bad": "stop",
"length": 32, "too_long": "cut", "held_out": 5, "template": null}}
"""


@pytest.mark.parametrize("tuned", [True, False])
def test_a_recipe_from_before_labelled_texts_goes_on_unchanged(tuned):
    """Whatever fields there are since then; one that is not known of any older recipe is refused still."""
    before = json.loads(BEFORE_LABELLED)
    if not tuned:
        before = {name: part for name, part in before.items() if name not in ("base", "examples", "replay", "lora")}
    now = json.loads(to_json(from_json(json.dumps(before))))
    assert ("augment" in now, "figure" in now["stop"], now != before) == (tuned, True, True)
    assert changes(json.dumps(before), json.dumps(now)) == []
    del before["optimizer"]["clip"]
    assert [one.kind for one in changes(json.dumps(before), json.dumps(now))] == ["impossible"]


@pytest.mark.parametrize("rows", [["causal_lm=0.9", "position=0.1"], ["causal_lm=0.9", "order=0.1"]])
def test_a_run_whose_task_asks_something_else_by_now_does_not_go_on(tmp_path, rows):
    """Both versions are named. One without rows of that task goes on, and so does one of this version."""
    tree = json.loads(to_json(recipe(tmp_path, "run", objectives=Objectives(rows=tuple(rows)))))
    check_same_tasks(tree, "run=x")
    older = {**tree, "version": 2}
    if "position=0.1" not in rows:
        check_same_tasks(older, "run=x")
        return
    said = r"run=x: objectives.position asked .*\(recipe version 2\), and asks .*\(version 3\)"
    with pytest.raises(ValueError, match=said):
        check_same_tasks(older, "run=x")


def test_settings_that_such_a_task_had_are_no_change(tmp_path):
    now = to_json(recipe(tmp_path, "run"))
    older = {**json.loads(now), "version": 2}
    older["objectives"] = {**older["objectives"], "position": {"rate": 0.25}}
    assert changes(json.dumps(older), now) == []


def test_heads_of_tokens_are_marked_in_models_from_before_there_was_a_mark():
    heads = (ClassHead(name="position", classes=("1", "2"), token=True), ClassHead(name="mood", classes=("a", "b")))
    now = ModelConfig(T=16, D=32, L=2, N=4, K=4, head_width=8, F=48, vocabulary=300, class_heads=heads)
    had = dataclasses.replace(now, class_heads=tuple(dataclasses.replace(head, token=False) for head in heads))
    assert had != now
    assert with_token_marks(had, now) == now
    assert with_token_marks(had, had) == had
