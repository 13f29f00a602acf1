"""A Slurm of several nodes on this machine, real daemons and all, for the time of a `with`. Needs root.

Debian: apt-get install --no-install-recommends slurm-wlm munge (which starts nothing).
"""

import contextlib
import dataclasses
import os
import pwd
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

PROGRAMS = ("slurmctld", "slurmd", "munged", "sbatch", "unshare", "setpriv")
CONF = """
ClusterName=campaign
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={port}
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.%n.pid
SlurmdSpoolDir={folder}/spool.%n
StateSaveLocation={folder}/state
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.%n.log
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=cred_expire=5
CredType=cred/munge
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SwitchType=switch/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SchedulerType=sched/backfill
SchedulerParameters=bf_interval=2,sched_interval=2,batch_sched_delay=0
SlurmdTimeout=30
KillWait=30
MessageTimeout=60
ReturnToService=2
JobRequeue=1
{nodes}
PartitionName=main Nodes=node[1-{count}] Default=YES MaxTime=INFINITE State=UP
"""


@dataclasses.dataclass
class Nodes:
    """The nodes of the cluster, each with a daemon and a mount namespace of its own."""

    stack: contextlib.ExitStack
    hosts: Path  # where the names of nodes can be looked up
    daemons: dict[int, "subprocess.Popen[bytes]"] = dataclasses.field(default_factory=dict)

    def start(self, number: int) -> None:
        mounted = f"mount --bind {self.hosts} /etc/hosts && exec slurmd -D -N node{number}"
        self.daemons[number] = _daemon(self.stack, ["unshare", "--mount", "sh", "-c", mounted])

    def crash(self, number: int) -> None:
        """Kills all that runs on a node, as if it had lost its power."""
        daemon = self.daemons[number]
        space = os.readlink(f"/proc/{daemon.pid}/ns/mnt")
        while found := [pid for pid in _processes() if _space_of(pid) == space]:
            for pid in found:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            daemon.wait()

    def crash_all(self) -> None:
        for number, daemon in self.daemons.items():
            if daemon.poll() is None:
                self.crash(number)


def _processes() -> list[int]:
    return [int(path.name) for path in Path("/proc").iterdir() if path.name.isdecimal()]


def _space_of(process: int) -> str:
    try:
        return os.readlink(f"/proc/{process}/ns/mnt")
    except OSError:  # gone meanwhile
        return ""


@contextlib.contextmanager
def cluster(folder: Path, count: int) -> Iterator[Nodes]:
    """In here `sbatch` and its kin talk to a cluster of node1 ... node<count>; all its daemons end with it.

    No exit code requeues a job by itself (RequeueExit), as on most clusters. Raises ValueError where it cannot start.
    """
    if missing := [name for name in PROGRAMS if shutil.which(name) is None]:
        raise ValueError(f"no {', '.join(missing)} here: apt-get install --no-install-recommends slurm-wlm munge")
    if os.geteuid():
        raise ValueError("only root can start the daemons of Slurm")
    (folder / "state").mkdir()
    host, ports = socket.gethostname(), _free_ports(count + 1)
    lines = "\n".join(
        f"NodeName=node{n} NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[n]} CPUs={os.cpu_count()} Boards=1 "
        f"SocketsPerBoard=1 CoresPerSocket={os.cpu_count()} ThreadsPerCore=1 RealMemory=1000"
        for n in range(1, count + 1)
    )
    conf, names = folder / "slurm.conf", folder / "hosts"
    conf.write_text(CONF.format(host=host, port=ports[0], folder=folder, nodes=lines, count=count))
    aliases = " ".join(f"node{n}" for n in range(1, count + 1))
    names.write_text(f"{Path('/etc/hosts').read_text()}\n127.0.0.1 {aliases}\n")
    os.environ["SLURM_CONF"] = str(conf)
    with contextlib.ExitStack() as stack:
        _munge(stack, folder)
        stack.callback(os.environ.pop, "SLURM_CONF")
        _daemon(stack, ["slurmctld", "-D"])
        nodes = Nodes(stack, names)
        for n in range(1, count + 1):
            nodes.start(n)
        stack.callback(nodes.crash_all)  # what is left of jobs lives on without its daemon
        wait_for(count)
        stack.callback(_cancel_all)
        yield nodes


def _munge(stack: contextlib.ExitStack, folder: Path) -> None:
    """The daemon that vouches for users, unless one runs already."""
    if subprocess.run(["munge", "-n"], capture_output=True).returncode == 0:
        return
    run = Path("/run/munge")
    run.mkdir(exist_ok=True)
    user = pwd.getpwnam("munge")
    os.chown(run, user.pw_uid, user.pw_gid)
    command = ["setpriv", "--reuid=munge", "--regid=munge", "--clear-groups", "munged", "--foreground"]
    _daemon(stack, command)
    for _ in range(50):
        if subprocess.run(["munge", "-n"], capture_output=True).returncode == 0:
            return
        time.sleep(0.2)
    raise ValueError("munged does not answer; see /var/log/munge")


def _daemon(stack: contextlib.ExitStack, command: list[str]) -> "subprocess.Popen[bytes]":
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def end() -> None:
        process.terminate()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    stack.callback(end)
    return process


def wait_for(count: int) -> None:
    """Until so many nodes are there and idle."""
    for _ in range(120):
        told = subprocess.run(["sinfo", "--noheader", "--Node", "--format=%T"], capture_output=True, text=True)
        if told.stdout.split() == ["idle"] * count:
            return
        time.sleep(0.5)
    raise ValueError(f"the nodes did not come up: {told.stdout.split()} {told.stderr}")


def _cancel_all() -> None:
    """So that no task outlives the cluster."""
    subprocess.run(["scancel", "--user=root"], capture_output=True)
    for _ in range(60):
        if not subprocess.run(["squeue", "--noheader"], capture_output=True, text=True).stdout.strip():
            return
        time.sleep(1)


def _free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        servers = [stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(count)]
        return [server.getsockname()[1] for server in servers]
