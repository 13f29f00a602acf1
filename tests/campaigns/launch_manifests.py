"""`python -m tests.campaigns.launch_manifests CRD`: what would be sent to clusters, held against what they publish.

CRD is the definition of JobSet out of one of its releases, .yaml or .yaml.gz. Manifests must keep to its schema, pod
templates included; processes with the environment of their pods must train together; gcloud must know every option of
what a TPU VM is sent. Each check must also find a mistake that is put in.
"""

import argparse
import copy
import gzip
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml
from rich.console import Console
from rich.table import Table

from gptjax.runs.manifest import steps
from tests.tiny_recipe import write_text
from train.launch.jobset import MANIFEST, Gke, K8s, Kubernetes
from train.launch.launching import Engine, Plan, ordered
from train.launch.tpu_vm import TpuVm

ROOT = Path(__file__).resolve().parents[2]
COMMAND = ("pretrain", "laptop", "--run", "runs/mine", "--batch.rows", "512")
COMMON: dict[str, Any] = {"claim": "data", "image": "gptjax:mine", "dirty": True}
ENGINES: dict[str, Kubernetes] = {
    "two slices of v5e-256, Kueue": Gke(tpu="v5e-256", slices=2, queue="users", **COMMON),
    "v5p-16, spot": Gke(tpu="v5p-16", spot=True, **COMMON),
    "2 x 8 H100 on GKE": Gke(nodes=2, gpus_per_node=8, gpu_type="nvidia-h100-80gb", **COMMON),
    "4 nodes, requests, selector": K8s(
        nodes=4, cpus="8", memory="32Gi", node_selector=("pool=batch",), service_account="me", **COMMON
    ),
}
RECIPE = """
from pathlib import Path

from tests.tiny_recipe import recipe as tiny
from train.recipe import MeshSpec


def recipe():
    return tiny(Path({text!r}), "run", mesh=MeshSpec(), samples=0)
"""


def planned(engine: Engine, command: Sequence[str] = COMMAND) -> Plan:
    return engine.plan(ordered(engine, command))


def manifest_of(engine: Engine) -> dict[str, Any]:
    return yaml.safe_load(next(file.content for file in planned(engine).files if file.name == MANIFEST))


def strict(schema: Any) -> Any:
    """The schema, in which an object has no fields but those that it names."""
    if isinstance(schema, list):
        return [strict(part) for part in schema]
    if not isinstance(schema, dict):
        return schema
    made = {name: strict(part) for name, part in schema.items()}
    if isinstance(schema.get("properties"), dict) and schema.get("type") == "object":
        made["additionalProperties"] = False
    return made


def schema_of(path: Path) -> dict[str, Any]:
    raw = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    [version] = [one for one in yaml.safe_load(raw)["spec"]["versions"] if one["name"] == "v1alpha2"]
    schema = version["schema"]["openAPIV3Schema"]
    schema["properties"]["metadata"] = {"type": "object"}  # the definition leaves it open
    return strict(schema)


def misspelt(manifest: dict[str, Any]) -> list[dict[str, Any]]:
    """The manifest with one mistake each: of the set, of the job, of the pod, and of the kind of a value."""
    made = [copy.deepcopy(manifest) for _ in range(4)]
    jobs = [one["spec"]["replicatedJobs"][0]["template"]["spec"] for one in made]
    made[0]["spec"]["failurePolicy"]["maxRestart"] = 1
    jobs[1]["podFailurePolicy"]["rules"][0]["onExitCode"] = {}
    jobs[2]["template"]["spec"]["containers"][0]["imagee"] = "x"
    jobs[3]["parallelism"] = "two"
    return made


def schemas(crd: Path) -> str:
    """JobSets keep to the published schema"""
    import jsonschema

    validator = jsonschema.Draft202012Validator(schema_of(crd))
    for name, engine in ENGINES.items():
        manifest = manifest_of(engine)
        for error in validator.iter_errors(manifest):
            raise ValueError(f"{name}: {error.json_path}: {error.message}")
        for number, wrong in enumerate(misspelt(manifest)):
            if validator.is_valid(wrong):
                raise ValueError(f"{name}: mistake {number} was not found")
    return f"{len(ENGINES)} manifests; of each 4 mistakes were found"


def pods(crd: Path) -> str:
    """processes with the environment of pods train together, at the names that JobSet gives to pods"""
    if os.geteuid():
        raise ValueError("only root can give this machine the names of pods, for these processes")
    with tempfile.TemporaryDirectory(prefix="pods-") as name:
        folder = Path(name)
        (folder / "recipe.py").write_text(RECIPE.format(text=str(write_text(folder))), encoding="utf-8")
        [job] = manifest_of(K8s(nodes=2, **COMMON))["spec"]["replicatedJobs"]
        env = job["template"]["spec"]["template"]["spec"]["containers"][0]["env"]
        told = {one["name"]: one["value"] for one in env if "value" in one}
        index = next(one["name"] for one in env if "job-completion-index" in str(one.get("valueFrom")))
        host = told["JAX_COORDINATOR_ADDRESS"].partition(":")[0]
        (folder / "hosts").write_text(f"{Path('/etc/hosts').read_text()}\n127.0.0.1 {host}\n")
        inside = f"mount --bind {folder}/hosts /etc/hosts && exec {sys.executable} -P -m train pretrain recipe.py"
        flags = {"XLA_FLAGS": "--xla_force_host_platform_device_count=1", "PYTHONPATH": str(ROOT)}
        pod = {"JOB_COMPLETION_INDEX": "0", "KUBERNETES_SERVICE_HOST": "10.0.0.1"}
        running = [
            subprocess.Popen(
                ["unshare", "--mount", "sh", "-c", inside], cwd=folder, stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT, env={**os.environ, **flags, **pod, **told, index: str(number)},
            )
            for number in range(2)
        ]  # fmt: skip
        said = [process.communicate()[0].decode(errors="replace") for process in running]
        if any(process.returncode for process in running) or steps(folder / "run")[-1] != 12:
            raise ValueError("\n".join(text[-1500:] for text in said))
    return f"2 processes met at {host}, and ended with 0"


def options(crd: Path) -> str:
    """gcloud knows the options of every command that a TPU VM is sent"""
    if shutil.which("gcloud") is None:
        raise ValueError("no gcloud here")
    command = (*COMMAND[:3], "/mnt/runs/mine")
    commands = planned(TpuVm(tpu="pod", zone="here-a", project="mine", dirty=True), command).commands
    for words in commands:
        if "unrecognized arguments" in (told := refused(words)):
            raise ValueError(f"{words}: {told}")
        if "unrecognized arguments" not in refused([word.replace("--worker", "--wrker") for word in words]):
            raise ValueError(f"{words}: gcloud did not see a misspelt option")
    return f"{len(commands)} commands; a misspelt option was found in each"


def refused(words: Sequence[str]) -> str:
    """What gcloud says to somebody who has no account."""
    with tempfile.TemporaryDirectory() as empty:
        told = {**os.environ, "CLOUDSDK_CONFIG": empty, "CLOUDSDK_CORE_DISABLE_PROMPTS": "1"}
        done = subprocess.run(words, env=told, capture_output=True, text=True, timeout=120)
    if done.returncode == 0:
        raise ValueError(f"{words}: gcloud has done it, which it cannot have")
    return done.stderr


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("crd", type=Path)
    asked = parser.parse_args()
    shown, right = Table("check", "found"), True
    for check in (schemas, pods, options):
        try:
            told = check(asked.crd)
        except ValueError as error:
            told, right = f"WRONG: {error}", False
        shown.add_row(check.__doc__, told)
    Console(width=None if sys.stdout.isatty() else 160).print(
        shown, "as it should be" if right else "not as it should be"
    )
    return 0 if right else 1


if __name__ == "__main__":
    sys.exit(main())
