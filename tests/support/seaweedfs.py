"""SeaweedFS, a real S3 server, which a test may kill and start again."""

import json
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

S3_USERS = {
    "tester": ["Admin", "Read", "Write", "List", "Tagging"],
    "writer": ["Read", "Write", "List"],  # nor may it make buckets, which for tester a write does
    "reader": ["Read", "List"],
    "nobody": [],
    "anonymous": ["Read:public", "List:public"],  # whoever signs nothing
}


class SeaweedFS:
    """The server with its own folder and ports, for the duration of a `with`."""

    def __init__(self, folder: Path, *options: str) -> None:
        self.folder = folder
        identities = [
            {"name": name, "actions": actions}
            | ({} if name == "anonymous" else {"credentials": [{"accessKey": name, "secretKey": "not-a-secret"}]})
            for name, actions in S3_USERS.items()
        ]
        (folder / "s3.json").write_text(json.dumps({"identities": identities}))
        free = free_ports(8)  # at once, or one could be given twice
        ports = dict(zip(("master", "volume", "filer", "s3"), free[:4], strict=True))
        self.command = [
            str(Path(sys.executable).with_name("weed")),
            "server",
            f"-dir={folder}",
            "-ip=127.0.0.1",
            "-ip.bind=127.0.0.1",
            "-master.telemetry=false",
            "-master.volumeSizeLimitMB=256",
            "-volume.max=2000",  # each bucket takes seven
            "-filer",
            "-s3",
            # Their ports are always the same: a second server on the machine would not start.
            "-s3.port.iceberg=0",
            "-s3.port.lance=0",
            f"-s3.config={folder / 's3.json'}",
            *(f"-{name}.port={port}" for name, port in ports.items()),
            *(f"-{name}.port.grpc={port}" for name, port in zip(ports, free[4:], strict=True)),
            *options,
        ]
        self.environment = {
            "AWS_ENDPOINT_URL": f"http://127.0.0.1:{ports['s3']}",
            "AWS_ACCESS_KEY_ID": "tester",
            "AWS_SECRET_ACCESS_KEY": "not-a-secret",
            "AWS_REGION": "us-east-1",
            "AWS_DEFAULT_REGION": "us-east-1",
        }
        """The standard AWS variables for this server, for a user with all permissions."""

    def __enter__(self) -> "SeaweedFS":
        self.start()
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline and self.server.poll() is None:
            try:
                client(self.environment).create_bucket(Bucket="ready")
                return self
            except (BotoCoreError, ClientError):
                time.sleep(0.5)
        self.kill()
        raise RuntimeError(f"the S3 server did not start:\n{(self.folder / 'log').read_text()[-2000:]}")

    def __exit__(self, *_: object) -> None:
        self.kill()  # it would take its time to end

    def start(self) -> None:
        with (self.folder / "log").open("a") as log:
            self.server = subprocess.Popen(self.command, stdout=log, stderr=log)

    def kill(self) -> None:
        self.server.kill()
        self.server.wait()


def client(environment: dict[str, str], **options: Any):
    """A boto3 client of a test server; `options`: of botocore's Config."""
    return boto3.client(
        "s3",
        endpoint_url=environment["AWS_ENDPOINT_URL"],
        aws_access_key_id=environment["AWS_ACCESS_KEY_ID"],
        aws_secret_access_key=environment["AWS_SECRET_ACCESS_KEY"],
        region_name=environment["AWS_REGION"],
        config=Config(**options),
    )


def free_ports(count: int) -> list[int]:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports
