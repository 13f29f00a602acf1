"""Signals sent to real processes: they work in C, whatever handlers others install, and never twice for one Ctrl-C."""

import os
import signal
import subprocess
import sys
import termios
import time
from pathlib import Path

import pytest

START = """
from train.supervision import signals
signals.block()
import sys, time
listener = signals.Signals()
listener.listen()

def say(*words):
    print(*words, flush=True)

def wait_in_c():
    import hashlib
    say("ready")
    hashlib.pbkdf2_hmac("sha256", b"", b"", 2**31 - 1)
"""

COMPILES = """
listener.doing = lambda: "compile"
listener.leaving = lambda: say("lease given back")
wait_in_c()
"""

SAVES = """
with listener.saving(lambda: "the steps since 120 are lost"):
    say("ready")
    while listener.asked is None:
        time.sleep(0.01)
    say("asked", listener.asked)
    time.sleep(float(sys.argv[1]))
sys.exit(7)
"""

PYTHON_HANDLER = """
import signal
for one in (signal.SIGTERM, signal.SIGINT):
    signal.signal(one, lambda *_: print("a handler was called", flush=True))
"""

C_HANDLER = """
import ctypes
handler = ctypes.CFUNCTYPE(None, ctypes.c_int)(lambda _: print("a handler was called", flush=True))
for one in (2, 15):
    ctypes.CDLL(None).signal(one, handler)
"""

CODES = {signal.SIGTERM: 75, signal.SIGINT: 130}
both = pytest.mark.parametrize("sent", CODES)


@pytest.fixture
def start():
    """Starts a program, and returns it once it has said that it is ready."""
    started = []

    def start(program, *arguments, **streams):
        streams = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE} | streams
        run = subprocess.Popen([sys.executable, "-c", program, *arguments], text=True, **streams)
        started.append(run)
        if run.stdout is not None:
            assert run.stdout.readline() == "ready\n"
        return run

    yield start
    for run in started:
        run.kill()
        run.communicate()


def ended(run):
    """(exit code, standard output, standard error)"""
    out, err = run.communicate(timeout=30)
    return run.returncode, out, err


@pytest.mark.fault(20, 21)
@both
def test_where_nothing_new_needs_saving_a_signal_ends_the_process_though_it_is_in_c(sent, start):
    run = start(START + COMPILES)
    run.send_signal(sent)
    said = f"\nstopped by {sent.name} in phase compile: nothing new to save\n"
    assert ended(run) == (CODES[sent], "lease given back\n", said)


@pytest.mark.fault(20)
@both
@pytest.mark.parametrize(
    "program",
    [
        PYTHON_HANDLER + START + COMPILES,
        START + PYTHON_HANDLER + COMPILES,
        C_HANDLER + START + COMPILES,
        START + C_HANDLER + COMPILES,
    ],
    ids=["python handler before", "python handler after", "C handler before", "C handler after"],
)
def test_a_handler_that_somebody_else_installs_is_never_called(program, sent, start):
    run = start(program)
    run.send_signal(sent)
    code, out, _ = ended(run)
    assert (code, out) == (CODES[sent], "lease given back\n")


@pytest.mark.fault(20, 21)
@both
def test_while_saving_a_signal_only_asks(sent, start):
    run = start(START + SAVES, "0")
    run.send_signal(sent)
    code, out, err = ended(run)
    assert (code, out) == (7, f"asked {sent.name}\n")
    assert err.startswith(f"\n{sent.name}: saving, then stopping")


def send_twice(run, sent: signal.Signals, seconds: float) -> None:
    """Once; again so long after the run has told that it was asked."""
    run.send_signal(sent)
    run.stdout.readline()
    time.sleep(seconds)
    run.send_signal(sent)


@pytest.mark.fault(21)
def test_a_second_ctrl_c_ends_at_once_and_says_what_is_lost(start):
    run = start(START + SAVES, "60")
    send_twice(run, signal.SIGINT, 0.6)
    code, _, err = ended(run)
    assert code == 130
    assert err.endswith("\nstopped by a second SIGINT: the steps since 120 are lost\n")


def test_a_ctrl_c_that_a_launcher_passes_on_is_not_a_second_one(start):
    run = start(START + SAVES, "1")
    send_twice(run, signal.SIGINT, 0)
    assert ended(run)[0] == 7


@pytest.mark.fault(20)
def test_a_second_sigterm_does_not_cut_a_save_short(start):
    run = start(START + SAVES, "1")
    send_twice(run, signal.SIGTERM, 0.6)
    assert ended(run)[0] == 7


@pytest.mark.fault(20)
def test_a_signal_before_anybody_listens_is_not_lost(start):
    run = start(
        START.replace("listener.listen()", "") + "say('ready'); time.sleep(0.5); listener.listen(); wait_in_c()"
    )
    run.send_signal(signal.SIGTERM)
    assert ended(run)[0] == 75


MULTIPROCESSING = """
import multiprocessing
child = multiprocessing.get_context("spawn").Process(target=time.sleep, args=(60,))
child.start()
say("child", child.pid)
"""


@both
def test_multiprocessing_which_unblocks_signals_does_no_harm(sent, start):
    unblocking = SAVES.replace('say("ready")', 'say("ready")' + MULTIPROCESSING.replace("\n", "\n    "))
    run = start(START + unblocking.replace("sys.exit", "child.kill(); sys.exit"), "0")
    run.stdout.readline()
    run.send_signal(sent)
    code, out, _ = ended(run)
    assert (code, out) == (7, f"asked {sent.name}\n")


def test_after_multiprocessing_a_signal_is_noticed_in_c_again_once_there_is_something_to_save(start):
    unblocked = START + MULTIPROCESSING.replace('say("child", child.pid)', "child.kill()")
    run = start(unblocked + "with listener.saving(str): wait_in_c()")
    run.send_signal(signal.SIGTERM)
    assert [run.stderr.readline() for _ in range(2)] == ["\n", "SIGTERM: saving, then stopping\n"]


@pytest.fixture
def terminal():
    """(our end, the program's end) of a terminal that changes nothing of what is written to it."""
    ours, theirs = os.openpty()
    attributes = termios.tcgetattr(theirs)
    attributes[1] &= ~termios.OPOST
    termios.tcsetattr(theirs, termios.TCSANOW, attributes)
    with os.fdopen(ours, "rb", buffering=0) as reader:
        yield reader, theirs


@pytest.mark.fault(21)
def test_when_its_terminal_goes_away_the_process_goes_on(tmp_path, terminal, start):
    done = tmp_path / "done"
    program = """
import fcntl, termios
fcntl.ioctl(0, termios.TIOCSCTTY, 0)
say("ready")
time.sleep(1)
say("nobody reads this")
open(sys.argv[1], "w").close()
"""
    ours, theirs = terminal
    streams = dict.fromkeys(("stdin", "stdout", "stderr"), theirs)
    run = start(START + program, str(done), start_new_session=True, **streams)
    os.close(theirs)
    assert ours.readline() == b"ready\n"
    ours.close()
    assert run.wait(30) == 0
    assert done.exists()


def test_at_the_end_the_cursor_is_shown_and_child_processes_are_gone(terminal, start):
    ours, theirs = terminal
    run = start(START + MULTIPROCESSING + "while True: time.sleep(0.01)", stdout=theirs, stderr=theirs)
    os.close(theirs)
    child = int(ours.readline().split()[1])
    run.send_signal(signal.SIGTERM)
    assert run.wait(30) == 75
    assert ours.read(1000).endswith(b"nothing new to save\n\x1b[?25h\x1b[?25h")
    until = time.monotonic() + 10
    while alive(child) and time.monotonic() < until:
        time.sleep(0.01)
    assert not alive(child)


def alive(pid):
    """Whether a process runs: one that nobody has waited for does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_a_disk_that_hangs_does_not_keep_the_process(start):
    run = start(START + COMPILES.replace('say("lease given back")', "time.sleep(60)"))
    began = time.monotonic()
    run.send_signal(signal.SIGTERM)
    assert ended(run)[0] == 75
    assert time.monotonic() - began < 20
