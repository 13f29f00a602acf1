"""`./launch.sh slurm`: a run as a batch job of Slurm, which queues itself again until the run is done."""

import dataclasses
import os
import re
import shlex
import time
from pathlib import Path, PurePosixPath
from typing import ClassVar, Literal

from gptjax.spelling import did_you_mean
from train.launch.launching import CHECKOUT, FINAL, Engine, File, Order, Plan, answer, check_writable, flushed, in_words
from train.launch.source_bundle import Source, unpack

SCRIPT = "job.sbatch"
LOOK = 2.0  # seconds between two looks at a queued job
UNKNOWN = "UNKNOWN"  # what it is in while nobody can be asked
LIVES = (
    "PENDING", "CONFIGURING", "RUNNING", "COMPLETING", "SUSPENDED", "REQUEUED", "STOPPED", "RESIZING", "SIGNALING",
    UNKNOWN,
)  # fmt: skip

TEMPLATE = """#!/bin/bash
# Written by ./launch.sh slurm, for {source}. To queue it again: sbatch {script}
{lines}

source={root}
job={folder}
restarts=${{SLURM_RESTART_COUNT:-0}}
ends=$job/ends.$SLURM_JOB_ID.$restarts # exit codes other than 0, in the order in which tasks ended
: >"$ends"

# JAX finds number and count of a task by itself. Not the address: it cuts the list of nodes where names end in letters,
# and its ports meet those of an earlier start whose processes are not gone yet.
port=$((61440 + (SLURM_JOB_ID + 512 * restarts) % 4096))
export JAX_COORDINATOR_ADDRESS=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1):$port
unset JAX_PROCESS_COUNT JAX_PROCESS_ID JAX_LOCAL_DEVICE_IDS # which the shell that queued this may have had
export GPTJAX_JOIN_SECONDS=${{GPTJAX_JOIN_SECONDS:-900}} PYTHONUNBUFFERED=1 PYTHONPATH=$source
echo "start $restarts of job $SLURM_JOB_ID on $SLURM_JOB_NODELIST, $(date '+%F %T')"

# A task: a signal is for the program alone, and how that ends is noted.
task='
trap : TERM
ends=$1; shift
if [ -d "$PYTHONPATH" ]; then
  "$@"; code=$?
else
  echo "$HOSTNAME: no folder $PYTHONPATH; is its file system mounted?" >&2; code=2
fi
[ "$code" = 0 ] || echo "$code" >>"$ends"
exit "$code"'

srun {options} {container}bash -c "$task" task "$ends" \\
  {command}
code=$?
read -r first <"$ends" || first=$code # what happened first: the others end because of it

case $first in
  {final})
{over}    echo "ended with exit code $first: not started again"
    exit "$first"
    ;;
esac
{again}"""

REQUEUE = """
if [ "$restarts" -ge {restarts} ]; then
  echo "ended with exit code $first, and was started again {restarts} times already: give --restarts more"
  exit 1
fi
echo "ended with exit code $first: queued again"
scontrol requeue "$SLURM_JOB_ID" || echo "this cluster does not queue jobs again; use --array 10" >&2
exit 75
"""
NEXT = """
echo "ended with exit code $first: the next job of the array goes on"
exit 75
"""
OVER = """    scancel --state=PENDING "$SLURM_ARRAY_JOB_ID" # nothing is left for the rest of the array
"""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Slurm(Engine):
    """queue a run with sbatch of Slurm, and show its output until it ends

    ./launch.sh slurm --nodes 4 --gpus-per-node 8 --time 24:00:00 -- pretrain big.py --run runs/big

    A task a GPU, or one a node without GPUs; checkout, .venv and run directory lie on a file system that all nodes see.
    The run is told to save --grace seconds before the time limit, and queued again: after exit codes 75 and 70,
    signals and lost nodes, but not after 0, 1, 2, 3 and 4. The script is kept as launched/JOB/job.sbatch.
    """

    nodes: int = 1  # how many nodes
    gpus_per_node: int = 0  # GPUs of each node, with a task for each
    tasks_per_node: int | None = None  # processes of each node; None = one a GPU, or one where there are none
    cpus_per_task: int | None = None  # cores of each process; None = what the cluster gives
    time: str | None = None  # time limit as Slurm writes it, such as 24:00:00 or 2-00:00:00; None = the partition's
    partition: str | None = None  # queue; None = the cluster's default
    account: str | None = None  # who pays; None = your default account
    array: int | None = None
    """so many jobs in turn, each of which goes on where the last one stopped, for clusters that queue no job again"""
    container: Literal["apptainer", "enroot"] | None = None  # runs in --image: by Apptainer, or by enroot with pyxis
    image: str | None = None  # for apptainer a .sif file, for enroot a .sqsh file, or where else they find one
    mounts: tuple[str, ...] = ()  # further folders that the container sees, each as it is named outside
    sbatch: tuple[str, ...] = ()  # further options of sbatch without their --, such as mem=0 exclusive qos=high

    verb: ClassVar[str] = "slurm"
    client: ClassVar[str] = "sbatch"
    client_from: ClassVar[str] = "which login nodes of a Slurm cluster have"
    remote: ClassVar[bool] = False

    def __post_init__(self):
        super().__post_init__()
        for name in ("nodes", "tasks_per_node", "cpus_per_task", "array"):
            if (value := getattr(self, name)) is not None and value < 1:
                raise ValueError(f"--{name.replace('_', '-')} {value}: must be 1 or more")
        if self.gpus_per_node and self.tasks_per_node not in (None, self.gpus_per_node):
            raise ValueError(
                f"--tasks-per-node {self.tasks_per_node}: JAX gives each task the GPU of its number; leave it out, or "
                f"give --gpus-per-node {self.gpus_per_node} of them"
            )
        if (limit := seconds(self.time)) is not None and limit <= self.grace + 60:
            raise ValueError(
                f"--time {self.time}: Slurm may tell a job to save a minute before --grace {self.grace} seconds are "
                f"left, so nothing would be trained; give more time, or --grace {max(1, limit // 4)}"
            )
        if (self.container is None) != (self.image is None):
            raise ValueError("--container and --image: give both, or neither")

    @property
    def tasks(self) -> int:
        """Processes of a node."""
        return self.gpus_per_node or self.tasks_per_node or 1

    @property
    def devices(self) -> tuple[int, str]:
        if self.gpus_per_node:
            return self.nodes * self.gpus_per_node, f"--nodes {self.nodes} x --gpus-per-node {self.gpus_per_node}"
        fake = re.search(r"xla_force_host_platform_device_count=(\d+)", os.environ.get("XLA_FLAGS", ""))
        each = int(fake[1]) if fake else 1
        said = f" x {each} of XLA_FLAGS" if fake else ""
        return self.nodes * self.tasks * each, f"--nodes {self.nodes} x --tasks-per-node {self.tasks}{said}"

    def source_root(self, folder: Path, source: Source) -> PurePosixPath:
        return PurePosixPath(folder / source.name)

    def plan(self, order: Order) -> Plan:
        script = order.folder / SCRIPT
        return Plan(
            (File(SCRIPT, self._script(order)),),
            (("sbatch", "--parsable", str(script)),),
            None,
            (f"kept: {script}", f"to stop it: scancel --name {order.name}; the same command goes on"),
        )

    def _script(self, order: Order) -> str:
        again = REQUEUE.format(restarts=self.restarts) if self.array is None else NEXT
        options = ["--kill-on-bad-exit=1", "--wait=0", "--label"]
        options += ["--gpu-bind=none"] * bool(self.gpus_per_node)  # JAX chooses the device, and must see all
        root, python = self.source_root(order.folder, order.source), f"{CHECKOUT}/.venv/bin/python"
        command = [python, "-P", "-m", "train", *order.words]
        if self.container is not None:  # whose environment lies beside the source that it was made from
            command[0] = "/opt/gptjax/.venv/bin/python"
        return TEMPLATE.format(
            source=order.source, script=shlex.quote(str(order.folder / SCRIPT)), lines=self._lines(order),
            root=shlex.quote(str(root)), folder=shlex.quote(str(order.folder)), options=" ".join(options),
            container=self._container(order), command=shlex.join(command), final="0 | " + in_words(FINAL, " | "),
            over="" if self.array is None else OVER, again=again,
        )  # fmt: skip

    def _lines(self, order: Order) -> str:
        output = "%j.out" if self.array is None else "%A.out"
        options = {
            "job-name": order.name, "nodes": self.nodes, "ntasks-per-node": self.tasks,
            "gpus-per-node": self.gpus_per_node or None, "cpus-per-task": self.cpus_per_task, "time": self.time,
            "partition": self.partition, "account": self.account, "chdir": os.getcwd(),
            "output": order.folder / output, "open-mode": "append", "signal": f"TERM@{self.grace}",
            "array": None if self.array is None else f"1-{self.array}%1",
        }  # fmt: skip
        lines = [f"{name}={_escaped(value)}" for name, value in options.items() if value is not None]
        return "\n".join(f"#SBATCH --{line}" for line in ("requeue", *lines, *self.sbatch))

    def _container(self, order: Order) -> str:
        """What stands before a task's command, or among the options of srun, to have it run in the image."""
        if self.container is None:
            return ""
        seen = dict.fromkeys((str(order.folder), os.getcwd(), *self.mounts))
        if self.container == "enroot":
            mounts = ",".join(f"{path}:{path}" for path in seen)
            words = [f"--container-image={self.image}", f"--container-mounts={mounts}"]
            return shlex.join([*words, f"--container-workdir={os.getcwd()}"]) + " "
        binds = [word for path in seen for word in ("--bind", path)]
        gpus = ["--nv"] if self.gpus_per_node else []
        return shlex.join(["apptainer", "exec", *gpus, *binds, "--pwd", os.getcwd(), str(self.image)]) + " "

    def check(self, order: Order) -> None:
        if not order.on_bucket:
            check_writable(order.run)
        self._check_environment()
        code, partitions = answer("sinfo", "--noheader", "--format=%P")
        if code:
            raise ValueError(f"slurm: the cluster does not answer: {partitions}; try again, or ask who runs it")
        self._check_partition(partitions.split())
        self._check_account()
        if self.container == "enroot" and "--container-image" not in answer("srun", "--help")[1]:
            raise ValueError(
                "--container enroot: srun knows no --container-image, as pyxis is not installed; use apptainer"
            )
        if self.image is not None and self.image.endswith((".sif", ".sqsh")) and not Path(self.image).is_file():
            raise ValueError(f"--image {self.image}: no such file; docs/clusters.md says how to make one")

    def _check_environment(self) -> None:
        stamp = CHECKOUT / ".venv/launch.stamp"
        platform = stamp.read_text(encoding="utf-8").split()[0] if stamp.exists() else "cpu"
        if self.container is None and self.gpus_per_node and platform != "cuda":
            raise ValueError(
                f"--gpus-per-node {self.gpus_per_node}: .venv is for {platform}; "
                "make it anew with GPTJAX_PLATFORM=cuda ./launch.sh setup"
            )

    def _check_partition(self, listed: list[str]) -> None:
        known = [name.rstrip("*") for name in listed]
        if self.partition is None and not any(name.endswith("*") for name in listed):
            raise ValueError(f"--partition: must be given, as this cluster has no default; known: {', '.join(known)}")
        if self.partition is not None and (unknown := set(self.partition.split(",")) - set(known)):
            name = min(unknown)
            raise ValueError(f"--partition {name}: this cluster has none of that name{did_you_mean(name, known)}")

    def _check_account(self) -> None:
        _, settings = answer("scontrol", "show", "config")
        enforced = re.search(r"^AccountingStorageEnforce\s*=\s*(.*)$", settings, re.MULTILINE)
        if enforced is None or "associations" not in enforced[1]:
            return
        user = answer("id", "-un")[1]
        code, told = answer("sacctmgr", "-nP", "show", "associations", f"user={user}", "format=account")
        if code:  # then sbatch says what is wrong
            return
        accounts = sorted(set(told.split()))
        default = answer("sacctmgr", "-nP", "show", "user", user, "format=defaultaccount")[1]
        if not accounts:
            raise ValueError(f"--account: this cluster wants one, and {user} has none; ask who runs it")
        if self.account is None and not default:
            raise ValueError(f"--account: this cluster wants one; yours are {', '.join(accounts)}")
        if self.account is not None and self.account not in accounts:
            raise ValueError(f"--account {self.account}: is none of {user}{did_you_mean(self.account, accounts)}")

    def prepare(self, order: Order) -> None:
        unpack(order.source, order.folder)
        script = str(order.folder / SCRIPT)
        code, told = answer("sbatch", "--test-only", script)  # the engine's own judgement, with nothing queued
        if code:
            raise ValueError(f"slurm: would not take the job: {told.replace('sbatch: ', '')} (its options: {script})")

    def follow(self, order: Order, plan: Plan, said: str) -> int:
        """Shows the output of a job until it is in the queue no more."""
        number = said.partition(";")[0]
        flushed(f"job {number}, its output: {order.folder / number}.out (Ctrl-C ends only this view)\n")
        output, shown, state = order.folder / f"{number}.out", 0, ""
        while True:
            found = _state(number)
            if found != state:
                state = found
                flushed(f"job {number}: {state}{_reason(number) if state == 'PENDING' else ''}\n")
            if output.exists():
                with output.open("rb") as file:
                    file.seek(shown)
                    more = file.read()
                shown += len(more)
                flushed(more.decode(errors="replace"))
            if state not in LIVES:
                return _exit_code(number)
            time.sleep(LOOK)


def _state(job: str) -> str:
    """Of a job; of an array, of those that are not over, else of the last."""
    code, told = answer("squeue", "--noheader", "--states=all", f"--jobs={job}", "--format=%T")
    if code and "Invalid job id" not in told:
        return UNKNOWN  # the controller does not answer: the job goes on
    if code or not told:
        return "GONE"
    states = told.split()
    return next((state for state in states if state in LIVES), states[0])


def _reason(job: str) -> str:
    told = answer("squeue", "--noheader", f"--jobs={job}", "--format=%r")[1].splitlines()
    return f", {told[0]}" if told else ""


def _exit_code(job: str) -> int:
    """Of a job that is over; of an array 0 once one of its jobs is done, else that of the newest that ran.

    1 where it was cancelled, timed out, or is forgotten already.
    """
    told = answer("scontrol", "--oneliner", "show", "job", job)[1]
    records = re.findall(r"^JobId=(\d+).*?JobState=(\w+).*? ExitCode=(\d+):", told, re.MULTILINE)
    if any(state == "COMPLETED" for _, state, _ in records):
        return 0
    ran = [(int(number), int(code)) for number, state, code in records if state != "CANCELLED"]
    return max(ran, default=(0, 1))[1] or 1


def seconds(limit: str | None) -> int | None:
    """A time limit as Slurm writes it: minutes, minutes:seconds, hours:minutes:seconds, days-hours[:...]."""
    if limit is None or limit.upper() == "UNLIMITED":
        return None
    found = re.fullmatch(r"(?:(\d+)-)?(\d+)(?::(\d+))?(?::(\d+))?", limit)
    if found is None:
        raise ValueError(f"--time {limit}: write minutes, hours:minutes:seconds, or days-hours:minutes:seconds")
    days, *parts = (int(part) if part else None for part in found.groups())
    given = [part for part in parts if part is not None]
    if days is not None:
        hours, minutes, rest = (*given, 0, 0)[:3]
        return ((days * 24 + hours) * 60 + minutes) * 60 + rest
    hours, minutes, rest = {1: (0, *given, 0), 2: (0, *given), 3: tuple(given)}[len(given)]
    return (hours * 60 + minutes) * 60 + rest


def _escaped(value: object) -> str:
    """A value of an #SBATCH line, whose spaces would end it."""
    return re.sub(r"(\s)", r"\\\1", str(value))
