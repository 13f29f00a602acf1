"""Processes that are one run: what they are told is checked, and what they do must be the same."""

import socket

import pytest

from train.supervision import hosts
from train.supervision.hosts import check_agree, from_first, is_first, join, see_each_themselves

ADDRESS, COUNT, PROCESS = hosts.NAMES
SLURM = {
    "SLURM_JOB_ID": "5000", "SLURM_STEP_NODELIST": "node[7-8]", "SLURM_NTASKS": "4", "SLURM_PROCID": "0",
    "SLURM_LOCALID": "1",
}  # fmt: skip


@pytest.fixture(autouse=True)
def alone(monkeypatch):
    for name in (*hosts.NAMES, hosts.PATIENCE, *hosts.TASKS, "JAX_LOCAL_DEVICE_IDS"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def joined(monkeypatch):
    """With which arguments JAX was asked to connect."""
    asked = []
    monkeypatch.setattr("jax.distributed.initialize", lambda *given, **_: asked.append(given))
    return asked


def under(monkeypatch, **variables):
    for name, value in {**SLURM, **variables}.items():
        monkeypatch.setenv(name, value)


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


def test_the_tasks_of_slurm_are_found_by_jax(monkeypatch, joined):
    """Address, count, number and the device of each; a single task is alone, with all devices."""
    under(monkeypatch)
    join()
    assert joined == [("node7:62344", 4, 0, [1], "deactivate")]
    joined.clear()
    under(monkeypatch, SLURM_NTASKS="1")
    join()
    assert joined == []


def test_an_address_or_devices_that_are_given_stand_beside_what_jax_finds(monkeypatch, joined):
    """As the batch script gives the address, for JAX cannot read every list of nodes."""
    under(monkeypatch, JAX_COORDINATOR_ADDRESS="gpu01-ib:61445", JAX_LOCAL_DEVICE_IDS="0,1,2")
    join()
    assert joined == [("gpu01-ib:61445", 4, 0, [0, 1, 2], "deactivate")]


def test_the_three_variables_come_before_what_jax_finds(monkeypatch, joined):
    under(monkeypatch, JAX_COORDINATOR_ADDRESS="node-0:8476", JAX_PROCESS_COUNT="2", JAX_PROCESS_ID="0")
    join()
    assert joined == [("node-0:8476", 2, 0, None, "deactivate")]


def test_a_shell_on_a_cluster_is_no_task_of_it(monkeypatch, joined):
    """Within a job, but outside of srun, a process is alone, as it is in a pod of no indexed job."""
    under(monkeypatch)
    monkeypatch.delenv("SLURM_STEP_NODELIST")
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "10.0.0.1")
    monkeypatch.delenv("JOB_COMPLETION_INDEX", raising=False)
    join()
    assert joined == []
    under(monkeypatch, SLURM_STEP_NUM_TASKS="1")  # the shell of salloc is a step of one task in an allocation of four
    join()
    assert joined == []


def test_the_one_worker_of_a_tpu_vm_is_alone_and_asks_nobody(monkeypatch, joined):
    monkeypatch.setattr("jax._src.cloud_tpu_init.running_in_cloud_tpu_vm", True)
    monkeypatch.setenv("TPU_WORKER_HOSTNAMES", "localhost")
    join()
    assert joined == []


def test_where_jax_cannot_make_out_the_others_it_is_said_what_to_set(monkeypatch):
    under(monkeypatch, SLURM_NTASKS="many")
    with pytest.raises(ValueError, match=r"JAX cannot make out the other processes: .*many.*; set JAX_CO"):
        join()


def test_processes_have_one_folder_or_one_each_and_what_is_between_is_refused(tmp_path):
    assert see_each_themselves([[0], [1], [2]], tmp_path)
    assert not see_each_themselves([[0, 1, 2]] * 3, tmp_path)
    with pytest.raises(ValueError, match=r"process 2 sees those of \[2\]. Give each process a GPTJAX_CACHE of its own"):
        see_each_themselves([[0, 1], [0, 1], [2]], tmp_path)
