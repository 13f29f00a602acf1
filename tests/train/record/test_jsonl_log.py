"""Files that grow a line at a time: cut back on a restart, and given up for good where the disk says no."""

import json
import time

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from train.record.jsonl_log import JsonlLog, whole_lines
from train.record.metrics import Score, SourceRecord, Train
from train.record.recorder import MetricsLog
from train.record.starts import note_start, time_spent


def refuse(text: str) -> None:
    raise AssertionError(text)


def until(step: int):
    return lambda record: record["step"] <= step


def opened(run, step: int, stays, warn) -> MetricsLog:
    """As a start of a run opens it."""
    note_start(run, step, 0, {"recipe": {}, "layout": {}}, warn)
    return MetricsLog(run, step, stays, warn)


def lines(path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_records_after_the_last_checkpoint_and_half_lines_are_dropped_on_restart(tmp_path):
    path = tmp_path / "ledger.jsonl"
    first = JsonlLog(path, until(0), refuse)
    for step in (1, 2, 3):
        first.note({"step": step})
    first.close()
    with path.open("a") as file:
        file.write('\0\0\n{"step": 4, "lo')
    assert len(whole_lines(path)) == 4
    second = JsonlLog(path, until(2), refuse)
    second.note({"step": 3, "again": True})
    second.close()
    assert lines(path) == [{"step": 1}, {"step": 2}, {"step": 3, "again": True}]


def test_only_one_host_writes(tmp_path):
    log = JsonlLog(tmp_path / "ledger.jsonl", until(0), refuse, writes=False)
    log.note({"step": 1})
    log.close()
    assert not list(tmp_path.iterdir())


@pytest.mark.fault(35)
def test_a_full_disk_is_told_once_and_training_goes_on_without_the_file():
    """/dev/full answers every write with "no space left"."""
    said = []
    log = JsonlLog.__new__(JsonlLog)
    log._path, log._warn, log._file = "/dev/full", said.append, open("/dev/full", "a")  # noqa: SIM115
    for step in range(3):
        log.note({"step": step})
        log.flush()
    log._file = None
    log.close()
    assert len(said) == 1
    assert "No space left" in said[0]


@pytest.mark.fault(35)
def test_metrics_that_cannot_be_written_are_told_and_the_rest_goes_on(tmp_path):
    """metrics.jsonl is a folder here; TensorBoard's events are written all the same."""
    (tmp_path / "metrics.jsonl").mkdir()
    said = []
    records = opened(tmp_path, 0, until(0), said.append)
    records.write(Train(1, loss=1.0))
    records.close()
    assert len(said) == 1
    assert "metrics.jsonl cannot be written" in said[0]
    assert any((tmp_path / "tensorboard").iterdir())


def test_tensorboard_shows_every_step_once_after_a_resume(tmp_path):
    """Twice resumed from step 100, where held-out text was measured by the second start alone, by its own reader."""

    def stays(record: dict) -> bool:
        return record["step"] <= (99 if record["kind"] == "validation" else 100)

    for start, first in enumerate((0, 100, 100)):
        records = opened(tmp_path, first, stays, refuse)
        for step in range(first, 210, 10):
            if step > first or start:
                records.write(SourceRecord(step, "validation", False, "a", Score(loss=float(start))))
            if step > first:
                records.write(Train(step, loss=float(start), tasks={"causal_lm": 1.0}))
        records.close()
    reader = EventAccumulator(str(tmp_path / "tensorboard"), size_guidance={"scalars": 0})
    reader.Reload()
    for tag, steps in (("train/loss", range(10, 210, 10)), ("train/tasks/causal_lm", range(10, 210, 10))):
        assert [event.step for event in reader.Scalars(tag)] == list(steps)
    starts = {event.step: event.value for event in reader.Scalars("train/loss")}
    assert starts == {step: 0.0 if step <= 100 else 2.0 for step in range(10, 210, 10)}
    assert [event.step for event in reader.Scalars("validation/a/loss")] == list(range(10, 210, 10))


def test_events_of_a_start_within_the_same_second_sort_behind_those_that_are_there(tmp_path):
    """By name, as TensorBoard reads them."""
    (tmp_path / "tensorboard").mkdir()
    older = tmp_path / "tensorboard" / f"events.out.tfevents.{int(time.time()):010}.zzz"
    older.touch()
    opened(tmp_path, 0, until(0), refuse).close()
    (younger,) = set((tmp_path / "tensorboard").iterdir()) - {older}
    assert younger.name > older.name


def test_time_spent_is_that_of_every_start_though_its_clock_never_falls_or_its_steps_are_done_again(tmp_path):
    """20 s to step 20, of which step 10 was saved; again from there, 30 s; again from step 30, 5 s without a record."""
    for first, seconds in ((0, {10: 10.0, 20: 20.0}), (10, {20: 25.0, 30: 30.0}), (30, {})):
        records = opened(tmp_path, first, until(first), refuse)
        for step, clock in seconds.items():
            records.write(Train(step, seconds=clock))
        records.close()
    assert time_spent(tmp_path) == (50.0, 3)
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write(json.dumps({"kind": "train", "step": 40, "seconds": 60.0}) + "\n")
    assert time_spent(tmp_path) == (110.0, 3)


def test_a_run_from_before_starts_were_noted_has_one_start_more_than_noted(tmp_path):
    records = [{"kind": "train", "step": step, "seconds": float(step)} for step in (10, 20)]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    opened(tmp_path, 20, until(20), refuse).close()
    assert time_spent(tmp_path) == (20.0, 2)


def test_what_is_no_record_in_a_file_that_cannot_be_cut_back_ends_no_run(tmp_path, monkeypatch):
    """As on a full disk, which is told once a file."""

    def full(*_):
        raise OSError(28, "No space left on device")

    (tmp_path / "metrics.jsonl").write_text('{"kind": "train", "step": 10, "loss": 1.0}\nhalf a rec\n')
    monkeypatch.setattr("train.record.jsonl_log.write_whole", full)
    said = []
    opened(tmp_path, 10, until(10), said.append).close()
    assert [line.partition(" ")[0].rpartition("/")[2] for line in said] == ["starts.jsonl", "metrics.jsonl"]


@pytest.mark.parametrize(("clocks", "spent"), [((10, 20, 4, 9), (29.0, 2)), ((10, 20, 30), (30.0, 1)), ((), (0.0, 1))])
def test_of_an_older_run_a_clock_that_falls_was_started_anew(tmp_path, clocks, spent):
    lines = [json.dumps({"kind": "train", "step": step, "seconds": clock}) + "\n" for step, clock in enumerate(clocks)]
    (tmp_path / "metrics.jsonl").write_text("".join(lines))
    assert time_spent(tmp_path) == spent
