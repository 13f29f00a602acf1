"""Another process of a run is missed when it died, left before us, or gives no sign of life, and not while it lives."""

import dataclasses
import json
import threading

import pytest

from train import peers
from train.lease import Lease, Sign, sign_of
from train.peers import watching


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


def missed(run, act=lambda: None, seconds: float = 10) -> str | None:
    """What process 0 of two says of the other when `act` is done; None if it says nothing in so many seconds."""
    said, heard = [], threading.Event()

    def lost(line: str) -> None:
        said.append(line)
        heard.set()

    with watching(run, 0, 2, lost):
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


def test_a_process_whose_count_moves_is_not_missed(tmp_path):
    """Nor one that is alone, nor one that leaves at the same time as this one."""
    write(tmp_path, 1)
    beats = iter(range(1, 10**6))
    ended = threading.Event()

    def beat() -> None:
        while not ended.wait(0.01):
            write(tmp_path, 1, beats=next(beats))

    thread = threading.Thread(target=beat)
    assert missed(tmp_path, thread.start, seconds=1) is None
    ended.set()
    thread.join()
    assert missed(tmp_path, (tmp_path / "lease" / "1.json").unlink, seconds=0.02) is None
    with watching(tmp_path, 0, 1, pytest.fail):
        assert sign_of(tmp_path, 1) is None
