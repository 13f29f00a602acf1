"""Distribution: any number of workers, whole or killed, make the bytes that one process makes."""

import contextlib
import filecmp
import importlib.util
import json
import os
import random
import subprocess
import sys
import time
import zipfile

import psutil
import pytest
from etils import epath

from data import distribute, prepare
from data.preparation import sources
from data.spec import DataSpec

with_beam = pytest.mark.skipif(
    importlib.util.find_spec("apache_beam") is None, reason="needs the environment of requirements/beam.txt"
)
FEW_BYTES_A_PIECE = """
import sys
from data import distribute
from data.preparation import sources
sources.SHARD = 10_000
sys.exit(distribute.main(sys.argv[1:]))
"""


@pytest.fixture
def text(tmp_path):
    """A source of six files, each of which becomes a piece of work."""
    chance = random.Random(0)
    for number in range(6):
        documents = [" ".join(chance.choices(["rain", "falls", "on", "hills."], k=80)) for _ in range(60)]
        lines = [json.dumps({"text": f"{number} {text}\n", "topic": f"t{len(text) % 3}"}) for text in documents]
        (tmp_path / f"{number}.jsonl").write_text("\n".join(lines))
    return f"files:{tmp_path}/*.jsonl"


def settings(text, prepared):
    return ["--sources", text, "--label-field", "topic", "--vocabulary", "400", "--prepared", str(prepared)]


def start(text, prepared, workers):
    command = [sys.executable, "-c", FEW_BYTES_A_PIECE, "--workers", str(workers), "--", *settings(text, prepared)]
    return subprocess.Popen(command, cwd=distribute.CHECKOUT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def assert_same_files(one, other):
    files = sorted(path.relative_to(one) for path in one.rglob("*") if path.is_file())
    assert files == sorted(path.relative_to(other) for path in other.rglob("*") if path.is_file())
    assert [file for file in files if file.suffix != ".lock" and not filecmp.cmp(one / file, other / file, False)] == []


@with_beam
@pytest.mark.parametrize("workers", [1, 2])
def test_workers_make_the_bytes_of_one_process(tmp_path, text, workers):
    """Folder for folder: what Beam's workers tokenised is what this process does alone."""
    here = prepare.prepare(DataSpec(sources=(text,), label_field="topic", vocabulary=400, prepared=tmp_path / "here"))
    running = start(text, tmp_path / "there", workers)
    output, errors = running.communicate(timeout=300)
    assert running.returncode == 0, errors
    assert "reading: 6 pieces" in errors
    assert output.splitlines()[-1] == str(tmp_path / "there" / here.name)
    assert_same_files(here, tmp_path / "there" / here.name)


def workers_of(running):
    found = set()
    for child in psutil.Process(running.pid).children(recursive=True):
        with contextlib.suppress(psutil.Error):  # it may end while it is looked at
            if "sdk_worker" in str(child.cmdline()):
                found.add(child)
    return found


@with_beam
def test_a_killed_worker_ends_the_command_and_the_next_one_goes_on(tmp_path, text):
    """SIGKILL in the middle: what was measured stays, and the second run makes the bytes of one process."""
    running = start(text, tmp_path / "there", 2)

    before = set()
    while len(kept := sorted((tmp_path / "there").glob("*.partial/work/measured/*.npz"))) < 6:
        before |= workers_of(running)
        time.sleep(0.05)
    while not (victims := workers_of(running) - before):
        time.sleep(0.05)
    written = {path: path.stat().st_mtime_ns for path in kept}
    victims.pop().kill()
    _, errors = running.communicate(timeout=300)
    assert running.returncode == 1
    assert "a worker died" in errors
    assert not list((tmp_path / "there").glob("*/prepared.json"))
    assert {path: path.stat().st_mtime_ns for path in kept} == written
    again = start(text, tmp_path / "there", 2)
    _, errors = again.communicate(timeout=300)
    assert again.returncode == 0, errors
    here = prepare.prepare(DataSpec(sources=(text,), label_field="topic", vocabulary=400, prepared=tmp_path / "here"))
    assert_same_files(here, tmp_path / "there" / here.name)


@with_beam
def test_another_runner_needs_a_folder_that_all_machines_see(tmp_path, text):
    spec = DataSpec(sources=(text,), prepared=tmp_path)
    with pytest.raises(ValueError, match=r"--runner FlinkRunner needs --shared, a folder that all machines see"):
        distribute.distribute(spec, "FlinkRunner", 2, None, [])


def test_without_beam_the_remedy_is_named(tmp_path, text, monkeypatch, capsys):
    """Before any work, with the command that makes the environment."""
    monkeypatch.setattr(distribute.importlib.util, "find_spec", lambda name: None)
    assert distribute.main(["--", *settings(text, tmp_path)]) == 2
    assert "needs Apache Beam, in an environment of its own" in capsys.readouterr().err


def test_what_stands_before_the_dashes_and_is_not_ours_goes_to_beam(tmp_path, text, monkeypatch):
    """Options keep their order and values; those of the data come after the dashes."""
    seen = []
    monkeypatch.setattr(distribute, "distribute", lambda *arguments: seen.append(arguments))
    options = ["--runner", "FlinkRunner", "--shared", "gs://bucket/x", "--flink_master", "host:8081", "--parallelism=8"]
    assert distribute.main([*options, "--", *settings(text, tmp_path)]) == 0
    ((spec, runner, _, shared, of_beam),) = seen
    assert (spec.label_field, runner, shared) == ("topic", "FlinkRunner", epath.Path("gs://bucket/x"))
    assert of_beam == ["--flink_master", "host:8081", "--parallelism=8"]


def test_the_wheel_brings_all_that_a_worker_imports(tmp_path, text):
    """From the wheel alone, in another folder, a worker reads and tokenises; corpora keep their cards."""
    wheel = distribute.wheel(tmp_path / "build")
    with zipfile.ZipFile(wheel) as contents:
        contents.extractall(tmp_path / "site")
        names = contents.namelist()
    assert {"data/preparation/workitems.py", "gptjax/text/tokenizer.py", "data/corpora/chitchat/CITATIONS.bib"} <= set(
        names
    )
    program = f"from data import prepare; assert prepare.__file__.startswith({str(tmp_path)!r}); prepare.main()"
    environment = os.environ | {"PYTHONPATH": str(tmp_path / "site")}
    command = [sys.executable, "-c", program, *settings(text, tmp_path / "prepared")]
    subprocess.run(command, cwd=tmp_path, env=environment, check=True, capture_output=True)
    assert list(tmp_path.glob("prepared/*/prepared.json"))
    assert sources.__file__.startswith(str(distribute.CHECKOUT))
