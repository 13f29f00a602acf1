"""What a TPU VM gets: a bundle by its hash, and a unit that systemd restarts; and what gcloud is asked first."""

import os
import shutil
import subprocess

import pytest

from tests.train.launch.orders import content, fixed_source, order_of  # noqa: F401
from train.launch.tpu_vm import TpuVm

pytestmark = pytest.mark.usefixtures("fixed_source")
RUN = ("--run", "/mnt/runs/mine")


def test_all_workers_get_the_same_bundle_before_any_of_them_starts():
    engine = TpuVm(tpu="my-pod", zone="here", project="mine")
    plan = engine.plan(order_of(engine, *RUN))
    for command in plan.commands:
        assert command[:4] == ("gcloud", "compute", "tpus", "tpu-vm")
        assert {"--zone=here", "--project=mine", "--worker=all"} <= set(command)
    assert [command[4] for command in plan.commands] == ["ssh", "scp", "ssh", "ssh"]
    assert any(word.endswith("/source-777777777777.tar.gz") for word in plan.commands[1])
    assert plan.commands[2][-1] == "--command=bash gptjax-mine/install.sh"
    assert "systemctl restart" in plan.commands[3][-1]


def test_systemd_starts_again_what_was_stopped_and_not_what_is_mistaken():
    engine = TpuVm(tpu="my-pod", grace=45, restarts=9)
    unit = content(engine, order_of(engine, *RUN), "gptjax-mine@.service").splitlines()
    for line in (
        "Restart=on-failure", "RestartPreventExitStatus=1 2 3 4 130", "StartLimitBurst=10", "TimeoutStopSec=45",
        "User=%i", "ExecStart=/bin/bash gptjax-mine/run.sh",
    ):  # fmt: skip
        assert line in unit
    script = content(engine, order_of(engine, *RUN), "run.sh").splitlines()
    assert script[-1] == "exec source-777777777777/launch.sh pretrain laptop --run runs/mine --run /mnt/runs/mine"


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="no systemd here")
def test_systemd_knows_every_line_of_the_unit(tmp_path):
    engine = TpuVm(tpu="my-pod")
    unit = tmp_path / "gptjax-mine@me.service"

    def remarks(text):
        unit.write_text(text)
        return subprocess.run(["systemd-analyze", "verify", unit], capture_output=True, text=True).stderr

    text = content(engine, order_of(engine, *RUN), "gptjax-mine@.service")
    assert "gptjax-mine@me.service" not in remarks(text)
    assert "Unknown key" in remarks(text.replace("RestartSec", "RestartSecs"))


def test_the_scripts_are_bash_and_a_worker_refuses_files_that_were_cut(tmp_path):
    engine = TpuVm(tpu="my-pod")
    order = order_of(engine, *RUN)
    for file in engine.plan(order).files[:2]:
        assert subprocess.run(["bash", "-n", "-c", file.content]).returncode == 0
    home = tmp_path / "gptjax-mine"
    home.mkdir()
    (home / f"{order.source.name}.tar.gz").write_text("half of it")
    (home / f"{order.source.name}.sha256").write_text(f"{'0' * 64}  {order.source.name}.tar.gz\n")
    installed = subprocess.run(
        ["bash", "-c", content(engine, order, "install.sh")], env={**os.environ, "HOME": str(tmp_path)},
        capture_output=True, text=True,
    )  # fmt: skip
    assert installed.returncode == 1
    assert "FAILED" in installed.stdout + installed.stderr


def test_a_run_in_the_workers_own_folders_is_refused():
    engine = TpuVm(tpu="my-pod")
    with pytest.raises(ValueError, match="run=runs/mine: must be an absolute path where all workers write to"):
        engine.plan(order_of(engine))


GCLOUD = """#!/bin/bash
case "$*" in
  *"describe my-pod"*) echo '{"state": "STATE", "acceleratorType": "v5litepod-16"}' ;;
  *" list "*) echo my-pod ;;
  *) echo "ERROR: not found" >&2; exit 1 ;;
esac
"""


def test_the_tpu_must_be_there_ready_and_fit_the_mesh(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    program = tmp_path / "gcloud"
    program.write_text(GCLOUD.replace("STATE", "READY"))
    program.chmod(0o755)

    def checked(name, *more):
        TpuVm(tpu=name).check(order_of(TpuVm(tpu=name), *RUN, *more))

    checked("my-pod", "--batch.rows", "16")
    with pytest.raises(ValueError, match=r"tpu-vm my-pod, v5litepod-16 = 16 devices, but the mesh is data=5 x fsdp=3"):
        checked("my-pod", "--mesh.fsdp", "3")
    with pytest.raises(ValueError, match=r"tpu-vm my-pot: gcloud finds none: ERROR: not found; did you mean 'my-pod'"):
        checked("my-pot")
    program.write_text(GCLOUD.replace("STATE", "CREATING"))
    with pytest.raises(ValueError, match="tpu-vm my-pod: is CREATING, and must be READY"):
        checked("my-pod")


def test_of_a_run_on_a_bucket_no_folder_is_asked_for():
    """One on a disk must be writable on every worker."""
    engine = TpuVm(tpu="my-pod")
    assert "cannot be written to" not in content(engine, order_of(engine, "--run", "gs://bucket/run"), "install.sh")
    assert "cannot be written to" in content(engine, order_of(engine, *RUN), "install.sh")
