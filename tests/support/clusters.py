"""Real Ray clusters of several nodes on this machine, behind a token, whose nodes tests kill."""

import contextlib
import json
import os
import secrets
import shutil
import socket
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import ray
from ray.autoscaler._private.fake_multi_node.node_provider import FAKE_HEAD_NODE_ID, FAKE_HEAD_NODE_TYPE

ROOT = Path(__file__).parents[2]
BIN = Path(sys.executable).parent
START = 300  # seconds that a node may take on a busy machine
ATTEMPTS = 3  # a raylet gives up where its agents take more than 15 s
PORTS = ("dashboard-agent-listen", "dashboard-agent-grpc", "runtime-env-agent", "metrics-export")


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1]


def kill(process: psutil.Process) -> None:
    """Sends SIGKILL to a process and all its descendants, and waits until they are gone."""
    with contextlib.suppress(psutil.NoSuchProcess):
        every = [process, *process.children(recursive=True)]
        for each in every:
            with contextlib.suppress(psutil.NoSuchProcess):
                each.kill()
        psutil.wait_procs(every, timeout=30)


class Cluster:
    """A head with its job server, and further nodes; `with` starts the head, and ends all nodes at its end."""

    def __init__(self, environment: dict[str, str], cpus: int, autoscaled: int = 0) -> None:
        """`environment`: of its processes, beside this one's. `cpus`: of the head.

        `autoscaled`: nodes of one CPU that Ray's autoscaler may add.
        """
        self.folder = Path(tempfile.mkdtemp(prefix="dtn-ray-"))  # the path of a Unix socket must be short
        self.cpus, self.autoscaled = cpus, autoscaled
        self.address = f"{ray.util.get_node_ip_address()}:{free_port()}"
        self.jobs = f"http://127.0.0.1:{free_port()}"
        (self.folder / "token").write_text(secrets.token_hex(16))
        own = {
            "PATH": f"{BIN}:{os.environ['PATH']}",
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN_PATH": str(self.folder / "token"),
            "RAY_TMPDIR": str(self.folder),  # or a killed cluster's address would be found by the next `ray.init`
            "RAY_worker_niceness": "0",
            "RAY_raylet_start_wait_time_s": str(START),
            "RAY_agent_register_timeout_ms": str(1000 * START),
            "RAY_DASHBOARD_STARTUP_TIMEOUT_S": str(START),
        }
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
        self.environment = inherited | environment | own
        self.processes: list[psutil.Popen] = []

    def __enter__(self) -> "Cluster":
        port, dashboard = (address.rpartition(":")[2] for address in (self.address, self.jobs))
        client = f"--ray-client-server-port={free_port()}"
        options = ["--head", f"--port={port}", f"--dashboard-port={dashboard}", client]
        own = {}
        if self.autoscaled:
            file = self.folder / "autoscaling.json"
            file.write_text(json.dumps(_autoscaling(self.address, self.cpus, self.autoscaled)))
            options.append(f"--autoscaling-config={file}")
            # What `ray up` sets, and the test provider.
            own = {"RAY_enable_autoscaler_v2": "1", "RAY_CLOUD_INSTANCE_ID": FAKE_HEAD_NODE_ID}
            own |= {"RAY_OVERRIDE_NODE_ID_FOR_TESTING": FAKE_HEAD_NODE_ID, "RAY_NODE_TYPE_NAME": FAKE_HEAD_NODE_TYPE}
            own |= {"RAY_FAKE_CLUSTER": "1", "AUTOSCALER_UPDATE_INTERVAL_S": "1"}
        try:
            self._start(self.cpus, options, own)
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        for process in reversed(self.processes):
            kill(process)
        shutil.rmtree(self.folder, ignore_errors=True)

    def add_node(self, cpus: int) -> psutil.Popen:
        """Starts a node, and waits until it is up."""
        return self._start(cpus, [f"--address={self.address}"], {})

    def popen(self, command: list[str], log: Path) -> psutil.Popen:
        """A process on the head's machine, as if started by a user who is logged in there."""
        with log.open("a") as output:
            environment = self.environment | {"RAY_ADDRESS": self.address}
            process = psutil.Popen(command, env=environment, cwd=ROOT, stdout=output, stderr=output)
        self.processes.append(process)
        return process

    def _start(self, cpus: int, options: list[str], own: dict[str, str]) -> psutil.Popen:
        log = self.folder / f"{len(self.processes)}.log"
        for _ in range(ATTEMPTS):
            command = [str(BIN / "ray"), "start", "--block", f"--num-cpus={cpus}", *options, "--disable-usage-stats"]
            command += [f"--{name}-port={free_port()}" for name in PORTS] + ["--object-store-memory=300000000"]
            with log.open("w") as output:
                node = psutil.Popen(command, env=self.environment | own, stdout=output, stderr=output)
            self.processes.append(node)
            deadline, raylet = time.monotonic() + START, False
            while node.poll() is None and time.monotonic() < deadline:
                if "Ray runtime started" in log.read_text():
                    return node
                before, raylet = raylet, _runs_a_raylet(node)
                if before and not raylet:
                    break
                time.sleep(0.5)
            kill(node)
        raise AssertionError(log.read_text())


def _runs_a_raylet(node: psutil.Popen) -> bool:
    with contextlib.suppress(psutil.NoSuchProcess):
        return any(each.name() == "raylet" and each.status() != psutil.STATUS_ZOMBIE for each in node.children())
    return False


def _autoscaling(address: str, cpus: int, nodes: int) -> dict:
    """A cluster file as `ray up` reads it."""
    return {
        "cluster_name": "test",
        "max_workers": nodes,
        "idle_timeout_minutes": 0.3,
        "upscaling_speed": 10,
        "provider": {
            "type": "external",
            "module": "ray.autoscaler._private.fake_multi_node.node_provider.FakeMultiNodeProvider",
            "gcs_address": address,
            "head_node_id": FAKE_HEAD_NODE_ID,
            "launch_multiple": True,
        },
        # What only nodes need that are set up by SSH, but must be there.
        "cluster_synced_files": [],
        "setup_commands": [],
        "head_setup_commands": [],
        "worker_setup_commands": [],
        "head_node_type": FAKE_HEAD_NODE_TYPE,
        "available_node_types": {
            FAKE_HEAD_NODE_TYPE: {"resources": {"CPU": cpus}, "node_config": {}, "max_workers": 0},
            "worker": {"resources": {"CPU": 1}, "node_config": {}, "min_workers": 0, "max_workers": nodes},
        },
    }


def tiny_training(f: str, *options: str) -> list[str]:
    """A training of a few seconds from digits to digits; `f`: the checkpoint of a classifier."""
    sets = ["--source", "handwritten-digits", "--source-split", "train", "--target", "handwritten-digits"]
    size = ["--width-g", "0.0625", "--width-D", "0.125", "--batch-size", "16", "--cpus-per-worker", "1"]
    return ["jobs/train.py", *sets, "--f", f, "--judge", f, *size, *options]


def wait_until(true: Callable[[], object], seconds: float, process: psutil.Popen, log: Path) -> None:
    """Waits for a condition; fails if it does not become true in time, or the process ends before."""
    deadline = time.monotonic() + seconds
    while not true():
        assert process.poll() is None, log.read_text()[-6000:]
        assert time.monotonic() < deadline, log.read_text()[-6000:]
        time.sleep(0.5)
