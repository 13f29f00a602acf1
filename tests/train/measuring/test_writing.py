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
from train.supervision.exits import StoppedError
from train.supervision.signals import Signals
from train.tuning import finetune
from train.tuning.replies import Speaker
from train.tuning.strategies import settings_said
from train.tuning.written import held_out_items

SETTINGS = (
    *("--compute.dtype", "float32", "--batch.rows", "8", "--examples.length", "32", "--replay", "0"),
    *("--optimizer.learning-rate", "0.01", "--optimizer.warmup", "2"),
)
OFTEN = ("--validation.every", "30", "--steps", "90")


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


def tuned(folder, name, data, *words, hooks=(), signals=None):
    """The finished run of a command line."""
    given = [str(folder / "base"), "--run", str(folder / name), "--data", str(folder / data), *words, *SETTINGS]
    asked, stages = finetune.parse(given)
    finetune.check_figures(stages)
    (stage,) = stages
    made = finetune.settled(stage, asked.epochs, settings_said((*words, *SETTINGS)), lambda line: None)
    finetune.tell(made, Console(quiet=True))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("train.record.meter.measured_flops", lambda _: 1e12)
        run(made, hooks, console=Console(quiet=True), signals=signals)
    return made


def test_what_is_loaded_writes_as_well_as_the_best_look_said(folder):
    made = tuned(folder, "judged", "pairs.jsonl", "--stop.figure", "rougeL", *OFTEN)
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
    made = tuned(folder, "peak", "pairs.jsonl", "--stop.figure", "rougeL", *OFTEN, hooks=(note,))
    assert measured == [60] == [gptjax.load(made.run).step]


def test_a_run_of_the_default_length_is_looked_at_often_enough_for_patience(folder, monkeypatch):
    monkeypatch.setattr(Writing, "look", lambda _, step, *rest: Answers(step, "rougeL", 50.0, 1))
    made = tuned(folder, "plain", "pairs.jsonl", "--stop.figure", "rougeL", "--stop.patience", "3")
    steps = [record["step"] for record in records(made.run, "answers")]
    assert len(steps) == 4  # one to compare with, and three without a gain
    assert steps[-1] < made.steps


def test_a_signal_ends_a_look_between_two_answers_and_the_next_start_takes_it_anew(folder, monkeypatch):
    look, signals, answered = Writing.look, Signals(), []

    def interrupted(self, step, params, progress):
        def after_an_answer():
            answered.append(step)
            signals.asked = "SIGTERM"
            progress()

        return look(self, step, params, after_an_answer)

    with monkeypatch.context() as patch:
        patch.setattr(Writing, "look", interrupted)
        with pytest.raises(StoppedError):
            tuned(folder, "stopped", "pairs.jsonl", "--stop.figure", "rougeL", *OFTEN, signals=signals)
    assert answered == [30]
    assert not list(records(folder / "stopped", "answers"))
    made = tuned(folder, "stopped", "pairs.jsonl", "--stop.figure", "rougeL", *OFTEN)
    assert [record["step"] for record in records(made.run, "answers")] == [30, 60, 90]


def test_a_figure_of_a_later_stage_that_does_not_fit_is_named_before_the_first_trains(folder):
    words = ("--stages", "text,all", "--stop.figure", "exact")
    with pytest.raises(ValueError, match=r"stop.figure='exact': does not fit"):
        tuned(folder, "staged", "pairs.jsonl", *words)


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
