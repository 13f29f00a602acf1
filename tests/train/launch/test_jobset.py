"""JobSets: what pods get, how they find each other, which ends of them are final; and what a cluster is asked first."""

import os

import pytest
import yaml

from tests.train.launch.orders import content, fixed_source, order_of  # noqa: F401
from train.launch.jobset import MANIFEST, Gke, K8s

pytestmark = pytest.mark.usefixtures("fixed_source")
OWN = {"claim": "data", "image": "gptjax:mine"}


def jobset(engine, *more):
    return yaml.safe_load(content(engine, order_of(engine, *more), MANIFEST))


def job_of(manifest):
    [replicated] = manifest["spec"]["replicatedJobs"]
    return replicated, replicated["template"]["spec"]


def pod_of(manifest):
    return job_of(manifest)[1]["template"]["spec"]


def env_of(manifest):
    return {one["name"]: one.get("value") or one["valueFrom"] for one in pod_of(manifest)["containers"][0]["env"]}


def test_a_slice_becomes_a_job_and_each_of_its_hosts_a_pod():
    found = jobset(Gke(tpu="v5e-256", slices=2, **OWN), "--batch.rows", "512")
    replicated, job = job_of(found)
    assert (replicated["replicas"], job["parallelism"], job["completions"]) == (2, 64, 64)
    assert pod_of(found)["nodeSelector"] == {
        "cloud.google.com/gke-tpu-accelerator": "tpu-v5-lite-podslice",
        "cloud.google.com/gke-tpu-topology": "16x16",
    }
    assert pod_of(found)["containers"][0]["resources"] == {"limits": {"google.com/tpu": 4}}
    assert found["metadata"]["annotations"] == {
        "alpha.jobset.sigs.k8s.io/exclusive-topology": "cloud.google.com/gke-nodepool"
    }


def test_tpus_are_found_by_jax_and_gpus_by_the_three_variables():
    """What GKE puts into pods with TPUs, JAX reads; to ask a cluster about other pods it would need rights."""
    assert not [
        name for name in env_of(jobset(Gke(tpu="v5e:4x4", **OWN), "--batch.rows", "16")) if name.startswith("JAX")
    ]
    for kind in (Gke, K8s):
        found = jobset(kind(nodes=2, gpus_per_node=8, **OWN), "--batch.rows", "16")
        told = env_of(found)
        assert told["JAX_COORDINATOR_ADDRESS"] == "mine-workers-0-0.mine:8476"
        assert told["JAX_PROCESS_COUNT"] == "2"
        assert "job-completion-index" in told["JAX_PROCESS_ID"]["fieldRef"]["fieldPath"]
        assert job_of(found)[1]["completionMode"] == "Indexed"
        assert found["spec"]["network"] == {"enableDNSHostnames": True, "publishNotReadyAddresses": True}


def test_a_mistake_fails_the_set_and_any_other_end_of_a_pod_starts_all_anew():
    found = jobset(K8s(restarts=7, **OWN))
    _, job = job_of(found)
    [rule] = job["podFailurePolicy"]["rules"]
    assert rule["action"] == "FailJob"
    assert rule["onExitCodes"] == {"containerName": "train", "operator": "In", "values": [1, 2, 3, 4, 130]}
    assert job["backoffLimit"] == 0
    assert found["spec"]["failurePolicy"]["maxRestarts"] == 7
    [mistakes] = found["spec"]["failurePolicy"]["rules"]
    assert (mistakes["action"], mistakes["onJobFailureReasons"]) == ("FailJobSet", ["PodFailurePolicy"])
    assert pod_of(found)["restartPolicy"] == "Never"  # which podFailurePolicy demands


def test_a_pod_runs_the_command_in_the_folder_that_all_of_them_share():
    found = pod_of(jobset(K8s(grace=45, **OWN)))
    container = found["containers"][0]
    assert container["command"] == ["/opt/gptjax/launch.sh", "pretrain", "laptop", "--run", "runs/mine"]
    assert container["workingDir"] == "/data"
    assert {"name": "data", "persistentVolumeClaim": {"claimName": "data"}} in found["volumes"]
    assert found["terminationGracePeriodSeconds"] == 45


def test_queue_spot_selectors_and_requests_are_passed_on():
    found = jobset(Gke(queue="users", spot=True, gpus_per_node=1, gpu_type="nvidia-l4", cpus="8", memory="32Gi", **OWN))
    assert found["metadata"]["labels"] == {"kueue.x-k8s.io/queue-name": "users"}
    assert pod_of(found)["nodeSelector"] == {
        "cloud.google.com/gke-accelerator": "nvidia-l4", "cloud.google.com/gke-spot": "true"
    }  # fmt: skip
    assert pod_of(found)["containers"][0]["resources"] == {
        "requests": {"cpu": "8", "memory": "32Gi"}, "limits": {"nvidia.com/gpu": 1}
    }  # fmt: skip
    labelled = pod_of(jobset(K8s(node_selector=("pool=batch",), **OWN)))
    assert labelled["nodeSelector"] == {"pool": "batch"}


def test_an_image_is_built_of_the_commit_sent_and_then_asked_for():
    engine = Gke(claim="data", registry="here/repo/", tpu="v5e:2x2")
    plan = engine.plan(order_of(engine))
    build, push, apply = plan.commands
    name = "here/repo/gptjax:777777777777-tpu"
    assert build[1:6] == ("build", "--build-arg", "PLATFORM=tpu", "--tag", name)
    assert build[-1].endswith("/source-777777777777")
    assert push[1:] == ("push", name)
    assert apply[:4] == ("kubectl", "--namespace", "default", "apply")
    assert name in plan.files[0].content
    assert len(Gke(tpu="v5e:2x2", **OWN).plan(order_of(engine)).commands) == 1


@pytest.mark.parametrize(
    ("kind", "options", "message"),
    [
        (Gke, {"claim": "data"}, "--image and --registry: give one of them"),
        (
            Gke,
            {"claim": "data", "registry": "https://Here"},
            "--registry https://Here: write a repository",
        ),
        (Gke, {**OWN, "slices": 2}, "--slices 2: are of TPUs; say which with --tpu"),
        (Gke, {**OWN, "tpu": "v5e:4x4", "gpus_per_node": 8}, "--tpu v5e:4x4: has neither --nodes nor GPUs"),
        (Gke, {**OWN, "tpu": "v5e:2x2", "slices": 2}, "--slices 2: a slice v5e:2x2 is one host"),
        (Gke, {**OWN, "tpu": "v5e-100"}, "no slice of v5e has 100 chips"),
        (Gke, {**OWN, "gpu_type": "nvidia-l4"}, "--gpu-type nvidia-l4: say how many"),
        (K8s, {**OWN, "node_selector": ("batch",)}, "--node-selector batch: write key=value"),
        (K8s, {**OWN, "mount": "data"}, "--mount data: must be an absolute path"),
    ],
)
def test_options_that_cannot_be_are_told_with_what_can(kind, options, message):
    with pytest.raises(ValueError, match=message):
        order_of(kind(**options))


@pytest.mark.parametrize("run", ["/tmp/run", "../run"])
def test_a_run_that_would_end_with_its_pod_is_refused(run):
    engine = K8s(**OWN)
    with pytest.raises(ValueError, match=f"run={run}: lies outside of --mount /data, and would end with its pod"):
        engine.plan(order_of(engine, "--run", run))
    with pytest.raises(ValueError, match="--claim: give a PersistentVolumeClaim"):
        (engine := K8s(image="x")).plan(order_of(engine, "--run", run))


@pytest.mark.parametrize("nodes", [1, 2])
def test_pods_with_their_run_on_a_bucket_need_no_claim(nodes):
    found = pod_of(jobset(K8s(image="x", nodes=nodes), "--run", "gs://bucket/run", "--batch.rows", "16"))
    assert found["volumes"][0] == {"name": "data", "emptyDir": {}}
    assert "gs://bucket/run" in found["containers"][0]["command"]


KUBECTL = """#!/bin/bash
case "$*" in
  "config current-context") echo my-cluster ;;
  *"get crd"*) echo found ;;
  *"get persistentvolumeclaims"*) echo data scratch ;;
  *"persistentvolumeclaim/data"*) echo '["ReadWriteMany"]' ;;
  *"persistentvolumeclaim/scratch"*) echo '["ReadWriteOnce"]' ;;
  *"get localqueues"*) echo users ;;
  *) echo "NotFound" >&2; exit 1 ;;
esac
"""


@pytest.fixture
def kubectl(tmp_path, monkeypatch):
    """A kubectl that knows a cluster; call it with another script to change what it knows."""
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")

    def become(script):
        (tmp_path / "kubectl").write_text(script)
        (tmp_path / "kubectl").chmod(0o755)

    become(KUBECTL)
    return become


def checked(*more, **options):
    engine = K8s(**{**OWN, **options})
    engine.check(order_of(engine, *more))


def test_claims_and_queues_are_looked_up_before_anything_is_queued(kubectl):
    checked(queue="users")
    with pytest.raises(ValueError, match=r"--claim dta: there is none in namespace default; did you mean 'data'"):
        checked(claim="dta")
    with pytest.raises(ValueError, match="--queue user: there is none in namespace default; did you mean 'users'"):
        checked(queue="user")
    checked(claim="scratch")
    with pytest.raises(ValueError, match=r"--claim scratch: is \[\"ReadWriteOnce\"\], and several pods write to it"):
        checked("--batch.rows", "16", claim="scratch", nodes=2)


def test_a_cluster_without_jobset_and_none_at_all_are_told_with_the_remedy(kubectl):
    kubectl(KUBECTL.replace("echo found", "echo NotFound >&2; exit 1"))
    with pytest.raises(ValueError, match=r"k8s: cluster my-cluster has no JobSet, or does not answer \(NotFound\)"):
        checked()
    kubectl("#!/bin/bash\necho 'current-context is not set' >&2; exit 1\n")
    with pytest.raises(ValueError, match=r"kubectl knows no cluster \(current-context is not set\); on GKE: gc"):
        checked()


def test_a_set_of_that_name_must_be_deleted_first(kubectl):
    kubectl(KUBECTL.replace("  *)", '  *"get jobset/mine"*) echo mine ;;\n  *)'))
    with pytest.raises(ValueError, match="--job mine: there is a JobSet of that name; delete it first"):
        checked()
    checked("--run", "runs/other")


def test_the_end_of_a_set_is_the_end_of_the_view(kubectl):
    engine = K8s(**OWN)
    order = order_of(engine)
    for state, code in (("Completed", 0), ("Failed", 1)):
        kubectl(KUBECTL.replace("  *)", f'  *"get jobset/mine"*) echo {state} ;;\n  *" logs "*) echo words ;;\n  *)'))
        assert engine.follow(order, engine.plan(order), "") == code
