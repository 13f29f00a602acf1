"""`./launch.sh sky`: a run as a managed job of SkyPilot, on whatever cloud or cluster that knows."""

import dataclasses
import re
import shlex
from pathlib import Path, PurePosixPath
from typing import Any, ClassVar

import yaml

from train.launch.launching import AGAIN, JOIN_SECONDS, Engine, File, Order, Plan, check_outlives
from train.launch.source_bundle import Source, unpack

TASK = "task.yaml"
PORT = 8476  # of process 0
NO_VOLUME = (
    "--volume: give one that all machines can write to (sky volumes ls lists them), or have the run on a "
    "bucket; what they write elsewhere ends with them"
)
HOME = PurePosixPath("/tmp/gptjax-source")  # SkyPilot puts it in a home folder whose name differs from cloud to cloud
RUN = """set -eu
export JAX_COORDINATOR_ADDRESS=$(head -n 1 <<<"$SKYPILOT_NODE_IPS"):{port}
export JAX_PROCESS_COUNT=$SKYPILOT_NUM_NODES JAX_PROCESS_ID=$SKYPILOT_NODE_RANK
ln -sfn "$PWD" {home}
cd {folder}
exec {home}/launch.sh {command}
"""


class _Dumper(yaml.SafeDumper):
    """Writes scripts as they read, line by line."""


_Dumper.add_representer(
    str,
    lambda dumper, text: dumper.represent_scalar("tag:yaml.org,2002:str", text, style="|" if "\n" in text else None),
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Sky(Engine):
    """run as a managed job of SkyPilot, which finds machines, and others when these are taken away

    ./launch.sh sky --nodes 2 --gpus H100:8 --spot --volume data -- pretrain big.py --run runs/big

    Starts again after exit codes 75 and 70 and lost machines, but not after 1, 2, 3 and 4. The task is kept as
    launched/JOB/task.yaml.
    """

    nodes: int = 1  # how many machines
    gpus: str | None = None  # GPUs of each, as SkyPilot writes it: H100:8; None = machines without
    infra: str | None = None  # where to look for machines, such as gcp/us-central1, aws or k8s; None = anywhere
    spot: bool = False  # on machines that may be taken away, for less money
    volume: str | None = None
    """A volume of SkyPilot's that all machines write to (sky volumes ls). A run on a bucket needs none."""
    mount: str = "/data"  # where they see it, and where relative paths of the command begin

    verb: ClassVar[str] = "sky"
    client: ClassVar[str] = "sky"
    client_from: ClassVar[str] = "which is in the package skypilot"

    def __post_init__(self):
        super().__post_init__()
        if self.nodes < 1:
            raise ValueError(f"--nodes {self.nodes}: must be 1 or more")
        if self.gpus is not None and re.fullmatch(r"[\w.-]+:[1-9]\d*", self.gpus) is None:
            raise ValueError(f"--gpus {self.gpus}: write kind and number of a machine's, such as H100:8")

    @property
    def devices(self) -> tuple[int, str]:
        each = 1 if self.gpus is None else int(self.gpus.partition(":")[2])
        return self.nodes * each, f"--nodes {self.nodes}" + ("" if self.gpus is None else f" x --gpus {self.gpus}")

    def source_root(self, folder: Path, source: Source) -> PurePosixPath:
        return HOME

    def plan(self, order: Order) -> Plan:
        check_outlives(order, "machine", self.mount, self.volume, NO_VOLUME)
        task = order.folder / TASK
        return Plan(
            (File(TASK, f"# Written by ./launch.sh sky, for {order.source}.\n" + self._task(order)),),
            (("sky", "jobs", "launch", "--yes", "--detach-run", "--name", order.name, str(task)),),
            ("sky", "jobs", "logs", "--name", order.name),
            (f"kept: {task}", f"to stop it: sky jobs cancel --name {order.name}; the same command goes on"),
        )

    def _task(self, order: Order) -> str:
        resources: dict[str, Any] = {
            "accelerators": self.gpus, "infra": self.infra, "use_spot": self.spot or None,
            "job_recovery": {"max_restarts_on_errors": 0, "recover_on_exit_codes": sorted(AGAIN)},
        }  # fmt: skip
        task = {
            "name": order.name,
            "resources": {name: value for name, value in resources.items() if value is not None},
            "num_nodes": self.nodes,
            "workdir": str(order.folder / order.source.name),
            **({} if self.volume is None else {"volumes": {self.mount: self.volume}}),
            "envs": {
                "GPTJAX_PLATFORM": "cpu" if self.gpus is None else "cuda", "GPTJAX_JOIN_SECONDS": str(JOIN_SECONDS),
                "PYTHONUNBUFFERED": "1",
            },
            "setup": "./launch.sh setup\n",
            "run": RUN.format(
                port=PORT, home=HOME, command=shlex.join(order.words),
                folder=HOME if self.volume is None else shlex.quote(self.mount),
            ),
        }  # fmt: skip
        return yaml.dump(task, Dumper=_Dumper, sort_keys=False, width=1000)

    def check(self, order: Order) -> None:
        """SkyPilot checks a task itself, before it asks for machines."""

    def prepare(self, order: Order) -> None:
        unpack(order.source, order.folder)
