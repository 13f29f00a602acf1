"""Faults of whole runs: signals and kills in every phase, disks that hang, processes that die, stay out or disagree."""

import ast
import dataclasses
import os
import pickle
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

import gptjax
from gptjax.config import Architecture
from gptjax.runs.manifest import manifest, newest_good, steps, verify, write_manifest
from tests.campaigns.damage import NEWER, OLDER, small_run
from tests.tiny_recipe import recipe, records, steps_alone, write_text
from train.pretrain import pretrain
from train.recipe import BatchSpec, CheckpointSpec, MeshSpec, OptimizerSpec, StopSpec, ValidationSpec
from train.record.ledger import read_ledger
from train.supervision.lease import Lease

ROOT = Path(__file__).resolve().parent.parent
QUIET = Console(quiet=True)
PATIENCE = 300  # seconds for a process to start and end; a quiet machine needs ten


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    return write_text(tmp_path_factory.mktemp("faults"))


def small(text, run: str, **changes):
    settings = {
        "mesh": MeshSpec(data=8), "batch": BatchSpec(rows=16, micro_batches=2), "samples": 1,
        "validation": ValidationSpec(every=6, rows=4, final_rows=4),
    }  # fmt: skip
    return recipe(text, run, **{**settings, **changes})


@pytest.fixture(scope="module")
def whole(text):
    """A run that nothing happened to."""
    return pretrain(small(text, "whole"), QUIET)


# ---- one process, within this one ----


@pytest.mark.fault(5)
def test_a_newest_step_that_was_copied_in_part_is_told_and_the_older_one_used(tmp_path):
    """Its manifest, which comes last, is missing; or a file that the manifest lists. The older one stays as it is."""
    run = small_run(tmp_path / "run")
    for missing in ("manifest.json", "params/_METADATA"):
        copy = shutil.copytree(run, tmp_path / missing.replace("/", "-"))
        (copy / "checkpoints" / str(NEWER) / missing).unlink()
        said = []
        assert newest_good(copy, said.append, set_bad_aside=True) == OLDER
        assert len(said) == 1
        assert f"step {NEWER}: {missing}: is missing" in said[0]
    assert newest_good(run, said.append, set_bad_aside=True) == NEWER


@pytest.mark.fault(7)
def test_a_run_directory_that_cannot_be_one_is_refused_before_the_text_is_read(text, monkeypatch):
    """A file; a place where nothing may be made; a folder on another disk will do."""
    monkeypatch.setattr("train.run.open_text", lambda *_: pytest.fail("the text was opened"))
    (text / "file").write_text("mine")
    with pytest.raises((ValueError, OSError), match=str(text / "file")):
        pretrain(small(text, "file"), QUIET)
    with pytest.raises((ValueError, OSError), match="/proc"):
        pretrain(dataclasses.replace(small(text, "run"), run=Path("/proc/no/run")), QUIET)
    assert (text / "file").read_text() == "mine"


@pytest.mark.fault(7)
def test_checkpoints_on_another_file_system_than_the_run_are_saved(tmp_path):
    """Nothing is renamed from one file system to another: a step is made where it stays."""
    other = Path("/dev/shm")
    if not other.is_dir() or other.stat().st_dev == tmp_path.stat().st_dev:
        pytest.skip("no second file system here")
    there = other / f"{tmp_path.name}-{os.getpid()}"
    there.mkdir()
    try:
        (tmp_path / "run").mkdir()
        (tmp_path / "run" / "checkpoints").symlink_to(there)
        small_run(tmp_path / "run")
        verify(tmp_path / "run", NEWER)
    finally:
        shutil.rmtree(there)


class Bomb:
    """Makes a file when it is unpickled."""

    def __init__(self, mark: Path):
        self._mark = mark

    def __reduce__(self):
        return Path.touch, (self._mark,)


@pytest.mark.fault(16)
@pytest.mark.parametrize("name", ["model.json", "tokenizer.json", "checkpoints/12/manifest.json", "a file of params"])
def test_a_pickle_in_place_of_any_file_is_refused_and_not_executed(whole, tmp_path, name):
    run = shutil.copytree(whole, tmp_path / "run")
    params = max((run / "checkpoints/12/params/ocdbt.process_0/d").iterdir(), key=lambda path: path.stat().st_size)
    bomb = pickle.dumps(Bomb(tmp_path / "mark"))
    (params if name == "a file of params" else run / name).write_bytes(bomb)
    with pytest.raises(ValueError, match=Path(name).name if name != "a file of params" else params.name):
        gptjax.load(run, step=12)
    assert not (tmp_path / "mark").exists()
    pickle.loads(bomb)
    assert (tmp_path / "mark").exists()


@pytest.mark.fault(16)
def test_nothing_that_executes_what_it_reads_is_used():
    """pickle and its kin, eval, exec, and YAML other than safe; what NumPy would unpickle, it refuses by default."""
    kin = {"pickle", "cPickle", "dill", "cloudpickle", "marshal", "shelve", "joblib", "torch"}
    for path in [path for folder in ("gptjax", "train", "data") for path in (ROOT / folder).rglob("*.py")]:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            assert not kin & {name.split(".")[0] for name in names}, path
            called = ast.unparse(node.func) if isinstance(node, ast.Call) else ""
            assert called not in ("eval", "exec", "yaml.load", "yaml.unsafe_load"), path


@pytest.mark.fault(18)
def test_steps_are_ordered_by_number_whatever_the_clock_says(tmp_path, monkeypatch):
    """The newer step was saved an hour earlier, by its manifest and by its folder's date, in another time zone."""
    run = small_run(tmp_path / "run")
    early = time.time() - 3600
    os.utime(run / "checkpoints" / str(NEWER), (early, early))
    monkeypatch.setattr(time, "strftime", lambda *_: "2001-01-01T00:00:00-0900")
    write_manifest(run / "checkpoints" / str(NEWER), NEWER, {}, manifest(run, NEWER)["files"])
    assert newest_good(run, print, set_bad_aside=True) == NEWER


@pytest.mark.fault(18)
def test_no_duration_is_measured_by_the_wall_clock():
    """It is told to people, as a date; nothing subtracts it, or compares it."""
    for path in [path for folder in ("gptjax", "train") for path in (ROOT / folder).rglob("*.py")]:
        source = path.read_text(encoding="utf-8")
        assert "time.time(" not in source, path
        assert "datetime" not in source, path


@pytest.mark.slow
@pytest.mark.fault(29)
def test_a_step_that_does_not_fit_the_memory_names_the_fields_that_decide(text):
    """Half a terabyte of activations. What was saved before is whole."""
    large = small(
        text, "large", model=Architecture(T=32, D=8, L=2, N=1, K=1, head_width=8, F=2**16),
        batch=BatchSpec(rows=2**16), steps=4,
    )  # fmt: skip
    said = r"device memory: Out of memory allocating \d+ bytes.* compute.remat=none: full; batch.micro_batches=1: more"
    with pytest.raises(ValueError, match=said):
        pretrain(large, QUIET)
    assert steps(text / "large") == [0]
    verify(text / "large", 0)


@pytest.mark.fault(33)
def test_a_run_that_is_at_its_end_or_beyond_it_ends_at_once(text, whole):
    """Started again; with fewer steps than it has; the ledger and what was measured stay as they are."""
    before = (whole / "ledger.jsonl").read_text(), records(whole, "final")
    pretrain(small(text, "whole"), QUIET)
    console = Console(record=True, width=200)
    steps_alone(small(text, "whole", stop=StopSpec(step=6)), console)
    assert "ended at step 12: stop.step=6" in console.export_text()
    assert before == ((whole / "ledger.jsonl").read_text(), records(whole, "final"))
    assert steps(whole)[-1] == 12


@pytest.mark.fault(33)
def test_one_step_is_a_run_and_what_comes_more_rarely_is_done_at_its_end(text):
    rare = {"validation": ValidationSpec(every=100, rows=4, final_rows=4), "checkpoint": CheckpointSpec(every=100)}
    run = steps_alone(small(text, "one step", steps=1, optimizer=OptimizerSpec(warmup=0), **rare))
    assert steps(run) == [0, 1]
    assert [record["step"] for record in records(run, "validation")] == [1, 1]
    assert len(records(run, "final")) == 2


@pytest.mark.fault(36)
def test_a_run_that_fails_again_and_again_at_one_step_is_refused_with_the_cause(text, monkeypatch):
    def fail(*_):
        raise RuntimeError("the disk of part-7 is broken")

    with monkeypatch.context() as patch:
        patch.setattr("train.run.train", fail)
        for _ in range(5):
            with pytest.raises(RuntimeError, match="part-7"):
                pretrain(small(text, "again"), QUIET)
    with pytest.raises(ValueError, match=r"5 starts in a row ended at step 0.*part-7 is broken. Mend it, then delete"):
        pretrain(small(text, "again"), QUIET)
    (text / "again" / "failures.json").unlink()
    steps_alone(small(text, "again", stop=StopSpec(step=1)))


# ---- one process of its own ----

# Does something when the run enters a phase for the n-th time, then is `python -m train`.
PROGRAM = """
import contextlib, os, runpy, signal, sys, threading, time
from train.supervision.watchdog import Watchdog
enter, seen = Watchdog.phase, []

@contextlib.contextmanager
def phase(self, name):
    with enter(self, name):
        seen.append(name)
        if name == {phase!r} and seen.count(name) == {number}:
            {action}
        yield

Watchdog.phase = phase
{more}
sys.argv[0] = "train"
runpy.run_module("train", run_name="__main__")
"""


class Process:
    """`python -m train pretrain` with the recipe of `small`, and what it printed."""

    def __init__(self, text, run: str, *fields, phase="none", number=1, action="pass", more="", **environment):
        made = text / f"{run}.py"
        made.write_text(
            "from pathlib import Path\nfrom tests.test_faults import small\n\n"
            f"def recipe():\n    return small(Path({str(text)!r}), {run!r})\n"
        )
        self._output = text / f"{run}-{time.monotonic_ns()}.out"
        code = PROGRAM.format(phase=phase, number=number, action=action, more=more)
        with self._output.open("wb") as output:
            self.process = subprocess.Popen(
                [sys.executable, "-c", code, "pretrain", str(made), *fields],
                cwd=ROOT, env={**os.environ, "PYTHONUNBUFFERED": "1", **environment},
                stdout=output, stderr=subprocess.STDOUT,
            )  # fmt: skip

    @property
    def said(self) -> str:
        return " ".join(self._output.read_text(encoding="utf-8", errors="replace").split())

    def ended(self) -> int:
        """Its exit code."""
        try:
            return self.process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            self.process.kill()
            pytest.fail(f"still runs; it said: {self.said}")

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.kill()
        self.process.wait()


# the text is prepared before there is a watchdog to name the phase
IN_TEXT = """
import data.prepare
prepare = data.prepare.prepare
def ended(spec, **more):
    os.kill(os.getpid(), signal.SIGTERM)
    return prepare(spec, **more)
data.prepare.prepare = ended
"""
TERM, KILL = "os.kill(os.getpid(), signal.SIGTERM)", "os.kill(os.getpid(), signal.SIGKILL)"


@pytest.mark.slow
@pytest.mark.fault(2, 20, 30, 34)
def test_ended_in_every_phase_a_run_loses_nothing_and_does_what_is_due_once(text, whole):
    """SIGTERM, or SIGKILL as the kernel sends it when memory is short, start after start; then it is as `whole`."""
    for phase, number, action, code, said in [
        ("text", 1, TERM, 75, "stopped by SIGTERM in phase text: nothing new to save"),
        ("compile", 1, TERM, 75, "stopped by SIGTERM in phase compile: nothing new to save"),
        ("step", 3, TERM, 75, "stopped: saved at step"),
        ("first state", 1, KILL, -9, ""),
        ("validation", 1, TERM, 75, "stopped: saved at step"),
        ("save", 1, TERM, 75, "stopped: saved at step"),
        ("final", 1, KILL, -9, ""),
        ("samples and report", 1, TERM, 75, "in phase samples and report: nothing new to save"),
    ]:
        before = steps(text / "phases")
        more = IN_TEXT if phase == "text" else ""
        with Process(text, "phases", phase=phase, number=number, action=action, more=more) as run:
            assert (phase, run.ended()) == (phase, code), run.said
            assert said in run.said
        assert max(steps(text / "phases"), default=0) >= max(before, default=0)
        if "saved at step" in said:
            assert f"saved at step {steps(text / 'phases')[-1]};" in run.said
            verify(text / "phases", steps(text / "phases")[-1])
    with Process(text, "phases") as run:
        assert run.ended() == 0, run.said
    assert read_ledger(text / "phases") == read_ledger(whole)
    for kind in ("validation", "final"):
        seen = [(record["step"], record["source"], record["loss"]) for record in records(text / "phases", kind)]
        assert seen == [(record["step"], record["source"], record["loss"]) for record in records(whole, kind)]
    assert (text / "phases/samples.jsonl").read_text() == (whole / "samples.jsonl").read_text()
    assert (text / "phases/report.html").exists()


@pytest.mark.slow
@pytest.mark.fault(8)
def test_a_disk_that_hangs_in_a_save_ends_the_run_and_the_watchdog_names_the_phase(text):
    """No step is saved on top of the one that hangs; what was written of it is no step."""
    hangs = """
real = os.fsync
def fsync(file):
    if threading.current_thread().name.startswith("checkpoint"):
        time.sleep(1000)
    real(file)
os.fsync = fsync
"""
    with Process(text, "hangs", "--hang-after", "6", more=hangs) as run:
        assert run.ended() == 70, run.said
    assert "watchdog: no progress for" in run.said
    assert 'in phase "save' in run.said
    assert "gptjax/runs/checkpoint.py" in (text / "hangs/stacks-0.txt").read_text()
    assert steps(text / "hangs") == []
    assert len(list((text / "hangs/checkpoints").glob("*.unfinished-*"))) == 1


@pytest.mark.fault(9)
def test_a_second_job_in_the_same_run_directory_exits_with_its_code_and_names_the_owner(text):
    lease = Lease(text / "owned")
    lease.take(print)
    try:
        with Process(text, "owned") as run:
            assert run.ended() == 4
    finally:
        lease.release()
    assert f"(pid {os.getpid()} on host {socket.gethostname()}" in run.said
    assert "trains here and lives" in run.said
    assert not (text / "owned" / "recipe.json").exists()


# ---- two processes as one run ----


class Pair:
    """Process 0 and process 1 of a run, each with two devices."""

    def __init__(self, text, run: str, *fields, own=("", ""), more=("", "")):
        with socket.create_server(("localhost", 0)) as server:
            port = server.getsockname()[1]
        together = {
            "JAX_COORDINATOR_ADDRESS": f"localhost:{port}", "JAX_PROCESS_COUNT": "2", "GPTJAX_JOIN_SECONDS": "120",
            "XLA_FLAGS": "--xla_force_host_platform_device_count=2",
        }  # fmt: skip
        self.run = text / run
        self.processes = [
            Process(
                text, run, "--mesh.data", "4", *fields, *own[number].split(), more=more[number],
                JAX_PROCESS_ID=str(number), **together,
            )
            for number in range(2)
        ]  # fmt: skip

    def trains(self) -> None:
        """Returns when both take steps, beyond those of earlier starts."""
        lease = self.run / "lease"
        until = time.monotonic() + PATIENCE
        while not all('"phase": "step"' in _text(lease / f"{number}.json") for number in range(2)):
            assert time.monotonic() < until, self.said
            assert all(one.process.poll() is None for one in self.processes), self.said
            time.sleep(0.2)

    @property
    def said(self) -> list[str]:
        return [one.said for one in self.processes]

    def __getitem__(self, number: int) -> Process:
        return self.processes[number]

    def __enter__(self):
        return self

    def __exit__(self, *_):
        for one in self.processes:
            one.process.kill()
        for one in self.processes:
            one.process.wait()


def _text(path: Path) -> str:
    try:
        return path.read_text()
    except FileNotFoundError:
        return ""


ENDLESS = (
    "--optimizer.schedule",
    "constant",
    "--steps",
    "1000000",
    "--checkpoint.every",
    "20",
    "--validation.every",
    "1000000",
)


@pytest.mark.slow
@pytest.mark.fault(22)
def test_when_one_process_is_killed_the_other_names_it_and_ends_and_a_restart_goes_on(text):
    with Pair(text, "killed", *ENDLESS) as pair:
        pair.trains()
        pair[1].process.kill()
        assert pair[0].ended() == 70, pair.said
        assert f"process 1 (pid {pair[1].process.pid} on host {socket.gethostname()}" in pair[0].said
        assert "died. This process ends too; repeat the command in all of them" in pair[0].said
    with Pair(text, "killed", *ENDLESS) as pair:
        pair.trains()
        assert "continuing from step" in pair[0].said


@pytest.mark.slow
@pytest.mark.fault(25)
def test_when_process_0_is_killed_the_other_names_it_and_ends(text):
    """JAX then aborts it at once, with a text of its own; ours is the last word."""
    with Pair(text, "first killed", *ENDLESS) as pair:
        pair.trains()
        pair[0].process.kill()
        assert pair[1].ended() == 70, pair.said
        assert f"process 0 (pid {pair[0].process.pid}" in pair[1].said
        assert pair[1].said.endswith("died. This process ends too; repeat the command in all of them")


@pytest.mark.slow
@pytest.mark.fault(23)
def test_when_one_process_stands_still_the_other_names_it_and_ends(text):
    with Pair(text, "stopped", *ENDLESS) as pair:
        pair.trains()
        pair[1].process.send_signal(signal.SIGSTOP)
        assert pair[0].ended() == 70, pair.said
        assert f"process 1 (pid {pair[1].process.pid} on host {socket.gethostname()})" in pair[0].said
        assert "no sign of life for 30 s. This process ends too" in pair[0].said


@pytest.mark.slow
@pytest.mark.fault(24)
def test_when_one_process_fails_it_says_why_and_the_other_that_it_left(text):
    fails = """
import train.record.ledger
real = train.record.ledger.entry_of
def entry_of(step, *arguments):
    if step == 4:
        raise OSError(5, "Input/output error", "part-7")
    return real(step, *arguments)
train.record.ledger.entry_of = entry_of
"""
    with Pair(text, "fails", *ENDLESS, more=("", fails)) as pair:
        assert (pair[1].ended(), pair[0].ended()) == (2, 70), pair.said
        assert pair[1].said.endswith("error: [Errno 5] Input/output error: 'part-7'")
        assert "has left the run; its own last words say why" in pair[0].said


@pytest.mark.slow
@pytest.mark.fault(20)
def test_sigterm_to_one_of_two_processes_saves_and_ends_both(text):
    with Pair(text, "term", *ENDLESS) as pair:
        pair.trains()
        pair[1].process.send_signal(signal.SIGTERM)
        assert [one.ended() for one in pair.processes] == [75, 75], pair.said
        step = steps(pair.run)[-1]
        assert all(f"stopped: saved at step {step};" in said for said in pair.said)
        verify(pair.run, step)


@pytest.mark.slow
@pytest.mark.fault(26)
def test_processes_that_differ_are_refused_field_by_field_and_write_nothing(text):
    with Pair(text, "differ", own=("", "--seed 1")) as pair:
        assert [one.ended() for one in pair.processes] == [2, 2], pair.said
        for said in pair.said:
            assert "the processes of this run do not agree: recipe:" in said
            assert "process 1 has" in said
    assert not pair.run.exists()


@pytest.mark.fault(27)
def test_a_process_whose_peer_never_comes_says_so_in_time(text):
    with socket.create_server(("localhost", 0)) as server:
        port = server.getsockname()[1]
    alone = {"JAX_COORDINATOR_ADDRESS": f"localhost:{port}", "JAX_PROCESS_COUNT": "2", "JAX_PROCESS_ID": "0"}
    with Process(text, "alone", GPTJAX_JOIN_SECONDS="3", **alone) as run:
        assert run.ended() == 2, run.said
        assert f"process 0 of 2 waited 3 s at localhost:{port} for the others" in run.said


@pytest.mark.slow
def test_the_ledger_moves_when_a_run_is_another(text, whole):
    """What the comparisons above rest on."""
    other = steps_alone(small(text, "other", seed=1, stop=StopSpec(step=2)))
    assert read_ledger(other)[0] != read_ledger(whole)[0]
    assert not np.array_equal(gptjax.load(other).params["embedding"], gptjax.load(whole).params["embedding"])
