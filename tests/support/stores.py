"""Real S3 servers beside SeaweedFS, from Debian's packages: Ceph's gateway, and OpenStack Swift's S3 interface.

Each is a context manager over a new folder that gives the variables of the standard AWS chain; its processes are ended
with it.
"""

import configparser
import getpass
import os
import shutil
import signal
import subprocess
import time
import uuid
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from botocore.exceptions import BotoCoreError, ClientError
from seaweedfs import client, free_ports

CEPH = ("ceph", "ceph-mon", "ceph-mgr", "ceph-osd", "monmaptool", "radosgw", "radosgw-admin")
SWIFT = (
    "memcached",
    "swift-ring-builder",
    *(f"swift-{name}-server" for name in ("proxy", "account", "container", "object")),
)
SECONDS = 240  # for one command or a start: 15 s are needed, where nothing else runs


def missing(programs: tuple[str, ...]) -> str:
    """The names of those programs that are not installed."""
    return ", ".join(name for name in programs if not shutil.which(name))


@contextmanager
def ceph(folder: Path) -> Iterator[dict[str, str]]:
    """Ceph with one monitor, one OSD that stores everything in memory, and its gateway."""
    mon_v2, mon_v1, port = free_ports(3)
    for name in ("mon", "mgr", "osd", "rgw", "log"):
        (folder / name).mkdir(parents=True)
    configuration = folder / "ceph.conf"
    fsid = str(uuid.uuid4())
    monitors = f"[v2:127.0.0.1:{mon_v2},v1:127.0.0.1:{mon_v1}]"
    configuration.write_text(f"""
[global]
fsid = {fsid}
mon host = {monitors}
public addr = 127.0.0.1
cluster addr = 127.0.0.1
auth cluster required = none
auth service required = none
auth client required = none
# Without authentication the gateway would hang for five minutes.
ms mon client mode = crc
ms bind ipv6 = false
osd pool default size = 1
osd pool default min size = 1
osd pool default pg num = 8
osd pool default pgp num = 8
osd pool default pg autoscale mode = off
osd crush chooseleaf type = 0
osd objectstore = memstore
memstore device bytes = 1073741824
mon allow pool size one = true
mon max pg per osd = 1000
run dir = {folder}
admin socket =
log file = {folder}/log/$name.log
mon data = {folder}/mon
mgr data = {folder}/mgr
osd data = {folder}/osd
[client.rgw]
rgw data = {folder}/rgw
rgw frontends = beast endpoint=127.0.0.1:{port}
rgw thread pool size = 64
""")
    environment = {**os.environ, "CEPH_CONF": str(configuration)}

    def call(*command: str) -> None:
        done = subprocess.run(command, env=environment, cwd=folder, capture_output=True, text=True, timeout=SECONDS)
        if done.returncode:
            raise RuntimeError(f"{' '.join(command)}:\n{done.stdout}{done.stderr}")

    with ExitStack() as processes:

        def start(*command: str) -> subprocess.Popen:
            return processes.enter_context(running([*command, "-f"], folder / f"log/{command[0]}", environment))

        call("monmaptool", "--create", "--fsid", fsid, "--addv", "a", monitors, "monmap")
        call("ceph-mon", "-i", "a", "--mkfs", "--monmap", "monmap")
        start("ceph-mon", "-i", "a")
        osd = str(uuid.uuid4())  # one for both, or the OSD is another one than the monitor knows
        call("ceph", "osd", "new", osd)
        start("ceph-mgr", "-i", "x")
        call("ceph-osd", "-i", "0", "--mkfs", "--osd-uuid", osd)
        start("ceph-osd", "-i", "0")
        gateway = start("radosgw", "-n", "client.rgw")
        user = ("--uid", "tester", "--display-name", "tester", "--access-key", "tester", "--secret-key", "not-a-secret")
        call("radosgw-admin", "user", "create", *user)
        variables = aws_variables(port, "tester")
        wait_for(variables, gateway, folder / "log/radosgw")
        yield variables


@contextmanager
def swift(folder: Path) -> Iterator[dict[str, str]]:
    """OpenStack Swift with one device and its S3 interface, which has no conditional writes."""
    memcached, proxy, *others = free_ports(5)
    for name in ("etc", "dev/d1", "log"):
        (folder / name).mkdir(parents=True)
    user = getpass.getuser()
    common = {"bind_ip": "127.0.0.1", "workers": "0", "user": user, "swift_dir": f"{folder}/etc"}
    common |= {"log_level": "WARNING", "log_address": f"{folder}/log/none"}

    def configure(name: str, sections: dict[str, dict[str, str]]) -> None:
        parser = configparser.RawConfigParser()
        parser.read_dict(sections)
        with (folder / f"etc/{name}.conf").open("w") as file:
            parser.write(file)

    configure(
        "swift",
        {
            "swift-hash": {"swift_hash_path_suffix": "test"},
            "storage-policy:0": {"name": "Policy-0", "default": "yes"},
            "swift-constraints": {"max_header_size": "32768"},
        },
    )
    for name, port in zip(("account", "container", "object"), others, strict=True):
        builder = f"{folder}/etc/{name}.builder"
        for arguments in (("create", "6", "1", "1"), ("add", f"r1z1-127.0.0.1:{port}/d1", "1"), ("rebalance",)):
            done = subprocess.run(
                ["swift-ring-builder", builder, *arguments], capture_output=True, text=True, timeout=SECONDS
            )
            if done.returncode > 1:  # 1: a warning, that one device holds all
                raise RuntimeError(f"swift-ring-builder {arguments}:\n{done.stdout}{done.stderr}")
        disks = {
            "devices": f"{folder}/dev",
            "mount_check": "false",
            "disable_fallocate": "true",
            "fallocate_reserve": "0",
        }
        configure(
            name,
            {
                "DEFAULT": {**common, **disks, "bind_port": str(port)},
                "pipeline:main": {"pipeline": f"{name}-server"},
                f"app:{name}-server": {"use": f"egg:swift#{name}"},
            },
        )
    filters: dict[str, dict[str, str]] = {
        "catch_errors": {},
        "cache": {"use": "egg:swift#memcache", "memcache_servers": f"127.0.0.1:{memcached}"},
        "listing_formats": {},
        "bulk": {},
        "s3api": {"location": "us-east-1", "s3_acl": "false", "dns_compliant_bucket_names": "false"},
        "tempauth": {"user_test_tester": "not-a-secret .admin"},
        "copy": {},
        "slo": {},
        "dlo": {},
        "versioned_writes": {"allow_object_versioning": "true"},
        "symlink": {},
    }
    configure(
        "proxy",
        {
            "DEFAULT": {**common, "bind_port": str(proxy)},
            "pipeline:main": {"pipeline": " ".join([*filters, "proxy-server"])},
            "app:proxy-server": {
                "use": "egg:swift#proxy",
                "account_autocreate": "true",
                "allow_account_management": "true",
            },
            **{f"filter:{name}": {"use": f"egg:swift#{name}", **options} for name, options in filters.items()},
        },
    )
    environment = {**os.environ, "SWIFT_CONF_DIR": f"{folder}/etc"}
    with ExitStack() as processes:
        command = ["memcached", "-l", "127.0.0.1", "-p", str(memcached), "-U", "0", "-u", user]
        processes.enter_context(running(command, folder / "log/memcached", environment))
        for name in ("account", "container", "object", "proxy"):
            command = [f"swift-{name}-server", f"{folder}/etc/{name}.conf"]
            server = processes.enter_context(running(command, folder / f"log/{name}", environment))
        variables = aws_variables(proxy, "test:tester")
        wait_for(variables, server, folder / "log/proxy")
        yield variables


@contextmanager
def running(command: list[str], log: Path, environment: dict[str, str]) -> Iterator[subprocess.Popen]:
    """A process and its descendants, for the duration of a `with`."""
    with log.open("w") as file:
        process = subprocess.Popen(command, env=environment, stdout=file, stderr=file, start_new_session=True)
        try:
            yield process
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)  # nothing of it is kept
            process.wait()


def aws_variables(port: int, key: str) -> dict[str, str]:
    """The standard AWS variables for a server on this machine."""
    return {
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}",
        "AWS_ACCESS_KEY_ID": key,
        "AWS_SECRET_ACCESS_KEY": "not-a-secret",
        "AWS_REGION": "us-east-1",
        "AWS_DEFAULT_REGION": "us-east-1",
    }


def wait_for(environment: dict[str, str], server: subprocess.Popen, log: Path, seconds: float = SECONDS) -> None:
    """Waits until a server can create a bucket, `ready`."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline and server.poll() is None:
        try:
            client(environment).create_bucket(Bucket="ready")
            return
        except (BotoCoreError, ClientError):
            time.sleep(0.5)
    raise RuntimeError(f"the S3 server did not start:\n{log.read_text()[-2000:]}")
