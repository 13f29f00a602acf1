"""`./launch.sh tpu-vm`: a run on all workers of a TPU VM that is there, as a unit of systemd on each."""

import dataclasses
import hashlib
import json
import shlex
from pathlib import Path, PurePosixPath
from typing import Annotated, Any, ClassVar

import tyro

from gptjax.spelling import did_you_mean
from train.launch.launching import (
    FINAL,
    JOIN_SECONDS,
    Engine,
    File,
    Order,
    Plan,
    answer,
    check_fits,
    in_words,
    keep_bundle,
)
from train.launch.source_bundle import Source
from train.launch.tpu_chips import slice_of

INSTALL = """#!/bin/bash
# Written by ./launch.sh tpu-vm, for {source}. Called on every worker: the same files, by their hash, and packages.
set -euo pipefail
cd ~/{folder}
sha256sum --check --quiet {name}.sha256
if [ ! -d {name} ]; then
  rm -rf {name}.new
  mkdir {name}.new
  tar --extract --gzip --file {name}.tar.gz --directory {name}.new
  mv {name}.new {name}
fi
{writable}GPTJAX_PLATFORM=tpu {name}/launch.sh setup
sudo cp {unit} /etc/systemd/system/
sudo systemctl daemon-reload
"""
WRITABLE = """run={run}
mkdir -p "$run"
if [ ! -w "$run" ]; then
  echo "$HOSTNAME: $run cannot be written to; is the file system mounted here?" >&2
  exit 2
fi
"""
RUN = """#!/bin/bash
# Written by ./launch.sh tpu-vm, for {source}. What systemd runs on every worker; JAX finds the others by itself.
set -eu
cd ~/{folder}
export GPTJAX_PLATFORM=tpu GPTJAX_JOIN_SECONDS={wait} PYTHONUNBUFFERED=1
exec {name}/launch.sh {command}
"""
UNIT = """# Written by ./launch.sh tpu-vm, for {source}. Of the user whose name follows the @.
[Unit]
Description=gptjax {job}
Wants=network-online.target
After=network-online.target
StartLimitIntervalSec=infinity
StartLimitBurst={starts}

[Service]
User=%i
WorkingDirectory=~
ExecStart=/bin/bash {folder}/{script}
Restart=on-failure
RestartPreventExitStatus={final}
RestartSec=15
TimeoutStopSec={grace}
KillMode=mixed

[Install]
WantedBy=multi-user.target
"""
SCRIPTS = ("install.sh", "run.sh")


@dataclasses.dataclass(frozen=True, kw_only=True)
class TpuVm(Engine):
    """run on all workers of a TPU VM, which you have made with gcloud; the same commit on each

    ./launch.sh tpu-vm my-pod --zone us-central2-b -- pretrain big.py --run /mnt/shared/runs/big

    Copies the commit, makes its environment, and starts a unit of systemd on every worker, which starts the run again
    after exit codes 75 and 70, signals and reboots, but not after 0, 1, 2, 3 and 4. Runs lie where all workers write
    to. What is sent is kept in launched/JOB; its output is in the journal of each worker, of which the first one's is
    shown. The end of the run is not seen from here: Ctrl-C ends the view.
    """

    tpu: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="NAME")]  # of the TPU VM
    zone: str | None = None  # where it is; None = that of gcloud config
    project: str | None = None  # whose it is; None = that of gcloud config

    verb: ClassVar[str] = "tpu-vm"
    client: ClassVar[str] = "gcloud"
    client_from: ClassVar[str] = "which is in the Google Cloud CLI"

    @property
    def devices(self) -> None:
        return None

    def source_root(self, folder: Path, source: Source) -> PurePosixPath:
        return PurePosixPath(source.name)  # from the folder of the job, where the run begins

    def plan(self, order: Order) -> Plan:
        if not order.on_bucket and not PurePosixPath(order.run).is_absolute():
            raise ValueError(
                f"run={order.run}: must be an absolute path where all workers write to, or on a bucket if there is one "
                "worker; give it with --run"
            )
        folder, unit = f"gptjax-{order.name}", f"gptjax-{order.name}@.service"
        said = {
            "source": order.source, "folder": folder, "name": order.source.name,
            "writable": "" if order.on_bucket else WRITABLE.format(run=shlex.quote(order.run)),
            "unit": unit, "job": order.name, "wait": JOIN_SECONDS, "command": shlex.join(order.words),
            "starts": self.restarts + 1, "final": in_words(FINAL, " "), "grace": self.grace, "script": SCRIPTS[1],
        }  # fmt: skip
        contents = {SCRIPTS[0]: INSTALL, SCRIPTS[1]: RUN, unit: UNIT}
        files = tuple(File(name, content.format(**said)) for name, content in contents.items())
        bundle = [f"{order.source.name}.tar.gz", f"{order.source.name}.sha256"]
        paths = [str(order.folder / name) for name in (*(file.name for file in files), *bundle)]
        on_all, service = (*self._where(), "--worker=all"), f"gptjax-{order.name}@$USER"
        ended = self._ssh(f"sudo systemctl disable --now {service}", on_all)
        return Plan(
            files,
            (
                self._ssh(f"mkdir -p {folder}", on_all),
                (*self._gcloud("scp"), *paths, f"{self.tpu}:{folder}/", *on_all),
                self._ssh(f"bash {folder}/{SCRIPTS[0]}", on_all),
                self._ssh(f"sudo systemctl enable {service} && sudo systemctl restart --no-block {service}", on_all),
            ),
            self._ssh(f"sudo journalctl --follow --lines=100 --output=cat --unit={service}", self._where()),
            (
                f"kept: {order.folder}",
                f"to stop it: {shlex.join(ended)}; the same command goes on",
            ),
        )  # fmt: skip

    def _gcloud(self, what: str) -> tuple[str, ...]:
        return "gcloud", "compute", "tpus", "tpu-vm", what

    def _ssh(self, command: str, where: tuple[str, ...]) -> tuple[str, ...]:
        return *self._gcloud("ssh"), self.tpu, *where, f"--command={command}"

    def _where(self) -> tuple[str, ...]:
        given = {"zone": self.zone, "project": self.project}
        return tuple(f"--{name}={value}" for name, value in given.items() if value is not None)

    def check(self, order: Order) -> None:
        code, told = answer(*self._gcloud("describe"), self.tpu, *self._where(), "--format=json")
        if code:
            listed = answer(*self._gcloud("list"), *(self._where() or ("--zone=-",)), "--format=value(name)")
            near = did_you_mean(self.tpu, listed[1].split()) if listed[0] == 0 and listed[1] else ""
            raise ValueError(f"tpu-vm {self.tpu}: gcloud finds none: {told}{near}")
        found: dict[str, Any] = json.loads(told)
        if found.get("state") != "READY":
            raise ValueError(
                f"tpu-vm {self.tpu}: is {found.get('state')}, and must be READY; "
                f"see {shlex.join((*self._gcloud('describe'), self.tpu, *self._where()))}"
            )
        kind = found["acceleratorType"]
        found_slice = slice_of(kind)
        check_fits(order.recipe, found_slice.chips, f"tpu-vm {self.tpu}, {kind}")

    def prepare(self, order: Order) -> None:
        bundle = keep_bundle(order)
        line = f"{hashlib.sha256(bundle.read_bytes()).hexdigest()}  {bundle.name}\n"  # as sha256sum reads it
        bundle.with_name(f"{order.source.name}.sha256").write_text(line, encoding="utf-8")
