"""Real components that the tests share: a Ray, an S3 server, small trained networks."""

import importlib.util
import os
import runpy
import shlex
import signal
import sys
import uuid
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import pytest
import ray
import stores
import torch
from fault_proxy import FaultProxy, Plan
from files import SMALL, encode, write_classifier, write_dtn, write_mat
from hypothesis import settings
from matplotlib import cbook
from PIL import Image
from seaweedfs import SeaweedFS, client

from dtn_ray.data.digits.street_digits import street_digits
from dtn_ray.method.options import OptimConfig
from dtn_ray.perceptual.job import pretrain
from dtn_ray.perceptual.options import Pretraining
from dtn_ray.ray_cluster import ray_token
from dtn_ray.resumable.options import Run
from dtn_ray.train.job import train
from dtn_ray.train.options import DataConfig, Experiment, ModelConfig

JOBS = Path(__file__).parent.parent / "jobs"
torch.set_num_threads(1)  # faster for small networks, and leaves the cores to Ray's workers

# The same examples in every run, and no time limit for one of them: a busy machine would fail it.
settings.register_profile("suite", deadline=None, derandomize=True, database=None)
settings.load_profile("suite")


TOGETHER = {"ceph_server": "ceph", "swift_server": "swift", "amazon": "amazon", "trained": "trained"}
"""Fixtures that take many seconds, and the group of the tests that use them."""


@pytest.hookimpl(tryfirst=True)  # before pytest-xdist reads the groups
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """With several test processes (`-n 2`), sets up a costly fixture in only one of them, and Ray once per process."""
    for item in items:
        names = getattr(item, "fixturenames", ())
        group = next((group for fixture, group in TOGETHER.items() if fixture in names), None)
        if group is None and "ray_cluster" in names:
            group = item.path.stem  # its fixtures are set up once
        if group is not None:
            item.add_marker(pytest.mark.xdist_group(group))


@pytest.fixture(scope="session")
def ray_cluster(s3_server, s3_proxy):
    """An embedded Ray with four CPUs, whatever the machine has. Its workers inherit the address of the S3 server.

    They reach it through the proxy, so that a test can make requests of workers fail, too.
    """
    with pytest.MonkeyPatch.context() as patch:
        for name, value in s3_server.items():
            patch.setenv(name, value)
        patch.setenv("AWS_ENDPOINT_URL", s3_proxy.endpoint)
        patch.setenv("RAY_TRAIN_ENABLE_PREEMPTION_WATCHER", "0")  # nodes are not preempted here
        patch.setenv("RAY_worker_niceness", "0")  # otherwise they starve on a machine with two cores
        patch.setenv("RAY_raylet_start_wait_time_s", "120")  # a busy machine needs more than Ray's 30
        ray_token.prepare(starts=True)  # otherwise Ray would write one that everyone can read
        ray.init("local", num_cpus=4, include_dashboard=False, log_to_driver=False)  # "local": never join a running Ray
        yield
        ray.shutdown()


@pytest.fixture(scope="session")
def s3_server(tmp_path_factory):
    """A SeaweedFS server; yields the standard AWS variables for it, for a user with all permissions."""
    with SeaweedFS(tmp_path_factory.mktemp("seaweedfs")) as server:
        yield server.environment


@pytest.fixture(scope="session")
def ceph_server(tmp_path_factory):
    """Ceph's S3 gateway; yields the standard AWS variables for it."""
    if missing := stores.missing(stores.CEPH):
        pytest.skip(f"Debian's ceph-mon, ceph-mgr, ceph-osd, ceph-common and radosgw are not installed: no {missing}")
    with stores.ceph(tmp_path_factory.mktemp("ceph")) as environment:
        yield environment


@pytest.fixture(scope="session")
def swift_server(tmp_path_factory):
    """OpenStack Swift's S3 interface, without conditional writes; yields the standard AWS variables for it."""
    if missing := stores.missing(stores.SWIFT):
        pytest.skip(
            f"Debian's swift-proxy, -account, -container, -object and memcached are not installed: no {missing}"
        )
    with stores.swift(tmp_path_factory.mktemp("swift")) as environment:
        yield environment


@pytest.fixture(scope="session")
def s3_proxy(s3_server):
    """The proxy between this session's Ray and the S3 server; tests use it through `fault_proxy`."""
    with FaultProxy(s3_server["AWS_ENDPOINT_URL"]) as proxy:
        yield proxy


@pytest.fixture
def fault_proxy(s3_proxy, ray_cluster):
    """The proxy; a test sets its `plan` to make requests fail. The plan is reset after the test."""
    yield s3_proxy
    s3_proxy.plan = Plan()


@pytest.fixture
def store(s3_server, s3_proxy, monkeypatch):
    """The same proxy for tests without Ray; this process's environment points to it."""
    for name, value in (s3_server | {"AWS_ENDPOINT_URL": s3_proxy.endpoint}).items():
        monkeypatch.setenv(name, value)
    yield s3_proxy
    s3_proxy.plan = Plan()


@pytest.fixture
def bucket(ray_cluster, s3_server):
    """A new bucket on the S3 server, as s3://…"""
    name = f"test-{uuid.uuid4().hex[:12]}"
    client(s3_server).create_bucket(Bucket=name)
    return f"s3://{name}"


@pytest.fixture
def ceph_bucket(ceph_server, monkeypatch):
    """A new bucket of Ceph's, as s3://…, for this process only; Ray's workers do not have its address."""
    return _bucket_of(ceph_server, monkeypatch)


@pytest.fixture
def swift_bucket(swift_server, monkeypatch):
    """A new bucket of Swift's, as s3://…, for this process only."""
    return _bucket_of(swift_server, monkeypatch)


def _bucket_of(environment: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> str:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    name = f"test-{uuid.uuid4().hex[:12]}"
    client(environment).create_bucket(Bucket=name)
    return f"s3://{name}"


@pytest.fixture(scope="session")
def classifier(ray_cluster, tmp_path_factory):
    """The checkpoint of a small classifier, trained briefly by the code of jobs/pretrain.py; used as f and as judge."""
    storage = str(tmp_path_factory.mktemp("classifier"))
    config = Pretraining(dataset="handwritten-digits", split="train", width=0.15, epochs=8, lr=5e-3)
    return pretrain(config, Run(storage=storage, name="f", cpus_per_worker=1)).checkpoint


@pytest.fixture(scope="session")
def experiment(ray_cluster, tmp_path_factory):
    """A DTN training of a few seconds on the shared Ray, from digits to digits, with an untrained f."""
    f, _ = write_classifier(tmp_path_factory.mktemp("f"), Pretraining(dataset="handwritten-digits", width=0.15))
    return Experiment(
        data=DataConfig(source="handwritten-digits", target="handwritten-digits", source_split="train"),
        model=ModelConfig(f=f, judge=f, width_g=0.0625, width_D=0.125),
        optim=OptimConfig(steps=6, batch_size=16, ema_decay=0.9),
    )


@pytest.fixture(scope="session")
def trained(experiment, ray_cluster, tmp_path_factory):
    """The outcome of that training, with two checkpoints and three points on its curves."""
    storage = str(tmp_path_factory.mktemp("trained"))
    return train(experiment, Run(storage=storage, name="dtn", cpus_per_worker=1, log_every=2, checkpoint_every=3))


@pytest.fixture(scope="session")
def yunet() -> Path:
    """The face detector's file, which the tests cannot download: from $DTN_YUNET, or from data beside the checkout."""
    beside = Path(__file__).parents[2] / "shared/data/nets/yunet_detector.onnx"
    path = Path(os.environ.get("DTN_YUNET", beside))
    if not path.is_file():
        pytest.skip(f"{path}: no face detector there; DTN_YUNET names YuNet's ONNX file (see the README)")
    return path


@pytest.fixture(scope="session")
def portrait() -> Image.Image:
    """A photo of a face, 512×600: Grace Hopper, by the US Navy, in the public domain; matplotlib ships it."""
    return Image.open(cbook.get_sample_data("grace_hopper.jpg", asfileobj=False)).convert("RGB")


@pytest.fixture(autouse=True)
def sigterm():
    """Makes a test fail if its job does not handle SIGTERM, instead of ending all tests."""

    def unhandled(*_):
        raise AssertionError("SIGTERM was not handled")

    before = signal.signal(signal.SIGTERM, unhandled)
    yield
    signal.signal(signal.SIGTERM, before)


@pytest.fixture
def call(monkeypatch, capsys):
    """Runs a job's file like `python jobs/NAME.py …`, in this process; returns exit code, stdout and stderr."""

    def no_ray(*_, **__):
        raise AssertionError("Ray was started")

    monkeypatch.setattr("ray.init", no_ray)

    def run(line: str) -> tuple[int, str, str]:
        name, *arguments = shlex.split(line)
        monkeypatch.setattr(sys, "argv", [f"jobs/{name}.py", *arguments])
        code = 0
        try:
            runpy.run_path(str(JOBS / f"{name}.py"), run_name="__main__")
        except SystemExit as stop:
            code = stop.code
        return code, *capsys.readouterr()

    return run


@pytest.fixture
def job(monkeypatch):
    """Imports a job's file without running it."""

    def load(name: str) -> ModuleType:
        spec = importlib.util.spec_from_file_location(f"job_{name}", JOBS / f"{name}.py")
        assert spec is not None and spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        monkeypatch.setitem(sys.modules, spec.name, module)
        spec.loader.exec_module(module)
        return module

    return load


@pytest.fixture(scope="session")
def made(tmp_path_factory) -> Path:
    """Files for command lines in tests: checkpoints, a folder of images, an SVHN file."""
    folder = tmp_path_factory.mktemp("made")
    write_dtn(folder / "dtn")
    write_dtn(folder / "no-judge", judge=False)
    write_dtn(folder / "street", replace(SMALL, data=DataConfig()))
    write_classifier(folder / "classifier")
    images, labels = street_digits(20, seed=5)
    write_mat(folder / "unseen.mat", labels, images.transpose(2, 3, 1, 0))
    (folder / "photos").mkdir()
    (folder / "photos/a.png").write_bytes(encode(Image.new("RGB", (40, 40))))
    (folder / "texts").mkdir()
    (folder / "texts/a.txt").write_text("a")
    return folder
