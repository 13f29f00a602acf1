"""The audit finds rows that were skipped, read twice, or not what the text says."""

import contextlib
import dataclasses
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from data.prepare import prepare
from gptjax.runs.manifest import write_manifest
from tests.tiny_recipe import recipe, steps_alone, write_text
from train.assemble import rows_of
from train.lab.audit import audit, untiled
from train.recipe import BatchSpec, MeshSpec, StopSpec, ValidationSpec, to_json
from train.record.ledger import Entry, hexadecimal, read_ledger, rows_hash
from train.record.provenance import environment


def entry(step: int, first_row: int, rows: int = 8) -> Entry:
    return Entry(step, first_row, rows, "0" * 16, 2.0, 1.0, False)


@pytest.mark.parametrize(
    ("entries", "found"),
    [
        ([entry(1, 0), entry(2, 8), entry(3, 16, 4), entry(4, 20)], []),
        ([entry(1, 0), entry(2, 16)], ["step 2: rows 8 to 15 were skipped"]),
        ([entry(1, 0), entry(2, 4)], ["step 2: rows 4 to 7 come again"]),
        ([entry(1, 8)], ["step 1: rows 0 to 7 were skipped"]),
        ([entry(1, 0), entry(3, 8)], ["step 3 follows step 1"]),
    ],
)
def test_every_row_and_step_must_come_once_in_order(entries, found):
    """Steps of another number of rows are no fault."""
    assert list(untiled(entries)) == found


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run continued on another mesh, and again with another batch size."""
    text = write_text(tmp_path_factory.mktemp("audit"))
    steps_alone(recipe(text, "run", stop=StopSpec(step=3)))
    steps_alone(recipe(text, "run", stop=StopSpec(step=5), mesh=MeshSpec(data=4, tensor=2)))
    larger = recipe(text, "run", stop=StopSpec(step=7), batch=BatchSpec(rows=16, micro_batches=2))
    with pytest.raises(ValueError, match=r"batch.rows: 8 -> 16\n.*or add --accept-changes"):
        steps_alone(larger)
    return steps_alone(larger, accept_changes=True)


def told(run) -> tuple[bool, str]:
    console = Console(record=True, width=300)
    return audit(run, console), console.export_text()


@pytest.mark.fault(12, 13)
def test_a_run_over_restarts_meshes_and_batch_sizes_read_every_row_once(run):
    assert [entry.rows for entry in read_ledger(run)] == [8] * 5 + [16] * 2
    good, said = told(run)
    assert good
    assert "rows 0 to 71 in 7 steps: each was read once, in order, and was what the text says" in said


def test_another_row_in_one_step_is_found(run):
    """The ledger says that step 2 read what step 3 did."""
    path = run / "ledger.jsonl"
    kept = path.read_text()
    lines = [json.loads(line) for line in kept.splitlines()]
    lines[1]["hash"] = lines[2]["hash"]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    good, said = told(run)
    path.write_text(kept)
    assert not good
    assert "step 2: its rows hash to" in said
    assert "1 faults" in said


@pytest.fixture
def described(tmp_path, monkeypatch):
    """A run directory as far as the audit reads it, of text that the recipe names relative to where it was started."""
    (tmp_path / "home").mkdir()
    monkeypatch.chdir(write_text(tmp_path / "home"))
    settings = recipe(Path(), "run", validation=ValidationSpec())
    prepared = prepare(settings.data)
    rows = rows_of(settings, prepared)
    steps = [(1, 0), (2, 8)]
    hashes = [hexadecimal(rows_hash(rows.batch(np.arange(row, row + 8)), np)) for _, row in steps]
    ledger = [Entry(step, row, 8, hash, 2.0, 1.0, False) for (step, row), hash in zip(steps, hashes, strict=True)]
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "recipe.json").write_text(to_json(settings))
    (tmp_path / "run" / "data.json").write_text((prepared / "prepared.json").read_text())
    (tmp_path / "run" / "environment.json").write_text(json.dumps(environment()))
    (tmp_path / "run" / "ledger.jsonl").write_text("".join(json.dumps(entry._asdict()) + "\n" for entry in ledger))
    return tmp_path / "run"


def test_an_audit_from_another_folder_reads_the_text_that_the_run_read(described, tmp_path, monkeypatch):
    """And leaves nothing there. Text moved since, and that of a run that does not say where it started, is here."""
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    good, said = told(Path("..") / "run")
    assert good
    assert "rows 0 to 15 in 2 steps" in said
    assert list(Path().iterdir()) == []
    assert Path.cwd() == tmp_path / "elsewhere"
    (tmp_path / "home").rename(tmp_path / "moved")
    with pytest.raises(ValueError, match=f"started in {tmp_path / 'home'}, where .*one.txt"):
        told(described)
    monkeypatch.chdir(tmp_path / "moved")
    assert told(described)[0]
    (described / "environment.json").unlink()
    assert told(described)[0]


def changed(described: Path, noted: bool) -> None:
    """Two steps more, by another seed and half of the batch; noted in starts.jsonl, or as an older gptjax left it."""
    before = recipe(Path(), "run", validation=ValidationSpec())
    after = dataclasses.replace(before, seed=1, batch=BatchSpec(rows=4))
    trees = [json.loads(to_json(one)) for one in (before, after)]
    with contextlib.chdir(json.loads((described / "environment.json").read_text())["folder"]):
        rows = rows_of(after, prepare(after.data))
    rows = rows.from_step(2, 16, 4) if noted else rows
    with (described / "ledger.jsonl").open("a") as file:
        for step, row in ((3, 16), (4, 20)):
            hash = hexadecimal(rows_hash(rows.batch(np.arange(row, row + 4)), np))
            file.write(json.dumps(Entry(step, row, 4, hash, 2.0, 1.0, False)._asdict()) + "\n")
    starts = [{"step": 0, "seconds": 0.0, "row": 0}, {"step": 2, "seconds": 1.0, "row": 16}]
    if noted:
        starts = [start | {"recipe": tree} for start, tree in zip(starts, trees, strict=True)]
    else:
        (described / "checkpoints" / "2").mkdir(parents=True)
        write_manifest(described / "checkpoints" / "2", 2, {"provenance": {"recipe": trees[0]}}, {})
    (described / "starts.jsonl").write_text("".join(json.dumps(start) + "\n" for start in starts))
    (described / "recipe.json").write_text(to_json(after))


@pytest.mark.parametrize("noted", [True, False])
def test_each_stretch_is_held_against_the_recipe_that_it_was_trained_with(described, noted):
    """A run that went on with another seed and batch size is honest; the same step with a wrong hash is not."""
    changed(described, noted)
    good, said = told(described)
    assert good
    assert "rows 0 to 23 in 4 steps: each was read once" in said
    lines = [json.loads(line) for line in (described / "ledger.jsonl").read_text().splitlines()]
    lines[0]["hash"], lines[3]["hash"] = "0" * 16, "1" * 16
    (described / "ledger.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    good, said = told(described)
    assert not good
    assert "step 1: its rows hash to" in said
    assert "step 4: its rows hash to" in said
    assert "2 faults" in said


def test_where_the_recipe_of_a_step_was_not_kept_a_fault_says_so(described):
    changed(described, noted=False)
    shutil.rmtree(described / "checkpoints")
    good, said = told(described)
    assert not good
    assert said.count("the recipe of this step was not kept, a later one was used") == 2
