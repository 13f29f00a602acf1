"""A run says where it came from, and gives the credit its sources ask for."""

import dataclasses
import os
import shlex
import shutil
import sys
from pathlib import Path

import pytest

from data.prepare import begun
from data.spec import DataSpec
from gptjax.config import ModelConfig
from gptjax.runs.manifest import write_manifest
from tests.tiny_recipe import recipe as tiny
from tests.tiny_recipe import write_text
from train.assemble import open_text
from train.recipe import BatchSpec, MeshSpec, OptimizerSpec, Recipe, StopSpec, to_json
from train.record.provenance import (
    PACKAGES,
    attribution,
    changed_fields,
    check_disk,
    describe_run,
    environment,
    provenance,
)

SMALL = Recipe(data=DataSpec(sources=("chitchat",)), run=Path("runs/small"), steps=200)
SOURCES = {
    "mine": {"licence": "yours", "attribution": None},
    "leads": {"licence": "CC-BY-SA-4.0", "attribution": "Text from Wikipedia, changed."},
}


def test_the_environment_names_versions_devices_and_code():
    found = environment()
    assert {"python", "git", "command", "devices", *PACKAGES} <= found.keys()
    assert found["devices"].startswith("8 x cpu")
    assert all(isinstance(value, str) for value in found.values())
    assert all(found[name] for name in found.keys() - {"changed"})


def test_every_source_is_listed_and_credit_is_given_where_it_is_due():
    page = attribution(SOURCES)
    assert "## mine\n\nLicence: yours\n" in page
    assert "## leads\n\nLicence: CC-BY-SA-4.0\n\nText from Wikipedia, changed.\n" in page


def test_every_checkpoint_says_where_it_comes_from(tmp_path, monkeypatch):
    """Recipe, code, packages, flags, devices; not which of several processes wrote it."""
    monkeypatch.setenv("JAX_PROCESS_ID", "1")
    monkeypatch.setenv("XLA_FLAGS_OF_MINE", "fast")
    found = provenance(SMALL)
    assert {"git", "changed", "python", "devices", "flags", "recipe", *PACKAGES} <= found.keys()
    assert found["flags"]["XLA_FLAGS_OF_MINE"] == "fast"
    assert "JAX_PROCESS_ID" not in found["flags"]
    assert found["recipe"]["seed"] == SMALL.seed


@pytest.mark.fault(11, 12)
def test_a_harmless_change_goes_on_an_inexact_one_must_be_accepted_and_an_impossible_one_never_goes_on(tmp_path):
    (tmp_path / "recipe.json").write_text(to_json(SMALL))
    assert changed_fields(tmp_path, SMALL, accept=False) == []
    meshed = dataclasses.replace(SMALL, mesh=MeshSpec(fsdp=2))
    assert [str(change) for change in changed_fields(tmp_path, meshed, accept=False)] == ["mesh.fsdp: 1 -> 2"]
    rows = dataclasses.replace(SMALL, batch=BatchSpec(rows=32), seed=3)
    with pytest.raises(ValueError, match=r"batch.rows: 16 -> 32\n  seed: 0 -> 3\n.*or add --accept-changes"):
        changed_fields(tmp_path, rows, accept=False)
    assert [change.field for change in changed_fields(tmp_path, rows, accept=True)] == ["batch.rows", "seed"]
    other = dataclasses.replace(SMALL, optimizer=OptimizerSpec(name="lion"))
    for accept in (False, True):
        with pytest.raises(ValueError, match=r"optimizer.name: 'adamw' -> 'lion'\n.*repeat the old command"):
            changed_fields(tmp_path, other, accept=accept)


def test_space_and_rights_are_those_of_the_folder_itself(tmp_path, monkeypatch):
    """A folder that is there, mounted or linked, may lie on another disk than the folder it lies in, which may be full
    or read-only; one that is not there yet lies on the disk of the nearest that is."""
    disk, parent = tmp_path / "disk", tmp_path / "parent"
    for folder in (disk, parent / "mounted", parent / "run"):
        folder.mkdir(parents=True)
    (parent / "linked").symlink_to(disk)
    (parent / "run" / "checkpoints").symlink_to(disk)
    (parent / "file").touch()
    config = ModelConfig(T=8, vocabulary=300, D=8, L=1, N=1, K=1, head_width=8, F=8)
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(os, "access", lambda path, mode: path != parent)
    room = (disk, parent / "mounted", parent / "linked", parent / "run" / "checkpoints")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=10**12 * (path in room)))

    def check(run):
        check_disk(dataclasses.replace(SMALL, run=run), config)

    for run in (parent / "mounted", parent / "linked" / "new" / "newer", parent / "run"):
        check(run)
    with pytest.raises(ValueError, match=f"{parent} may not be written to"):
        check(parent / "new")
    with pytest.raises(ValueError, match=f"disk: .* GB, {tmp_path} has"):
        check(tmp_path / "new")
    with pytest.raises(ValueError, match="file is a file; choose another"):
        check(parent / "file" / "new")
    (parent / "run" / "checkpoints").unlink()
    with pytest.raises(ValueError, match=f"disk: .* GB, {parent}/run has"):
        check(parent / "run")


def test_the_command_is_kept_as_it_can_be_repeated(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["train", "pretrain", "--run", "my runs/it's"])
    assert shlex.split(environment()["command"]) == ["python", "-m", "train", "pretrain", "--run", "my runs/it's"]


def test_a_run_goes_on_with_a_renamed_source_and_another_rate_but_not_with_other_text(tmp_path):
    """The tokenizer is the run's; a letter more in a source is another text."""
    began = tiny(write_text(tmp_path), "run")

    def described(recipe):
        text = open_text(recipe, begun(recipe.run))
        return describe_run(recipe.run, recipe, ModelConfig.of(recipe.model, text.tokenizer.size, ()), text)

    first = described(began)
    moved = (tmp_path / "one.txt").rename(tmp_path / "uno.txt")
    sources = (f"files:{moved}=9", began.data.sources[1])
    goes_on = dataclasses.replace(began, data=dataclasses.replace(began.data, sources=sources))
    assert described(goes_on) == first
    other = dataclasses.replace(goes_on, data=dataclasses.replace(goes_on.data, tokenizer="bpe", vocabulary=300))
    assert open_text(other).tokenizer.fingerprint != first["tokenizer"]  # as bench has it, which goes on with no run
    moved.write_text("a" + moved.read_text())
    with pytest.raises(ValueError, match="trained with another text"):
        described(goes_on)


def test_a_change_of_the_schedule_says_what_the_learning_rate_was_and_will_be(tmp_path):
    """A finished cosine of 200 steps made 400 long: from a tenth of its peak to three quarters, told in advance."""
    (tmp_path / "recipe.json").write_text(to_json(SMALL))
    (tmp_path / "checkpoints" / "200").mkdir(parents=True)
    write_manifest(tmp_path / "checkpoints" / "200", 200, {"health": {"cooled_at": None}}, {})
    longer = dataclasses.replace(SMALL, steps=400)
    told = r"steps: 200 -> 400\n  learning rate of the next step, 201: 0.0003 -> 0.00233 \(7.75 times that\)\n"
    with pytest.raises(ValueError, match=told):
        changed_fields(tmp_path, longer, accept=False)
    assert [str(change) for change in changed_fields(tmp_path, longer, accept=True)][1:] == [
        "learning rate of the next step, 201: 0.0003 -> 0.00233 (7.75 times that)"
    ]
    for same in (
        dataclasses.replace(SMALL, batch=BatchSpec(rows=32)),
        dataclasses.replace(SMALL, stop=StopSpec(step=9)),
    ):
        assert len(changed_fields(tmp_path, same, accept=True)) == 1


def test_where_patience_began_the_fall_a_longer_run_does_not_move_it(tmp_path):
    """wsd has fallen to its end at step 60 + 40, whatever the plan says."""
    optimizer = OptimizerSpec(schedule="wsd", final=0.1)
    (tmp_path / "recipe.json").write_text(to_json(dataclasses.replace(SMALL, optimizer=optimizer)))
    (tmp_path / "checkpoints" / "100").mkdir(parents=True)
    longer = dataclasses.replace(SMALL, optimizer=optimizer, steps=400)
    write_manifest(tmp_path / "checkpoints" / "100", 100, {"health": {"cooled_at": None}}, {})
    assert len(changed_fields(tmp_path, longer, accept=True)) == 1
    write_manifest(tmp_path / "checkpoints" / "100", 100, {"health": {"cooled_at": 60}}, {})
    told = "learning rate of the next step, 101: 0.0003 -> 0.00165 (5.5 times that)"  # 40 steps of falling are now 80
    assert str(changed_fields(tmp_path, longer, accept=True)[1]) == told


def test_a_source_that_was_sent_says_of_which_commit_it_is(tmp_path, monkeypatch):
    """Though it lies in a checkout of another commit; without the file it is the checkout that speaks."""
    monkeypatch.setattr("train.record.provenance.ROOT", tmp_path)
    (tmp_path / "source.json").write_text('{"commit": "abc", "changed": "def"}\n')
    assert (environment()["git"], environment()["changed"]) == ("abc", "def")
    (tmp_path / "source.json").unlink()
    assert environment()["git"] != "abc"
