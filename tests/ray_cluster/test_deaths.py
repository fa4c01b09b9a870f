"""Where Ray loses a process, users read in one line what ran out or who died, and that the same command continues."""

import subprocess
import sys

import pytest

from dtn_ray.ray_cluster.deaths import death

LOSING = """
import os, time
os.environ |= {"RAY_memory_usage_threshold": "THRESHOLD", "RAY_memory_monitor_refresh_ms": "250"}
import ray
from dtn_ray import cli
from dtn_ray.ray_cluster.connect import causes, connect


@ray.remote(max_retries=0)
def task():
    WORK


def job():
    connect()
    with causes():
        ray.get(task.remote())


cli.run(job)
"""


def error_line(work: str, threshold: str = "0.99") -> str:
    code = LOSING.replace("WORK", work).replace("THRESHOLD", threshold)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=250)
    assert done.returncode == 2 and "Traceback" not in done.stderr, done.stderr
    (line,) = [each for each in done.stderr.splitlines() if each.startswith("error: ")]
    return line


@pytest.mark.slow
@pytest.mark.parametrize(
    ("work", "threshold", "said"),
    [
        (
            "time.sleep(60)",
            "0.01",  # of the machine's memory, which is more than that in use
            [r"error: memory ran out on node ", "GB of ", "; the largest processes were ", " GB, pid "],
        ),
        (
            "os.kill(os.getpid(), 9)",
            "0.99",
            ["error: a process of this job", "was killed by a signal, such as SIGKILL"],
        ),
        ("import ctypes; ctypes.string_at(0)", "0.99", ["was killed by a signal", "SIGSEGV from a crash in a library"]),
        ("raise OSError(28, 'No space left on device')", "0.99", ["error: a disk is full", "free space there"]),
    ],
    ids=["memory", "SIGKILL", "SIGSEGV", "disk"],
)
def test_a_job_that_lost_a_process_ends_in_one_line(work, threshold, said):
    line = error_line(work, threshold)
    assert [each for each in said if each not in line] == [], line
    assert line.endswith(". Nothing is lost: the same command continues from what was saved.")


OUT_OF_MEMORY = """1 worker(s) were killed due to the node running low on memory. Memory on the node (IP: 192.0.2.2, \
ID: 14f) was 22.71GB used / 23.54GB limit (0.964)
Top 10 memory users: PID\tMEM(GB)\tCOMMAND
5865\t17.75\t/usr/bin/python -u /home/me/another/program.py --with options that nobody wants to read
5862\t1.72\tray::RayTrainWorker
5828\t0.42\tray::TrainController
6315\t0.08\tray::DashboardAgent
Refer to the documentation on how to address the out of memory issue"""


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (
            OUT_OF_MEMORY,
            "memory ran out on node 192.0.2.2 (22.71GB of 23.54GB), and Ray killed a process of this job; the largest "
            "processes were /usr/bin/python -u /home/me/another/program.py --with option (17.75 GB, pid 5865), "
            "ray::RayTrainWorker "
            "(1.72 GB, pid 5862), ray::TrainController (0.42 GB, pid 5828): stop other programs, use fewer workers, "
            "or use a machine with more memory",
        ),
        (
            "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB",
            "the memory of a GPU ran out: stop other programs that use it, or choose a smaller --batch-size",
        ),
        (
            "ray.exceptions.ObjectStoreFullError: Failed to put object 00ff in object store because it is full.",
            "Ray's object store is full: give it more memory (`ray start --object-store-memory BYTES`; in a "
            "container, a larger /dev/shm), or use fewer workers",
        ),
        ("ValueError: 3 is not 4", None),
        ("KeyError: 'memory'", None),
    ],
    ids=["memory", "GPU", "object store", "a mistake of ours", "a word alone"],
)
def test_texts_of_ray_are_told_in_one_line(text, told):
    assert death(RuntimeError(text)) == told
