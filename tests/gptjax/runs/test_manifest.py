"""gptjax.runs.manifest: which steps are usable, and no damage that is taken for a whole step."""

import json
import os
import shutil

import pytest

from gptjax.runs.manifest import (
    MANIFEST,
    check_sizes,
    manifest,
    newest_good,
    set_aside,
    steps,
    to_load,
    verify,
    write_manifest,
)
from tests.campaigns.damage import NEWER, OLDER, RIGHT, Damage, damages, outcome, small_run


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return small_run(tmp_path_factory.mktemp("whole") / "run")


@pytest.fixture
def run(whole, tmp_path):
    """A copy to do harm to."""
    return shutil.copytree(whole, tmp_path / "run")


def names(run):
    return sorted(path.name for path in (run / "checkpoints").iterdir())


def refusal(run, step=NEWER):
    with pytest.raises(ValueError, match=f"^step {step}: [^\n]*$") as error:
        verify(run, step)
    return str(error.value)


def rewrite(run, **changes):
    """The newer step's manifest with other entries, and a digest that fits them."""
    content = manifest(run, NEWER) | changes
    notes = {name: content[name] for name in content.keys() - {"sha256", "format", "step", "saved", "files"}}
    write_manifest(run / "checkpoints" / str(NEWER), content["step"], notes, content["files"])


@pytest.mark.fault(3, 4, 19)
def test_every_damage_is_named_and_the_older_step_used(whole):
    """A few of what tests/campaigns/damage.py does. Without damage the newer step is used, which is no such outcome."""
    every = list(damages(whole, flips=8))
    for damage in [*every[:8], *every[8::7]]:
        assert (damage.kind, damage.file, outcome(whole, damage)) == (damage.kind, damage.file, RIGHT)
    assert outcome(whole, Damage("none", MANIFEST, lambda path: None)) == f"silent: step {NEWER} was used"


@pytest.mark.fault(3)
def test_every_bit_of_a_manifest_is_guarded(run):
    """Each twentieth is flipped. That of a format number is a damage, not a message from the future."""
    path = run / "checkpoints" / str(NEWER) / MANIFEST
    content = path.read_bytes()
    for bit in {*range(0, 8 * len(content), 20), *range(8 * content.index(b'2,\n "step"'), 8)}:
        changed = bytearray(content)
        changed[bit // 8] ^= 1 << bit % 8
        path.write_bytes(changed)
        with pytest.raises(ValueError, match=rf"^step {NEWER}: {MANIFEST}: [^\n]*$") as error:
            manifest(run, NEWER)
        assert "newer gptjax" not in str(error.value)
    path.write_bytes(content)
    assert manifest(run, NEWER)["rows"] == NEWER


@pytest.mark.fault(14)
def test_a_newer_format_is_refused_and_the_first_one_read(run, monkeypatch):
    """The first had no digest of its own, and is verified by its files."""
    with monkeypatch.context() as future:
        future.setattr("gptjax.runs.manifest.FORMAT", 3)
        rewrite(run)
    assert "written by a newer gptjax (format 3, this one reads up to 2)" in refusal(run)
    path = run / "checkpoints" / str(OLDER) / MANIFEST
    content = json.loads(path.read_text()) | {"format": 1}
    del content["sha256"]
    path.write_text(json.dumps(content))
    verify(run, OLDER)
    next((run / "checkpoints" / str(OLDER) / "params").rglob("_METADATA")).write_text("{}")
    assert "params/_METADATA" in refusal(run, OLDER)


@pytest.mark.fault(4, 16)
@pytest.mark.parametrize(
    "content", ["", "[]", "3", "{}", "[" * 100_000, '{"format": 1, "step": 20, "saved": "", "files": ["a"]}',
                '{"format": 1, "step": 20, "saved": "", "files": {"a": 3}}', '{"format": [1], "sha256": 7}'],
)  # fmt: skip
def test_what_is_no_manifest_is_refused(run, content):
    """Other JSON, none, and JSON that has the keys but not the kinds of value."""
    (run / "checkpoints" / str(NEWER) / MANIFEST).write_text(content)
    assert f"step {NEWER}: {MANIFEST}: " in refusal(run)


@pytest.mark.fault(15)
def test_names_that_lead_out_of_a_step_are_refused(run):
    """Absolute, through the parent, and through a link; a link to a file of the same step is no harm."""
    folder = run / "checkpoints" / str(NEWER)
    files = manifest(run, NEWER)["files"]
    inside = folder / "params" / "_METADATA"
    entry = files["params/_METADATA"]
    (folder / "out").symlink_to(run / "checkpoints" / str(OLDER) / "params" / "_METADATA")
    (folder / "in").symlink_to(inside)
    (folder / "round").symlink_to("round")
    for name in (str(inside), f"../{NEWER}/params/_METADATA", "params/../params/_METADATA", "out"):
        rewrite(run, files={name: entry})
        assert f"step {NEWER}: {name}: lies outside" in refusal(run)
    for name in ("x" * 5000, "a\0b", "round", "params"):
        rewrite(run, files={name: entry})
        refusal(run)
    rewrite(run, files={**files, "in": entry})
    verify(run, NEWER)


@pytest.mark.fault(15)
def test_a_manifest_of_another_step_is_refused(run):
    """As after renaming a step by hand."""
    (run / "checkpoints" / str(NEWER)).rename(run / "checkpoints" / "30")
    assert "is of step 20" in refusal(run, 30)


@pytest.mark.fault(5)
def test_only_folders_named_by_a_plain_number_are_steps(run):
    """What else lies about is not used, does not crash, and is left alone by whoever only reads."""
    for name in ("99", "007", "notes", "²", "31.unfinished-ab", "32.damaged"):
        shutil.copytree(run / "checkpoints" / str(NEWER) / "params", run / "checkpoints" / name)
    (run / "checkpoints" / "98").mkdir()
    (run / "checkpoints" / "97").touch()
    (run / "checkpoints" / ".DS_Store").touch()
    before = names(run)
    assert steps(run) == [OLDER, NEWER]
    said = []
    assert newest_good(run, said.append, set_bad_aside=False) == NEWER
    assert said == [f"not used: step {step}: {MANIFEST}: is missing; the step was copied in part" for step in (99, 98)]
    assert names(run) == before
    said = []
    assert newest_good(run, said.append, set_bad_aside=True) == NEWER
    assert [line.split("; ")[-1] for line in said] == [f"kept as checkpoints/{step}.damaged" for step in (99, 98)]
    assert set(before) - set(names(run)) == {"98", "99"}


@pytest.mark.fault(5)
def test_a_file_that_the_manifest_does_not_list_does_no_harm(run):
    """One that a file browser leaves, for example; a listed file that is missing does."""
    (run / "checkpoints" / str(NEWER) / "params" / ".DS_Store").write_text("x")
    verify(run, NEWER)
    (run / "checkpoints" / str(NEWER) / "params" / "_METADATA").unlink()
    assert refusal(run).endswith("params/_METADATA: is missing")


def test_sizes_alone_do_not_find_a_changed_byte(run):
    """Which is why `verify` reads every file."""
    path = run / "checkpoints" / str(NEWER) / "params" / "_METADATA"
    path.write_bytes(path.read_bytes().replace(b"{", b"[", 1))
    assert check_sizes(run, NEWER)["step"] == NEWER
    assert "sha256 is" in refusal(run)
    path.write_bytes(path.read_bytes() + b" ")
    with pytest.raises(ValueError, match="bytes, its manifest says"):
        check_sizes(run, NEWER)


@pytest.mark.fault(17)
def test_where_no_step_is_good_none_is_touched(run, tmp_path):
    """Twice: a run that sets its last steps aside would start anew the second time. A run without steps has none."""
    assert newest_good(tmp_path, pytest.fail, set_bad_aside=True) is None
    for step in (OLDER, NEWER):
        (run / "checkpoints" / str(step) / MANIFEST).write_text("{")
    for _ in range(2):
        said = []
        with pytest.raises(ValueError, match="every checkpoint is damaged"):
            newest_good(run, said.append, set_bad_aside=True)
        assert len(said) == 2
    assert names(run) == [str(OLDER), str(NEWER)]


@pytest.mark.fault(3)
def test_what_is_set_aside_does_not_replace_what_was_before(run):
    for name in (f"{NEWER}.damaged", f"{NEWER}.damaged-2", f"{NEWER}.damaged-3"):
        assert set_aside(run, NEWER).name == name
        shutil.copytree(run / "checkpoints" / name, run / "checkpoints" / str(NEWER))
    assert steps(run) == [OLDER, NEWER]


@pytest.mark.fault(4)
def test_a_file_that_cannot_be_read_is_named(run, monkeypatch):
    """The disk answers with an error."""

    def broken(path):
        raise OSError(5, os.strerror(5), str(path))

    monkeypatch.setattr("gptjax.runs.manifest.sha256", broken)
    assert "Input/output error" in refusal(run)


def test_notes_cannot_replace_what_the_manifest_says(tmp_path):
    with pytest.raises(ValueError, match=r"\['files', 'step'\] are names of the manifest's own"):
        write_manifest(tmp_path, 3, {"step": 4, "files": {}, "rows": 1}, {})


def test_a_run_that_is_judged_by_a_figure_is_loaded_at_the_step_that_its_newest_names(run):
    assert to_load(run, pytest.fail) == NEWER
    rewrite(run, load=OLDER)
    assert to_load(run, pytest.fail) == OLDER
    said = []
    next((run / "checkpoints" / str(OLDER)).rglob("*ocdbt*")).unlink()
    assert to_load(run, said.append) == NEWER
    assert said[0].startswith("not used: step")
