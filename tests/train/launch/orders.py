"""Orders for tests: what a command line of an engine would send, without a git checkout behind it."""

from pathlib import Path

import pytest

from train.launch import launching
from train.launch.launching import Engine, Order, ordered
from train.launch.source_bundle import Source

SOURCE = Source(launching.CHECKOUT, "c" * 40, "7" * 40, "")
COMMAND = ("pretrain", "laptop", "--run", "runs/mine")


@pytest.fixture
def fixed_source(monkeypatch):
    """The checkout is at a commit of a known name, and a process has one device."""
    monkeypatch.delenv("XLA_FLAGS", raising=False)
    monkeypatch.setattr(launching, "source_of", lambda checkout, dirty: SOURCE)


def order_of(engine: Engine, *more: str, command: tuple[str, ...] = COMMAND) -> Order:
    return ordered(engine, (*command, *more))


def content(engine: Engine, order: Order, name: str) -> str:
    """A file that would be sent."""
    return next(file.content for file in engine.plan(order).files if Path(file.name).name == name)
