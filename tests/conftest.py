"""Real components that the tests share: a Ray, an S3 server, small trained networks."""

import json
import socket
import subprocess
import sys
import time
import uuid
from pathlib import Path

import boto3
import pytest
import ray
import torch
from botocore.exceptions import BotoCoreError, ClientError

from dtn_ray.config import DataConfig, Experiment, ModelConfig, Pretraining, Run
from dtn_ray.dtn import OptimConfig
from dtn_ray.pretrain import pretrain
from dtn_ray.train import train

torch.set_num_threads(1)  # small networks are faster so, and leave the cores to Ray's workers


@pytest.fixture(scope="session")
def ray_cluster(s3_server):
    """An embedded Ray that counts four CPUs, whatever the machine has; its workers inherit the way to the S3 server."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in s3_server.items():
            patch.setenv(name, value)
        ray.init(num_cpus=4, include_dashboard=False, log_to_driver=False)
        yield
        ray.shutdown()


@pytest.fixture(scope="session")
def s3_server(tmp_path_factory):
    """A SeaweedFS with one user; gives the variables of the standard AWS chain that lead to it."""
    folder = tmp_path_factory.mktemp("seaweedfs")
    user = {"accessKey": "tester", "secretKey": "not-a-secret"}
    identities = [{"name": "tester", "credentials": [user], "actions": ["Admin", "Read", "Write", "List", "Tagging"]}]
    (folder / "s3.json").write_text(json.dumps({"identities": identities}))
    ports = dict(zip(("master", "volume", "filer", "s3"), _free_ports(4), strict=True))
    command = [
        str(Path(sys.executable).with_name("weed")),
        "server",
        f"-dir={folder}",
        "-ip=127.0.0.1",
        "-ip.bind=127.0.0.1",
        "-master.telemetry=false",
        "-master.volumeSizeLimitMB=256",
        "-volume.max=200",
        "-filer",
        "-s3",
        f"-s3.config={folder / 's3.json'}",
        *(f"-{name}.port={port}" for name, port in ports.items()),
        *(f"-{name}.port.grpc={port}" for name, port in zip(ports, _free_ports(4), strict=True)),
    ]
    environment = {
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{ports['s3']}",
        "AWS_ACCESS_KEY_ID": user["accessKey"],
        "AWS_SECRET_ACCESS_KEY": user["secretKey"],
        "AWS_REGION": "us-east-1",
        "AWS_DEFAULT_REGION": "us-east-1",
    }
    with (folder / "log").open("w") as log, subprocess.Popen(command, stdout=log, stderr=log) as server:
        try:
            _wait_for(environment, server, folder / "log")
            yield environment
        finally:
            server.terminate()


def _free_ports(count: int) -> list[int]:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports


def client(environment: dict[str, str]):
    """A boto3 client of the test server."""
    return boto3.client(
        "s3",
        endpoint_url=environment["AWS_ENDPOINT_URL"],
        aws_access_key_id=environment["AWS_ACCESS_KEY_ID"],
        aws_secret_access_key=environment["AWS_SECRET_ACCESS_KEY"],
        region_name=environment["AWS_REGION"],
    )


def _wait_for(environment: dict[str, str], server: subprocess.Popen, log: Path) -> None:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and server.poll() is None:
        try:
            client(environment).create_bucket(Bucket="ready")
            return
        except (BotoCoreError, ClientError):
            time.sleep(0.5)
    raise RuntimeError(f"the S3 server did not start:\n{log.read_text()[-2000:]}")


@pytest.fixture
def bucket(ray_cluster, s3_server):
    """A new bucket on the S3 server, as s3://…"""
    name = f"test-{uuid.uuid4().hex[:12]}"
    client(s3_server).create_bucket(Bucket=name)
    return f"s3://{name}"


@pytest.fixture(scope="session")
def classifier(ray_cluster, tmp_path_factory):
    """The checkpoint of a small classifier that jobs/pretrain.py's code trained for a moment: f, and the judge too."""
    storage = str(tmp_path_factory.mktemp("classifier"))
    config = Pretraining(dataset="handwritten-digits", split="train", width=0.25, epochs=12, lr=5e-3)
    return pretrain(config, Run(storage=storage, name="f", cpus_per_worker=1)).checkpoint


@pytest.fixture(scope="session")
def experiment(classifier):
    """A DTN training of a few seconds, from digits to digits."""
    return Experiment(
        data=DataConfig(source="handwritten-digits", target="handwritten-digits", source_split="train"),
        model=ModelConfig(f=classifier, judge=classifier, width_g=0.0625, width_D=0.125),
        optim=OptimConfig(steps=6, batch_size=16, ema_decay=0.9),
    )


@pytest.fixture(scope="session")
def trained(experiment, tmp_path_factory):
    """The outcome of that training, with two checkpoints and three points on its curves."""
    storage = str(tmp_path_factory.mktemp("trained"))
    return train(experiment, Run(storage=storage, name="dtn", cpus_per_worker=1, log_every=2, checkpoint_every=3))
