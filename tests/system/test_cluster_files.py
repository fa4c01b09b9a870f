"""The files of cluster/, offline: by Ray's own checks, Kubernetes' schemas, EC2's model and the jobs' command lines.

KubeRay's schemas come with no package. The models of its objects below follow KubeRay 1.7's API (Apache-2.0; types of
ray-operator/apis/ray/v1); the pods in them are checked by Kubernetes' own schemas.
"""

import importlib.util
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any, Literal

import botocore.session
import kubernetes_validate
import pytest
import tyro
import yaml
from botocore.validate import ParamValidator
from cronsim import CronSim
from pydantic import BaseModel, ConfigDict, Field
from ray.autoscaler._private.docker import docker_start_cmds
from ray.autoscaler._private.loader import load_function_or_class
from ray.autoscaler._private.node_provider_availability_tracker import NodeProviderAvailabilityTracker
from ray.autoscaler._private.resource_demand_scheduler import get_nodes_for
from ray.autoscaler._private.util import prepare_config, validate_config
from ray.autoscaler.node_launch_exception import NodeLaunchException

from dtn_ray.convert.options import Conversion
from dtn_ray.errors import UserError

ROOT = Path(__file__).parents[2]
CLUSTER = ROOT / "cluster"
GPU = CLUSTER / "gpu.yaml"
KUBERNETES = sorted((CLUSTER / "kubernetes").glob("*.yaml"))
SCHEDULE = CLUSTER / "schedule"
GUIDE = ROOT / "docs/how-to/cluster.md"
TEXTS = [path for path in sorted(CLUSTER.rglob("*")) if path.is_file() and "__pycache__" not in path.parts] + [GUIDE]
PINNED = dict(
    line.split(";")[0].strip().split("==") for line in (ROOT / "constraints.txt").read_text().splitlines() if line
)
IMAGE = f"REGISTRY/dtn-ray:{tomllib.loads((ROOT / 'pyproject.toml').read_text())['project']['version']}"
CAPITALS = re.compile(r"\b[A-Z]{2,}(_[A-Z]+)*\b")


def imported(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"cluster_{path.stem}", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def name(path: Path) -> str:
    return str(path.relative_to(ROOT))


# Command lines


def strings(value: Any) -> Iterator[str]:
    """All strings of a YAML document; a container's command and arguments as one line."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, list):
        for item in value:
            yield from strings(item)
    elif isinstance(value, dict):
        if "command" in value:
            yield shlex.join([*value["command"], *value.get("args", [])])
        for item in value.values():
            yield from strings(item)


def commands() -> Iterator[Any]:
    """Every call of a job, or of the nightly script, in the files."""
    for path in TEXTS:
        text = path.read_text()
        parts = strings(list(yaml.safe_load_all(text))) if path.suffix == ".yaml" else [text.replace("\\\n", " ")]
        for part in parts:
            nightly = re.sub(r"\S*nightly\.sh (?=s3://)", "python jobs/convert.py ", part)
            for found in re.finditer(r"python jobs/(\w+)\.py([^`\n;&|]*)", nightly):
                job, arguments = found.groups()
                if "…" not in arguments and '"$@"' not in arguments:
                    filled = CAPITALS.sub(lambda placeholder: placeholder[0].lower(), arguments)
                    yield pytest.param(job, filled, id=f"{name(path)}: {job}{arguments}"[:100])


@pytest.mark.parametrize(("job", "arguments"), list(commands()))
def test_the_jobs_take_their_command_lines(job, arguments):
    split = shlex.split(arguments, comments=True)
    if job == "convert":  # whose command line is its dataclass
        tyro.cli(Conversion, args=split)
    else:
        imported(ROOT / f"jobs/{job}.py").parse(split)


def test_each_job_is_run_in_each_way():
    found = {(case.id.split(":")[0], case.values[0]) for case in commands()}
    kubernetes = {(f"cluster/kubernetes/rayjob-{job}.yaml", job) for job in ("train", "tune", "convert")}
    scheduled = (
        "kubernetes/cronjob.yaml",
        "kubernetes/raycronjob.yaml",
        "schedule/crontab",
        "schedule/dtn-convert.service",
    )
    guide = {(name(GUIDE), job) for job in ("train", "tune", "convert")}
    assert found >= kubernetes | guide | {(f"cluster/{path}", "convert") for path in scheduled}


# Ray's cluster launcher


@pytest.fixture
def launched(monkeypatch):
    """gpu.yaml as `ray up` completes it."""
    monkeypatch.setenv("HOME", "/home/ray")
    config = prepare_config(yaml.safe_load(GPU.read_text()))
    validate_config(config)
    return config


def test_the_aws_cluster_has_a_head_and_gpu_nodes_of_two_markets(launched):
    types = launched["available_node_types"]
    assert launched["head_node_type"] == "head" and types["head"]["max_workers"] == 0
    assert "InstanceMarketOptions" not in types["head"]["node_config"]  # on demand
    gpus = {kind: node for kind, node in types.items() if node["resources"].get("GPU")}
    assert gpus.keys() == {"gpu-spot", "gpu-other-spot", "gpu-on-demand"}
    market = {"InstanceMarketOptions": {"MarketType": "spot"}}
    first, other, on_demand = (gpus[kind]["node_config"] for kind in ("gpu-spot", "gpu-other-spot", "gpu-on-demand"))
    assert first == on_demand | market and other == first | {"InstanceType": other["InstanceType"]}
    assert other["InstanceType"] != first["InstanceType"]
    assert {launched["max_workers"]} == {node["max_workers"] for node in gpus.values()}
    assert len({json.dumps(node["resources"]) for node in gpus.values()}) == 1
    assert "," not in launched["provider"]["availability_zone"]
    assert launched["provider"]["availability_zone"].startswith(launched["provider"]["region"])
    assert 0 < launched["idle_timeout_minutes"] <= 30 and launched["provider"]["cache_stopped_nodes"] is False


def test_ec2_would_take_the_nodes(launched):
    model = botocore.session.get_session().get_service_model("ec2")
    for node in launched["available_node_types"].values():
        config = node["node_config"]
        asked = config | {"MinCount": 1, "MaxCount": 1}
        report = ParamValidator().validate(asked, model.operation_model("RunInstances").input_shape)
        assert not report.has_errors(), report.generate_report()
        assert config["InstanceType"] in model.shape_for("InstanceType").enum
        assert config["IamInstanceProfile"].keys() == {"Name"}


def test_disks_are_encrypted_and_go_with_their_nodes_and_all_have_the_tags(launched):
    tags = launched["metadata"]["tags"]
    for node in launched["available_node_types"].values():
        config = node["node_config"]
        for disk in config["BlockDeviceMappings"]:
            assert disk["Ebs"]["Encrypted"] is disk["Ebs"]["DeleteOnTermination"] is True
        assert {each["ResourceType"]: each["Tags"] for each in config["TagSpecifications"]} == {
            "instance": tags,
            "volume": tags,
        }


def test_what_is_set_stands_in_one_block_only():
    settings, rest = GPU.read_text().split("\nprovider:\n")
    metadata = yaml.safe_load(settings)["metadata"]
    for setting in (metadata["region"], metadata["image"], metadata["head"], metadata["gpu-node"], "REGISTRY"):
        assert setting in settings and setting not in rest
    assert not [word for word in CAPITALS.findall(rest) if word in ("REGISTRY", "AMI_ID", "BUCKET")]
    assert (
        metadata["region"] in metadata["region-in-containers"]
        and f"--region {metadata['region']} " in metadata["login"]
    )


def test_the_token_is_mounted_and_asked_for(launched):
    assert launched["file_mounts"] == {"/home/ray/.ray/auth_token": "~/.ray/auth_token"}
    options = launched["docker"]["run_options"]
    started = docker_start_cmds("ubuntu", IMAGE, launched["file_mounts"], "ray", options, "dtn", "/home/ray", "docker")
    assert "auth_token:/home/ray/.ray/auth_token " in started and " --env=RAY_AUTH_MODE=token " in started


def chosen(
    launched, refused: dict[str, int] | None = None, seen: tuple[str, ...] = (), taken: int = 0
) -> dict[str, int]:
    """The nodes that the autoscaler starts for three GPUs.

    `refused`: the types that EC2 refused, and when. `seen`: those of which nodes ran, whose memory Ray has learnt.
    `taken`: how many spot nodes run.
    """
    line = next(line for line in launched["head_start_ray_commands"] if "ray start" in line)
    assert "export RAY_enable_autoscaler_v2=0 " in line  # the second autoscaler has no scorer
    scorer = re.search(r"RAY_AUTOSCALER_UTILIZATION_SCORER=(\S+)", line)
    assert scorer and "PYTHONPATH=$HOME/dtn-ray/cluster;" in line
    tracker = NodeProviderAvailabilityTracker(timer=lambda: 1000.0)
    for kind, when in (refused or {}).items():
        tracker.update_node_availability(kind, when, NodeLaunchException("InsufficientInstanceCapacity", "none", None))
    types = json.loads(json.dumps(launched["available_node_types"]))
    for kind in seen:
        types[kind]["resources"]["memory"] = 2**34
    score = partial(load_function_or_class(scorer[1]), node_availability_summary=tracker.summary())
    there = {"head": 1, "gpu-spot": taken}
    nodes, _ = get_nodes_for(types, there, "head", 8 - taken, [{"GPU": 1}] * 3, utilization_scorer=score)
    return dict(nodes)


@pytest.fixture
def importable(monkeypatch):
    monkeypatch.syspath_prepend(CLUSTER)


@pytest.mark.usefixtures("importable")
@pytest.mark.parametrize(
    ("case", "nodes"),
    [
        ({}, {"gpu-spot": 3}),
        ({"seen": ("gpu-spot",)}, {"gpu-spot": 3}),
        ({"seen": ("gpu-on-demand",)}, {"gpu-spot": 3}),
        ({"seen": ("gpu-other-spot",)}, {"gpu-spot": 3}),
        ({"refused": {"gpu-spot": 900}}, {"gpu-other-spot": 3}),
        ({"refused": {"gpu-spot": 900}, "seen": ("gpu-on-demand",)}, {"gpu-other-spot": 3}),
        ({"refused": {"gpu-spot": 900, "gpu-other-spot": 905}}, {"gpu-on-demand": 3}),
        ({"refused": {"gpu-spot": 900, "gpu-other-spot": 905}, "seen": ("gpu-on-demand",)}, {"gpu-on-demand": 3}),
        # All refused: whose refusal is oldest.
        ({"refused": {"gpu-spot": 900, "gpu-other-spot": 905, "gpu-on-demand": 910}}, {"gpu-spot": 3}),
        ({"refused": {"gpu-spot": 915, "gpu-other-spot": 905, "gpu-on-demand": 910}}, {"gpu-other-spot": 3}),
        ({"refused": {"gpu-spot": 915, "gpu-other-spot": 920, "gpu-on-demand": 910}}, {"gpu-on-demand": 3}),
        ({"taken": 6}, {"gpu-spot": 2}),  # eight at most
    ],
    ids=str,
)
def test_the_autoscaler_takes_spot_and_on_demand_while_there_is_none(launched, case, nodes):
    assert chosen(launched, **case) == nodes


# Kubernetes


class Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class AuthOptions(Strict):
    mode: Literal["disabled", "token"] = "token"
    secretName: str | None = None


class AutoscalerOptions(Strict):
    version: Literal["v1", "v2"] | None = None
    idleTimeoutSeconds: int | None = None
    upscalingMode: Literal["Default", "Aggressive", "Conservative"] | None = None
    securityContext: dict[str, Any]
    env: list[dict[str, str]] = []


class HeadGroup(Strict):
    rayStartParams: dict[str, str] = {}
    template: dict[str, Any]


class WorkerGroup(Strict):
    groupName: str
    replicas: int | None = None
    minReplicas: int
    maxReplicas: int
    priority: int | None = None
    idleTimeoutSeconds: int | None = None
    rayStartParams: dict[str, str] = {}
    template: dict[str, Any]


class RayCluster(Strict):
    rayVersion: str
    authOptions: AuthOptions
    enableInTreeAutoscaling: bool = False
    autoscalerOptions: AutoscalerOptions | None = None
    headGroupSpec: HeadGroup
    workerGroupSpecs: list[WorkerGroup] = Field(min_length=1)


class RayJob(Strict):
    entrypoint: str
    backoffLimit: int = 0
    activeDeadlineSeconds: int = Field(gt=0)
    preRunningDeadlineSeconds: int = Field(gt=0)
    submitterPodTemplate: dict[str, Any]
    submissionMode: Literal["K8sJobMode", "HTTPMode", "SidecarMode"] = "K8sJobMode"
    shutdownAfterJobFinishes: bool
    ttlSecondsAfterFinished: int = 0
    rayClusterSpec: RayCluster


class RayCronJob(Strict):
    schedule: str
    suspend: bool = False
    jobTemplate: RayJob


KINDS = {"RayCluster": RayCluster, "RayJob": RayJob, "RayCronJob": RayCronJob}


def ray_cluster_of(spec: BaseModel) -> RayCluster:
    if isinstance(spec, RayCronJob):
        return spec.jobTemplate.rayClusterSpec
    return spec.rayClusterSpec if isinstance(spec, RayJob) else spec


def check(document: dict[str, Any], version: str = "1.30") -> None:
    kubernetes_validate.validate(document, version, strict=True)


@pytest.mark.parametrize("path", KUBERNETES, ids=name)
def test_kubernetes_would_take_the_objects(path):
    document = yaml.safe_load(path.read_text())
    if document["apiVersion"] != "ray.io/v1":
        check(document)
        return
    assert document.keys() == {"apiVersion", "kind", "metadata", "spec"}
    spec = ray_cluster_of(KINDS[document["kind"]].model_validate(document["spec"]))
    assert spec.rayVersion == PINNED["ray"] and spec.authOptions.mode == "token"
    for group in (spec.headGroupSpec, *spec.workerGroupSpecs):
        check({"apiVersion": "v1", "kind": "PodTemplate", "metadata": document["metadata"], "template": group.template})
        pod = group.template["spec"]
        (container,) = pod["containers"]
        assert container["image"] == IMAGE and pod["serviceAccountName"] == "dtn"
        assert container["resources"]["requests"] == container["resources"]["limits"]
        if isinstance(group, WorkerGroup):
            assert container["resources"]["limits"]["nvidia.com/gpu"] == 1
            assert pod["tolerations"] == [{"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}]


def pods(document: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """The specs of all pods that come of an object, those that KubeRay makes of it among them."""
    if document["kind"] == "CronJob":
        yield document["spec"]["jobTemplate"]["spec"]["template"]["spec"]
    if document["apiVersion"] != "ray.io/v1":
        return
    spec = KINDS[document["kind"]].model_validate(document["spec"])
    job = spec.jobTemplate if isinstance(spec, RayCronJob) else spec
    if isinstance(job, RayJob):
        template = {"apiVersion": "v1", "kind": "PodTemplate", "template": job.submitterPodTemplate}
        check(template | {"metadata": {"name": "submit"}})
        yield job.submitterPodTemplate["spec"]
    cluster = ray_cluster_of(spec)
    head = cluster.headGroupSpec.template["spec"]
    yield head
    if cluster.enableInTreeAutoscaling:
        assert cluster.autoscalerOptions is not None
        yield head | {"containers": [{"securityContext": cluster.autoscalerOptions.securityContext}]}
    for group in cluster.workerGroupSpecs:
        yield group.template["spec"]  # its init container has the container's context


def refusals(pod: dict[str, Any]) -> Iterator[str]:
    """What the Pod Security Standard "restricted" (Kubernetes 1.30) has against a pod on Linux."""
    own = pod.get("securityContext", {})
    for name in ("hostNetwork", "hostPID", "hostIPC"):
        if pod.get(name):
            yield name
    allowed = {
        "configMap",
        "csi",
        "downwardAPI",
        "emptyDir",
        "ephemeral",
        "projected",
        "secret",
        "persistentVolumeClaim",
    }
    for volume in pod.get("volumes", []):
        if not volume.keys() - {"name"} <= allowed:
            yield "volumes"
    if own.get("runAsUser") == 0 or own.get("sysctls") or own.get("seLinuxOptions"):
        yield "pod"
    for container in [*pod["containers"], *pod.get("initContainers", [])]:
        context = container.get("securityContext", {})
        both = own | context
        capabilities = context.get("capabilities", {})
        if context.get("privileged") or context.get("runAsUser") == 0 or "procMount" in context:
            yield "container"
        if any(port.get("hostPort") for port in container.get("ports", [])):
            yield "hostPort"
        if context.get("allowPrivilegeEscalation") is not False:
            yield "allowPrivilegeEscalation"
        if "ALL" not in capabilities.get("drop", []) or not set(capabilities.get("add", [])) <= {"NET_BIND_SERVICE"}:
            yield "capabilities"
        if both.get("runAsNonRoot") is not True:
            yield "runAsNonRoot"
        if both.get("seccompProfile", {}).get("type") not in ("RuntimeDefault", "Localhost"):
            yield "seccompProfile"


@pytest.mark.parametrize("path", KUBERNETES, ids=name)
def test_a_restricted_namespace_takes_all_pods(path):
    document = yaml.safe_load(path.read_text())
    found = list(pods(document))
    assert not [refusal for pod in found for refusal in refusals(pod)]
    assert all(pod["securityContext"]["runAsUser"] == 1000 for pod in found)
    expected = {"ServiceAccount": 0, "CronJob": 1, "RayCluster": 4, "RayJob": 3, "RayCronJob": 3}
    assert len(found) == expected[document["kind"]]


def test_nothing_of_kubernetes_runs_for_ever():
    """But the standing cluster."""
    for path in KUBERNETES:
        document = yaml.safe_load(path.read_text())
        if document["kind"] in ("RayJob", "RayCronJob", "CronJob"):
            job = document["spec"].get("jobTemplate", {"spec": document["spec"]})
            job = job.get("spec", job)
            nightly = document["kind"] != "RayJob"
            assert 3600 < job["activeDeadlineSeconds"] < (24 * 3600 if nightly else 8 * 24 * 3600)


@pytest.mark.parametrize("job", ["train", "tune", "convert"])
def test_jobs_of_kubernetes_have_as_many_gpus_as_they_ask_for(job):
    spec = RayJob.model_validate(yaml.safe_load((CLUSTER / f"kubernetes/rayjob-{job}.yaml").read_text())["spec"])
    (group,) = spec.rayClusterSpec.workerGroupSpecs
    asked = re.search(r"--workers (\d+)", spec.entrypoint)
    assert group.replicas == group.minReplicas == group.maxReplicas >= (int(asked[1]) if asked else 1)
    assert "--gpu" in spec.entrypoint and spec.shutdownAfterJobFinishes


def test_the_nightly_cronjob_neither_overlaps_nor_forgets():
    document = yaml.safe_load((CLUSTER / "kubernetes/cronjob.yaml").read_text())
    spec = document["spec"]
    assert (spec["concurrencyPolicy"], spec["jobTemplate"]["spec"]["backoffLimit"]) == ("Forbid", 0)
    assert 3600 <= spec["startingDeadlineSeconds"] < 22 * 3600  # the same day, or the night's name would be another
    assert {"successfulJobsHistoryLimit", "failedJobsHistoryLimit"} <= spec.keys()
    (container,) = spec["jobTemplate"]["spec"]["template"]["spec"]["containers"]
    environment = {variable["name"]: variable for variable in container["env"]}
    cluster = yaml.safe_load((CLUSTER / "kubernetes/raycluster.yaml").read_text())["metadata"]["name"]
    assert environment["RAY_AUTH_TOKEN"]["valueFrom"]["secretKeyRef"] == {"name": cluster, "key": "auth_token"}
    assert environment["RAY_API_SERVER_ADDRESS"]["value"] == f"http://{cluster}-head-svc:8265"
    assert container["image"] == IMAGE and container["command"] == [f"{work_dir()}/cluster/schedule/nightly.sh"]


def test_the_service_account_has_a_role_and_no_keys():
    account = yaml.safe_load((CLUSTER / "kubernetes/service-account.yaml").read_text())["metadata"]
    assert account["name"] == "dtn" and account["annotations"].keys() == {"eks.amazonaws.com/role-arn"}


# Schedules


def schedules() -> list[str]:
    documents = [yaml.safe_load(path.read_text()) for path in KUBERNETES]
    lines = [line for line in (SCHEDULE / "crontab").read_text().splitlines() if re.match(r"[\d*]", line)]
    return [
        *(document["spec"]["schedule"] for document in documents if "schedule" in document.get("spec", {})),
        *(" ".join(line.split()[:5]) for line in lines),
    ]


def test_all_schedules_are_the_same_night():
    assert len(schedules()) == 3
    for schedule in schedules():
        start = datetime(2026, 1, 31, 12, tzinfo=UTC)
        times = CronSim(schedule, start)
        assert [next(times) - start for _ in range(2)] == [timedelta(hours=14), timedelta(hours=38)]
    assert "OnCalendar=*-*-* 02:00:00 UTC\n" in (SCHEDULE / "dtn-convert.timer").read_text()


def test_cron_takes_no_per_cent_sign_for_a_new_line():
    assert "%" not in (SCHEDULE / "crontab").read_text()


@pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="needs systemd")
def test_systemd_takes_the_units(tmp_path):
    for unit in ("dtn-convert.service", "dtn-convert.timer"):
        text = (SCHEDULE / unit).read_text()
        (tmp_path / unit).write_text(text.replace("/opt/dtn-ray", str(ROOT)).replace("User=dtn", "User=root"))
    verify = ["systemd-analyze", "verify", "--man=no", *map(str, sorted(tmp_path.iterdir()))]
    done = subprocess.run(verify, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0 and str(tmp_path) not in done.stderr and "dtn-convert" not in done.stderr
    assert "Persistent=true" in (SCHEDULE / "dtn-convert.timer").read_text()


@pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="needs systemd")
def test_the_unit_is_shut_in():
    """By systemd's own measure, from 0 (safe) to 10; without its hardening it is 9.2."""
    security = ["systemd-analyze", "security", "--offline=true", "--no-pager", "--threshold=20"]
    done = subprocess.run([*security, SCHEDULE / "dtn-convert.service"], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout[-300:] + done.stderr


@pytest.mark.parametrize(("known", "submitted"), [("", True), ("convert-", False)], ids=["new", "again"])
def test_a_night_is_submitted_once(tmp_path, known, submitted):
    """The script alone; `ray` is a stand-in that knows the jobs whose names begin so."""
    ray = tmp_path / "ray"
    log = tmp_path / "calls"
    ray.write_text(f"""#!/bin/sh
echo "$RAY_AUTH_MODE $@" >> {log}
[ "$2" = submit ] || case "$3" in {known or "-"}*) ;; *) exit 1;; esac
""")
    ray.chmod(0o755)
    environment = {**os.environ, "PATH": f"{tmp_path}:/usr/bin:/bin"}
    script = [SCHEDULE / "nightly.sh", "s3://b/runs/emoji", "s3://b/in", "s3://b/out", "--match", "a b"]
    done = subprocess.run(script, env=environment, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    calls = log.read_text().splitlines()
    night = r"convert-\d{4}-\d\d-\d\d"
    assert re.fullmatch(f"token job status {night}", calls[0])
    if submitted:
        line = rf"token job submit --submission-id {night} -- python cluster/with_gpus\.py 1 python jobs/convert\.py "
        assert re.fullmatch(line + "s3://b/runs/emoji s3://b/in s3://b/out --match a b", calls[1])
    assert len(calls) == 1 + submitted and ("submitted before" in done.stdout) != submitted


# Waiting for GPUs


def test_a_command_behind_with_gpus_keeps_its_options():
    job = imported(CLUSTER / "with_gpus.py").parse(["--minutes", "5", "8", "python", "jobs/train.py", "--minutes", "1"])
    assert (job.gpus, job.minutes, job.command) == (8, 5.0, ["python", "jobs/train.py", "--minutes", "1"])


@pytest.mark.usefixtures("ray_cluster")
def test_gpus_that_do_not_come_end_in_one_line(capfd):
    job = imported(CLUSTER / "with_gpus.py")
    with pytest.raises(UserError, match=r"^\d+ of 1000 GPUs after \d+ s: `ray status`"):
        job.main(job.parse(["--minutes", "0", "1000", "echo", "never"]))
    assert "never" not in capfd.readouterr().out


@pytest.mark.usefixtures("ray_cluster")
def test_with_gpus_ends_as_its_command_does(capfd):
    job = imported(CLUSTER / "with_gpus.py")
    with pytest.raises(SystemExit) as stopped:
        job.main(job.parse(["0", sys.executable, "-c", "print('ran'); exit(3)"]))
    assert stopped.value.code == 3 and capfd.readouterr().out == "ran\n"


# The image


def dockerfile() -> list[str]:
    text = (CLUSTER / "Dockerfile").read_text().replace("\\\n", " ")
    return [line for line in text.splitlines() if line and not line.startswith("#")]


def work_dir() -> str:
    return next(line.split()[1] for line in dockerfile() if line.startswith("WORKDIR"))


def test_the_image_is_the_pinned_ray_and_runs_without_root():
    python = "311"  # of constraints.txt, as CONTRIBUTING.md pins it
    assert dockerfile()[0] == f"FROM rayproject/ray:{PINNED['ray']}-py{python}-cpu"
    assert not [line for line in dockerfile() if line.startswith("USER")]
    assert all(
        "--constraint constraints.txt" in line or "--no-deps" in line for line in dockerfile() if "pip install" in line
    )
    assert not [line for line in dockerfile() if "[dev" in line or "[demo" in line]


def test_what_the_image_copies_is_there_and_sent_to_docker():
    sent = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    copied = {
        part for line in dockerfile() if line.startswith("COPY") for part in line.split()[1:-1] if part[:2] != "--"
    }
    assert copied == sent and all((ROOT / path).exists() for path in copied)


# All files


@pytest.mark.parametrize("path", TEXTS, ids=name)
def test_no_file_holds_a_secret_or_another_image(path):
    text = path.read_text()
    assert not re.search(r"(AKIA|ASIA)[0-9A-Z]{16}|PRIVATE KEY|(?i:access_key)|auth_token['\"]?[:=] *\w{16}", text)
    assert set(re.findall(r"[\w./-]+/dtn-ray:[\w.-]+", text)) <= {IMAGE}


def test_the_check_knows_every_placeholder_of_gpu_yaml():
    placeholders = imported(CLUSTER / "check.py").PLACEHOLDERS
    settings = GPU.read_text().split("\nprovider:\n")[0].split("\nmetadata:\n")[1]
    words = {found[0] for found in CAPITALS.finditer(re.sub(r"\s#.*", "", settings))}
    assert words - {"CPU", "GPU", "AWS", "AWS_DEFAULT_REGION"} <= placeholders.keys()
    assert words >= {"REGISTRY", "AMI_ID"}


@pytest.mark.parametrize("path", sorted(CLUSTER.rglob("*.sh")), ids=name)
def test_scripts_are_bash_that_stops_at_errors(path):
    assert os.access(path, os.X_OK) and "\nset -euo pipefail\n" in path.read_text()
    assert subprocess.run(["bash", "-n", path], timeout=60).returncode == 0


def test_all_nodes_keep_a_streams_readers() -> None:
    name, value = "RAY_idle_worker_killing_time_threshold_ms", "60000"
    config = yaml.safe_load(GPU.read_text())
    for node in ("head", "worker"):
        (line,) = (line for line in config[f"{node}_start_ray_commands"] if "ray start" in line)
        assert line.index(f"export {name}={value};") < line.index("ray start")
    assert f"export {name}={value}" in (CLUSTER / "local.sh").read_text()
    clusters = [text for path in KUBERNETES if "rayVersion" in (text := path.read_text())]
    assert len(clusters) == 5
    for text in clusters:
        assert text.count(f'{{name: {name}, value: "{value}"}}') == text.count("AWS_DEFAULT_REGION") > 1


def test_logs_of_all_nodes_rotate() -> None:
    name, value = "RAY_ROTATION_MAX_BYTES", "100000000"
    options = yaml.safe_load(GPU.read_text())["docker"]["run_options"]
    assert f"--env={name}={value}" in options and "--log-opt=max-size=100m" in options
    for text in (text for path in KUBERNETES if "rayVersion" in (text := path.read_text())):
        assert text.count(f'{{name: {name}, value: "{value}"}}') == text.count("AWS_DEFAULT_REGION") > 1
