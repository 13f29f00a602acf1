"""A folder that appears whole or not at all: killed anywhere, beside others, and where something is in its way."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from gptjax.files.atomic_folder import absent, appearing

CONTENT = {"a.txt": "one", "b.txt": "two"}
PROGRAM = """
import os, signal, sys
from pathlib import Path
from gptjax.files.atomic_folder import appearing

target, left = Path(sys.argv[1]), int(sys.argv[2])

def kill(event, arguments):
    global left
    if any(isinstance(argument, str | Path) and target.name in str(argument) for argument in arguments):
        left -= 1
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)

sys.addaudithook(kill)
with appearing(target) as (aside, appear):
    for name, text in {'a.txt': 'one', 'b.txt': 'two'}.items():
        (aside / name).write_text(text)
    appear()
"""


def content(folder: Path) -> dict[str, str]:
    return {path.name: path.read_text() for path in folder.iterdir()}


def test_killed_anywhere_the_folder_is_whole_or_absent(tmp_path):
    """SIGKILL at every step that the system sees of it; what is left, the next one to the same name removes."""
    target, seen = tmp_path / "model", []
    for number in range(1, 100):
        done = subprocess.run([sys.executable, "-c", PROGRAM, target, str(number)], capture_output=True, text=True)
        if done.returncode == 0:
            break
        assert done.returncode == -9, done.stderr
        leftovers = [path for path in tmp_path.iterdir() if path != target]
        seen.append((target.exists(), len(leftovers)))
        if target.exists():
            assert content(target) == CONTENT
            assert not leftovers
            for path in [*target.iterdir()]:
                path.unlink()
            target.rmdir()
    assert {(False, 0), (False, 1), (True, 0)} == set(seen)  # before, meanwhile, after
    assert len(seen) > 6
    assert content(target) == CONTENT
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def make(target: Path, meanwhile: Callable[[Path], None]) -> None:
    with appearing(target) as (aside, appear):
        (aside / "a.txt").write_text("one")
        meanwhile(aside)
        appear()


def test_a_failure_leaves_nothing(tmp_path):
    """Neither the folder nor those that were made to hold it; what was there before stays."""
    (tmp_path / "old").mkdir()

    def fail(aside):
        raise RuntimeError

    with pytest.raises(RuntimeError):
        make(tmp_path / "old" / "new" / "newer" / "model", fail)
    assert [*tmp_path.rglob("*")] == [tmp_path / "old"]


def test_where_nothing_can_be_made_is_said_before_anything_is_done(tmp_path):
    (tmp_path / "file").write_text("mine")
    with pytest.raises(ValueError, match=r"model: .*/file is a file; use another folder"):
        absent(tmp_path / "file" / "new" / "model")


def test_a_long_name_has_room_for_a_hidden_one_beside_it(tmp_path):
    for name in ("m" * 250, "模" * 80):
        make(tmp_path / name, lambda aside: None)
        assert content(tmp_path / name) == {"a.txt": "one"}


def test_what_is_there_already_is_refused_also_if_it_came_meanwhile(tmp_path):
    (tmp_path / "file").write_text("mine")
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    for name in ("file", "link"):
        with pytest.raises(ValueError, match=f"{name}: exists already; use another name, or remove it first"):
            absent(tmp_path / name)
    with pytest.raises(ValueError, match="model: exists already"):
        make(tmp_path / "model", lambda aside: (tmp_path / "model").mkdir())
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "link", "model"]
    assert not content(tmp_path / "model")


def test_two_at_work_on_one_name_leave_each_other_alone(tmp_path):
    """The second removes what a dead one left, but not what a living one has, nor what only looks like it; the first to
    end wins."""
    for name in (".model.unfinished-0123abcd", ".other.unfinished-0123abcd", ".model.unfinished-thesis"):
        (tmp_path / name).mkdir()

    def another(first):
        def look(second):
            assert first.is_dir()
            assert len([*tmp_path.glob(".model.unfinished-????????")]) == 2

        make(tmp_path / "model", look)

    with pytest.raises(ValueError, match="exists already"):
        make(tmp_path / "model", another)
    assert content(tmp_path / "model") == {"a.txt": "one"}
    left = sorted(path.name for path in tmp_path.iterdir())
    assert left == [".model.unfinished-thesis", ".other.unfinished-0123abcd", "model"]
