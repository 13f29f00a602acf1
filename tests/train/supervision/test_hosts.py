"""Processes that are one run: what they are told is checked, and what they do must be the same."""

import socket

import pytest

from train.supervision import hosts
from train.supervision.hosts import check_agree, from_first, is_first, join

ADDRESS, COUNT, PROCESS = hosts.NAMES


@pytest.fixture(autouse=True)
def alone(monkeypatch):
    for name in (*hosts.NAMES, hosts.PATIENCE):
        monkeypatch.delenv(name, raising=False)


def test_a_process_that_is_told_nothing_is_alone():
    join()
    assert is_first()
    check_agree({"seed": 1})
    assert from_first(lambda: 7) == 7


@pytest.mark.fault(27)
@pytest.mark.parametrize(
    ("told", "message"),
    [
        ({ADDRESS: "node-0:8476"}, "JAX_COORDINATOR_ADDRESS set, but not JAX_PROCESS_COUNT, JAX_PROCESS_ID: set all"),
        ({ADDRESS: "node-0", COUNT: "2", PROCESS: "1"}, "'node-0': must be host:port of process 0"),
        (
            {ADDRESS: "node-0:8476", COUNT: "2", PROCESS: "2"},
            "JAX_PROCESS_ID=2, JAX_PROCESS_COUNT=2: an id runs from 0",
        ),
    ],
)
def test_what_cannot_be_is_refused_at_once(monkeypatch, told, message):
    for name, value in told.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ValueError, match=message):
        join()


@pytest.mark.fault(27)
def test_a_silent_address_and_a_port_in_use_are_named_with_what_to_look_at(monkeypatch):
    """Process 1 waits as long as it is told for somebody to listen; process 0 finds its port taken."""
    with socket.create_server(("localhost", 0)) as server:
        port = server.getsockname()[1]
        monkeypatch.setenv(ADDRESS, f"localhost:{port}")
        monkeypatch.setenv(COUNT, "2")
        monkeypatch.setenv(PROCESS, "0")
        monkeypatch.setattr(socket, "SO_REUSEADDR", socket.SO_KEEPALIVE)  # as on systems where it hides a listener
        with pytest.raises(ValueError, match=f"port {port} cannot be had here .*use another"):
            join()
    monkeypatch.setenv(PROCESS, "1")
    monkeypatch.setenv(hosts.PATIENCE, "1")
    with pytest.raises(ValueError, match=rf"localhost:{port}: nobody answered for 1 s .*is process 0 running"):
        join()


def test_the_only_process_of_a_run_has_the_number_0(monkeypatch):
    """Another would train without a word: it is process 0 that speaks. The variables of a launcher of one are fine."""
    monkeypatch.setenv(COUNT, "1")
    join()
    monkeypatch.setenv(PROCESS, "0")
    join()
    monkeypatch.setenv(PROCESS, "1")
    with pytest.raises(ValueError, match="JAX_PROCESS_ID=1, JAX_PROCESS_COUNT=1: an id runs from 0 to the count less"):
        join()


def test_process_0_is_the_first_however_its_number_is_written(monkeypatch):
    for number, first in (("0", True), ("00", True), ("1", False), ("01", False)):
        monkeypatch.setenv(PROCESS, number)
        assert is_first() == first


def test_a_patience_that_is_no_number_is_named(monkeypatch):
    monkeypatch.setenv(ADDRESS, "localhost:8476")
    monkeypatch.setenv(COUNT, "2")
    monkeypatch.setenv(PROCESS, "1")
    monkeypatch.setenv(hosts.PATIENCE, "5 min")
    with pytest.raises(ValueError, match="GPTJAX_JOIN_SECONDS=5 min: must be a whole number of seconds"):
        join()
