"""launch/jobset.yaml as far as it can be checked without a cluster.

Field names at each level are those of JobSet v1alpha2 and of Kubernetes' Job and Pod;
the values that depend on each other agree; and the command is one that linearsr takes.
What a cluster makes of it, nobody has seen.
"""

import math
from pathlib import Path

import pytest
import yaml

from linearsr_jax.cli.main import make_parser
from linearsr_jax.config.loading import load_config

ROOT = Path(__file__).parents[2]
CHIPS_OF_A_HOST = 4
# The names that may stand at a place; "*" is any item of a list.
FIELDS = {
    "": "apiVersion kind metadata spec",
    "metadata": "name annotations labels namespace",
    "spec": "replicatedJobs network successPolicy failurePolicy startupPolicy suspend "
    "coordinator managedBy ttlSecondsAfterFinished",
    "spec.failurePolicy": "maxRestarts restartStrategy rules",
    "spec.failurePolicy.rules.*": "name action onJobFailureReasons "
    "onJobFailureMessagePatterns targetReplicatedJobs",
    "spec.replicatedJobs.*": "name groupName template replicas dependsOn",
    "spec.replicatedJobs.*.template": "metadata spec",
}
JOB = "spec.replicatedJobs.*.template.spec"
POD = f"{JOB}.template.spec"
FIELDS |= {
    JOB: "parallelism completions completionMode backoffLimit podFailurePolicy "
    "template activeDeadlineSeconds",
    f"{JOB}.podFailurePolicy": "rules",
    f"{JOB}.podFailurePolicy.rules.*": "action onExitCodes onPodConditions",
    f"{JOB}.podFailurePolicy.rules.*.onExitCodes": "containerName operator values",
    f"{JOB}.podFailurePolicy.rules.*.onPodConditions.*": "type status",
    f"{JOB}.template": "metadata spec",
    POD: "restartPolicy terminationGracePeriodSeconds nodeSelector containers volumes "
    "serviceAccountName hostNetwork dnsPolicy tolerations",
    f"{POD}.containers.*": "name image env command args resources volumeMounts ports "
    "securityContext",
    f"{POD}.containers.*.env.*": "name value valueFrom",
    f"{POD}.containers.*.resources": "limits requests",
    f"{POD}.containers.*.volumeMounts.*": "name mountPath readOnly subPath",
    f"{POD}.volumes.*": "name persistentVolumeClaim emptyDir",
    f"{POD}.volumes.*.persistentVolumeClaim": "claimName readOnly",
    f"{POD}.volumes.*.emptyDir": "medium sizeLimit",
}
# Maps whose keys are the user's.
FREE = {"metadata.annotations", f"{POD}.nodeSelector"}
FREE |= {f"{POD}.containers.*.resources.limits"}


@pytest.fixture(scope="module")
def jobset():
    return yaml.safe_load((ROOT / "launch" / "jobset.yaml").read_text("utf-8"))


@pytest.fixture(scope="module")
def job(jobset):
    return jobset["spec"]["replicatedJobs"][0]["template"]["spec"]


@pytest.fixture(scope="module")
def pod(job):
    return job["template"]["spec"]


def places(value, place=""):
    """Yields every map and where it stands."""
    if isinstance(value, dict):
        yield place, value
        for key, inner in value.items():
            yield from places(inner, f"{place}.{key}".removeprefix("."))
    elif isinstance(value, list):
        for inner in value:
            yield from places(inner, f"{place}.*")


def test_fields_are_known_where_they_stand(jobset):
    assert jobset["apiVersion"] == "jobset.x-k8s.io/v1alpha2"
    assert jobset["kind"] == "JobSet"
    for place, fields in places(jobset):
        if place not in FREE:
            assert set(fields) <= set(FIELDS[place].split()), place


def test_hosts_and_mesh_fit_the_slice(job, pod):
    topology = pod["nodeSelector"]["cloud.google.com/gke-tpu-topology"]
    chips = math.prod(map(int, topology.split("x")))
    assert job["parallelism"] == job["completions"] == chips // CHIPS_OF_A_HOST
    limits = pod["containers"][0]["resources"]["limits"]
    assert limits == {"google.com/tpu": str(CHIPS_OF_A_HOST)}
    # It stays within a slice.
    assert f"mesh.fsdp={chips}" in pod["containers"][0]["args"]


def test_only_interruptions_restart_without_limit(jobset, job, pod):
    rules = job["podFailurePolicy"]["rules"]
    assert {rule["action"] for rule in rules} == {"FailJob"}
    codes, conditions = (
        [rule[key] for rule in rules if key in rule]
        for key in ("onExitCodes", "onPodConditions")
    )
    (container,) = pod["containers"]
    assert codes == [
        {"containerName": container["name"], "operator": "In", "values": [69, 75]}
    ]
    assert conditions == [[{"type": "DisruptionTarget", "status": "True"}]]
    policy = jobset["spec"]["failurePolicy"]
    (rule,) = policy["rules"]
    assert rule["action"] == "RestartJobSetAndIgnoreMaxRestarts"
    assert rule["onJobFailureReasons"] == ["PodFailurePolicy"]
    # Kubernetes wants these two of a Job with a podFailurePolicy.
    assert job["backoffLimit"] == 0 and pod["restartPolicy"] == "Never"


def test_mounts_have_volumes_and_shared_memory_is_large(pod):
    (container,) = pod["containers"]
    mounts = {mount["mountPath"]: mount["name"] for mount in container["volumeMounts"]}
    volumes = {volume["name"]: volume for volume in pod["volumes"]}
    assert sorted(mounts.values()) == sorted(volumes)
    assert volumes[mounts["/dev/shm"]]["emptyDir"]["medium"] == "Memory"
    shared = next(path for path in mounts if path != "/dev/shm")
    paths = [x["value"] for x in container["env"]]
    for argument in container["args"]:
        name, equals, value = argument.partition("=")
        paths += [x for x in (value if equals else name,) if x.startswith("/")]
    assert len(paths) == 5
    assert all(path.startswith(f"{shared}/") for path in paths)


def test_linearsr_takes_the_command(pod, monkeypatch):
    (container,) = pod["containers"]
    args = make_parser().parse_args(container["args"])
    name = args.config[0].removeprefix("/shared/linearsr_jax/")
    monkeypatch.chdir(ROOT)
    config = load_config(name, args.override)
    assert config.data.crop_size == config.val.crop_size == 512
    # What workers hold in shared memory: each has `prefetch` batches and makes one.
    side, hosts = config.data.crop_size, 4
    crop = 3 * side**2 * (1 + 1 / 16)
    held = config.batch_size / hosts * crop * config.data.workers
    held *= config.data.prefetch + 1
    size = pod["volumes"][1]["emptyDir"]["sizeLimit"]
    assert size.endswith("Gi")
    assert held < int(size.removesuffix("Gi")) * 2**30
