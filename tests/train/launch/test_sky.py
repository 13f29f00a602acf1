"""The task of SkyPilot: machines, recovery by exit code, and how processes find each other."""

import subprocess

import pytest
import yaml

from tests.train.launch.orders import content, fixed_source, order_of  # noqa: F401
from train.launch.sky import TASK, Sky

pytestmark = pytest.mark.usefixtures("fixed_source")


def task(engine, *more):
    return yaml.safe_load(content(engine, order_of(engine, *more), TASK))


def test_machines_are_asked_for_and_stopped_runs_recovered():
    found = task(Sky(nodes=2, gpus="H100:8", infra="k8s", spot=True, volume="data"), "--batch.rows", "16")
    assert found["num_nodes"] == 2
    assert found["resources"] == {
        "accelerators": "H100:8", "infra": "k8s", "use_spot": True,
        "job_recovery": {"max_restarts_on_errors": 0, "recover_on_exit_codes": [70, 75]},
    }  # fmt: skip
    assert found["volumes"] == {"/data": "data"}
    assert found["envs"]["GPTJAX_PLATFORM"] == "cuda"
    assert found["workdir"].endswith("/launched/mine/source-777777777777")
    assert set(task(Sky(volume="data"))["resources"]) == {"job_recovery"}


def test_a_machine_gets_its_three_variables_and_runs_in_the_shared_folder(tmp_path):
    """The script of the task, run as SkyPilot would on the second of two machines."""
    engine = Sky(nodes=2, volume="data", mount=str(tmp_path / "data"))
    script = task(engine, "--run", "runs/mine", "--batch.rows", "16")["run"].replace(
        "/tmp/gptjax-source", f"{tmp_path}/source"
    )
    (tmp_path / "data").mkdir()
    (tmp_path / "work").mkdir()
    told = 'echo "$JAX_COORDINATOR_ADDRESS $JAX_PROCESS_COUNT $JAX_PROCESS_ID in $PWD: $*"'
    (tmp_path / "work/launch.sh").write_text(f"#!/bin/bash\n{told}\n")
    (tmp_path / "work/launch.sh").chmod(0o755)
    told = subprocess.run(
        ["bash", "-c", script], cwd=tmp_path / "work", capture_output=True, text=True, check=True,
        env={"PATH": "/bin:/usr/bin", "SKYPILOT_NODE_IPS": "10.0.0.1\n10.0.0.2", "SKYPILOT_NUM_NODES": "2",
             "SKYPILOT_NODE_RANK": "1"},
    ).stdout  # fmt: skip
    assert told.startswith(f"10.0.0.1:8476 2 1 in {tmp_path}/data: pretrain laptop --run runs/mine")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"volume": "a", "nodes": 0}, "--nodes 0: must be 1 or more"),
        ({"volume": "a", "gpus": "H100"}, "--gpus H100: write kind and number of a machine's, such as H100:8"),
    ],
)
def test_options_that_cannot_be_are_told_with_what_can(options, message):
    with pytest.raises(ValueError, match=message):
        Sky(**options)


def test_a_run_that_would_end_with_its_machine_is_refused():
    engine = Sky(volume="data")
    with pytest.raises(ValueError, match="run=/home/run: lies outside of --mount /data"):
        engine.plan(order_of(engine, "--run", "/home/run"))
    with pytest.raises(ValueError, match="--volume: give one that all machines can write to"):
        (engine := Sky()).plan(order_of(engine))


@pytest.mark.parametrize("nodes", [1, 2])
def test_machines_with_their_run_on_a_bucket_need_no_volume(nodes):
    found = task(Sky(nodes=nodes), "--run", "gs://bucket/run", "--batch.rows", "16")
    assert "volumes" not in found
    assert "cd /tmp/gptjax-source\n" in found["run"]
