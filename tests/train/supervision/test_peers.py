"""Another process of a run is missed when it died, left before us, or gives no sign of life, and not while it lives."""

import contextlib
import dataclasses
import itertools
import json
import os
import socket
import subprocess
import sys
import threading
import time

import jax
import pytest

from train.supervision import peers
from train.supervision.lease import Lease, Sign, sign_of
from train.supervision.peers import watching


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    """A look each hundredth of a second, and patience to match."""
    monkeypatch.setattr(peers, "HEARTBEAT", 0.01)
    monkeypatch.setattr(peers, "LEFT", 0.1)
    monkeypatch.setattr(peers, "SILENT", 0.3)


def write(run, number: int, **changes) -> Sign:
    """A sign of life of a process on another machine."""
    lease = Lease(run, number)
    sign = dataclasses.replace(lease._sign, machine="another", host="far", pid=7, phase="step", step=40, **changes)
    (run / "lease").mkdir(exist_ok=True)
    file = run / "lease" / f"{number}.json"
    file.with_suffix(".new").write_text(json.dumps(dataclasses.asdict(sign)))
    file.with_suffix(".new").replace(file)
    return sign


@contextlib.contextmanager
def beating(run, number: int):
    """In here, the count of a process moves."""
    ended = threading.Event()

    def beat() -> None:
        for count in itertools.count():
            if ended.wait(0.005):
                return
            write(run, number, beats=count)

    thread = threading.Thread(target=beat)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def missed(run, act=lambda: None, seconds: float = 10) -> str | None:
    """What process 0 of two says of the other once `act` is done; None if it says nothing in so many seconds."""
    said, heard = [], threading.Event()

    def lost(line: str) -> None:
        said.append(line)
        heard.set()

    with beating(run, 0), watching(run, 0, 2, lost):
        act()
        heard.wait(seconds)
    return said[0] if said else None


def test_a_process_of_this_machine_that_died_is_missed_at_once(tmp_path, monkeypatch):
    monkeypatch.setattr(peers, "SILENT", 1000)
    here = Lease(tmp_path, 1)._sign
    write(tmp_path, 1, beats=1)
    gone = {"machine": here.machine, "pid": 2**22 + 1, "started": "1"}
    (tmp_path / "lease" / "1.json").write_text(json.dumps(dataclasses.asdict(dataclasses.replace(here, **gone))))
    assert f"process 1 (pid {2**22 + 1} on host" in missed(tmp_path)
    assert missed(tmp_path).endswith("in phase 'start' at step 0: died")


def test_a_process_of_another_machine_is_missed_when_its_count_stands_still(tmp_path):
    write(tmp_path, 1)
    assert missed(tmp_path) == "process 1 (pid 7 on host far), in phase 'step' at step 40: no sign of life for 0 s"


def test_a_process_that_leaves_before_this_one_is_missed_with_what_it_last_did(tmp_path, monkeypatch):
    monkeypatch.setattr(peers, "SILENT", 1000)
    write(tmp_path, 1)
    found = missed(tmp_path, act=(tmp_path / "lease" / "1.json").unlink)
    assert (
        found
        == "process 1 (pid 7 on host far), in phase 'step' at step 40: has left the run; its own last words say why"
    )


def test_an_error_of_jax_waits_for_the_name_of_who_caused_it(tmp_path, monkeypatch):
    """Any other error is this process's own, and does not."""
    monkeypatch.setattr(peers, "LEFT", 1.0)
    write(tmp_path, 1)
    said = []
    for error in (OSError, jax.errors.JaxRuntimeError):
        with pytest.raises(error), beating(tmp_path, 0), watching(tmp_path, 0, 2, said.append):
            raise error
        assert len(said) == (error is not OSError)


def test_a_process_whose_count_moves_is_not_missed(tmp_path):
    """Nor one that leaves at the same time as this one; nor is there another where a process is alone."""
    with beating(tmp_path, 1):
        assert missed(tmp_path, seconds=1) is None
    assert missed(tmp_path, (tmp_path / "lease" / "1.json").unlink, seconds=0.02) is None
    with watching(tmp_path, 0, 1, pytest.fail):
        assert sign_of(tmp_path, 1) is None


def test_silence_of_all_says_nothing_of_one(tmp_path):
    """On a full disk no heartbeat is written, and training may go on."""
    write(tmp_path, 0)
    write(tmp_path, 1)
    said = []
    with watching(tmp_path, 0, 2, said.append):
        time.sleep(1)
    assert said == []


def test_who_leaves_after_the_end_is_not_missed(tmp_path):
    """Before it is, see above."""
    write(tmp_path, 1)
    said = []
    with beating(tmp_path, 0), watching(tmp_path, 0, 2, said.append) as leave_together:
        leave_together()
        (tmp_path / "lease" / "1.json").unlink()
        time.sleep(1)
    assert said == []


def test_a_look_that_the_end_comes_in_says_nothing(tmp_path, monkeypatch):
    """Whoever is found to have ended in it may have done so in its time."""
    write(tmp_path, 1)
    said, looks, ended = [], threading.Event(), threading.Event()
    monkeypatch.setattr(peers, "has_ended", lambda _: looks.set() or ended.wait(10))
    with beating(tmp_path, 0), watching(tmp_path, 0, 2, said.append) as leave_together:
        assert looks.wait(10)
        leave_together()
        ended.set()
        time.sleep(0.2)
    assert said == []


# Two processes; process 0 comes to the end late, and process 1 is slow to leave it.
ENDS = """
import os, sys, time
from pathlib import Path
from jax.experimental import multihost_utils
from train.supervision import hosts, lease, peers

run, meets = Path(sys.argv[1]), sys.argv[2] == "meets"
number = int(os.environ["JAX_PROCESS_ID"])
hosts.join()
lease.HEARTBEAT = peers.HEARTBEAT = 0.05
peers.LEFT, peers.SILENT = 0.5, 60.0
own = lease.Lease(run, number)
own.take(print)
multihost_utils.sync_global_devices("all have given a sign of life")
with peers.watching(run, number, 2, lambda said: os._exit(70)) as leave_together:
    time.sleep(1.5 * (number == 0))
    if meets:
        leave_together()
    time.sleep(5 * (number == 1))
own.release()
os._exit(0) if not meets else None  # JAX's own waiting at the end is not what is tried here
"""


@pytest.mark.parametrize(("meets", "codes"), [("meets", [0, 0]), ("does not", [0, 70])])
def test_processes_that_come_to_the_end_at_different_times_all_end_well(tmp_path, meets, codes):
    """Whoever does not wait for the others leaves them in the dark: process 0 leaves, and process 1 has not ended."""
    with socket.create_server(("localhost", 0)) as server:
        port = server.getsockname()[1]
    together = {"JAX_COORDINATOR_ADDRESS": f"localhost:{port}", "JAX_PROCESS_COUNT": "2", "GPTJAX_JOIN_SECONDS": "300"}
    command = [sys.executable, "-c", ENDS, str(tmp_path), meets]
    running = [
        subprocess.Popen(command, env={**os.environ, **together, "JAX_PROCESS_ID": str(number)}) for number in range(2)
    ]
    assert [process.wait(300) for process in running] == codes
