"""cluster/local.sh as its users run it: two nodes, a job, Ctrl-C."""

import os
import re
import signal
import subprocess
import time
from collections import Counter
from pathlib import Path

import psutil
import pytest
from clusters import BIN, ROOT

JOB = """
import time

import ray

ray.init()


@ray.remote(num_cpus=1, scheduling_strategy="SPREAD")
def task(n):
    print("this is task", n, flush=True)
    time.sleep(3)
    return ray.get_runtime_context().get_node_id()


print(len(set(ray.get([task.remote(n) for n in range(4)]))), "nodes")
time.sleep(2)
"""


def as_in_a_terminal() -> None:
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # which is ignored where the tests run in the background


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_a_job_prints_each_line_once_and_ctrl_c_leaves_nothing(tmp_path):
    (tmp_path / "job.py").write_text(JOB)
    kept = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    environment = kept | {"HOME": str(tmp_path), "PATH": f"{BIN}:{os.environ['PATH']}", "RAY_DEDUP_LOGS": "0"}
    pipe = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True, "env": environment, "cwd": ROOT}
    script = subprocess.Popen([ROOT / "cluster/local.sh"], start_new_session=True, preexec_fn=as_in_a_terminal, **pipe)
    try:
        said = ""
        for line in script.stdout:
            said += line
            if line.startswith("Ctrl-C"):
                break
        folder = Path(re.search(r"/tmp/two-nodes-\w+", said)[0])
        variables = dict(re.findall(r"(RAY_\w+)=(\S+)", re.search(r"^export .*", said, re.MULTILINE)[0]))
        submit = ["ray", "job", "submit", "--", "python", str(tmp_path / "job.py")]
        job = subprocess.run(submit, **pipe | {"env": environment | variables}, timeout=200)
        assert job.returncode == 0, job.stdout
        assert "2 nodes" in job.stdout
        printed = Counter(re.findall(r"this is task \d", job.stdout))
        assert printed == {f"this is task {n}": 1 for n in range(4)}, job.stdout
        assert oct((tmp_path / ".ray/auth_token").stat().st_mode)[-3:] == "600"
        for _ in range(2):  # who waits presses it again
            script.send_signal(signal.SIGINT)
            time.sleep(0.5)
        said += script.communicate(timeout=60)[0]
        assert script.returncode == 130, said
    finally:
        for each in [*psutil.Process(script.pid).children(recursive=True), script] if script.poll() is None else []:
            each.kill()
    assert not folder.exists()
    left = [
        each.cmdline()
        for each in psutil.process_iter(["cmdline"])
        if str(folder) in " ".join(each.info["cmdline"] or [])
    ]
    assert not left
