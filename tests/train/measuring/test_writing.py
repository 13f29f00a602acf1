"""A run that learns answers is judged by those that it writes, and its best checkpoint is the one that is measured."""

import json

import pytest
from rich.console import Console

import gptjax
from gptjax.config import Architecture
from gptjax.evaluation.text_figures import text_figures
from tests.tiny_recipe import recipe, records, steps_alone, write_text
from train.measuring.writing import Writing
from train.record.metrics import Answers
from train.report.finish import Hook
from train.run import run
from train.tuning import finetune
from train.tuning.replies import Speaker
from train.tuning.strategies import settings_said
from train.tuning.written import held_out_items

SETTINGS = (
    *("--compute.dtype", "float32", "--batch.rows", "8", "--examples.length", "32", "--replay", "0"),
    *("--optimizer.learning-rate", "0.01", "--optimizer.warmup", "2", "--validation.every", "30", "--steps", "90"),
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with a trained base in `base`, pairs of source and target, and talks, of which no answer is right."""
    made = write_text(tmp_path_factory.mktemp("writing"))
    steps_alone(recipe(made, "base", steps=4, model=Architecture(T=96, D=32, L=2, N=4, K=2, head_width=8, F=48)))
    words = ("fox", "dog", "box", "wizards", "quartz")
    pairs = [{"source": f"{word} {n}", "target": f"the {word}"} for n in range(12) for word in words]
    (made / "pairs.jsonl").write_text("".join(f"{json.dumps(pair)}\n" for pair in pairs))
    said = [
        [{"role": "user", "content": pair["source"]}, {"role": "assistant", "content": pair["target"]}]
        for pair in pairs
    ]
    (made / "talks.jsonl").write_text("".join(f"{json.dumps({'messages': talk})}\n" for talk in said))
    return made


def tuned(folder, name, data, *words, hooks=()):
    """The finished run of a command line."""
    given = [str(folder / "base"), "--run", str(folder / name), "--data", str(folder / data), *words, *SETTINGS]
    asked, (stage,) = finetune.parse(given)
    made = finetune.settled(stage, asked.epochs, settings_said((*words, *SETTINGS)), lambda line: None)
    finetune.tell(made, Console(quiet=True))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("train.record.meter.measured_flops", lambda _: 1e12)
        run(made, hooks, console=Console(quiet=True))
    return made


def test_what_is_loaded_writes_as_well_as_the_best_look_said(folder):
    made = tuned(folder, "judged", "pairs.jsonl", "--stop.figure", "rougeL")
    looks = {record["step"]: record for record in records(made.run, "answers")}
    model = gptjax.load(made.run)
    assert list(looks) == [30, 60, 90]
    assert looks[model.step]["value"] == max(look["value"] for look in looks.values()) > 0
    [(_, items)] = held_out_items(finetune.prepared_examples(made), 32).values()
    written = Speaker(model).write([item.messages for item in items], 40)
    found = text_figures(("rougeL",), [text.strip() for text in written], [item.wanted for item in items])
    assert looks[model.step]["value"] == pytest.approx(found["rougeL"])
    assert looks[model.step]["answers"] == len(items)


def test_what_follows_a_run_measures_its_best_checkpoint_and_not_its_last(folder, monkeypatch):
    values = {30: 40.0, 60: 60.0, 90: 50.0}
    monkeypatch.setattr(Writing, "look", lambda _, step, *rest: Answers(step, "rougeL", values[step], 1))
    measured = []
    note = Hook("notes what is measured", lambda finished: measured.append(finished.model().step))
    made = tuned(folder, "peak", "pairs.jsonl", "--stop.figure", "rougeL", hooks=(note,))
    assert measured == [60] == [gptjax.load(made.run).step]


@pytest.mark.parametrize(
    ("data", "figure", "said"),
    [
        ("pairs.jsonl", "rouge-L", r"stop.figure='rouge-L'; did you mean 'rougeL'"),
        ("pairs.jsonl", "exact", "stop.figure='exact': does not fit examples of the form source_target; one of bleu"),
        ("talks.jsonl", "rougeL", "stop.figure='rougeL': needs examples with one right answer"),
    ],
)
def test_a_figure_that_does_not_fit_the_examples_is_named_before_anything_slow(folder, data, figure, said):
    with pytest.raises(ValueError, match=said):
        tuned(folder, "refused", data, "--stop.figure", figure)
    assert not (folder / "refused").exists()
