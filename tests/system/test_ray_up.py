"""`ray up` and its autoscaler on cluster/gpu.yaml, against a stand-in for EC2 (ec2.py), and which rights they need."""

import json
import os
import re
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Iterator
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any
from unittest.mock import MagicMock

import pytest
from clusters import BIN, ROOT
from ec2 import ACCOUNT, NO_CAPACITY, REGION, SPOT, Cloud, Nodes
from ray.autoscaler._private.autoscaler import StandardAutoscaler
from ray.autoscaler._private.aws.utils import client_cache, resource_cache
from ray.autoscaler._private.load_metrics import LoadMetrics

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

CLUSTER = ROOT / "cluster"
REGISTRY = f"{ACCOUNT}.dkr.ecr.{REGION}.amazonaws.com"
OPERATOR, HEAD = "AKIAOPERATOR", "AKIAHEAD"  # access key IDs, by which calls are told apart
OFFICE = "203.0.113.0/24"
HALF_AN_HOUR = 1800


@pytest.fixture(scope="module")
def cloud() -> Iterator[Cloud]:
    """An account as docs/how-to/cluster.md prepares it: roles, and a security group that lets only us in by SSH."""
    with Cloud() as cloud:
        cloud.add_role("head")
        cloud.add_role("worker")
        cloud.add_security_group("ray-autoscaler-dtn", OFFICE, OPERATOR)
        yield cloud


@pytest.fixture(scope="module")
def nodes(tmp_path_factory) -> Nodes:
    nodes = Nodes(tmp_path_factory.mktemp("nodes"))
    nodes.install()
    return nodes


@pytest.fixture(scope="module")
def config(cloud, tmp_path_factory) -> Path:
    """gpu.yaml as docs/how-to/cluster.md fills it in, in a home with a token."""
    home = tmp_path_factory.mktemp("home")
    text = (CLUSTER / "gpu.yaml").read_text()
    values = {"REGISTRY": REGISTRY, "AMI_ID": cloud.add_ami()}
    values |= {"HEAD_INSTANCE_PROFILE": "head", "WORKER_INSTANCE_PROFILE": "worker"}
    for placeholder, value in values.items():
        text = re.sub(rf"\b{placeholder}\b", value, text)
    (home / ".ray").mkdir()
    (home / ".ray/auth_token").write_text("ab" * 32)
    (home / "gpu.yaml").write_text(text)
    return home / "gpu.yaml"


@pytest.fixture(scope="module")
def ray(cloud, nodes, config) -> Callable[..., str]:
    """Runs `ray COMMAND gpu.yaml OPTIONS` as its operator would; gives what it prints."""
    environment = os.environ | cloud.environment(OPERATOR)
    environment |= {"HOME": str(config.parent), "PATH": f"{nodes.bin}:{os.environ['PATH']}"}
    environment |= {"RAY_USAGE_STATS_ENABLED": "0", "TMPDIR": str(nodes.folder)}

    def run(command: str, *options: str) -> str:
        call = [str(BIN / "ray"), command, str(config), *options]
        done = subprocess.run(call, env=environment, capture_output=True, text=True, timeout=200)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    return run


@pytest.fixture(scope="module")
def head(cloud, ray) -> dict[str, Any]:
    """The head that `ray up` starts."""
    ray("up", "--yes")
    (head,) = cloud.instances()
    return head


def test_a_head_starts_by_role_on_an_encrypted_disk_with_tags(cloud, nodes, head):
    assert head["IamInstanceProfile"]["Arn"].endswith("/head") and head["InstanceType"] == "m7i.2xlarge"
    assert head["MetadataOptions"]["HttpTokens"] == "required"
    (disk,) = head["BlockDeviceMappings"]
    assert disk["Ebs"]["DeleteOnTermination"]
    (volume,) = cloud.client("ec2").describe_volumes(VolumeIds=[disk["Ebs"]["VolumeId"]])["Volumes"]
    assert volume["Encrypted"] and volume["Size"] == 200
    tag = {"Key": "project", "Value": "dtn"}
    assert tag in head["Tags"] and tag in volume["Tags"]
    started = [command for _, command in nodes.commands() if "ray start" in command]
    assert len(started) == 1 and "RAY_AUTOSCALER_UTILIZATION_SCORER=spot_first.score" in started[0]


def test_a_security_group_that_was_made_before_is_taken_as_it_is(cloud, head):
    (group,) = cloud.client("ec2").describe_security_groups(GroupNames=["ray-autoscaler-dtn"])["SecurityGroups"]
    assert [rule["IpRanges"] for rule in group["IpPermissions"] if rule["IpRanges"]] == [[{"CidrIp": OFFICE}]]
    assert [each["GroupId"] for each in head["SecurityGroups"]] == [group["GroupId"]]


def test_ray_up_goes_on_after_ecrs_login_has_ended(cloud, nodes, ray, head):
    nodes.forget_logins()
    for _ in range(2):
        before = len(nodes.commands())
        assert "up-to-date" in ray("up", "--yes")
        assert [each["InstanceId"] for each in cloud.instances()] == [head["InstanceId"]]
        assert any("ray stop" in command for _, command in nodes.commands()[before:])


def test_no_restart_leaves_jobs_alone_and_tells_the_autoscaler(nodes, config, ray, head):
    text = config.read_text()
    for most in (6, 8):
        before = len(nodes.commands())
        config.write_text(text.replace("&gpu-nodes 8", f"&gpu-nodes {most}"))
        ray("up", "--yes", "--no-restart")
        later = [command for _, command in nodes.commands()[before:]]
        assert later and not [command for command in later if "ray stop" in command or "ray start" in command]
        sent = json.loads((nodes.folder / head["PublicIpAddress"] / "ray_bootstrap_config.yaml").read_text())
        assert sent["max_workers"] == most


def test_the_heads_address_is_told(ray, head):
    assert ray("get-head-ip").split()[-1] == head["PublicIpAddress"]


# The autoscaler


class Autoscaler:
    """Ray's autoscaler with the file that `ray up` sent to the head. `passed`: seconds that the clock is ahead."""

    def __init__(self, cloud: Cloud, nodes: Nodes, config: Path) -> None:
        self.cloud, self.nodes, self.passed = cloud, nodes, 0.0
        self.gpus, self.idle = 0, 0.0
        self.load = LoadMetrics()
        cluster = MagicMock()  # stands in for Ray's GCS, which is asked to drain nodes before they end
        cluster.drain_nodes.side_effect = lambda ids, *_, **__: list(ids)
        self.own = StandardAutoscaler(str(config), self.load, cluster, update_interval_s=0)
        self.own.node_provider_availability_tracker.timer = lambda: time.time() + self.passed

    def ask(self, gpus: int, idle: float = 0.0) -> None:
        """As with_gpus.py does. Nodes that are not asked for are idle for so many seconds."""
        self.gpus, self.idle = gpus, idle
        self.load.set_resource_requests([{"GPU": 1}] * gpus)

    def update(self) -> None:
        started = self.nodes.started()
        for instance in self.cloud.instances():
            address, kind = instance["PrivateIpAddress"], kind_of(instance)
            if kind == "head" or address in started:
                resources = {"CPU": 8.0, "memory": 2e10} | ({"GPU": 1.0} if kind != "head" else {})
                self.load.update(address, instance["InstanceId"].encode(), resources, resources, self.idle)
        self.own.update()

    def workers(self) -> dict[str, int]:
        """How many there are of each type."""
        return dict(Counter(map(kind_of, self.cloud.instances(ray_node_type="worker"))))

    def update_until(self, true: Callable[[], object], seconds: float) -> None:
        deadline = time.monotonic() + seconds
        while not true():
            assert time.monotonic() < deadline, self.workers()
            self.update()
            time.sleep(1.1)  # Ray notes refusals in whole seconds: two of one second have no order

    def settle(self) -> None:
        """Until every node is up, and the autoscaler wants no other."""
        since = time.monotonic()

        def settled() -> bool:
            nonlocal since
            statuses = {tags(each)["ray-node-status"] for each in self.cloud.instances(ray_node_type="worker")}
            if self.own.pending_launches.value or not statuses <= {"up-to-date"}:
                since = time.monotonic()
            return time.monotonic() - since > 2.0

        self.update_until(settled, 120)

    def launches(self, since: int) -> list[tuple[str, str]]:
        """Type and refusal of each call for instances since there were so many calls; retries count as one."""
        calls = [each for each in self.cloud.calls[since:] if each.action == "RunInstances"]
        asked = [(kind_asked(each.parameters), each.refused) for each in calls]
        return [each for n, each in enumerate(asked) if n == 0 or each != asked[n - 1]]


def tags(instance: dict[str, Any]) -> dict[str, str]:
    return {tag["Key"]: tag["Value"] for tag in instance["Tags"]}


def kind_of(instance: dict[str, Any]) -> str:
    kind = tags(instance)["ray-user-node-type"]
    assert (instance.get("InstanceLifecycle") == "spot") == ("spot" in kind)
    return kind


def asked_tags(parameters: dict[str, str], resource: str) -> dict[str, str]:
    """The tags for a type of resource in the parameters of RunInstances, CreateSecurityGroup and their like."""
    (n,) = (
        found[1]
        for name, value in parameters.items()
        if (found := re.fullmatch(r"TagSpecification\.(\d+)\.ResourceType", name)) and value == resource
    )
    key = re.compile(rf"TagSpecification\.{n}\.Tag\.\d+\.Key")
    return {
        value: parameters[name.removesuffix("Key") + "Value"] for name, value in parameters.items() if key.match(name)
    }


def kind_asked(parameters: dict[str, str]) -> str:
    return asked_tags(parameters, "instance")["ray-user-node-type"]


@pytest.fixture
def autoscaler(cloud, nodes, head, monkeypatch, tmp_path) -> Iterator[Autoscaler]:
    """It has no node but the head at the beginning, nor at the end."""
    home = tmp_path / "home/ray"
    sent = nodes.folder / head["PublicIpAddress"]
    for name in ("auth_token", "ray_bootstrap_key.pem", "ray_bootstrap_config.yaml"):
        place = home / ".ray" / name if name == "auth_token" else home / name
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text((sent / name).read_text().replace("/home/ray/.ray", str(home / ".ray")))
    for name, value in cloud.environment(HEAD).items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("PATH", nodes.bin, prepend=":")
    starts = json.loads((home / "ray_bootstrap_config.yaml").read_text())["head_start_ray_commands"]
    (scorer,) = re.findall(r"RAY_AUTOSCALER_UTILIZATION_SCORER=(\S+)", " ".join(starts))
    monkeypatch.setenv("RAY_AUTOSCALER_UTILIZATION_SCORER", scorer)
    monkeypatch.syspath_prepend(CLUSTER)
    monkeypatch.setattr(cloud, "refuses", lambda action, parameters: "")
    for cache in (resource_cache, client_cache):
        cache.cache_clear()  # they keep credentials
    yield (autoscaler := Autoscaler(cloud, nodes, home / "ray_bootstrap_config.yaml"))
    autoscaler.ask(0, idle=10_000)
    autoscaler.update_until(lambda: not autoscaler.workers(), 60)


def test_gpus_come_as_spot_nodes_and_go_when_idle(cloud, autoscaler):
    for gpus, expected in [(1, 1), (4, 4), (12, 8)]:
        autoscaler.ask(gpus)
        autoscaler.settle()
        assert autoscaler.workers() == {"gpu-spot": expected}
    asked = [each.parameters for each in cloud.calls if each.action == "RunInstances" and each.key == HEAD]
    assert {each["InstanceType"] for each in asked} == {"g6.2xlarge"}
    assert {each["IamInstanceProfile.Name"] for each in asked} == {"worker"}
    autoscaler.ask(0, idle=599)
    autoscaler.settle()
    assert autoscaler.workers() == {"gpu-spot": 8}
    autoscaler.ask(0, idle=601)
    autoscaler.update_until(lambda: not autoscaler.workers(), 30)


def test_another_spot_type_comes_where_there_is_none_of_the_first(cloud, autoscaler):
    first = SPOT | {"InstanceType": "g6.2xlarge"}
    cloud.refuses = lambda action, parameters: NO_CAPACITY if first.items() <= parameters.items() else ""
    autoscaler.ask(2)
    autoscaler.settle()
    assert autoscaler.workers() == {"gpu-other-spot": 2}


def test_nodes_on_demand_come_while_there_is_no_spot_and_spot_after_half_an_hour(cloud, autoscaler):
    cloud.refuses = lambda action, parameters: NO_CAPACITY if SPOT.items() <= parameters.items() else ""
    before = len(cloud.calls)
    autoscaler.ask(2)
    autoscaler.update_until(lambda: autoscaler.workers() == {"gpu-on-demand": 2}, 60)
    calls = [each for each in cloud.calls[before:] if each.action == "RunInstances"]
    assert calls[-1].time - calls[0].time < 10 and not calls[-1].refused
    autoscaler.settle()
    autoscaler.ask(3)
    autoscaler.settle()
    assert autoscaler.workers() == {"gpu-on-demand": 3}

    cloud.refuses = lambda action, parameters: ""
    autoscaler.passed = HALF_AN_HOUR
    autoscaler.ask(4)
    autoscaler.settle()
    assert autoscaler.workers() == {"gpu-on-demand": 3, "gpu-spot": 1}


def test_all_types_are_asked_in_turns_where_all_were_refused(cloud, autoscaler):
    cloud.refuses = lambda action, parameters: NO_CAPACITY if action == "RunInstances" else ""
    before = len(cloud.calls)
    autoscaler.ask(1)
    autoscaler.update_until(lambda: len(autoscaler.launches(before)) >= 7, 60)
    asked = [kind for kind, refused in autoscaler.launches(before) if refused]
    assert asked[:6] == ["gpu-spot", "gpu-other-spot", "gpu-on-demand"] * 2

    cloud.refuses = lambda action, parameters: NO_CAPACITY if SPOT.items() <= parameters.items() else ""
    autoscaler.update_until(lambda: autoscaler.workers() == {"gpu-on-demand": 1}, 30)


# Rights


def allows(policy: dict[str, Any], action: str, resource: str, context: dict[str, str]) -> bool:
    """Whether IAM grants an action, as far as the policies of cluster/iam go: Allow, with StringEquals alone."""

    def listed(value: str | list[str]) -> list[str]:
        return [value] if isinstance(value, str) else value

    return any(
        any(fnmatchcase(action, each) for each in listed(statement["Action"]))
        and any(fnmatchcase(resource, each) for each in listed(statement["Resource"]))
        and all(
            context.get(name) in listed(values)
            for name, values in statement.get("Condition", {}).get("StringEquals", {}).items()
        )
        for statement in policy["Statement"]
    )


def needed(action: str, parameters: dict[str, str]) -> Iterator[tuple[str, str, dict[str, str]]]:
    """Action, resource and context of each right that a call takes (AWS's Service Authorization Reference)."""

    def arn(kind: str, account: str = ACCOUNT) -> str:
        return f"arn:aws:ec2:{REGION}:{account}:{kind}/example"

    if action == "RunInstances":
        own = asked_tags(parameters, "instance")
        yield "ec2:RunInstances", arn("instance"), {f"aws:RequestTag/{name}": value for name, value in own.items()}
        yield "ec2:RunInstances", arn("image", ""), {}
        kinds = ["subnet", "security-group", "key-pair", "network-interface", "volume"]
        for kind in kinds + ["spot-instances-request"] * (SPOT.items() <= parameters.items()):
            yield "ec2:RunInstances", arn(kind), {}
        for kind in ("instance", "volume"):
            yield "ec2:CreateTags", arn(kind), {"ec2:CreateAction": "RunInstances"}
        role = parameters["IamInstanceProfile.Name"]  # of the same name, above
        passed = {"iam:PassedToService": "ec2.amazonaws.com"}
        yield "iam:PassRole", f"arn:aws:iam::{ACCOUNT}:role/{role}", passed
    elif action in ("CreateTags", "TerminateInstances"):
        yield f"ec2:{action}", arn("instance"), {"ec2:ResourceTag/ray-cluster-name": "dtn"}
    elif action == "CreateKeyPair":
        yield "ec2:CreateKeyPair", f"arn:aws:ec2:{REGION}:{ACCOUNT}:key-pair/{parameters['KeyName']}", {}
    elif action == "CreateSecurityGroup":
        yield "ec2:CreateSecurityGroup", arn("vpc"), {}
        yield "ec2:CreateSecurityGroup", arn("security-group"), {}
    elif action == "AuthorizeSecurityGroupIngress":
        yield "ec2:AuthorizeSecurityGroupIngress", arn("security-group"), {}
    else:
        yield f"ec2:{action}", "*", {}


def policy(name: str) -> dict[str, Any]:
    text = (CLUSTER / f"iam/{name}.json").read_text()
    for placeholder, value in {"ACCOUNT": ACCOUNT, "WORKER_ROLE": "worker", "HEAD_ROLE": "head"}.items():
        text = text.replace(placeholder, value)
    return json.loads(text)


def test_the_cluster_ends_and_its_policies_allowed_all_that_it_did(cloud, ray, head, autoscaler):
    """The last test: of all calls before it, too."""
    autoscaler.ask(1)
    autoscaler.settle()
    ray("down", "--yes")
    assert not cloud.instances()
    for name, key in [("operator", OPERATOR), ("head", HEAD)]:
        calls = [each for each in cloud.calls if each.key == key and not each.refused]
        assert {"RunInstances", "TerminateInstances", "CreateTags"} <= {each.action for each in calls}
        rights = [right for each in calls for right in needed(each.action, each.parameters)]
        assert not [right for right in rights if not allows(policy(name), *right)]
        used = {action for action, _, _ in rights}
        granted = {
            action
            for statement in policy(name)["Statement"]
            for action in ([statement["Action"]] if isinstance(statement["Action"], str) else statement["Action"])
        }
        assert used <= granted
        if name == "head":
            assert granted == used, "no right that nobody uses"


@pytest.mark.parametrize("name", ["operator", "head", "node"])
def test_iam_takes_the_policies(cloud, name):
    cloud.client("iam").create_policy(PolicyName=name, PolicyDocument=json.dumps(policy(name)))


@pytest.mark.parametrize(
    ("right", "allowed"),
    [
        (("ec2:TerminateInstances", "instance/i-1", {"ec2:ResourceTag/ray-cluster-name": "another"}), False),
        (("ec2:TerminateInstances", "instance/i-1", {}), False),
        (("ec2:RunInstances", "instance/*", {}), False),
        (("ec2:CreateTags", "instance/i-1", {}), False),
        (("ec2:TerminateInstances", "instance/i-1", {"ec2:ResourceTag/ray-cluster-name": "dtn"}), True),
    ],
    ids=str,
)
def test_the_head_may_do_nothing_to_other_instances(right, allowed):
    action, resource, context = right
    assert allows(policy("head"), action, f"arn:aws:ec2:{REGION}:{ACCOUNT}:{resource}", context) == allowed
    assert not allows(policy("head"), "iam:PassRole", f"arn:aws:iam::{ACCOUNT}:role/admin", {})
