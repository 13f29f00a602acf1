"""The batch script: what it asks of Slurm, and what becomes of a job by how its tasks end, with a fake srun."""

import os
import subprocess

import pytest

from tests.train.launch.orders import content, fixed_source, order_of  # noqa: F401
from train.launch import slurm
from train.launch.slurm import SCRIPT, Slurm, seconds

pytestmark = pytest.mark.usefixtures("fixed_source")


def lines(engine: Slurm, *more: str) -> list[str]:
    script = content(engine, order_of(engine, *more), SCRIPT)
    return [line.removeprefix("#SBATCH --") for line in script.splitlines() if line.startswith("#SBATCH")]


def test_a_task_a_gpu_is_asked_for_and_every_task_sees_all_of_them():
    engine = Slurm(nodes=4, gpus_per_node=8, time="24:00:00", partition="a100")
    asked = lines(engine, "--batch.rows", "32")
    for line in ("nodes=4", "ntasks-per-node=8", "gpus-per-node=8", "time=24:00:00", "partition=a100"):
        assert line in asked
    assert "--gpu-bind=none" in content(engine, order_of(engine, "--batch.rows", "32"), SCRIPT)
    alone = Slurm()
    assert "--gpu-bind" not in content(alone, order_of(alone), SCRIPT)
    assert not [line for line in lines(alone) if "gpu" in line or "time=" in line]


def test_a_job_can_be_requeued_appends_to_its_output_and_its_steps_are_told_in_time():
    asked = lines(Slurm(grace=120))
    assert {"requeue", "open-mode=append", "signal=TERM@120"} <= set(asked)  # not B:TERM, which is the script alone
    assert "array=1-5%1" in lines(Slurm(array=5))
    assert "mem=0" in lines(Slurm(sbatch=("mem=0", "exclusive")))


def test_the_source_runs_not_the_checkout():
    engine = Slurm()
    order = order_of(engine)
    script = content(engine, order, SCRIPT)
    assert f"source={order.folder}/source-777777777777\n" in script
    assert "PYTHONPATH=$source" in script


def test_containers_see_the_folders_that_a_run_needs():
    apptainer = Slurm(container="apptainer", image="gptjax.sif", mounts=("/scratch",), gpus_per_node=1)
    script = content(apptainer, order_of(apptainer), SCRIPT)
    assert f"apptainer exec --nv --bind {order_of(apptainer).folder} --bind {os.getcwd()} --bind /scratch" in script
    enroot = Slurm(container="enroot", image="gptjax.sqsh")
    script = content(enroot, order_of(enroot), SCRIPT)
    assert f"--container-image=gptjax.sqsh --container-mounts={order_of(enroot).folder}:" in script
    assert "/opt/gptjax/.venv/bin/python -P -m train pretrain" in script


class Node:
    """Where a script runs: programs of Slurm that note how they are called, and a Python that ends as it is told."""

    def __init__(self, folder):
        self.folder, self.calls = folder, folder / "calls"
        (folder / "bin").mkdir()
        (folder / ".venv/bin").mkdir(parents=True)
        self.program("srun", 'while [ "$1" != bash ]; do shift; done; "$@"')
        self.program("scontrol", f'if [ "$1" = show ]; then echo node7; else echo "$@" >>"{self.calls}"; fi')
        self.program("scancel", f'echo scancel "$@" >>"{self.calls}"')
        self.program(".venv/bin/python", 'echo "at $JAX_COORDINATOR_ADDRESS"; eval "$ENDS"', folder=folder)

    def program(self, name, script, folder=None):
        path = (folder or self.folder / "bin") / name
        path.write_text(f"#!/bin/bash\n{script}\n")
        path.chmod(0o755)

    def run(self, engine, ends, monkeypatch, **environment):
        """The script of a job, whose task ends so; returns the process that was it."""
        monkeypatch.setattr(slurm, "CHECKOUT", self.folder)
        order = order_of(engine)._replace(folder=self.folder)
        (self.folder / order.source.name).mkdir(exist_ok=True)
        job = {"SLURM_JOB_ID": "5", "SLURM_JOB_NODELIST": "node[7-8]", "SLURM_ARRAY_JOB_ID": "4", **environment}
        return subprocess.run(
            ["bash", "-c", content(engine, order, SCRIPT)], capture_output=True, text=True, timeout=60,
            env={"PATH": f"{self.folder}/bin:{os.environ['PATH']}", "ENDS": ends, **job},
        )  # fmt: skip

    @property
    def called(self):
        return self.calls.read_text().split("\n")[:-1] if self.calls.exists() else []


@pytest.fixture
def node(tmp_path):
    return Node(tmp_path)


@pytest.mark.parametrize("code", [0, 1, 2, 3, 4, 130])
def test_what_a_new_start_would_not_change_is_not_queued_again(node, monkeypatch, code):
    done = node.run(Slurm(), f"exit {code}", monkeypatch)
    assert done.returncode == code
    assert node.called == []
    assert f"ended with exit code {code}: not started again" in done.stdout


@pytest.mark.parametrize("ends", ["exit 75", "exit 70", "kill -KILL $$", "kill -TERM $$"])
def test_what_was_stopped_is_queued_again_by_its_own_script(node, monkeypatch, ends):
    done = node.run(Slurm(), ends, monkeypatch)
    assert node.called == ["requeue 5"], done.stdout + done.stderr
    assert "at node7:61445\n" in done.stdout


def test_the_task_that_failed_first_decides_though_the_others_are_stopped_because_of_it(node, monkeypatch):
    """srun passes on the highest code, which is that of a task which was told to stop."""
    node.program("srun", 'while [ "$1" != bash ]; do shift; done; "$@"; ENDS="exit 75" "$@"; exit 75')
    assert node.run(Slurm(), "exit 2", monkeypatch).returncode == 2
    assert node.called == []


def test_a_signal_to_all_of_a_task_lets_its_program_save(node, monkeypatch):
    """Slurm signals the shell around the program too."""
    saves = "trap 'sleep 0.3; exit 75' TERM; kill -TERM $PPID; kill -TERM $$; sleep 5"
    assert "ended with exit code 75: queued again" in node.run(Slurm(), saves, monkeypatch).stdout


def test_starts_come_to_an_end_and_each_has_another_port(node, monkeypatch):
    last = node.run(Slurm(restarts=3), "exit 75", monkeypatch, SLURM_RESTART_COUNT="3")
    assert last.returncode == 1
    assert "3 times already: give --restarts more" in last.stdout
    assert node.called == []
    assert "at node7:62981\n" in last.stdout


def test_variables_of_the_shell_that_queued_it_do_not_number_its_tasks(node, monkeypatch):
    node.program(".venv/bin/python", 'echo "number <$JAX_PROCESS_ID> of <$JAX_PROCESS_COUNT>"', folder=node.folder)
    done = node.run(Slurm(), "", monkeypatch, JAX_PROCESS_ID="3", JAX_PROCESS_COUNT="4")
    assert "number <> of <>" in done.stdout


def test_an_array_goes_on_by_its_next_job_until_nothing_is_left(node, monkeypatch):
    assert node.run(Slurm(array=9), "exit 75", monkeypatch).returncode == 75
    assert node.called == []
    assert node.run(Slurm(array=9), "exit 0", monkeypatch).returncode == 0
    assert node.called == ["scancel --state=PENDING 4"]


def test_a_source_that_a_node_does_not_see_is_a_mistake(node, monkeypatch):
    node.program("srun", 'while [ "$1" != bash ]; do shift; done; PYTHONPATH=/nowhere "$@"')
    done = node.run(Slurm(), "exit 0", monkeypatch)
    assert done.returncode == 2
    assert "no folder /nowhere; is its file system mounted?" in done.stderr


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"nodes": 0}, "--nodes 0: must be 1 or more"),
        ({"gpus_per_node": 8, "tasks_per_node": 1}, "--tasks-per-node 1: JAX gives each task the GPU of its number"),
        ({"time": "00:05:00"}, "--time 00:05:00: .*nothing would be trained; give more time, or --grace 75"),
        ({"time": "soon"}, "--time soon: write minutes, hours:minutes:seconds"),
        ({"container": "enroot"}, "--container and --image: give both, or neither"),
    ],
)
def test_options_that_cannot_be_are_told_with_what_can(options, message):
    with pytest.raises(ValueError, match=message):
        Slurm(**options)


def test_time_limits_are_read_as_slurm_writes_them():
    given = {"90": 5400, "90:30": 5430, "1:30:00": 5400, "2-12": 216000, "2-12:30": 217800, "1-0:0:5": 86405}
    assert {limit: seconds(limit) for limit in given} == given
    assert seconds("UNLIMITED") is None


class Login:
    """A login node with a cluster behind it."""

    def __init__(self, folder, monkeypatch):
        self.folder = folder
        monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
        self.program("sinfo", "echo 'main* long'")
        self.program("scontrol", "echo 'AccountingStorageEnforce = none'")
        self.program("sacctmgr", 'case "$*" in *defaultaccount*) ;; *) echo physics; echo biology ;; esac')

    def program(self, name, script):
        (self.folder / name).write_text(f"#!/bin/bash\n{script}\n")
        (self.folder / name).chmod(0o755)


@pytest.fixture
def login(tmp_path, monkeypatch):
    return Login(tmp_path, monkeypatch)


def checked(*more, **options):
    engine = Slurm(**options)
    engine.check(order_of(engine, *more))


def test_a_partition_that_there_is_not_is_named_with_the_likely_one(login):
    checked(partition="long")
    with pytest.raises(ValueError, match=r"--partition lnog: .*did you mean 'long'"):
        checked(partition="lnog")
    login.program("sinfo", "echo 'main long'")
    with pytest.raises(ValueError, match="--partition: must be given, as this cluster has no default; known: main, lo"):
        checked()


def test_an_account_is_asked_for_where_the_cluster_does(login):
    checked(account="anything")
    login.program("scontrol", "echo 'AccountingStorageEnforce = associations,limits'")
    checked(account="physics")
    with pytest.raises(ValueError, match=r"--account physic: is none of .*did you mean 'physics'"):
        checked(account="physic")
    with pytest.raises(ValueError, match="--account: this cluster wants one; yours are biology, physics"):
        checked()


def test_a_cluster_that_is_silent_and_a_folder_that_is_closed_are_told_before_anything_is_queued(login, monkeypatch):
    login.program("sinfo", "echo 'slurm_load_partitions: Unable to contact slurm controller' >&2; exit 1")
    with pytest.raises(ValueError, match="the cluster does not answer: slurm_load_partitions: Unable to contact"):
        checked()
    monkeypatch.setattr("os.access", lambda path, mode: str(path) != "/proc")
    with pytest.raises(ValueError, match="run=/proc/mine: /proc cannot be written to"):
        checked("--run", "/proc/mine")


def test_pyxis_and_the_image_must_be_there(login, tmp_path):
    login.program("srun", "echo --container-image")
    with pytest.raises(ValueError, match=r"--image /no.sqsh: no such file"):
        checked(container="enroot", image="/no.sqsh")
    login.program("srun", "echo nothing of it")
    with pytest.raises(ValueError, match="srun knows no --container-image, as pyxis is not installed; use apptainer"):
        checked(container="enroot", image="/no.sqsh")


def test_gpus_need_an_environment_that_is_made_for_them(login, tmp_path, monkeypatch):
    monkeypatch.setattr(slurm, "CHECKOUT", tmp_path)
    (tmp_path / ".venv").mkdir()
    (tmp_path / ".venv/launch.stamp").write_text("cpu clean 1 /x\n")
    with pytest.raises(ValueError, match=r".venv is for cpu; make it anew with GPTJAX_PLATFORM=cuda ./launch.sh setup"):
        checked(gpus_per_node=8)
    (tmp_path / ".venv/launch.stamp").write_text("cuda clean 1 /x\n")
    checked(gpus_per_node=8)


@pytest.mark.parametrize(
    ("records", "code"),
    [
        (["JobId=7 JobName=x JobState=COMPLETED Reason=None ExitCode=0:0"], 0),
        (["JobId=7 JobName=x JobState=FAILED Reason=NonZeroExitCode ExitCode=2:0"], 2),
        (["JobId=7 JobName=x JobState=CANCELLED Reason=None ExitCode=0:15"], 1),
        ([], 1),
        (["JobId=7 JobState=CANCELLED ExitCode=0:0", "JobId=9 JobState=COMPLETED ExitCode=0:0"], 0),
        (["JobId=8 JobState=FAILED ExitCode=75:0", "JobId=9 JobState=FAILED ExitCode=2:0"], 2),
    ],
)
def test_the_exit_code_of_a_job_that_is_over_is_that_of_its_end(monkeypatch, records, code):
    """Of an array: done where one of its jobs is, whatever became of the others."""
    monkeypatch.setattr(slurm, "answer", lambda *_: (0, "\n".join(records)))
    assert slurm._exit_code("7") == code


def test_a_controller_that_does_not_answer_ends_no_view(monkeypatch):
    """A job that it knows no more is over."""
    told = [(1, "slurm_load_jobs error: Unable to contact slurm controller"), (1, "error: Invalid job id specified")]
    monkeypatch.setattr(slurm, "answer", lambda *_: told.pop(0))
    assert slurm._state("7") in slurm.LIVES
    assert slurm._state("7") not in slurm.LIVES
