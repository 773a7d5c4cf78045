"""launch/jobset.yaml as far as it can be checked without a cluster.

It fits JobSet's own schema, in which are those of Kubernetes' Job and Pod; the values
that depend on each other agree; and the command is one that linearsr takes. What a
cluster makes of it, nobody has seen.

jobset_schema.json.gz is the schema of v1alpha2 in the custom resource definition of
github.com/kubernetes-sigs/jobset (config/components/crd/bases, commit 08dfbdfd, Apache
2.0), without its descriptions.
"""

import copy
import gzip
import json
import math
import os
import re
import subprocess
from pathlib import Path

import jsonschema
import pytest
import yaml

from linearsr_jax.cli.main import make_parser
from linearsr_jax.config.loading import load_config

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
CHIPS_OF_A_HOST = 4


@pytest.fixture(scope="module")
def jobset():
    return yaml.safe_load((ROOT / "launch" / "jobset.yaml").read_text("utf-8"))


@pytest.fixture(scope="module")
def job(jobset):
    return jobset["spec"]["replicatedJobs"][0]["template"]["spec"]


@pytest.fixture(scope="module")
def pod(job):
    return job["template"]["spec"]


def refuse_unknown(schema):
    """Refuses fields that a schema does not have, as `kubectl apply` does."""
    if isinstance(schema, list):
        return [refuse_unknown(value) for value in schema]
    if not isinstance(schema, dict):
        return schema
    strict = {key: refuse_unknown(value) for key, value in schema.items()}
    if "properties" in schema:
        strict.setdefault("additionalProperties", False)
    if schema.get("x-kubernetes-int-or-string"):
        strict.pop("type", None)
    return strict


@pytest.fixture(scope="module")
def check():
    schema = json.loads(gzip.decompress((HERE / "jobset_schema.json.gz").read_bytes()))
    strict = refuse_unknown(schema)
    # Every resource of Kubernetes has these, so that JobSet's schema leaves them out.
    strict["properties"]["metadata"] = {"type": "object"}
    return jsonschema.Draft7Validator(strict).validate


def test_jobset_takes_every_field(jobset, check):
    assert jobset["apiVersion"] == "jobset.x-k8s.io/v1alpha2"
    assert jobset["kind"] == "JobSet"
    check(jobset)


@pytest.mark.parametrize(
    ("path", "key", "value"),
    [
        ("spec replicatedJobs 0 template spec", "completion", 4),
        ("spec replicatedJobs 0 template spec template spec", "restartPolicy", 1),
        ("spec failurePolicy rules 0", "action", "Restart"),
        ("spec replicatedJobs 0", "name", None),
    ],
)
def test_what_jobset_refuses(jobset, check, path, key, value):
    wrong = copy.deepcopy(jobset)
    place = wrong
    for step in path.split():
        place = place[int(step) if step.isdigit() else step]
    place[key] = value
    with pytest.raises(jsonschema.ValidationError):
        check(wrong)


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


@pytest.mark.parametrize(
    "name", ["docs/launch.md", "docs/pods.md", "launch/jobset.yaml"]
)
def test_the_line_that_starts_it_fills_in_what_is_in_capitals(pod, name):
    text = (ROOT / name).read_text("utf-8")
    (line,) = re.findall(r"(sed .* launch/jobset\.yaml) \| kubectl apply -f -\n", text)
    assert "kubectl apply -f launch/jobset.yaml" not in text
    filled = subprocess.run(
        ["bash", "-c", line],
        cwd=ROOT,
        env=os.environ | {"IMAGE": "us-docker.pkg.dev/a/b/c:1"},
        check=True,
        capture_output=True,
    )
    (job,) = yaml.safe_load(filled.stdout)["spec"]["replicatedJobs"]
    found = job["template"]["spec"]["template"]["spec"]
    expected = copy.deepcopy(pod)
    expected["containers"][0]["image"] = "us-docker.pkg.dev/a/b/c:1"
    expected["volumes"][0]["persistentVolumeClaim"]["claimName"] = "shared"
    assert found == expected
