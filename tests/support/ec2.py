"""A stand-in for EC2, IAM and ECR: moto behind a log of all calls, with refusals as tests want them.

Nodes have no machines. Stubs of ssh and rsync, which `ray up` and the autoscaler find first on PATH, run this file: it
keeps of each node what Docker would (log-in, image, container) and the files that were sent.
"""

import io
import json
import os
import re
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl

if __name__ != "__main__":  # the stubs are called hundreds of times and need neither
    import boto3
    import requests
    from moto import settings
    from moto.core import DEFAULT_ACCOUNT_ID as ACCOUNT
    from moto.ec2 import ec2_backends
    from moto.ec2.models.instance_types import INSTANCE_TYPES
    from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
    from werkzeug.serving import make_server

REGION = "us-west-2"
TYPES = ("m7i.2xlarge", "g5.2xlarge", "g6.2xlarge", "g6.12xlarge", "g5g.2xlarge")  # of moto's thousand, which take 15 s
SPOT = {"InstanceMarketOptions.MarketType": "spot"}
NO_CAPACITY = "InsufficientInstanceCapacity"


@dataclass(frozen=True)
class Call:
    """A call of AWS's query protocol. `key`: the access key ID that signed it."""

    key: str
    service: str
    action: str
    parameters: dict[str, str]
    refused: str
    time: float


@dataclass
class Cloud:
    """`refuses`: returns for an action and its parameters an error code, or '' to let moto answer.

    `quotas`: by their codes, which moto does not know.
    """

    endpoint: str = ""
    calls: list[Call] = field(default_factory=list)
    refuses: Callable[[str, dict[str, str]], str] = lambda action, parameters: ""
    quotas: dict[str, float] = field(default_factory=dict)

    def __enter__(self) -> "Cloud":
        settings.ENABLE_AMI_VALIDATION = settings.ENABLE_KEYPAIR_VALIDATION = True
        settings.EC2_ENABLE_INSTANCE_TYPE_VALIDATION = True
        os.environ["MOTO_EC2_LOAD_DEFAULT_AMIS"] = "false"  # hundreds, which nobody asks for
        for name in INSTANCE_TYPES.keys() - set(TYPES):
            del INSTANCE_TYPES[name]
        self._moto = DomainDispatcherApplication(create_backend_app)
        self._server = make_server("127.0.0.1", 0, self._answer, threaded=True)
        self.endpoint = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        requests.post(f"{self.endpoint}/moto-api/reset", timeout=60)  # moto's state is that of the whole process
        self.calls.clear()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    def environment(self, key: str) -> dict[str, str]:
        """The variables with which a process uses this server, with an access key."""
        return {
            "AWS_ENDPOINT_URL": self.endpoint,
            "AWS_ACCESS_KEY_ID": key,
            "AWS_SECRET_ACCESS_KEY": "not-a-secret",
            "AWS_EC2_METADATA_DISABLED": "true",
            "NO_PROXY": "127.0.0.1",
        }

    def client(self, service: str, key: str = "test") -> Any:
        keys = {"aws_access_key_id": key, "aws_secret_access_key": "not-a-secret"}
        return boto3.client(service, region_name=REGION, endpoint_url=self.endpoint, **keys)

    def add_role(self, name: str) -> None:
        """A role, and an instance profile of the same name."""
        iam = self.client("iam")
        iam.create_role(RoleName=name, AssumeRolePolicyDocument="{}")
        iam.create_instance_profile(InstanceProfileName=name)
        iam.add_role_to_instance_profile(InstanceProfileName=name, RoleName=name)

    def add_ami(self, root: str = "/dev/sda1", architecture: str = "x86_64") -> str:
        """A machine image of 15 GB."""
        ami = self.client("ec2").register_image(Name=f"ami-{len(self.calls)}")["ImageId"]
        own = ec2_backends[ACCOUNT][REGION].amis[ami]  # moto ignores what register_image is told
        own.root_device_name, own.architecture = root, architecture
        return ami

    def add_security_group(self, name: str, ssh_from: str, key: str = "test") -> str:
        """A group as docs/how-to/cluster.md makes it: all traffic within, and SSH from some addresses."""
        ec2 = self.client("ec2", key)
        (vpc,) = (each["VpcId"] for each in ec2.describe_vpcs()["Vpcs"])
        group = ec2.create_security_group(GroupName=name, Description="Ray", VpcId=vpc)["GroupId"]
        within = {"IpProtocol": "-1", "UserIdGroupPairs": [{"GroupId": group}]}
        ssh = {"IpProtocol": "tcp", "FromPort": 22, "ToPort": 22, "IpRanges": [{"CidrIp": ssh_from}]}
        ec2.authorize_security_group_ingress(GroupId=group, IpPermissions=[within, ssh])
        return group

    def instances(self, **tags: str) -> list[dict[str, Any]]:
        """The running instances with these tags (`ray_node_type` for ray-node-type)."""
        filters = [{"Name": "instance-state-name", "Values": ["pending", "running"]}]
        filters += [{"Name": f"tag:{name.replace('_', '-')}", "Values": [value]} for name, value in tags.items()]
        pages = self.client("ec2").get_paginator("describe_instances").paginate(Filters=filters)
        return [each for page in pages for held in page["Reservations"] for each in held["Instances"]]

    def _answer(self, environ: dict[str, Any], start: Callable[..., Any]) -> Any:
        body = environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
        # moto launches MinCount instances; EC2, where it can, MaxCount.
        if b"Action=RunInstances" in body:
            body = re.sub(rb"MinCount=\d+", b"MinCount=" + re.findall(rb"MaxCount=(\d+)", body)[0], body)
        environ |= {"wsgi.input": io.BytesIO(body), "CONTENT_LENGTH": str(len(body))}
        parameters = dict(parse_qsl(body.decode(errors="replace")))
        action = parameters.pop("Action", environ.get("HTTP_X_AMZ_TARGET", "").rpartition(".")[2])
        signed = re.search(r"Credential=([^/]*)/\d+/[^/]+/([^/]+)/", environ.get("HTTP_AUTHORIZATION", ""))
        key, service = signed.groups() if signed else ("", "")
        code = self.refuses(action, parameters)
        self.calls.append(Call(key, service, action, parameters, code, time.monotonic()))
        if action == "GetServiceQuota" and (quota := json.loads(body)["QuotaCode"]) in self.quotas:
            start("200 OK", [("Content-Type", "application/x-amz-json-1.1")])
            return [json.dumps({"Quota": {"QuotaCode": quota, "Value": self.quotas[quota]}}).encode()]
        if not code:
            return self._moto(environ, start)
        start("400 BAD REQUEST", [("Content-Type", "text/xml")])
        error = f"<Code>{code}</Code><Message>refused by the test</Message>"
        return [f"<Response><Errors><Error>{error}</Error></Errors><RequestID>0</RequestID></Response>".encode()]


@dataclass(frozen=True)
class Nodes:
    """Records of the stubs of ssh and rsync; `folder` holds the stubs and one folder per node, named by its address."""

    folder: Path

    @property
    def bin(self) -> str:
        """The folder for PATH."""
        return str(self.folder / "bin")

    def install(self) -> None:
        for name in ("ssh", "rsync"):
            stub = self.folder / "bin" / name
            stub.parent.mkdir(exist_ok=True)
            stub.write_text(f'#!/bin/sh\nexec {sys.executable} -IS {__file__} {self.folder} {name} "$@"\n')
            stub.chmod(0o755)

    def commands(self) -> list[tuple[str, str]]:
        """Address and command, in order."""
        return [tuple(json.loads(line)) for line in (self.folder / "commands").read_text().splitlines()]

    def forget_logins(self) -> None:
        """Twelve hours pass."""
        for login in self.folder.glob("*/login"):
            login.unlink()

    def started(self) -> set[str]:
        """The addresses of nodes that Ray was started on."""
        return {path.parent.name for path in self.folder.glob("*/ray")}


def _docker(node: Path, command: str) -> str:
    """Simulates the effect of a Docker command on a node's files; returns its output."""
    image = node / "image"
    if "docker login" in command:
        (node / "login").touch()
    if pull := re.search(r"docker pull (\S*[^\s)'\"])", command):
        there = image.exists() and image.read_text() == pull[1]
        if not (there and f"docker image inspect {pull[1]}" in command):
            if not (node / "login").exists():
                sys.exit(f"Error response from daemon: Head https://{pull[1]}: no basic auth credentials")
            image.write_text(pull[1])
    if run := re.search(r"docker run .* (\S+) bash\b", command):
        if not image.exists() or image.read_text() != run[1]:
            sys.exit(f"Unable to find image '{run[1]}' locally")
        mounts = [{"Destination": mount} for mount in re.findall(r"-v \S+?:(\S+)", command)]
        (node / "container").write_text(json.dumps(mounts))
    if "ray start" in command:
        (node / "ray").touch()
    container = node / "container"
    answers = {
        "command -v docker": "/usr/bin/docker",
        ".Config.Env": '["HOME=/home/ray"]',
        "printenv HOME": "/home/ray",
        "/proc/meminfo": "MemAvailable: 32000000 kB",
        ".Runtimes": "map[runc:{}]",
        ".Config.Image": image.read_text() if image.exists() else "",
        ".Mounts": container.read_text() if container.exists() else "",
        ".State.Running": "true" if container.exists() else "",
    }
    return next((answer for question, answer in answers.items() if question in command), "")


def _stub(folder: Path, name: str, arguments: list[str]) -> None:
    at = next(n for n, each in enumerate(arguments) if re.match(r"\w+@[\w.-]+(:|$)", each))
    address, _, path = arguments[at].partition("@")[2].partition(":")
    node = folder / address
    node.mkdir(exist_ok=True)
    line = json.dumps([address, " ".join([name, *arguments] if name == "rsync" else arguments[at + 1 :])])
    with (folder / "commands").open("a") as log:
        log.write(line + "\n")
    if name == "rsync":
        (node / Path(path).name).write_bytes(Path(arguments[at - 1]).read_bytes())
    else:
        print(_docker(node, " ".join(arguments[at + 1 :])))


if __name__ == "__main__":
    os.umask(0o077)
    _stub(Path(sys.argv[1]), sys.argv[2], sys.argv[3:])
