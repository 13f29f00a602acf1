"""A type for each kind of record: what is written is read back the same, and older files by their own names."""

import json
import math

import pytest

from gptjax.files.plain_json import dumps
from train.record import older
from train.record.metrics import (
    Conflict,
    Hosts,
    Remark,
    Score,
    SourceRecord,
    TaskRecord,
    TermScore,
    Train,
    Version,
    as_json,
    by_step,
    overall_loss,
    parsed,
    read_metrics,
    scores_by_step,
)

SCORE = Score(2.0, 7.4, 1.5, 10, 20)
MEASURED = {"accuracy": 0.5, "baseline_accuracy": 0.25, "confusion": [[2, 0], [2, 0]], "classes": ["x", "y"]}
TERM_SCORE = TermScore(1.0, 4, "the commonest", {"a": (0.5, 4)}, MEASURED)
EACH = [
    (Version(0, 2), "version"),
    (Train(3, 24, 2.0, {"order": 1.0}, {"order": 0.5}, 1e-3, 0.7, 10.0, 0.1, 5.0), "train"),
    (SourceRecord(4, "validation", False, "a", SCORE), "validation"),
    (SourceRecord(4, "validation", True, "a", SCORE), "validation_ema"),
    (SourceRecord(4, "final", False, "a", SCORE), "final"),
    (SourceRecord(4, "final", True, "a", SCORE), "final_ema"),
    (TaskRecord(4, "validation", False, "order", TERM_SCORE), "validation_task"),
    (TaskRecord(4, "validation", True, "order", TERM_SCORE), "validation_task_ema"),
    (TaskRecord(4, "final", False, "order", TERM_SCORE), "final_task"),
    (TaskRecord(4, "final", True, "order", TERM_SCORE), "final_task_ema"),
    (Hosts(4, [0.5, 0.5], [0.7, 0.9], [0.0, 0.1], [0.01, 0.02]), "hosts"),
    (Conflict(5, ["a", "b"], [[1.0, None], [None, 1.0]], [1.0, 0.0]), "conflict"),
    (Remark(6, "a spike"), "remark"),
]


@pytest.mark.parametrize(("record", "kind"), EACH, ids=[kind for _, kind in EACH])
def test_each_kind_is_read_back_as_it_was_written(record, kind):
    assert as_json(record)["kind"] == kind
    assert as_json(record)["step"] == record.step
    again = parsed(json.loads(json.dumps(as_json(record))))
    assert type(again) is type(record)
    assert json.dumps(as_json(again)) == json.dumps(as_json(record))


def test_lines_have_the_names_and_the_order_that_they_always_had():
    assert list(as_json(EACH[1][0])) == [
        "kind", "step", "tokens", "loss", "tasks", "coefficients", "learning_rate", "gradient_norm",
        "tokens_per_second", "mfu", "seconds",
    ]  # fmt: skip
    assert list(as_json(EACH[2][0])) == [
        "kind", "step", "source", "loss", "perplexity", "bits_per_byte", "targets", "bytes",
    ]  # fmt: skip
    assert list(as_json(EACH[6][0])) == [
        "kind", "step", "task", "loss", "targets", "baseline", "by_source", "accuracy", "baseline_accuracy",
        "confusion", "classes",
    ]  # fmt: skip


def test_what_is_no_number_is_null_in_the_file_and_nan_once_read_and_what_is_absent_too():
    lost = Train(1, loss=math.nan)
    line = dumps(as_json(lost))
    assert '"loss": null' in line
    assert math.isnan(parsed(json.loads(line)).loss)
    assert math.isnan(parsed({"kind": "train", "step": 1}).mfu)
    line = {"accuracy": None, "baseline_accuracy": 0.5, "classes": None}
    measured = parsed({"kind": "final_task", "step": 1, "task": "order", **line}).score.measured
    assert math.isnan(measured["accuracy"])
    assert (measured["baseline_accuracy"], measured["classes"]) == (0.5, None)


@pytest.mark.parametrize(
    "line", [{}, {"kind": "train"}, {"kind": "of tomorrow", "step": 1}, {"kind": "final", "step": 1, "loss": 2.0}]
)
def test_what_is_no_record_is_none(line):
    assert parsed(line) is None


def test_lines_before_a_version_have_the_names_of_the_first(tmp_path, monkeypatch):
    """A file that an older gptjax began and this one went on with."""
    monkeypatch.setattr(older, "METRIC_NAMES", {1: {"speed": "tokens_per_second"}})
    lines = [
        {"kind": "train", "step": 1, "speed": 5.0},
        as_json(Version(1, 2)),
        {"kind": "train", "step": 2, "mfu": 1.0},
    ]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    first, second = by_step(read_metrics(tmp_path / "metrics.jsonl"), Train)
    assert (first.tokens_per_second, second.mfu) == (5.0, 1.0)


def test_of_a_step_measured_twice_the_last_counts():
    records = [
        SourceRecord(step, "final", False, "a", Score(loss=loss)) for step, loss in ((8, 1.0), (4, 2.0), (8, 3.0))
    ]
    found = scores_by_step([*records, *(record for record, _ in EACH[3:5])], SourceRecord, "final")
    assert {step: score.loss for step, score in found["a"].items()} == {4: 2.0, 8: 3.0}


def test_one_number_weighs_sources_as_they_are_trained_on():
    assert overall_loss({"a": 2.0, "b": 4.0}, {"a": 768, "b": 256, "c": 9}) == 2.5
