"""The comparison that verify-resume makes: silent about equal runs, and loud about any bit of another."""

import json
import shutil

import pytest

from data.tasks.causal_lm import CausalLM
from data.tasks.masked_lm import MaskedLM
from data.tasks.position import Position
from gptjax.runs.manifest import manifest
from tests.tiny_recipe import recipe, records, steps_alone, write_text
from train import loop
from train.lab import verify_resume
from train.lab.verify_resume import differing
from train.objectives import Objectives
from train.recipe import OptimizerSpec, StopSpec

OBJECTIVES = Objectives(
    causal_lm=CausalLM(rows=0.5), masked_lm=MaskedLM(rows=0.25), position=Position(rows=0.25),
    combine="famo", conflicts=2,
)  # fmt: skip


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Eight steps straight; eight that broke off in the seventh; and with another seed.

    Several tasks, whose weights are learnt and whose conflicts are looked for; dropout, two micro-batches.
    """
    text = write_text(tmp_path_factory.mktemp("verify"))
    optimizer = OptimizerSpec(learning_rate=1e-2, warmup=2, ema=0.9)
    settings = {"objectives": OBJECTIVES, "optimizer": optimizer, "samples": 0}
    eight = {"stop": StopSpec(step=8), **settings}
    with pytest.MonkeyPatch.context() as patch:
        read = loop.Loop._read
        patch.setattr(loop.Loop, "_read", lambda self, step: read(self, step) if step < 7 else 1 / 0)
        with pytest.raises(ZeroDivisionError):
            steps_alone(recipe(text, "parts", **eight))
    parts = steps_alone(recipe(text, "parts", **eight))
    other = steps_alone(recipe(text, "other", **eight, seed=1))
    return steps_alone(recipe(text, "straight", **eight)), parts, other


def test_parts_equal_the_whole_in_every_bit_and_another_seed_in_none(runs):
    """Parameters, their average, the optimizer's state, the ledger and the held-out losses."""
    straight, parts, other = runs
    assert list(differing(straight, parts)) == []
    said = "\n".join(differing(straight, other))
    for what in ("params['embedding']", "ema['embedding']", "training['optimizer']", "ledger:", "held-out text:"):
        assert what in said, what


def test_parts_have_every_weight_that_was_learnt_conflict_and_score_of_the_whole(runs):
    """Trap 38: all records, and nothing in them but times differs; of another seed, all do."""
    straight, _, other = runs
    assert "training['combiner']" in "\n".join(differing(straight, other))
    for kind in ("train", "conflict", "validation", "validation_task", "validation_task_ema", "final_task"):
        whole, again, moved = ([untimed(record) for record in records(one, kind)] for one in runs)
        assert whole == again
        assert len(whole) == len(moved) > 0
        assert not any(one == two for one, two in zip(whole, moved, strict=True))
    learnt = records(straight, "train")[-1]["coefficients"]
    assert any(learnt[name] != task.weights[0] for name, task in OBJECTIVES.tasks.items() if task.ever)
    assert len(records(straight, "conflict")) == 4


def untimed(record: dict) -> dict:
    return {name: value for name, value in record.items() if name not in ("tokens_per_second", "mfu", "seconds")}


def test_one_step_of_the_ledger_is_enough(runs, tmp_path):
    straight, _, _ = runs
    copy = shutil.copytree(straight, tmp_path / "copy")
    lines = (copy / "ledger.jsonl").read_text().splitlines()
    changed = json.loads(lines[4]) | {"loss": 1.0}
    (copy / "ledger.jsonl").write_text("\n".join([*lines[:4], json.dumps(changed), *lines[5:], ""]))
    (found,) = differing(straight, copy)
    assert found.startswith("ledger: Entry(step=5")


def test_times_of_processes_are_no_difference_and_a_remark_is_one(runs, tmp_path):
    """Every start of several processes writes times of its own."""
    straight, _, _ = runs
    copy = shutil.copytree(straight, tmp_path / "copy")
    for line, found in (
        ({"kind": "hosts", "step": 3, "step_seconds": [0.1, 0.2]}, 0),
        ({"kind": "remark", "step": 3}, 1),
    ):
        with (copy / "metrics.jsonl").open("a") as file:
            file.write(f"{json.dumps(line)}\n")
        assert len(list(differing(straight, copy))) == found


def test_runs_that_ended_at_other_steps_are_not_compared(runs, tmp_path):
    straight, parts, _ = runs
    copy = shutil.copytree(parts, tmp_path / "copy")
    shutil.rmtree(copy / "checkpoints" / "8")
    (found,) = differing(straight, copy)
    assert found.startswith("the newest steps are")


@pytest.mark.parametrize("kind", ["train", "conflict", "validation", "validation_task", "final_task_ema"])
def test_one_number_of_one_record_is_enough_of_tasks_too(runs, tmp_path, kind):
    """All but the times, which no two runs share."""
    straight, _, _ = runs
    copy = shutil.copytree(straight, tmp_path / "copy")
    lines = [json.loads(line) for line in (copy / "metrics.jsonl").read_text().splitlines()]
    one = next(line for line in lines if line["kind"] == kind)
    one["norms" if kind == "conflict" else "loss"] = [1.0] if kind == "conflict" else 1.0
    (copy / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (found,) = differing(straight, copy)
    assert found.startswith(kind if kind in ("train", "conflict") else "held-out text")
    if kind == "train":
        one |= {"loss": records(straight, kind)[0]["loss"], "seconds": 1e9, "tokens_per_second": 1.0}
        (copy / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
        assert list(differing(straight, copy)) == []


@pytest.mark.parametrize("name", ["rows", "health", "losses", "terms", "conflicts", "best"])
def test_what_manifests_keep_for_a_run_that_goes_on_is_compared(runs, monkeypatch, name):
    straight, parts, _ = runs
    monkeypatch.setattr(
        verify_resume, "manifest", lambda run, step: manifest(run, step) | ({name: "other"} if run == parts else {})
    )
    (found,) = differing(straight, parts)
    assert found.startswith(f"{name}: ")
