"""cluster/check.py: what it tells of a file, of this machine and, against a stand-in for AWS (ec2.py), an account."""

import json
import os
import re
import runpy
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from clusters import ROOT
from ec2 import ACCOUNT, REGION, Cloud

CLUSTER = ROOT / "cluster"
REGISTRY = f"{ACCOUNT}.dkr.ecr.{REGION}.amazonaws.com"
GROUP = "ray-autoscaler-dtn"
FILLED = {"REGISTRY": REGISTRY, "HEAD_INSTANCE_PROFILE": "head", "WORKER_INSTANCE_PROFILE": "worker"}


@pytest.fixture(scope="module")
def cloud() -> Iterator[Cloud]:
    """An account in which nothing is missing."""
    with Cloud() as cloud:
        for role in ("head", "worker"):
            cloud.add_role(role)
        cloud.client("iam").create_instance_profile(InstanceProfileName="empty")
        ecr = cloud.client("ecr")
        ecr.create_repository(repositoryName="dtn-ray")
        kind = "application/vnd.docker.distribution.manifest.v2+json"
        manifest = json.dumps({"schemaVersion": 2, "mediaType": kind, "config": {"size": 1}, "layers": []})
        ecr.put_image(repositoryName="dtn-ray", imageManifest=manifest, imageTag="0.1.0")
        cloud.add_security_group(GROUP, "203.0.113.0/24")
        yield cloud


@pytest.fixture(autouse=True)
def quotas(cloud) -> None:
    """Of vCPUs: enough for eight GPU nodes of either market, and for the head."""
    cloud.quotas = {"L-3819A6DF": 64, "L-DB2E81BA": 64, "L-1216C47A": 8}


@pytest.fixture(scope="module")
def amis(cloud) -> dict[str, str]:
    """Machine images: a good one, and some that do not fit."""
    return {
        "good": cloud.add_ami(),
        "amazon linux": cloud.add_ami(root="/dev/xvda"),
        "arm": cloud.add_ami(architecture="arm64"),
    }


@pytest.fixture
def home(tmp_path) -> Path:
    """With a token."""
    token = tmp_path / ".ray/auth_token"
    token.parent.mkdir()
    token.write_text("ab" * 32)
    token.chmod(0o600)
    return tmp_path


@pytest.fixture
def check(home, monkeypatch, capsys) -> Callable[..., tuple[int, str, list[str]]]:
    """Runs check.py on gpu.yaml after some replacements; gives exit code, stdout and the lines of stderr.

    `cloud` None: no credentials.
    """
    program = runpy.run_path(str(CLUSTER / "check.py"))
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.chdir(home)
    for tool in ("ssh", "rsync"):  # which this machine may lack
        (home / tool).touch(0o755)
    monkeypatch.setenv("PATH", str(home), prepend=":")

    def run(changes: dict[str, str], *options: str, cloud: Cloud | None = None) -> tuple[int, str, list[str]]:
        text = (CLUSTER / "gpu.yaml").read_text()
        for before, after in changes.items():
            assert before in text, before
            text = text.replace(before, after)
        (home / "gpu.yaml").write_text(text)
        for name, value in (cloud.environment("test") if cloud else {}).items():
            monkeypatch.setenv(name, value)
        code = program["main"](["gpu.yaml", *options])
        out, err = capsys.readouterr()
        return code, out, err.splitlines()

    return run


# The file and this machine


def test_each_placeholder_of_the_shipped_file_is_one_line(check):
    code, out, lines = check({}, "--offline")
    assert code == 2 and not out
    found = [
        re.match(r"error: gpu.yaml: lines? ([\d, ]+): (\w+) is a placeholder to replace: \w+", line) for line in lines
    ]
    assert all(found) and [match[2] for match in found] == ["REGISTRY", "AMI_ID", *list(FILLED)[1:]]
    shipped = (CLUSTER / "gpu.yaml").read_text().splitlines()
    assert all(match[2] in shipped[int(line) - 1] for match in found for line in match[1].split(", "))


GOOD = FILLED | {"AMI_ID": "ami-0123456789abcdef0"}


def test_a_filled_in_file_is_fine(check):
    assert check(GOOD, "--offline") == (0, "no mistakes found in gpu.yaml\n", [])


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"head_node_type: head": "head_node_type: haed"}, "head_node_type: haed is not one of available_node_types"),
        ({"idle_timeout_minutes: 10": "idle_timeout_minutes: soon"}, "idle_timeout_minutes: 'soon' is not"),
        ({"idle_timeout_minutes": "idle_timeout"}, "'idle_timeout' was unexpected"),
        (
            {"    max_workers: *gpu-nodes\n    node_config": "    workers: 1\n    node_config"},
            "'workers' was unexpected",
        ),
        ({"max_workers: *gpu-nodes\nidle": "max_workers: many\nidle"}, "max_workers: 'many' is not of type 'integer'"),
        ({"available_node_types:": "node_types:"}, "available_node_types is missing"),
        ({"  type: aws": "  type: [aws"}, "is not YAML"),
        ({"file_mounts:\n": "file_mounts: 3\nmounts:\n"}, "file_mounts: 3 is not of type 'object'"),
        ({"  region: *region\n": ""}, "provider.region is missing"),
        ({"      InstanceType: *head\n": ""}, "head: InstanceType is missing"),
        ({"us-west-2a ": "eu-west-1a "}, "zone eu-west-1a is not in region us-west-2"),
        (
            {"--env=AWS_DEFAULT_REGION=us-west-2": "--env=AWS_DEFAULT_REGION=us-east-1"},
            "region-in-containers is us-east",
        ),
        (
            {"--region us-west-2": "--region us-east-1"},
            "login is for region us-east-1, but the registry is in us-west-2",
        ),
        (
            {f"image: &image {REGISTRY}": "image: &image ghcr.io"},
            f"login goes to {REGISTRY}, but the image is in ghcr.io",
        ),
        ({"ami-0123456789abcdef0": "ubuntu-24.04"}, "ImageId 'ubuntu-24.04' is not the ID of an AMI"),
        ({"MetadataOptions:": "MetaDataOptions:"}, 'Unknown parameter in input: "MetaDataOptions"'),
        ({"&disk 200": "&disk large"}, "Invalid type for parameter BlockDeviceMappings[0].Ebs.VolumeSize"),
        (
            {"  ssh_user: ubuntu": "  ssh_user: ubuntu\n  ssh_private_key: ~/no.pem"},
            "ssh_private_key: ~/no.pem does not exist",
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_is_wrong_in_the_file_is_told(check, changes, line):
    code, _, lines = check(GOOD | changes, "--offline")
    assert code == 2 and all(each.startswith("error: gpu.yaml: ") for each in lines)
    assert any(line in each for each in lines), lines


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("", "is empty, or does not hold named settings"),
        ("- a", "is empty, or does not hold named settings"),
        ("\x00", "is not YAML"),
        ("cluster_name: dtn", "provider is missing"),
        ("{provider: aws, available_node_types: 3, head_node_type: head}", "available_node_types: 3 is not of type"),
        (None, "cannot be read"),
    ],
)
def test_what_is_no_cluster_file_is_told(home, text, line):
    program = runpy.run_path(str(CLUSTER / "check.py"))
    path = home / "odd.yaml"
    if text is not None:
        path.write_text(text)
    lines = list(program["check"](path, offline=True))
    assert any(line in each for each in lines), lines


@pytest.mark.parametrize(
    ("content", "line"),
    [(None, "~/.ray/auth_token, for /home/ray/.ray/auth_token, does not exist: (umask"), ("\n", "auth_token is empty")],
)
def test_a_token_that_is_missing_is_told(check, home, content, line):
    token = home / ".ray/auth_token"
    token.write_text(content) if content else token.unlink()
    code, _, lines = check(GOOD, "--offline")
    assert code == 2 and len(lines) == 1 and line in lines[0]


def test_a_token_that_others_can_read_is_a_warning(check, home):
    (home / ".ray/auth_token").chmod(0o644)
    code, _, lines = check(GOOD, "--offline")
    assert code == 0 and lines == [
        "warning: gpu.yaml: ~/.ray/auth_token can be read by others on this machine: chmod 600 ~/.ray/auth_token"
    ]


def test_a_machine_without_ssh_and_rsync_is_told(check, monkeypatch):
    monkeypatch.setenv("PATH", "/nowhere")
    code, _, lines = check(GOOD, "--offline")
    assert code == 2 and [line.split()[2] for line in lines] == ["ssh", "rsync"]


def test_other_files_are_checked_for_placeholders():
    """All that one `sed` of the guide leaves, too: it fills in every line."""
    paths = [path for path in sorted(CLUSTER.glob("*/*")) if path.parent.name in ("kubernetes", "schedule", "iam")]
    done = subprocess.run([sys.executable, CLUSTER / "check.py", *paths], capture_output=True, text=True, timeout=60)
    assert done.returncode == 2 and "Traceback" not in done.stderr
    lines = done.stderr.splitlines()
    assert all(re.match(r"error: \S+: lines? [\d, ]+: \S+ is a placeholder to replace: ", line) for line in lines)
    told = {re.match(r"error: (\S+): ", line)[1] for line in lines}
    without = {"nightly.sh", "dtn-convert.timer"}
    assert told == {str(path) for path in paths if path.name not in without}


def test_the_guides_sed_leaves_no_placeholder_that_it_fills(tmp_path):
    text = (ROOT / "docs/how-to/cluster.md").read_text()
    (line,) = re.findall(r"^sed -i(?:.*\\\n)*.*", text, re.MULTILINE)
    for path in sorted(CLUSTER.rglob("*")):
        if path.is_file() and "__pycache__" not in path.parts:
            copy = tmp_path / path.relative_to(ROOT)
            copy.parent.mkdir(parents=True, exist_ok=True)
            copy.write_bytes(path.read_bytes())
    subprocess.run(line, shell=True, cwd=tmp_path, check=True, timeout=60)
    filled = re.findall(r"s\|(\w+)\|", line)
    assert {"REGISTRY", "BUCKET", "ACCOUNT"} <= set(filled)
    named = re.compile(rf"\b({'|'.join(filled)})\b")
    for folder in ("kubernetes", "schedule", "iam"):
        for path in sorted((tmp_path / "cluster" / folder).iterdir()):
            assert not named.search(path.read_text()), path
    assert not named.search((tmp_path / "cluster/gpu.yaml").read_text())


# The account


def test_an_account_that_is_ready_passes(cloud, amis, check):
    calls = len(cloud.calls)
    assert check(FILLED | {"AMI_ID": amis["good"]}, cloud=cloud) == (0, "no mistakes found in gpu.yaml\n", [])
    asked = {f"{call.service}:{call.action}" for call in cloud.calls[calls:]} - {"sts:GetCallerIdentity"}
    seen, *others = json.loads((CLUSTER / "iam/operator.json").read_text())["Statement"]
    assert asked - set(seen["Action"]) == {"ec2:RunInstances"}, "which is a dry run"
    assert "ec2:RunInstances" in [statement["Action"] for statement in others]
    assert not cloud.instances(), "nothing was launched"


@pytest.mark.parametrize(
    ("ami", "changes", "line"),
    [
        ("good", {"us-west-2a ": "us-west-2x "}, "zone us-west-2x is not there"),
        ("good", {"&head-role head": "&head-role nobody"}, "instance profiles: .*nobody"),
        ("good", {"&head-role head": "&head-role empty"}, "instance profile empty has no role"),
        ("good", {"dtn-ray:0.1.0": "dtn-ray:0.2.0"}, "image: .*0.2.0"),
        ("good", {"dtn-ray:0.1.0": "dtn:0.1.0"}, "image: .*'dtn'"),
        ("good", {"&gpu-node g6.2xlarge": "&gpu-node g6.3xlarge"}, "instance types: .*g6.3xlarge"),
        (
            "good",
            {"&gpu-node g6.2xlarge": "&gpu-node g6.12xlarge"},
            "gpu-spot: resources say 1 GPU, but g6.12xlarge has 4",
        ),
        ("good", {"&head-resources {CPU: 8}": "&head-resources {CPU: 16}"}, "head: resources say 16 CPU"),
        ("amazon linux", {}, "head: the AMI's disk is /dev/xvda, but BlockDeviceMappings name /dev/sda1"),
        ("arm", {}, "head: ami-\\w+ is for arm64, m7i.2xlarge is x86_64"),
        ("good", {"&disk 200": "&disk 10"}, "head: the AMI needs a disk of 15 GB"),
        ("none", {}, "AMI: .*ami-0123456789abcdef0"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_the_account_lacks_is_told(cloud, amis, check, ami, changes, line):
    ami = amis.get(ami, "ami-0123456789abcdef0")
    code, _, lines = check(FILLED | {"AMI_ID": ami} | changes, cloud=cloud)
    assert code == 2 and any(re.match(f"error: gpu.yaml: {line}", each) for each in lines), lines
    assert not [each for each in lines if "Traceback" in each]


def test_small_quotas_are_told(cloud, amis, check):
    cloud.quotas = {"L-3819A6DF": 0, "L-DB2E81BA": 16, "L-1216C47A": 4}
    code, _, lines = check(FILLED | {"AMI_ID": amis["good"]}, cloud=cloud)
    assert code == 2
    expected = [
        "error: gpu.yaml: head: the account's quota L-1216C47A is 4 vCPUs (on demand), enough for 0 of 1 m7i.2xlarge",
        "warning: gpu.yaml: gpu-spot: the account's quota L-3819A6DF is 0 vCPUs (spot), enough for 0 of 8 g6.2xlarge",
        "warning: gpu.yaml: gpu-on-demand: the account's quota L-DB2E81BA is 16 vCPUs (on demand), enough for 2 of 8",
    ]
    assert all(any(line.startswith(each) for line in lines) for each in expected), lines


def test_who_may_not_start_a_head_is_told(cloud, amis, check, monkeypatch):
    monkeypatch.setattr(
        cloud, "refuses", lambda action, parameters: "UnauthorizedOperation" if action == "RunInstances" else ""
    )
    code, _, lines = check(FILLED | {"AMI_ID": amis["good"]}, cloud=cloud)
    assert code == 2 and any(line.startswith("error: gpu.yaml: your permissions: ") for line in lines)


def test_what_may_not_be_asked_is_a_warning(cloud, amis, check, monkeypatch):
    monkeypatch.setattr(
        cloud, "refuses", lambda action, parameters: "UnauthorizedOperation" if action == "DescribeSubnets" else ""
    )
    code, _, lines = check(FILLED | {"AMI_ID": amis["good"]}, cloud=cloud)
    assert code == 0 and any(line.startswith("warning: gpu.yaml: subnets: not checked") for line in lines)


@pytest.mark.parametrize("world", [True, False], ids=["open", "none"])
def test_a_port_that_is_open_to_the_world_is_a_warning(cloud, amis, check, world):
    name = f"another-{world}"
    if world:
        cloud.add_security_group(f"ray-autoscaler-{name}", "0.0.0.0/0")
    changes = {"cluster_name: dtn": f"cluster_name: {name}", "AMI_ID": amis["good"]}
    code, _, lines = check(FILLED | changes, cloud=cloud)
    told = "port 22 is open to the whole internet" if world else "Ray will create the security group"
    assert code == 0 and any(line.startswith("warning") and told in line for line in lines)


@pytest.mark.parametrize(
    "environment",
    [{}, {"AWS_ACCESS_KEY_ID": "x", "AWS_SECRET_ACCESS_KEY": "x", "AWS_ENDPOINT_URL": "http://127.0.0.1:9"}],
    ids=["no credentials", "no AWS"],
)
def test_an_aws_that_does_not_let_us_in_is_one_line(check, monkeypatch, environment):
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    code, _, lines = check(GOOD)
    assert (
        code == 2
        and len(lines) == 1
        and "AWS rejects the credentials of this shell" in lines[0]
        and "--offline" in lines[0]
    )
