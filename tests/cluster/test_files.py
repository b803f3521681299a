"""The files in cluster/ say what they should: parsed by Ray's own loader, by schemas, and held to what they promise."""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3
import jsonschema
import pytest
import ray.autoscaler
import yaml
from moto.server import ThreadedMotoServer
from ray.autoscaler._private.aws.config import bootstrap_aws
from ray.autoscaler._private.util import prepare_config, validate_config

from tests.cluster.kuberay_schema import SCHEMAS

FOLDER = Path(__file__).parents[2] / "cluster"
KUBERAY = ["raycluster.yaml", "rayjob.yaml"]
# What the code counts, as ray.util.metrics names and kinds; its labels besides those that Ray adds.
COUNTERS = ["raydvae_rows", "raydvae_bytes", "raydvae_rejected_rows", "raydvae_retries"]
HISTOGRAMS = ["raydvae_unit_seconds"]
LABELS = {"step", "stage", "le", "SessionName"}
# Ray's exporter puts "ray_" before a name and "_total" after a counter's (seen in ray 2.60's metrics port).
EXPORTED = {f"ray_{name}_total" for name in COUNTERS} | {
    f"ray_{name}_{part}" for name in HISTOGRAMS for part in ("bucket", "sum", "count")
}


def load(name: str) -> Any:
    return yaml.safe_load((FOLDER / name).read_text())


def cluster_spec(name: str) -> Any:
    spec = load(f"kuberay/{name}")["spec"]
    return spec.get("rayClusterSpec", spec)


def pods(spec: Any) -> list[Any]:
    return [group["template"]["spec"] for group in [spec["headGroupSpec"], *spec["workerGroupSpecs"]]]


def gibibytes(quantity: str) -> float:
    assert quantity.endswith("Gi")
    return float(quantity.removesuffix("Gi"))


# KubeRay


@pytest.mark.parametrize("name", KUBERAY)
def test_kuberay_files_have_known_fields_only(name: str) -> None:
    content = load(f"kuberay/{name}")
    jsonschema.validate(content, SCHEMAS[content["kind"]])


def mappings(value: Any) -> Iterator[dict[str, Any]]:
    """All mappings inside of ``value`` whose keys are the API's and not the user's."""
    if isinstance(value, dict):
        yield value
        for key, inner in value.items():
            if key not in ("labels", "nodeSelector", "rayStartParams", "namespaceSelector", "podSelector"):
                yield from mappings(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from mappings(inner)


@pytest.mark.parametrize("name", KUBERAY)
def test_a_typo_anywhere_in_a_kuberay_file_fails(name: str) -> None:
    # A copy without YAML's anchors: there one object stands in many places.
    content = json.loads(json.dumps(load(f"kuberay/{name}")))
    checker = jsonschema.Draft202012Validator(SCHEMAS[content["kind"]])
    places = list(mappings(content))
    assert len(places) > 60
    for place in places:
        for key in list(place):
            place[f"{key}x"] = place.pop(key)
            assert not checker.is_valid(content), key
            place[key] = place.pop(f"{key}x")
    assert checker.is_valid(content)


def test_a_secret_written_into_a_pod_fails() -> None:
    content = copy.deepcopy(load("kuberay/raycluster.yaml"))
    container = content["spec"]["headGroupSpec"]["template"]["spec"]["containers"][0]
    container["env"] = [{"name": "AWS_SECRET_ACCESS_KEY", "value": "abc"}]
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(content, SCHEMAS["RayCluster"])
    reference = {"secretKeyRef": {"name": "storage", "key": "secret"}}
    container["env"] = [{"name": "AWS_SECRET_ACCESS_KEY", "valueFrom": reference}]
    jsonschema.validate(content, SCHEMAS["RayCluster"])


def test_the_job_has_the_cluster_of_the_other_file() -> None:
    assert cluster_spec("rayjob.yaml") == cluster_spec("raycluster.yaml")


def test_the_kuberay_cluster_is_closed_scales_and_leaves_the_head_alone() -> None:
    spec = cluster_spec("raycluster.yaml")
    assert spec["authOptions"] == {"mode": "token"}
    assert spec["networkPolicy"]["mode"] == "DenyAllIngress"
    assert spec["headGroupSpec"]["serviceType"] == "ClusterIP"
    assert spec["headGroupSpec"]["rayStartParams"]["num-cpus"] == "0"
    assert spec["enableInTreeAutoscaling"] is True
    groups = {group["groupName"]: group for group in spec["workerGroupSpecs"]}
    assert set(groups) == {"cpu", "gpu"}
    for group in groups.values():
        assert group["minReplicas"] <= group["replicas"] <= group["maxReplicas"] and group["maxReplicas"] > 1
        pod = group["template"]["spec"]
        assert pod["nodeSelector"] and "spot" in {toleration["key"] for toleration in pod["tolerations"]}
    [device] = groups["gpu"]["template"]["spec"]["containers"]
    assert device["resources"]["limits"]["nvidia.com/gpu"] == device["resources"]["requests"]["nvidia.com/gpu"] == "1"
    assert "nvidia.com/gpu" not in groups["cpu"]["template"]["spec"]["containers"][0]["resources"]["limits"]


def test_pods_have_room_for_the_object_store_and_no_rights() -> None:
    for pod in pods(cluster_spec("raycluster.yaml")):
        [container] = pod["containers"]
        assert container["resources"]["requests"] == container["resources"]["limits"]
        [memory] = [v["emptyDir"] for v in pod["volumes"] if v["emptyDir"]["medium"] == "Memory"]
        assert gibibytes(memory["sizeLimit"]) > 0.3 * gibibytes(container["resources"]["limits"]["memory"])
        assert "/dev/shm" in [mount["mountPath"] for mount in container["volumeMounts"]]
        assert pod["securityContext"]["runAsNonRoot"] and pod["securityContext"]["runAsUser"] == 1000
        assert container["securityContext"] == {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}


def test_the_rayjob_purifies_ends_and_is_submitted_again() -> None:
    job = load("kuberay/rayjob.yaml")["spec"]
    words = job["entrypoint"].split()
    assert words[0] == "python" and words[1].endswith("/jobs/purify.py")
    assert (FOLDER.parent / "jobs/purify.py").exists()
    assert [word.split(":")[0] for word in words[2:4]] == ["s3", "s3"]
    workers = int(words[words.index("--workers") + 1])
    [gpu] = [group for group in job["rayClusterSpec"]["workerGroupSpecs"] if group["groupName"] == "gpu"]
    assert workers <= gpu["maxReplicas"], "more workers than GPUs would wait for ever"
    assert job["shutdownAfterJobFinishes"] is True and job["ttlSecondsAfterFinished"] > 0
    assert job["backoffLimit"] >= 1
    assert job["preRunningDeadlineSeconds"] < job["activeDeadlineSeconds"]


# Ray's own autoscaler


def schema() -> Any:
    return json.loads((Path(ray.autoscaler.__file__).parent / "ray-schema.json").read_text())


def test_ray_loads_the_aws_cluster() -> None:
    content = load("aws.yaml")
    jsonschema.validate(content, schema())
    prepared = prepare_config(content)
    validate_config(prepared)
    assert prepared["available_node_types"]["gpu"]["node_config"]["InstanceMarketOptions"] == {"MarketType": "spot"}
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(content | {"max_worker": 2}, schema())


def test_ray_prepares_the_aws_cluster_and_opens_nothing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Ray's own first step of `ray up`, against an AWS API on loopback, with what is marked FILL IN filled in."""
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0)
    server.start()
    try:
        address = "http://{}:{}".format(*server.get_host_and_port())
        monkeypatch.setenv("HOME", str(tmp_path))  # Ray leaves the ssh key that it makes in ~/.ssh
        monkeypatch.setenv("AWS_ENDPOINT_URL", address)
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
            monkeypatch.setenv(name, "testing")
        ec2, iam = (boto3.client(name, region_name="us-east-1") for name in ("ec2", "iam"))
        vpc = ec2.create_vpc(CidrBlock="10.0.0.0/16")["Vpc"]["VpcId"]
        subnet = ec2.create_subnet(VpcId=vpc, CidrBlock="10.0.1.0/24", AvailabilityZone="us-east-1a")["Subnet"][
            "SubnetId"
        ]
        ec2.modify_subnet_attribute(SubnetId=subnet, MapPublicIpOnLaunch={"Value": True})
        group = ec2.create_security_group(GroupName="raydvae", Description="raydvae", VpcId=vpc)["GroupId"]
        before = ec2.describe_security_groups()["SecurityGroups"]
        text = (FOLDER / "aws.yaml").read_text()
        text = re.sub(r"subnet-0+\b", subnet, re.sub(r"sg-0+\b", group, text))
        ready = bootstrap_aws(prepare_config(yaml.safe_load(text)))
        for node in ready["available_node_types"].values():
            assert node["node_config"]["SecurityGroupIds"] == [group]
            assert node["node_config"]["SubnetIds"] == [subnet]
        assert ec2.describe_security_groups()["SecurityGroups"] == before, "Ray changed or made a security group"
        assert iam.list_roles()["Roles"] == [], "Ray made a role"
    finally:
        server.stop()


def test_the_aws_cluster_is_closed_scales_and_leaves_the_head_alone() -> None:
    content = load("aws.yaml")
    types = content["available_node_types"]
    assert {name: node["resources"] for name, node in types.items()} == {
        "head": {"CPU": 0}, "cpu": {"CPU": 8}, "gpu": {"CPU": 8, "GPU": 1},
    }  # fmt: skip
    [start] = [line for line in content["head_start_ray_commands"] if "ray start" in line]
    assert "--dashboard-host=127.0.0.1" in start and "--num-cpus=0" in start
    starts = [
        line for line in content["head_start_ray_commands"] + content["worker_start_ray_commands"] if "start" in line
    ]
    assert len(starts) == 2 and all(line.startswith("RAY_AUTH_MODE=token ") for line in starts)
    assert "security_group" not in content["provider"], "Ray adds port 22 from everywhere to groups that it makes"
    for name, node in types.items():
        config = node["node_config"]
        assert config["SecurityGroupIds"], name
        assert config["IamInstanceProfile"], "without one, Ray gives the head a role that may do all of EC2 and S3"
        assert config["MetadataOptions"]["HttpTokens"] == "required"
        assert ("InstanceMarketOptions" in config) == (name != "head"), "spot for workers, never for the head"
        if name != "head":
            assert node["min_workers"] == 0 and node["max_workers"] > 1


@pytest.mark.parametrize(
    "path", sorted(p for p in FOLDER.rglob("*") if p.is_file() and p.suffix != ".pyc"), ids=lambda p: p.name
)
def test_no_file_holds_a_secret(path: Path) -> None:
    text = path.read_text()
    assert not re.search(r"AKIA[0-9A-Z]{16}|-----BEGIN|\b[0-9a-f]{64}\b", text)


# The image and the dashboard


def test_the_image_has_the_ray_that_the_clusters_name_and_the_tests_ran_with() -> None:
    dockerfile = (FOLDER / "Dockerfile").read_text()
    [version] = re.findall(r"^FROM rayproject/ray:([0-9.]+)-py311\$\{RAY_SUFFIX\}$", dockerfile, re.MULTILINE)
    constraints = (FOLDER.parent / "constraints.txt").read_text()
    assert f"\nray=={version}\n" in constraints
    assert cluster_spec("raycluster.yaml")["rayVersion"] == version
    assert not re.search(r"^USER (root|0)$", dockerfile, re.MULTILINE)
    assert dockerfile.rstrip().splitlines()[-1] == "USER 1000"
    for source in re.findall(r"^COPY --chown=ray:users (.+) \S+$", dockerfile, re.MULTILINE):
        assert all((FOLDER.parent / name).exists() for name in source.split())


def test_the_image_pins_what_is_not_the_devices_or_the_base_images() -> None:
    [pattern] = re.findall(r"grep -vE '([^']+)' constraints.txt", (FOLDER / "Dockerfile").read_text())
    pins = [line for line in (FOLDER.parent / "constraints.txt").read_text().splitlines() if "==" in line]
    kept = {line.split("==")[0] for line in pins if not re.match(pattern, line)}
    assert kept >= {"numpy", "pyarrow", "pillow", "s3fs"}
    assert not [name for name in kept if name.startswith(("nvidia-", "cuda-", "triton", "torch")) or name == "ray"]


def queries() -> list[str]:
    board = load_board()
    variables = [v["query"]["query"] for v in board["templating"]["list"] if v["type"] == "query"]
    return variables + [target["expr"] for panel in board["panels"] for target in panel["targets"]]


def load_board() -> Any:
    return json.loads((FOLDER / "grafana.json").read_text())


def test_the_dashboard_asks_for_metrics_that_exist_and_for_all_of_them() -> None:
    named = {name for query in queries() for name in re.findall(r"\bray_\w+", query)}
    assert named == EXPORTED
    for query in queries():
        for labels in re.findall(r"\{([^}]*)\}", query):
            assert set(re.findall(r"(\w+)\s*=", labels)) <= LABELS, query
        for grouped in re.findall(r"by \(([^)]*)\)", query):
            assert {label.strip() for label in grouped.split(",")} <= LABELS, query
        assert query.count("(") == query.count(")") and query.count("{") == query.count("}")


def test_the_dashboards_panels_have_numbers_and_places_of_their_own() -> None:
    panels = load_board()["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    places = [(panel["gridPos"]["x"], panel["gridPos"]["y"]) for panel in panels]
    assert len(set(places)) == len(places)
    assert all(panel["targets"] and panel["title"] for panel in panels)


def test_the_dashboard_s_metrics_are_those_that_the_stages_emit() -> None:
    source = (FOLDER.parent / "raydvae/distributed/metrics.py").read_text()
    assert set(re.findall(r'"(raydvae_\w+)"', source)) == {*COUNTERS, *HISTOGRAMS}
