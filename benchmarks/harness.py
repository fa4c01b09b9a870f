"""Shared by the benchmarks of bulk jobs: an S3 server, objects on it, and commands with their time and memory."""

import contextlib
import io
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import boto3
import obstore
import peers
import psutil
from PIL import Image

ROOT = Path(__file__).parent.parent
SAMPLE_SECONDS = 2  # reading the memory of Ray's processes takes a tenth of a second
LIMIT_SECONDS = 3600


@contextlib.contextmanager
def seaweedfs() -> Iterator[Path]:
    """An S3 server, with the standard variables set for it; yields its folder, which is deleted at the end."""
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder, _serving(Path(folder)):
        yield Path(folder)


def keep(result: dict[str, Any], out: str | None) -> dict[str, Any]:
    """Prints the result, and writes it as JSON if a file is named."""
    if out:
        Path(out).write_text(json.dumps(result, indent=2))
    return result


@contextlib.contextmanager
def _serving(folder: Path) -> Iterator[None]:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(8)]
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    names = [f"{name}.port{kind}" for kind in ("", ".grpc") for name in ("master", "volume", "filer", "s3")]
    (folder / "s3.json").write_text(
        json.dumps(
            {
                "identities": [
                    {
                        "name": "bench",
                        "credentials": [{"accessKey": "bench", "secretKey": "not-a-secret"}],
                        "actions": ["Admin", "Read", "Write", "List", "Tagging"],
                    }
                ]
            }
        )
    )
    command = [
        str(Path(sys.executable).with_name("weed")),
        *("server", f"-dir={folder}", "-ip=127.0.0.1", "-ip.bind=127.0.0.1", "-master.telemetry=false"),
        *("-master.volumeSizeLimitMB=1024", "-volume.max=100", "-filer", "-s3", f"-s3.config={folder / 's3.json'}"),
        *("-s3.port.iceberg=0", "-s3.port.lance=0"),
        *(f"-{name}={port}" for name, port in zip(names, ports, strict=True)),
    ]
    os.environ |= {
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{ports[3]}",
        "AWS_ACCESS_KEY_ID": "bench",
        "AWS_SECRET_ACCESS_KEY": "not-a-secret",
        "AWS_REGION": "us-east-1",
        "AWS_DEFAULT_REGION": "us-east-1",
    }
    with (folder / "log").open("w") as log, subprocess.Popen(command, stdout=log, stderr=log) as server:
        try:
            for _ in range(120):
                with contextlib.suppress(Exception):
                    boto3.client("s3").create_bucket(Bucket="bench")
                    break
                time.sleep(0.5)
            yield
        finally:
            server.kill()


def jpeg(image: Image.Image, quality: int) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format="jpeg", quality=quality)
    return buffer.getvalue()


def upload(prefix: str, contents: list[bytes], count: int) -> None:
    store = peers.obstore_of("bench")
    with ThreadPoolExecutor(32) as pool:
        keys = [f"{prefix}/{i % 10}/{i:08}.jpg" for i in range(count)]
        list(pool.map(lambda i: obstore.put(store, keys[i], contents[i % len(contents)]), range(count)))


@dataclass
class Turn:
    """Time and memory of one run."""

    seconds: float
    peak: int
    """Bytes, of all processes."""
    largest: int
    """Bytes of the largest process."""


def watch(command: list[str]) -> Turn:
    """Runs a command to its end and records its memory. Raises RuntimeError if it fails."""
    began = time.perf_counter()
    with tempfile.TemporaryFile("w+") as log:
        job = subprocess.Popen(command, stdout=log, stderr=log, cwd=ROOT)
        peak, largest = 0, 0
        while job.returncode is None:
            with contextlib.suppress(subprocess.TimeoutExpired):
                job.wait(SAMPLE_SECONDS)
            sizes = [memory(process) for process in family(job.pid)]
            peak, largest = max(peak, sum(sizes)), max(largest, *sizes, 0)
            if job.returncode is None and time.perf_counter() - began > LIMIT_SECONDS:
                for process in family(job.pid):
                    process.kill()
        seconds = time.perf_counter() - began
        if job.returncode:
            log.seek(0)
            raise RuntimeError(f"{command} failed or took over {LIMIT_SECONDS} s:\n{log.read()[-3000:]}")
    return Turn(seconds, peak, largest)


def in_turn(commands: Mapping[str, list[str]], seconds: float) -> dict[str, Turn]:
    """Runs commands to their ends, so many `seconds` each while the others stand still: a machine's speed drifts over
    minutes, and so drifts for all of them alike. Raises RuntimeError where one fails.
    """
    # Ray gives processes some seconds to start; this time also passes while they are stopped.
    os.environ |= dict.fromkeys(("RAY_raylet_start_wait_time_s", "RAY_worker_register_timeout_seconds"), "600")
    turns = {who: Turn(0.0, 0, 0) for who in commands}
    jobs: dict[str, subprocess.Popen] = {}
    with contextlib.ExitStack() as stack:
        logs = {who: stack.enter_context(tempfile.TemporaryFile("w+")) for who in commands}
        stack.callback(lambda: [_signal(job, signal.SIGKILL) for job in jobs.values()])
        while working := [who for who in commands if who not in jobs or jobs[who].returncode is None]:
            for who in working:
                began = time.perf_counter()
                if who in jobs:
                    _signal(jobs[who], signal.SIGCONT)
                else:
                    jobs[who] = subprocess.Popen(commands[who], stdout=logs[who], stderr=logs[who], cwd=ROOT)
                with contextlib.suppress(subprocess.TimeoutExpired):
                    jobs[who].wait(seconds)
                _signal(jobs[who], signal.SIGSTOP)
                turn = turns[who]
                turn.seconds += time.perf_counter() - began
                sizes = [memory(process) for process in family(jobs[who].pid)]
                turn.peak, turn.largest = max(turn.peak, sum(sizes)), max(turn.largest, *sizes, 0)
                if jobs[who].returncode or turn.seconds > LIMIT_SECONDS:
                    logs[who].seek(0)
                    told = logs[who].read()[-3000:]
                    raise RuntimeError(f"{commands[who]} failed or took over {LIMIT_SECONDS} s:\n{told}")
    return turns


def _signal(job: subprocess.Popen, number: int) -> None:
    """Sends a signal to a job and all its descendants, including those that start meanwhile."""
    told = set[psutil.Process]()
    while new := [process for process in family(job.pid) if process not in told]:
        for process in new:
            with contextlib.suppress(psutil.Error):
                process.send_signal(number)
        told.update(new)


def family(pid: int) -> list[psutil.Process]:
    with contextlib.suppress(psutil.Error):
        parent = psutil.Process(pid)
        return [*parent.children(recursive=True), parent]
    return []


def memory(process: psutil.Process) -> int:
    """Memory in bytes; each shared page is divided among the processes that share it."""
    with contextlib.suppress(psutil.Error, OSError):
        return int(process.memory_full_info().pss)
    return 0


def best(function: Callable[[], Any], times: int = 3) -> float:
    seconds = []
    for _ in range(times):
        began = time.perf_counter()
        function()
        seconds.append(time.perf_counter() - began)
    return min(seconds)
