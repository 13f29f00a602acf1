"""One owner per run: who lives is refused, who is dead is replaced, and who only slept can write no more."""

import dataclasses
import errno
import fcntl
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from train.supervision import lease
from train.supervision.lease import Lease, LeaseLostError, LeaseTakenError, absent

OWNER = """
import sys, time
from pathlib import Path
from train.supervision.lease import Lease, LeaseTakenError
owner = Lease(Path(sys.argv[1]))
try:
    owner.take(print)
    owner.beat("step", 17)
    print("taken", flush=True)
except LeaseTakenError as refusal:
    print(refusal, flush=True)
sys.stdin.read()
"""


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(lease, "HEARTBEAT", 0.05)
    monkeypatch.setattr(lease, "STALE", 0.5)


@pytest.fixture
def start(tmp_path):
    """Starts a process that tries to take the lease, and returns it with the line that it says."""
    started = []

    def start(**environment):
        streams = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
        command = [sys.executable, "-c", OWNER, str(tmp_path)]
        started.append(subprocess.Popen(command, text=True, env=os.environ | environment, **streams))
        return started[-1]

    yield start
    for process in started:
        process.kill()
        process.communicate()


def line(process):
    return process.stdout.readline().strip()


def never(said):
    raise AssertionError(f"waited: {said}")


def files(run):
    return sorted(path.name for path in (run / "lease").iterdir())


def of_another_machine(run, **fields):
    """Writes the lease of an owner on another machine; returns what it says."""
    sign = dataclasses.replace(
        Lease(run)._sign, token="another", host="far", machine="another boot", pid=os.getpid(), job="SLURM_JOB_ID=77"
    )
    sign = dataclasses.replace(sign, **fields)
    (run / "lease").mkdir(exist_ok=True)
    (run / "lease" / "0.json").write_text(json.dumps(dataclasses.asdict(sign)))
    return sign


def test_a_lease_is_given_back_without_litter_and_can_be_taken_again(tmp_path):
    for _ in range(2):
        owner = Lease(tmp_path)
        assert owner.take(never) is None
        assert files(tmp_path) == ["0.json", "lock"]
        with owner.held():
            pass
        owner.release()
        assert files(tmp_path) == ["lock"]


@pytest.mark.fault(9)
def test_a_live_owner_is_not_replaced_and_the_refusal_says_who_it_is_and_what_to_do(tmp_path, start):
    owner = start(SLURM_JOB_ID="77")
    assert line(owner) == "taken"
    with pytest.raises(LeaseTakenError) as refusal:
        Lease(tmp_path).take(never)
    who = re.escape(f"(pid {owner.pid} on host {os.uname().nodename}, SLURM_JOB_ID=77), since ")
    assert re.search(
        who + r"\d{4}-.*, last seen in phase .* at step .*, trains here and lives\. Wait", str(refusal.value)
    )
    assert "--run runs/another-name" in str(refusal.value)


@pytest.mark.fault(9)
def test_an_owner_that_was_stopped_by_a_signal_lives(tmp_path, start):
    owner = start()
    assert line(owner) == "taken"
    owner.send_signal(signal.SIGSTOP)
    time.sleep(2 * lease.STALE)
    with pytest.raises(LeaseTakenError):
        Lease(tmp_path).take(never)


@pytest.mark.fault(9)
def test_an_owner_that_was_killed_is_replaced_at_once_and_named(tmp_path, start):
    killed = start()
    assert line(killed) == "taken"
    killed.kill()  # and not waited for: a zombie is dead too
    os.waitid(os.P_PID, killed.pid, os.WEXITED | os.WNOWAIT)
    owner = Lease(tmp_path)
    dead = owner.take(never)
    assert dead is not None
    assert (dead.pid, dead.process) == (killed.pid, 0)
    with owner.held():
        pass
    owner.release()


def test_a_process_that_got_the_number_of_a_dead_owner_is_not_taken_for_it(tmp_path):
    here = Lease(tmp_path)._sign
    of_another_machine(tmp_path, machine=here.machine, started="1")
    assert Lease(tmp_path).take(never) is not None
    of_another_machine(tmp_path, machine=here.machine, started=here.started)
    with pytest.raises(LeaseTakenError):
        Lease(tmp_path).take(never)


@pytest.mark.fault(9, 18)
@pytest.mark.parametrize("jump", [-3600, 3600])
def test_on_another_machine_only_a_count_that_stands_still_is_death_whatever_clocks_say(tmp_path, monkeypatch, jump):
    sign = of_another_machine(tmp_path)
    clock = time.time
    monkeypatch.setattr(time, "time", lambda: clock() + jump)
    os.utime(tmp_path / "lease" / "0.json", (clock() - jump, clock() - jump))
    said = []
    began = time.monotonic()
    owner = Lease(tmp_path)
    assert owner.take(said.append) == sign
    assert time.monotonic() - began >= lease.STALE
    assert len(said) == 1
    assert re.search(r"waiting .* s for a sign of life of process 0 \(pid \d+ on host far, SLURM_JOB_ID=77\)", said[0])
    owner.release()


def test_on_another_machine_a_count_that_moves_is_life(tmp_path):
    of_another_machine(tmp_path)
    threading.Timer(0.2, of_another_machine, [tmp_path], {"beats": 1, "step": 18}).start()
    with pytest.raises(LeaseTakenError, match=r"on host far.* at step 18, trains here"):
        Lease(tmp_path).take(lambda said: None)


def test_an_owner_that_ends_while_one_waits_for_it_is_replaced(tmp_path):
    of_another_machine(tmp_path)
    threading.Timer(0.2, (tmp_path / "lease" / "0.json").unlink).start()
    owner = Lease(tmp_path)
    assert owner.take(lambda said: None) is None
    owner.release()


@pytest.mark.parametrize("content", ["", "[]", '{"token": 1}', "\x00" * 60])
def test_a_damaged_lease_is_that_of_a_dead_owner_once_it_stands_still(tmp_path, content):
    (tmp_path / "lease").mkdir()
    (tmp_path / "lease" / "0.json").write_text(content)
    said = []
    owner = Lease(tmp_path)
    assert owner.take(said.append) is None
    assert "0.json, which is damaged" in said[0]
    owner.release()


def test_the_lease_is_not_taken_from_an_owner_that_woke_up_at_the_last_moment(tmp_path):
    of_another_machine(tmp_path)
    refused = []

    def take():
        with pytest.raises(LeaseTakenError):
            Lease(tmp_path).take(lambda said: None)
        refused.append(True)

    taker = threading.Thread(target=take)
    with lease._lock(tmp_path / "lease" / "lock"):
        taker.start()
        time.sleep(2 * lease.STALE)
        of_another_machine(tmp_path, beats=1)
    time.sleep(0.2)
    of_another_machine(tmp_path, beats=2)
    taker.join()
    assert refused
    assert "another boot" in (tmp_path / "lease" / "0.json").read_text()


@pytest.mark.fault(9)
@pytest.mark.parametrize("after", ["while the other trains", "when the other has ended"])
def test_an_owner_that_slept_and_was_replaced_writes_nothing_and_knows_it(tmp_path, after):
    slept = Lease(tmp_path)
    slept.take(never)
    with slept.held():
        pass
    with lease._lock(tmp_path / "lease" / "lock"):
        of_another_machine(tmp_path)
        if after == "when the other has ended":
            (tmp_path / "lease" / "0.json").unlink()
    before = files(tmp_path)
    with pytest.raises(LeaseLostError, match=r"on host far.* took it over|is gone: taken over"), slept.held():
        raise AssertionError("was let in")
    time.sleep(5 * lease.HEARTBEAT)
    assert slept.lost is not None
    slept.release()
    assert files(tmp_path) == before


@pytest.mark.fault(9, 10)
def test_nobody_takes_over_while_the_owner_writes_and_it_is_seen_to_live(tmp_path):
    owner = Lease(tmp_path)
    owner.take(never)
    with owner.held():
        with (tmp_path / "lease" / "lock").open("ab") as lock, pytest.raises(BlockingIOError):
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        before = (tmp_path / "lease" / "0.json").read_bytes()
        time.sleep(5 * lease.HEARTBEAT)
        assert (tmp_path / "lease" / "0.json").read_bytes() != before
    owner.release()


@pytest.mark.fault(9)
def test_of_two_that_come_at_once_one_owns_the_run(tmp_path, start):
    dead = start()
    assert line(dead) == "taken"
    for _ in range(5):
        dead.kill()
        dead.wait()
        said = {line(process): process for process in [start() for _ in range(3)]}
        dead = said.pop("taken")
        assert all("trains here and lives" in refusal for refusal in said)


def test_of_two_that_wait_for_the_same_dead_owner_one_owns_the_run(tmp_path, monkeypatch):
    monkeypatch.setattr(lease, "STALE", 0.1)
    monkeypatch.setattr(lease, "_machine", lambda: None)
    for _ in range(20):
        of_another_machine(tmp_path)
        takers, refused = [Lease(tmp_path) for _ in range(2)], []

        def take(taker, refused=refused):
            try:
                taker.take(lambda said: None)
            except LeaseTakenError:
                refused.append(taker)

        threads = [threading.Thread(target=take, args=[taker]) for taker in takers]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(refused) == 1
        (owner,) = set(takers) - set(refused)
        with owner.held():
            owner.release()


def test_a_heartbeat_that_cannot_be_written_harms_nothing_and_leaves_nothing(tmp_path, monkeypatch):
    owner = Lease(tmp_path)
    owner.take(never)

    def full(path, target):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "replace", full)
    time.sleep(5 * lease.HEARTBEAT)
    with owner.held():
        assert files(tmp_path) == ["0.json", "lock"]
    monkeypatch.undo()
    monkeypatch.setattr(lease, "HEARTBEAT", 0.05)
    before = (tmp_path / "lease" / "0.json").read_bytes()
    time.sleep(5 * 0.05)
    assert (tmp_path / "lease" / "0.json").read_bytes() != before
    assert owner.lost is None
    owner.release()


def test_a_file_system_without_locks_will_do(tmp_path, monkeypatch):
    def flock(file, operation):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", flock)
    owner = Lease(tmp_path)
    owner.take(never)
    with owner.held():
        pass
    owner.release()


@pytest.mark.fault(23)
def test_absent_are_those_who_stand_still_who_are_behind_and_who_never_came(tmp_path):
    run = [Lease(tmp_path, process) for process in range(4)]
    for one, step in zip(run, (17, 17, 16, 17), strict=True):
        one.beat("step", step)
        one.take(never)
    run[3].beat("next batch", 17)
    time.sleep(4 * lease.HEARTBEAT)
    assert [re.sub(r" \(.*\)", "", said) for said in absent(tmp_path, 0, 4)] == [
        "process 2: lives, but is in phase 'step' at step 16",
        "process 3: lives, but is in phase 'next batch' at step 17",
    ]
    run[1]._ended.set()
    time.sleep(4 * lease.HEARTBEAT)
    for one in run[2:]:
        one.beat("step", 17)
    time.sleep(4 * lease.HEARTBEAT)
    assert [re.sub(r" \(.*\)", "", said) for said in absent(tmp_path, 0, 5)] == [
        "process 1: no sign of life; last in phase 'step' at step 17",
        "process 4: never came, or has left",
    ]
    for one in run:
        one.release()
    assert files(tmp_path) == ["lock"]


def test_a_process_that_is_not_the_first_needs_no_lock(tmp_path):
    """It would not be seen to live while the first saves."""
    owner, other = Lease(tmp_path), Lease(tmp_path, 1)
    owner.take(never)
    with owner.held():
        other.take(never)
        before = (tmp_path / "lease" / "1.json").read_bytes()
        time.sleep(5 * lease.HEARTBEAT)
        assert (tmp_path / "lease" / "1.json").read_bytes() != before
        other.release()
    owner.release()


@pytest.mark.parametrize("owner", ["lives", "ended"])
def test_a_copy_of_a_run_directory_is_not_its_owner_s(tmp_path, owner):
    """Whoever trains in the original, it does not die here; the original itself is refused, as ever."""
    original = Lease(tmp_path / "original")
    original.take(never)
    shutil.copytree(tmp_path / "original", tmp_path / "copy")
    if owner == "lives":
        with pytest.raises(LeaseTakenError):
            Lease(tmp_path / "original").take(never)
    else:
        file = tmp_path / "copy" / "lease" / "0.json"
        file.write_text(file.read_text().replace(f'"pid": {os.getpid()}', f'"pid": {2**22 + 1}'))
    copy = Lease(tmp_path / "copy")
    assert copy.take(lambda said: None) is None
    with copy.held(), original.held():
        copy.release()
    original.release()


def test_a_run_directory_that_was_renamed_is_still_its_owner_s(tmp_path):
    owner = Lease(tmp_path / "old")
    owner.take(never)
    (tmp_path / "old").rename(tmp_path / "new")
    with pytest.raises(LeaseTakenError):
        Lease(tmp_path / "new").take(never)
    (tmp_path / "new").rename(tmp_path / "old")
    owner.release()


def test_an_owner_that_wrote_no_folder_is_believed(tmp_path):
    """As an older gptjax did; and a folder that seems another is not taken while its count moves."""
    here = Lease(tmp_path)._sign
    alive = {"machine": here.machine, "started": here.started}
    of_another_machine(tmp_path, **alive)
    content = json.loads((tmp_path / "lease" / "0.json").read_text())
    del content["folder"]
    (tmp_path / "lease" / "0.json").write_text(json.dumps(content))
    with pytest.raises(LeaseTakenError):
        Lease(tmp_path).take(never)
    of_another_machine(tmp_path, folder="0:0", **alive)
    threading.Timer(0.2, of_another_machine, [tmp_path], {"beats": 1, "folder": "0:0", **alive}).start()
    with pytest.raises(LeaseTakenError):
        Lease(tmp_path).take(lambda said: None)


@pytest.mark.parametrize("process", [0, 1])
def test_who_has_finished_says_so_at_once(tmp_path, process):
    one = Lease(tmp_path, process)
    one.take(never)
    one.finished(12)
    sign = lease.sign_of(tmp_path, process)
    assert sign is not None
    assert (sign.phase, sign.step) == (lease.FINISHED, 12)
    one.release()
