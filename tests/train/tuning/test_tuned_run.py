"""A fine-tuning run begins with its base, learns replies alone, and is a run like any other."""

import dataclasses
import json

import jax
import numpy as np
import pytest

import gptjax
from data.examples.example_spec import ExamplesSpec
from data.tasks.augment import Augment
from gptjax.config import Lora
from gptjax.decoding.sampling import Sampling
from gptjax.inference.chat import TURNS, Chat
from gptjax.runs.manifest import steps as saved_steps
from gptjax.text.tokenizer import Tokenizer
from tests.tiny_recipe import one_device, recipe, records, steps_alone, write_text
from train.recipe import BatchSpec, MeshSpec, OptimizerSpec, StopSpec, from_json, to_json
from train.tuning.base import open_base
from train.tuning.finetune import chained
from train.tuning.talks import prepared_examples
from train.tuning.tune_recipe import TuneRecipe

OPTIMIZER = OptimizerSpec(learning_rate=1e-2, warmup=2, weight_decay=0.0)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with text, a trained base in `base`, and talks.jsonl."""
    made = write_text(tmp_path_factory.mktemp("tuned"))
    with one_device():
        steps_alone(recipe(made, "base", steps=4, mesh=MeshSpec()))
    words = ("fox", "dog", "box", "wizards", "quartz")
    talks = [
        {"messages": [{"role": "user", "content": f"{word} {n}"}, {"role": "assistant", "content": f"the {word}"}]}
        for n in range(12)
        for word in words
    ]
    (made / "talks.jsonl").write_text("".join(f"{json.dumps(talk)}\n" for talk in talks))
    return made


def tune(folder, run, **changes) -> TuneRecipe:
    base = recipe(folder, "base", steps=4)
    shared = {field.name: getattr(base, field.name) for field in dataclasses.fields(base)}
    model = open_base(str(folder / "base")).architecture
    shared |= {
        "run": folder / run,
        "steps": 6,
        "mesh": MeshSpec(),
        "batch": BatchSpec(rows=8),
        "optimizer": OPTIMIZER,
        "model": model,
    }
    del shared["objectives"]
    examples = ExamplesSpec(sources=(str(folder / "talks.jsonl"),), held_out=5, length=32)
    return TuneRecipe(**{**shared, "base": str(folder / "base"), "examples": examples, **changes})


@pytest.fixture(scope="module")
def plain(folder):
    """The finished run of `tune` as it stands."""
    with one_device():
        return steps_alone(tune(folder, "plain"))


@pytest.fixture
def alone():
    """One device for all but what is about more of them."""
    with one_device():
        yield


def params_of(run, step):
    return gptjax.load(run, step).params


def flat(tree):
    return {jax.tree_util.keystr(path): np.asarray(leaf) for path, leaf in jax.tree.leaves_with_path(tree)}


def test_step_0_is_the_base_and_training_moves_it(folder, plain):
    base, begun, ended = flat(params_of(folder / "base", 4)), flat(params_of(plain, 0)), flat(params_of(plain, 6))
    for name, leaf in base.items():
        np.testing.assert_array_equal(begun[name], leaf)
    assert any(not np.array_equal(ended[name], leaf) for name, leaf in begun.items())


def test_it_talks_by_the_template_that_it_was_trained_with_and_its_replies_end(folder, alone):
    run = steps_alone(tune(folder, "talks", steps=80, optimizer=dataclasses.replace(OPTIMIZER, warmup=5)))
    model = gptjax.load(run)
    assert model.generation_config.chat_template == TURNS
    [[sample]] = model.generate(
        [Chat(model, Sampling(tokens=20, temperature=0.0)).tokens("fox 3")],
        tokens=20, temperature=0.0,
    )  # fmt: skip
    assert sample.ended == "eos"
    assert gptjax.load(folder / "base").generation_config.chat_template is None


def test_lora_trains_adapters_alone_and_is_loaded_merged(folder, alone):
    run = steps_alone(tune(folder, "lora", lora=Lora(rank=2)))
    assert json.loads((run / "model.json").read_text())["lora"]["rank"] == 2
    base, merged = flat(params_of(folder / "base", 4)), flat(params_of(run, 6))
    assert base.keys() == merged.keys()
    for name, leaf in base.items():
        is_product = leaf.ndim == 3
        assert np.array_equal(leaf, merged[name]) != is_product, name


def test_what_is_killed_between_steps_goes_on_bit_for_bit(folder):
    whole = tune(
        folder,
        "whole",
        lora=Lora(rank=2, dropout=0.2),
        augment=Augment(swap=0.2, delete=0.2, insert=0.2, characters=0.1, embedding_noise=5),
        replay=0.25,
        mesh=MeshSpec(data=2, fsdp=2, tensor=2),
        batch=BatchSpec(rows=8, micro_batches=2),
    )
    steps_alone(whole)
    halves = dataclasses.replace(whole, run=folder / "halves")
    steps_alone(dataclasses.replace(halves, stop=dataclasses.replace(halves.stop, step=3)))
    steps_alone(halves)
    one, other = flat(params_of(folder / "whole", 6)), flat(params_of(folder / "halves", 6))
    for name, leaf in one.items():
        np.testing.assert_array_equal(leaf, other[name])
    ledgers = [(folder / run / "ledger.jsonl").read_text() for run in ("whole", "halves")]
    assert ledgers[0] == ledgers[1]


def test_noise_on_embeddings_moves_the_loss_and_no_row_and_prompts_that_are_encoded_stay_so(folder, plain, alone):
    """Rows are those without noise; the loss is another. A run that encodes prompts says so to whoever loads it."""
    examples = ExamplesSpec(sources=(str(folder / "talks.jsonl"),), held_out=5, length=32, prefix=True)
    changes = {"noisy": {"augment": Augment(embedding_noise=5)}, "encoding": {"examples": examples}}
    noisy, encoding = (steps_alone(tune(folder, name, **one)) for name, one in changes.items())
    told = [[*map(json.loads, (run / "ledger.jsonl").read_text().splitlines())] for run in (plain, noisy, encoding)]
    rows, losses = ([[line[what] for line in of_run] for of_run in told] for what in ("hash", "loss"))
    assert rows[0] == rows[1] != rows[2]
    assert losses[0][0] != losses[1][0]
    assert gptjax.load(encoding).generation_config.encodes_prompt
    assert not gptjax.load(plain).generation_config.encodes_prompt


def test_a_mask_that_the_base_lacks_is_refused_before_examples_are_prepared(folder, monkeypatch):
    data = dataclasses.replace(recipe(folder, "base").data, prepared=folder / "new")
    masking = tune(folder, "masking", augment=Augment(token_mask=0.1), data=data)
    made = open_base(masking.base)
    rules = made.tokenizer.content.decode().replace("<|mask|>", "<|other|>")
    maskless = made._replace(tokenizer=Tokenizer.parsed(rules.encode(), "rules"))
    monkeypatch.setattr("train.tuning.talks.open_base", lambda _: maskless)
    with pytest.raises(ValueError, match=r"augment.token_mask=0.1: .* no mask token; use augment.token_dropout"):
        prepared_examples(masking)
    assert not (folder / "new").exists()


def test_replayed_text_is_a_task_of_its_own_beside_the_replies(folder, plain, alone):
    run = steps_alone(tune(folder, "replayed", replay=0.25))
    assert {*records(run, "train")[-1]["tasks"]} == {"reply", "causal_lm"}
    assert {*records(plain, "train")[-1]["tasks"]} == {"reply"}


def test_each_stage_begins_where_the_one_before_it_ended(folder, alone):
    first = tune(folder, "staged", optimizer=dataclasses.replace(OPTIMIZER, frozen=(("layers/.*", 1.0), (".*", 0.0))))
    stages = chained([first, tune(folder, "staged", stop=StopSpec(step=4))])
    for stage in stages:
        steps_alone(stage)
    assert [stage.run for stage in stages] == [folder / "staged.stage-1", folder / "staged"]
    before, after = flat(params_of(stages[0].run, 6)), flat(params_of(stages[1].run, 0))
    for name, leaf in before.items():
        np.testing.assert_array_equal(leaf, after[name])
    assert saved_steps(folder / "staged")[-1] == 4


def test_the_recipe_of_a_run_is_read_back_as_it_was(folder):
    made = tune(folder, "kept", lora=Lora(rank=4), replay=0.5)
    assert from_json(to_json(made)) == made


def test_a_row_longer_than_the_context_is_refused_with_both_numbers(folder):
    with pytest.raises(ValueError, match=r"examples.length=64 is more than the base's context of 32"):
        tune(folder, "long", examples=ExamplesSpec(sources=("chitchat",), length=64))
