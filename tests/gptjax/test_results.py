"""Bootstrap intervals, and what is written."""

import io
import json
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from gptjax.results import Metric, Result, mean_of, metric, place_for


def test_an_interval_holds_its_figure_narrows_with_more_items_and_depends_on_the_seed_alone():
    """For a share of a half, the normal approximation is known: 1.96 * 0.5 / sqrt(items)."""
    for items in (100, 2500):
        found = mean_of([0, 1] * (items // 2))
        assert found == mean_of([0, 1] * (items // 2))
        assert found.value == 0.5
        assert found.high - found.low == pytest.approx(2 * 0.98 / items**0.5, rel=0.15)
    assert mean_of(range(50), seed=1) != mean_of(range(50))


def test_a_ratio_is_drawn_as_a_ratio():
    """Nats and tokens of the same items belong together: a constant ratio has no spread."""
    size_I = np.array([1, 10, 100])
    found = metric(lambda drawn: (3 * size_I[drawn]).sum() / size_I[drawn].sum(), 3)
    assert (found.low, found.value, found.high) == (3, 3, 3)


def test_one_item_has_no_interval():
    assert mean_of([0.5]) == Metric(value=0.5, low=None, high=None)


def test_files_hold_the_figures_and_a_line_an_item(tmp_path):
    """Written twice, they hold the second."""
    metrics = {"accuracy": mean_of([1, 0]), "F1": mean_of([1])}
    for items in ([{"said": "old"}] * 5, [{"said": "曹操"}, {"said": "b"}]):
        found = Result(task="answers", counts={"items": 2}, metrics=metrics, items=items)
        found.write(tmp_path / "deep" / "out")
    lines = (tmp_path / "deep" / "out" / "items.jsonl").read_text().splitlines()
    assert lines == ['{"said": "曹操"}', '{"said": "b"}']
    written = json.loads((tmp_path / "deep" / "out" / "result.json").read_text())
    assert written == found.summary()
    assert written["metrics"]["accuracy"] == {"value": 0.5, "low": 0, "high": 1}


def result(*items):
    return Result(task="answers", counts={"items": len(items)}, metrics={"F1": mean_of([1])}, items=items)


def test_what_is_no_number_is_written_as_null_and_numbers_of_numpy_as_ours(tmp_path):
    """JSON knows neither NaN nor infinity."""
    result({"a": np.float32(0.5), "b": np.int64(2), "c": [float("nan"), np.bool_(True)]}).write(tmp_path)
    assert (tmp_path / "items.jsonl").read_text() == '{"a": 0.5, "b": 2, "c": [null, true]}\n'
    found = metric(lambda drawn: float("inf"), 3)
    assert found == Metric(value=float("inf"), low=None, high=None)
    Result(task="a", counts={}, metrics={"perplexity": found}, items=[]).write(tmp_path)
    assert json.loads((tmp_path / "result.json").read_text())["metrics"]["perplexity"]["value"] is None


def test_results_that_cannot_be_written_leave_the_earlier_ones(tmp_path, monkeypatch):
    """A file has its name only once it is whole, and nothing else is left."""
    result({"a": 1}).write(tmp_path)
    with pytest.raises(TypeError, match="not JSON serializable"):
        result({"a": 2}, {"a": object()}).write(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", full)
        with pytest.raises(OSError, match="full"):
            result({"a": 2}).write(tmp_path)
    assert (tmp_path / "items.jsonl").read_text() == '{"a": 1}\n'
    assert {path.name for path in tmp_path.iterdir()} == {"items.jsonl", "result.json"}


def full(path, target):
    assert path.read_text() == '{"a": 2}\n'
    raise OSError("full")


def test_a_folder_that_cannot_hold_results_is_refused(tmp_path):
    """A file, behind a file, and where nothing may be written."""
    (tmp_path / "file").write_text("")
    for place, said in {
        "file": "is a file; give a folder",
        "file/deep": "Not a directory; give another folder",
    }.items():
        with pytest.raises(ValueError, match=said):
            place_for(tmp_path / place)
    with pytest.raises(ValueError, match=r"/proc/results: .*; give another folder"):
        place_for("/proc/results")
    assert place_for(tmp_path / "new" / "deep").is_dir()


def test_the_table_names_counts_and_intervals():
    metrics = {"accuracy": mean_of([1, 0]), "F1": mean_of([1])}
    console = Console(file=io.StringIO(), width=80)
    console.print(Result(task="answers", counts={"items": 1200}, metrics=metrics, items=[]).table())
    shown = console.file.getvalue()
    assert "answers: 1,200 items" in shown
    assert "0.0000 to 1.0000" in shown
    assert shown.count(" to ") == 1
