"""The watchdog: what a phase may take, and that it fires though the main thread does not come out of C."""

import re
import signal
import subprocess
import sys
import threading
import time

import pytest

from train.supervision import lease, watchdog
from train.supervision.lease import Lease
from train.supervision.watchdog import PATIENCE, Watchdog, report_hang

HANGS = """
import os, sys, time
from pathlib import Path
from train.supervision.watchdog import Watchdog, report_hang

def hung(phase, seconds):
    report_hang(Path(sys.argv[1]), 0, 1, phase, seconds, watchdog.limit(phase))
    os._exit(70)

def waits_in_c():
    time.sleep(60)

watchdog = Watchdog(0.2, hung)
with watchdog.phase("step"):
    watchdog.progress()
    waits_in_c()
"""

GOES_ON = """
import os, time
from train.supervision.watchdog import Watchdog

watchdog = Watchdog(1.0, lambda phase, seconds: os._exit(70))
with watchdog.phase("step"):
    watchdog.progress()
    print("ready", flush=True)
    for _ in range(20):
        time.sleep(0.01)
        watchdog.progress()
"""


@pytest.fixture(name="watchdog")
def idle_watchdog():
    """A watchdog that is not watching: its clock moves by `pass_seconds` only."""
    watchdog = Watchdog(30.0, lambda phase, seconds: None)
    watchdog.stop()
    return watchdog


def pass_seconds(watchdog, seconds):
    watchdog._clock += seconds


def test_a_phase_may_take_ten_times_its_slowest_unit_and_more_before_the_first(watchdog):
    with watchdog.phase("step"):
        assert watchdog.limit("step") == PATIENCE * 30
        pass_seconds(watchdog, 1)
        watchdog.progress()
        assert watchdog.limit("step") == 30
        pass_seconds(watchdog, 7)
        watchdog.progress()
        pass_seconds(watchdog, 2)
        watchdog.progress()
        assert watchdog.limit("step") == 70
    assert watchdog.limit("save") == PATIENCE * 30


def test_to_have_come_through_a_phase_is_a_unit_and_to_have_left_it_by_an_error_is_not(watchdog):
    with watchdog.phase("save"):
        pass_seconds(watchdog, 8)
    assert watchdog.limit("save") == 80
    with pytest.raises(KeyError), watchdog.phase("report"):
        raise KeyError
    assert watchdog.limit("report") == PATIENCE * 30
    assert watchdog.current == "start"


def test_a_phase_starts_anew_after_one_within_it(watchdog):
    with watchdog.phase("step"):
        pass_seconds(watchdog, 100)
        with watchdog.phase("save"):
            assert watchdog.current == "save"
            pass_seconds(watchdog, 20)
        assert watchdog.current == "step"
        pass_seconds(watchdog, 5)
        watchdog.progress()
        assert watchdog.limit("step") == 50
    assert watchdog.limit("save") == 200


def test_it_says_once_which_phase_hangs_and_is_silent_while_there_is_progress():
    barks, barked = [], threading.Event()

    def hung(phase, seconds):
        barks.append((phase, seconds > 0.4))
        barked.set()

    watchdog = Watchdog(0.4, hung)
    with watchdog.phase("step"):
        for _ in range(40):
            watchdog.progress()
            time.sleep(0.02)
        assert barks == []
        assert barked.wait(20)
        time.sleep(0.1)
    assert barks == [("step", True)]


@pytest.mark.fault(8)
def test_a_main_thread_that_does_not_come_out_of_c_is_ended_with_its_stack_told(tmp_path):
    command = [sys.executable, "-c", HANGS, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 70
    assert "waits_in_c" in done.stderr
    last = done.stderr.splitlines()[-1]
    assert re.match(r'watchdog: no progress for \d+ s in phase "step" \(limit 0 s\)', last), last
    assert str(tmp_path / "stacks-0.txt") in last
    assert "waits_in_c" in (tmp_path / "stacks-0.txt").read_text()


@pytest.mark.fault(18)
def test_a_run_that_was_stopped_and_continued_did_not_hang():
    with subprocess.Popen([sys.executable, "-c", GOES_ON], stdout=subprocess.PIPE) as run:
        assert run.stdout is not None
        run.stdout.readline()
        run.send_signal(signal.SIGSTOP)
        time.sleep(2)
        run.send_signal(signal.SIGCONT)
    assert run.returncode == 0


@pytest.mark.fault(23)
def test_the_report_names_the_process_that_shows_no_sign_of_life(tmp_path, monkeypatch, capfd):
    monkeypatch.setattr(lease, "HEARTBEAT", 0.1)
    mine, other = Lease(tmp_path, 0), Lease(tmp_path, 1)
    for one in (mine, other):
        one.take(print)
        one.beat("step", 17)
    time.sleep(0.5)
    report_hang(tmp_path, 0, 2, "step", 312, 300)
    assert capfd.readouterr().err.endswith("\n  every process lives, and is here\n")
    other._ended.set()
    time.sleep(0.5)
    report_hang(tmp_path, 0, 2, "step", 312, 300)
    last = capfd.readouterr().err.splitlines()[-1]
    assert re.match(r"  process 1 \(pid \d+ on host .*\): no sign of life; last in phase 'step' at step 17", last), last
    mine.release()


@pytest.mark.fault(8)
def test_the_report_does_not_wait_for_a_disk_that_hangs(tmp_path, monkeypatch, capfd):
    monkeypatch.setattr(watchdog, "REPORT", 0.2)
    monkeypatch.setattr(watchdog, "absent", lambda *_: time.sleep(1))
    report_hang(tmp_path, 0, 2, "save", 312, 300)
    assert capfd.readouterr().err.endswith(f"\n  {tmp_path}: the disk does not answer\n")
