"""The TPU compiler may end the process that it is in: the one that asks goes on. Here others play the compiler."""

import os
import signal
import sys

import pytest

from tests.tiny_recipe import recipe
from train.planning import compiler_process
from train.planning.compile_for import TooLargeError
from train.planning.compiler_process import CompilerEndedError, CompilerProcess


def ends(*_):
    sys.stderr.write("F0000 12:00:00.000000 12 fusion.cc:1] Check failed: a window is padded\n*** stack trace ***\n")
    sys.stderr.flush()
    os.abort()


def is_killed(*_):
    os.kill(os.getpid(), signal.SIGKILL)


def refuses(*_):
    raise TooLargeError("v5e:4x4", "the step needs 20GB of 15.75GB a chip", "use more chips")


def test_a_compiler_that_ends_its_process_is_told_with_its_reason_and_the_next_step_is_compiled(
    tmp_path, monkeypatch, capfd
):
    """What it wrote of its stack is not shown; refusals come as they are."""
    with CompilerProcess("v5e:4x4", 1) as compiler:
        monkeypatch.setattr(compiler_process, "_compile", ends)
        with pytest.raises(CompilerEndedError, match=r"^Check failed: a window is padded$"):
            compiler(recipe(tmp_path, "run"), 400)
        monkeypatch.setattr(compiler_process, "_compile", is_killed)
        with pytest.raises(CompilerEndedError, match=r"^without a word"):
            compiler(recipe(tmp_path, "run"), 400)
        monkeypatch.setattr(compiler_process, "_compile", refuses)
        with pytest.raises(TooLargeError, match=r"^v5e:4x4: the step needs 20GB of 15\.75GB a chip; use more chips$"):
            compiler(recipe(tmp_path, "run"), 400)
    assert "stack" not in "".join(capfd.readouterr())
