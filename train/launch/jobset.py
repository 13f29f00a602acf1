"""`./launch.sh gke` and `k8s`: a run as a JobSet on Kubernetes, all of whose pods start again together."""

import dataclasses
import re
import subprocess
import time
from pathlib import Path, PurePosixPath
from typing import Any, ClassVar

import yaml

from gptjax.spelling import did_you_mean
from train.launch import image
from train.launch.launching import FINAL, JOIN_SECONDS, Engine, File, Order, Plan, answer, check_outlives
from train.launch.source_bundle import Source
from train.launch.tpu_chips import GENERATIONS, Slice, slice_of
from train.supervision.exits import DONE, FAULT

MANIFEST = "jobset.yaml"
WORKERS = "workers"  # the one replicated job
PORT = 8476  # of process 0, where JAX does not choose it
LOOK = 5.0  # seconds between two looks at a job
LOGS = "logs --follow --tail=-1 --pod-running-timeout=24h"
FIRST = (  # the pod of process 0, which speaks for all
    "jobset.sigs.k8s.io/jobset-name={},jobset.sigs.k8s.io/job-index=0,batch.kubernetes.io/job-completion-index=0"
)
NO_CLAIM = (
    "--claim: give a PersistentVolumeClaim that all pods can write to (kubectl get pvc lists them), or have the run on "
    "a bucket; what a pod writes elsewhere ends with it"
)
INDEX = "metadata.annotations['batch.kubernetes.io/job-completion-index']"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Kubernetes(Engine):
    """What JobSets of any cluster take."""

    image: str | None = None  # an image that is built already
    registry: str | None = None  # where an image of this commit is pushed to, such as registry.example/team
    claim: str | None = None
    """A PersistentVolumeClaim that all pods write to: runs, prepared text, your own text. A run on a bucket needs
    none."""
    mount: str = "/data"  # where they see it, and where relative paths of the command begin
    queue: str | None = None  # a LocalQueue of Kueue, which starts the job when all of it can run
    namespace: str = "default"
    service_account: str | None = None  # whose rights the pods have; None = the namespace's default

    client: ClassVar[str] = "kubectl"
    client_from: ClassVar[str] = "which talks to the cluster"

    def __post_init__(self):
        super().__post_init__()
        if (self.image is None) == (self.registry is None):
            raise ValueError(
                "--image and --registry: give one of them: an image that is built already, or where one of this commit "
                "is built for"
            )
        if self.registry is not None and re.fullmatch(r"[a-z0-9][a-z0-9._:/-]*[a-z0-9]/?", self.registry) is None:
            raise ValueError(
                f"--registry {self.registry}: write a repository in small letters, without https://, such as "
                "registry.example/team"
            )
        if not PurePosixPath(self.mount).is_absolute():
            raise ValueError(f"--mount {self.mount}: must be an absolute path, such as /data")

    @property
    def platform(self) -> str:
        """For which the image is made: tpu, cuda or cpu."""
        raise NotImplementedError

    @property
    def shape(self) -> tuple[int, int]:
        """(how many jobs, how many pods of each)."""
        raise NotImplementedError

    def pod(self) -> dict[str, Any]:
        """What is special of its pods: nodeSelector, tolerations; `resources` and `env` are the container's."""
        raise NotImplementedError

    def source_root(self, folder: Path, source: Source) -> PurePosixPath:
        return image.HOME

    def plan(self, order: Order) -> Plan:
        check_outlives(order, "pod", self.mount, self.claim, NO_CLAIM)
        name = self.image or image.image_name(str(self.registry), order, self.platform)
        made = () if self.registry is None else image.making(name, order, self.platform)
        manifest = order.folder / MANIFEST
        kubectl = ("kubectl", "--namespace", self.namespace)
        return Plan(
            (File(MANIFEST, _written(self.manifest(order, name), order)),),
            (*made, (*kubectl, "apply", "--filename", str(manifest))),
            (*kubectl, *LOGS.split(), "--selector", FIRST.format(order.name)),
            (
                f"kept: {manifest}",
                f"to stop it: {self._deletion(order)}; the same command goes on",
            ),
        )

    def _deletion(self, order: Order) -> str:
        return f"kubectl --namespace {self.namespace} delete jobset {order.name}"

    def manifest(self, order: Order, image_name: str) -> dict[str, Any]:
        """The JobSet."""
        replicas, pods = self.shape
        labels = {} if self.queue is None else {"kueue.x-k8s.io/queue-name": self.queue}
        mistakes = {"containerName": "train", "operator": "In", "values": sorted(FINAL)}
        job = {
            "parallelism": pods, "completions": pods, "completionMode": "Indexed",
            "backoffLimit": 0,  # a pod alone cannot come back: all of them start again
            "podFailurePolicy": {"rules": [{"action": "FailJob", "onExitCodes": mistakes}]},
            "template": {"spec": self._pod_spec(order, image_name)},
        }  # fmt: skip
        return {
            "apiVersion": "jobset.x-k8s.io/v1alpha2",
            "kind": "JobSet",
            "metadata": {
                "name": order.name, "namespace": self.namespace,
                **({"labels": labels} if labels else {}), **self._placement(),
            },
            "spec": {
                "failurePolicy": {
                    "maxRestarts": self.restarts,
                    "rules": [
                        {"name": "mistakes", "action": "FailJobSet", "onJobFailureReasons": ["PodFailurePolicy"]}
                    ],
                },
                "network": {"enableDNSHostnames": True, "publishNotReadyAddresses": True},
                "replicatedJobs": [{"name": WORKERS, "replicas": replicas, "template": {"spec": job}}],
            },
        }  # fmt: skip

    def _placement(self) -> dict[str, Any]:
        """Annotations that keep each job of the set on nodes of its own."""
        return {}

    def _pod_spec(self, order: Order, image_name: str) -> dict[str, Any]:
        own = self.pod()
        container = {
            "name": "train", "image": image_name,
            "command": [str(image.HOME / "launch.sh"), *order.words],
            "workingDir": self.mount,
            "env": [{"name": "GPTJAX_JOIN_SECONDS", "value": str(JOIN_SECONDS)}, *own.pop("env", [])],
            "volumeMounts": [{"name": "data", "mountPath": self.mount}, {"name": "shm", "mountPath": "/dev/shm"}],
            **({"resources": own.pop("resources")} if "resources" in own else {}),
        }  # fmt: skip
        kept = {"emptyDir": {}} if self.claim is None else {"persistentVolumeClaim": {"claimName": self.claim}}
        account = {} if self.service_account is None else {"serviceAccountName": self.service_account}
        return {
            "restartPolicy": "Never", **account,
            "terminationGracePeriodSeconds": self.grace,
            **own,
            "containers": [container],
            "volumes": [
                {"name": "data", **kept},
                {"name": "shm", "emptyDir": {"medium": "Memory"}},
            ],
        }  # fmt: skip

    def told(self, name: str, nodes: int) -> list[dict[str, Any]]:
        """The three variables, for pods whose place JAX cannot make out by itself without rights to ask the cluster."""
        return [
            {"name": "JAX_COORDINATOR_ADDRESS", "value": f"{name}-{WORKERS}-0-0.{name}:{PORT}"},
            {"name": "JAX_PROCESS_COUNT", "value": str(nodes)},
            {"name": "JAX_PROCESS_ID", "valueFrom": {"fieldRef": {"fieldPath": INDEX}}},
        ]

    def check(self, order: Order) -> None:
        if self.registry is not None:
            image.check_builder(self.registry)
        code, context = answer("kubectl", "config", "current-context")
        if code:
            raise ValueError(
                f"{self.verb}: kubectl knows no cluster ({context}); on GKE: "
                "gcloud container clusters get-credentials NAME"
            )
        code, told = self._ask("get", "crd", "jobsets.jobset.x-k8s.io", "--output=name")
        if code:
            raise ValueError(
                f"{self.verb}: cluster {context} has no JobSet, or does not answer ({told}); an administrator installs "
                "it with kubectl apply --server-side and the manifests.yaml of a JobSet release"
            )
        self._check_named("claim", self.claim, "persistentvolumeclaims")
        self._check_named("queue", self.queue, "localqueues.kueue.x-k8s.io")
        if self.claim is not None and self.shape != (1, 1):
            claim = f"persistentvolumeclaim/{self.claim}"
            if "ReadWriteMany" not in (modes := self._ask("get", claim, "--output=jsonpath={.spec.accessModes}")[1]):
                raise ValueError(
                    f"--claim {self.claim}: is {modes}, and several pods write to it: take a ReadWriteMany one"
                )
        if self._ask("get", f"jobset/{order.name}", "--output=name")[0] == 0:
            raise ValueError(
                f"--job {order.name}: there is a JobSet of that name; delete it first (kubectl --namespace "
                f"{self.namespace} delete jobset {order.name}), or give another name"
            )

    def _check_named(self, option: str, name: str | None, kind: str) -> None:
        if name is None:
            return
        code, told = self._ask("get", kind, "--output=jsonpath={.items[*].metadata.name}")
        if code or name not in told.split():
            near = f": {told}" if code else did_you_mean(name, told.split())
            raise ValueError(f"--{option} {name}: there is none in namespace {self.namespace}{near}")

    def _ask(self, *words: str) -> tuple[int, str]:
        return answer("kubectl", "--namespace", self.namespace, *words)

    def prepare(self, order: Order) -> None:
        manifest = str(order.folder / MANIFEST)
        code, told = self._ask("apply", "--dry-run=server", "--filename", manifest)  # the engine's own judgement
        if code:
            raise ValueError(f"{self.verb}: the cluster would not take {manifest}: {told}")
        if self.registry is not None:
            image.unpacked(order)

    def follow(self, order: Order, plan: Plan, said: str) -> int:
        """Shows what the first pod prints, over all restarts, until the JobSet is completed or failed."""
        assert plan.follow is not None
        while True:
            subprocess.run(plan.follow)
            code, state = self._ask("get", f"jobset/{order.name}", "--output=jsonpath={.status.terminalState}")
            if code and "NotFound" not in state:  # the cluster does not answer: the job goes on
                time.sleep(LOOK)
                continue
            if code or state:
                print(f"jobset {order.name}: {state or 'gone'}")
                return DONE if state == "Completed" else FAULT
            time.sleep(LOOK)


@dataclasses.dataclass(frozen=True, kw_only=True)
class K8s(Kubernetes):
    """run on any Kubernetes that has JobSet: a pod a node, with GPUs or without

    ./launch.sh k8s --nodes 2 --gpus-per-node 8 --registry registry.example/team --claim data -- pretrain big.py

    Builds the image of this commit, applies launched/JOB/jobset.yaml, and shows what the first pod prints. Pods start
    again together after exit codes 75 and 70, signals and lost nodes, but not after 1, 2, 3 and 4.
    """

    nodes: int = 1  # pods, each on a node
    gpus_per_node: int = 0  # NVIDIA GPUs of each
    cpus: str | None = None  # cores that each pod asks for, as Kubernetes writes it
    memory: str | None = None  # memory that each pod asks for, such as 64Gi
    node_selector: tuple[str, ...] = ()  # labels that its nodes have, each as key=value

    verb: ClassVar[str] = "k8s"

    def __post_init__(self):
        super().__post_init__()
        if self.nodes < 1 or self.gpus_per_node < 0:
            raise ValueError(f"--nodes {self.nodes}, --gpus-per-node {self.gpus_per_node}: at least 1, and 0 or more")
        for label in self.node_selector:
            if not all(label.partition("=")[::2]):
                raise ValueError(f"--node-selector {label}: write key=value, as kubectl get nodes --show-labels does")

    @property
    def devices(self) -> tuple[int, str]:
        if self.gpus_per_node:
            return self.nodes * self.gpus_per_node, f"--nodes {self.nodes} x --gpus-per-node {self.gpus_per_node}"
        return self.nodes, f"--nodes {self.nodes}"

    @property
    def platform(self) -> str:
        return "cuda" if self.gpus_per_node else "cpu"

    @property
    def shape(self) -> tuple[int, int]:
        return 1, self.nodes

    def pod(self) -> dict[str, Any]:
        gpus = {"nvidia.com/gpu": self.gpus_per_node} if self.gpus_per_node else {}
        asked = {"cpu": self.cpus, "memory": self.memory}
        requests = {name: value for name, value in asked.items() if value is not None}
        resources = {name: value for name, value in (("requests", requests), ("limits", gpus)) if value}
        return {
            **(
                {"nodeSelector": dict(label.split("=", 1) for label in self.node_selector)}
                if self.node_selector
                else {}
            ),
            **({"resources": resources} if resources else {}),
        }

    def manifest(self, order: Order, image_name: str) -> dict[str, Any]:
        made = super().manifest(order, image_name)
        _container(made)["env"] += self.told(order.name, self.nodes)
        return made


@dataclasses.dataclass(frozen=True, kw_only=True)
class Gke(K8s):
    """run on Google Kubernetes Engine: slices of TPUs, or nodes with GPUs, as one JobSet

    ./launch.sh gke --tpu v5e-256 --slices 2 --registry registry.example/team --claim data -- pretrain big.py

    Builds the image of this commit, applies launched/JOB/jobset.yaml, and shows what the first pod prints. Pods start
    again together after exit codes 75 and 70, signals and lost nodes, but not after 1, 2, 3 and 4.
    """

    tpu: str | None = None  # a slice, as v5e:16x16 or v5e-256; without it, nodes with GPUs or none
    slices: int = 1  # how many of them, joined by the data centre's network
    gpu_type: str | None = None  # as GKE calls it: nvidia-h100-80gb
    spot: bool = False  # on machines that may be taken away, for less money

    verb: ClassVar[str] = "gke"

    def __post_init__(self):
        super().__post_init__()
        if self.slices < 1:
            raise ValueError(f"--slices {self.slices}: must be 1 or more")
        if self.tpu is None and self.slices > 1:
            raise ValueError(f"--slices {self.slices}: are of TPUs; say which with --tpu, such as {min(GENERATIONS)}-8")
        if self.slice is not None and (self.gpus_per_node or self.gpu_type or self.nodes != 1):
            raise ValueError(f"--tpu {self.tpu}: has neither --nodes nor GPUs; its topology says how many hosts it has")
        if self.slice is not None and self.slices > 1 and self.slice.hosts == 1:
            raise ValueError(
                f"--slices {self.slices}: a slice {self.slice} is one host, and GKE joins only larger ones"
            )
        if self.gpu_type is not None and not self.gpus_per_node:
            raise ValueError(f"--gpu-type {self.gpu_type}: say how many each node has, with --gpus-per-node")

    @property
    def slice(self) -> Slice | None:
        return None if self.tpu is None else slice_of(self.tpu)

    @property
    def devices(self) -> tuple[int, str]:
        if self.slice is None:
            return super().devices
        return self.slices * self.slice.chips, f"--tpu {self.tpu} x --slices {self.slices}"

    @property
    def platform(self) -> str:
        return super().platform if self.slice is None else "tpu"

    @property
    def shape(self) -> tuple[int, int]:
        return super().shape if self.slice is None else (self.slices, self.slice.hosts)

    def pod(self) -> dict[str, Any]:
        made = super().pod()
        selector = made.pop("nodeSelector", {})
        if self.slice is not None:
            selector |= {
                "cloud.google.com/gke-tpu-accelerator": self.slice.accelerator,
                "cloud.google.com/gke-tpu-topology": self.slice.topology,
            }
            made.setdefault("resources", {})["limits"] = {"google.com/tpu": self.slice.chips_of_host}
        if self.gpu_type is not None:
            selector["cloud.google.com/gke-accelerator"] = self.gpu_type
        if self.spot:
            selector["cloud.google.com/gke-spot"] = "true"
        return ({"nodeSelector": selector} if selector else {}) | made

    def manifest(self, order: Order, image_name: str) -> dict[str, Any]:
        if self.slice is None:
            return super().manifest(order, image_name)
        made = Kubernetes.manifest(self, order, image_name)  # JAX finds the others by what GKE puts into such pods
        _container(made)["ports"] = [{"containerPort": 8471}, {"containerPort": 8482}]  # libtpu's, and JAX's
        return made

    def _placement(self) -> dict[str, Any]:
        if self.slice is None:
            return {}
        return {"annotations": {"alpha.jobset.sigs.k8s.io/exclusive-topology": "cloud.google.com/gke-nodepool"}}


def _container(manifest: dict[str, Any]) -> dict[str, Any]:
    [job] = manifest["spec"]["replicatedJobs"]
    return job["template"]["spec"]["template"]["spec"]["containers"][0]


def _written(manifest: dict[str, Any], order: Order) -> str:
    head = f"# Written by ./launch.sh, for {order.source}. To queue it again: kubectl apply --filename THIS FILE\n"
    return head + yaml.safe_dump(manifest, sort_keys=False, width=1000)
