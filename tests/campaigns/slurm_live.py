"""`python -m tests.campaigns.slurm_live [CASE ...]`: runs on a real Slurm, disturbed in many ways, end as if not.

A run of two tasks on two of four nodes is queued by `./launch.sh slurm` and left alone. Others, by the same command,
are queued again in the middle, lose a node to the administrator, are cancelled, meet their time limit, lose a task or a
node to a crash. Parameters, moments, records and row hashes must be those of the first, bit for bit; on another number
of nodes rows must be the same, and losses within BOUND.
"""

import argparse
import dataclasses
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from rich.console import Console
from rich.table import Table

from gptjax.runs.manifest import steps
from tests.campaigns.resharding import compare
from tests.campaigns.slurm_cluster import Nodes, cluster, wait_for
from tests.tiny_recipe import write_text
from train.lab.verify_resume import differing

ROOT = Path(__file__).resolve().parents[2]
EVERY = 25  # steps between two saves
MIDDLE = 50  # the step that must be saved before anything happens
NODES = 4
BOUND = 1e-5  # of losses, on another number of devices
PATIENCE = 1200.0  # seconds for a job to come to something
RECIPE = """
from pathlib import Path

from tests.tiny_recipe import recipe as tiny
from train.recipe import CheckpointSpec, MeshSpec, ValidationSpec


def recipe():
    return tiny(
        Path({text!r}), "run", mesh=MeshSpec(), steps={steps}, samples=0,
        checkpoint=CheckpointSpec(every={every}, keep=3), validation=ValidationSpec(every=100, rows=4, final_rows=4),
    )
"""


@dataclasses.dataclass
class Cluster:
    """Runs on the cluster, all by the same command."""

    folder: Path
    steps: int
    nodes: Nodes

    def launch(self, run: str, *options: str, more: tuple[str, ...] = ()) -> "subprocess.CompletedProcess[str]":
        """`./launch.sh slurm` of a run."""
        environment = os.environ | {
            "PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu", "JAX_COMPILATION_CACHE_DIR": str(self.folder / "compiled"),
            "XLA_FLAGS": "--xla_force_host_platform_device_count=1", "TF_CPP_MIN_LOG_LEVEL": "3",
            "TF_ENABLE_ONEDNN_OPTS": "0",
        }  # fmt: skip
        given = options if "--nodes" in options else ("--nodes", "2", *options)
        words = ["slurm", *given, "--dirty", "--", "pretrain", "recipe.py", "--run", f"runs/{run}", *more]
        command = [sys.executable, "-P", "-m", "train", *words]
        return subprocess.run(command, cwd=self.folder, env=environment, capture_output=True, text=True)

    def queue(self, run: str, *options: str, more: tuple[str, ...] = ()) -> str:
        """Queues a run; returns the number of its job."""
        done = self.launch(run, "--detach", *options, more=more)
        if done.returncode:
            raise ValueError(f"{run}: not queued: {done.stderr}")
        return slurm("squeue", "--noheader", "--format=%A", f"--name={run}").split()[0]

    def until(self, what: str, true: Callable[[], object]) -> None:
        end = time.monotonic() + PATIENCE
        while not true():
            if time.monotonic() > end:
                raise ValueError(f"waited {PATIENCE:.0f} s for {what}\n{slurm('scontrol', 'show', 'jobs')}")
            time.sleep(0.5)

    def middle(self, run: str) -> None:
        """Waits until a run is in its middle."""
        self.until(f"step {MIDDLE} of {run}", lambda: max(steps(self.run(run)), default=0) >= MIDDLE)
        if max(steps(self.run(run))) == self.steps:
            raise ValueError(f"{run}: is over already; give it more steps")

    def over(self, job: str) -> dict[str, str]:
        """Waits until a job is over; returns what Slurm says of it."""
        states = ("COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL")
        self.until(f"the end of job {job}", lambda: self.of(job).get("JobState") in states)
        return self.of(job)

    def of(self, job: str) -> dict[str, str]:
        told = slurm("scontrol", "--oneliner", "show", "job", job).splitlines()
        return dict(re.findall(r"(\w+)=(\S*)", told[0] if told else ""))

    def run(self, name: str) -> Path:
        return self.folder / "runs" / name

    def output(self, run: str, job: str) -> str:
        return (self.folder / "launched" / run / f"{job}.out").read_text(errors="replace")

    def starts(self, run: str, job: str) -> list[str]:
        """The nodes of each start of a job."""
        return re.findall(r"^start \d+ of job \d+ on (\S+),", self.output(run, job), re.MULTILINE)


def slurm(*command: str) -> str:
    return subprocess.run(command, capture_output=True, text=True).stdout.strip()


def wanted(what: str, found: object, *legal: object) -> None:
    if found not in legal:
        raise ValueError(f"{what}: {found}, not {' or '.join(map(str, legal))}")


def requeued(at: Cluster, run: str) -> str:
    """by an administrator, in the middle"""
    job = at.queue(run)
    at.middle(run)
    slurm("scontrol", "requeue", job)
    wanted("state", at.over(job)["JobState"], "COMPLETED")
    wanted("started again", len(at.starts(run, job)) > 1, True)
    return f"nodes {' then '.join(at.starts(run, job))}"


def drained(at: Cluster, run: str) -> str:
    """a node is taken out of service, and the job queued again"""
    job = at.queue(run)
    at.middle(run)
    slurm("scontrol", "update", "nodename=node1", "state=drain", "reason=campaign")
    slurm("scontrol", "requeue", job)
    try:
        wanted("state", at.over(job)["JobState"], "COMPLETED")
    finally:
        slurm("scontrol", "update", "nodename=node1", "state=resume")
    nodes = at.starts(run, job)
    wanted("started again, on other nodes", nodes[-1] != nodes[0], True)
    return f"nodes {' then '.join(nodes)}"


def cancelled(at: Cluster, run: str) -> str:
    """by its user, who repeats the command"""
    job = at.queue(run)
    at.middle(run)
    slurm("scancel", job)
    wanted("state", at.over(job)["JobState"], "CANCELLED")
    saved = max(steps(at.run(run)))
    again = at.queue(run)
    wanted("state", at.over(again)["JobState"], "COMPLETED")
    return f"saved step {saved} when cancelled"


def other_nodes(at: Cluster, run: str) -> str:
    """cancelled, and gone on with on four nodes in place of two, then on one"""
    undropped = ("--model.dropout", "0")  # whose masks differ from one cut into micro-batches to another
    wanted("state of the run beside it", at.over(at.queue("undropped", more=undropped))["JobState"], "COMPLETED")
    job = at.queue(run, more=undropped)
    at.middle(run)
    slurm("scancel", job)
    at.over(job)
    part = max(steps(at.run(run))) + 2 * EVERY
    on_four = at.queue(run, "--nodes", "4", more=(*undropped, "--stop.step", str(part)))
    wanted("state", at.over(on_four)["JobState"], "COMPLETED")
    wanted("saved", max(steps(at.run(run))), part)
    wanted("state", at.over(at.queue(run, "--nodes", "1", more=undropped))["JobState"], "COMPLETED")
    found = compare(at.run("undropped"), at.run(run))
    wanted("steps with the same rows", found.same_rows, at.steps)
    if not found.loss < BOUND:  # nor NaN
        raise ValueError(f"losses differ by up to {found.loss:.1e}, more than {BOUND}")
    return f"losses within {found.loss:.1e}"


def limited(at: Cluster, run: str) -> str:
    """the time limit comes before the end"""
    job = at.queue(run, "--time", "00:03:00", "--grace", "100")
    wanted("state", at.over(job)["JobState"], "COMPLETED")
    starts = len(at.starts(run, job))
    wanted("more than one start (else give more --steps)", starts > 1, True)
    return f"{starts} starts"


def _killed(at: Cluster, run: str, task: int) -> str:
    """The job of a run of which a task got a SIGKILL in the middle, and which was started again and done."""
    job = at.queue(run)
    at.middle(run)
    os.kill(json.loads((at.run(run) / f"lease/{task}.json").read_text())["pid"], signal.SIGKILL)
    wanted("state", at.over(job)["JobState"], "COMPLETED")
    wanted("started again", len(at.starts(run, job)) > 1, True)
    return job


def task_killed(at: Cluster, run: str) -> str:
    """one of the two tasks gets a SIGKILL"""
    job = _killed(at, run, 1)
    told = re.findall(r"ended with exit code (\d+): queued again", at.output(run, job))
    wanted("told", told[0] in ("137", "70"), True)  # 70 where the other task saw it before Slurm did
    return f"exit code {told[0]}, queued again"


def first_killed(at: Cluster, run: str) -> str:
    """the task through which all are connected gets a SIGKILL"""
    _killed(at, run, 0)
    return "queued again"


def node_lost(at: Cluster, run: str) -> str:
    """a node loses its power: all that runs on it is gone at once, its daemon too"""
    job = at.queue(run)
    at.middle(run)
    at.nodes.crash(2)
    try:
        wanted("state", at.over(job)["JobState"], "COMPLETED")
    finally:
        at.nodes.start(2)
        wait_for(NODES)
    nodes = at.starts(run, job)
    wanted("the lost node in the last start", "2" in nodes[-1], False)
    return f"nodes {' then '.join(nodes)}"


def in_turn(at: Cluster, run: str) -> str:
    """an array of jobs in turn, where none is queued again"""
    job = at.queue(run, "--array", "4")
    at.middle(run)
    slurm("scancel", "--signal=TERM", f"{job}_1")  # to its tasks, as before a time limit
    at.until("the array to end", lambda: not slurm("squeue", "--noheader", f"--jobs={job}"))
    wanted("started again", len(at.starts(run, job)) > 1, True)
    wanted("told", "the next job of the array goes on" in at.output(run, job), True)
    return f"{len(at.starts(run, job))} of 4 jobs were needed, the others cancelled"


def mistaken(at: Cluster, run: str) -> str:
    """another recipe for a run that is there: exit code 2, and no second start"""
    job = at.queue("alone", more=("--seed", "1"))
    found = at.over(job)
    wanted("state", found["JobState"], "FAILED")
    wanted("exit code", found["ExitCode"], "2:0")
    wanted("starts", found["Restarts"], "0")
    return "exit code 2, 1 start"


def refused(at: Cluster, run: str) -> str:
    """what cannot be is told in one line, and nothing is queued"""
    cases = {
        ("--partition", "mian"): "did you mean 'main'?",
        ("--nodes", "9"): "would not take the job",
        ("--nodes", "3"): "3 devices, mesh data=3",
        ("--time", "00:01:00"): "nothing would be trained",
        ("--sbatch", "reservation=none"): "would not take the job",
    }
    for options, line in cases.items():
        done = at.launch(run, *options, more=("--batch.rows", "36", "--batch.micro-batches", "2") * ("9" in options))
        wanted(f"exit code of {options}", done.returncode, 2)
        last = done.stderr.strip().splitlines()
        wanted(f"lines of {options}, {last}", len(last), 1)
        wanted(f"{options}: {last[0]}", line in last[0], True)
    wanted("queued", slurm("squeue", "--noheader"), "")
    return f"{len(cases)} mistakes"


BIT_FOR_BIT = {
    "requeued": requeued, "drained": drained, "cancelled": cancelled, "limited": limited, "task-killed": task_killed,
    "first-killed": first_killed, "node-lost": node_lost, "in-turn": in_turn,
}  # fmt: skip
OTHERS = {"other-nodes": other_nodes, "mistaken": mistaken, "refused": refused}
CASES = BIT_FOR_BIT | OTHERS


def alone(at: Cluster) -> float:
    """The run that is left alone, followed to its end; returns its seconds."""
    began = time.monotonic()
    done = at.launch("alone")
    if done.returncode or steps(at.run("alone"))[-1] != at.steps:
        raise ValueError(f"the run alone ended with {done.returncode}:\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}")
    wanted("the end of its output is shown", "ended with exit code 0" in done.stdout, True)
    return time.monotonic() - began


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("case", nargs="*", choices=CASES, help="none = all of them")
    parser.add_argument("--steps", type=int, default=600, help="that take more than 80 seconds, for the time limit")
    asked = parser.parse_args()
    console, began, right = Console(width=None if sys.stdout.isatty() else 140), time.monotonic(), True
    shown = Table("case", "what happened", "verdict", title=f"{asked.steps} steps on 2 of {NODES} nodes")
    with tempfile.TemporaryDirectory(prefix="slurm-live-") as name:
        folder = Path(name)
        (folder / "daemons").mkdir()
        made = RECIPE.format(text=str(write_text(folder)), steps=asked.steps, every=EVERY)
        (folder / "recipe.py").write_text(made, encoding="utf-8")
        with cluster(folder / "daemons", NODES) as nodes:
            at = Cluster(folder, asked.steps, nodes)
            console.print(f"alone: {alone(at):.0f} s", highlight=False)
            for case in asked.case or CASES:
                started = time.monotonic()
                try:
                    told = CASES[case](at, case)
                    found = list(differing(at.run("alone"), at.run(case))) if case in BIT_FOR_BIT else []
                    verdict = f"differs: {found[:3]}" if found else "exact" if case in BIT_FOR_BIT else "right"
                    right &= not found
                except ValueError as error:
                    told, verdict, right = CASES[case].__doc__ or "", f"WRONG: {error}", False
                    slurm("scancel", "--user=root")
                console.print(
                    f"{case}: {told}: {verdict}, {time.monotonic() - started:.0f} s", highlight=False, markup=False
                )
                shown.add_row(case, told, verdict.splitlines()[0][:60])
    console.print(shown, "as it should be" if right else "[bold]not as it should be[/]")
    console.print(f"{(time.monotonic() - began) / 60:.1f} minutes")
    return 0 if right else 1


if __name__ == "__main__":
    sys.exit(main())
