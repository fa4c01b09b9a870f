"""Joining a Ray that is slow to start, or does not start at all."""

import os
import subprocess
import sys

import pytest

from dtn_ray.errors import UserError
from dtn_ray.ray_cluster import connect

# The first node's raylet dies at once, as one whose agents are too slow does; of the second on, it starts late.
START = """
import pathlib, ray._private.services as services
from dtn_ray import cli
from dtn_ray.ray_cluster.connect import connect
real, script = services.RAYLET_EXECUTABLE, pathlib.Path("raylet")
script.write_text(f"#!/bin/sh\\nmkdir died 2>/dev/null && exit 1\\n{late}\\nexec {real} \\"$@\\"\\n")
script.chmod(0o755)
services.RAYLET_EXECUTABLE = str(script.absolute())
cli.run(connect)
"""


def failing(times: int, error: Exception):
    """In the place of ray.init: fails so often, then tells that it started."""
    calls = []

    def init(*_, **__) -> None:
        calls.append(1)
        if len(calls) <= times:
            raise error

    return init, calls


TIMED_OUT = Exception("The current node timed out during startup. This could happen because …\nand more lines")


@pytest.fixture
def not_joined(monkeypatch):
    monkeypatch.setattr("ray.is_initialized", lambda: False)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")  # this machine's token may be open to others, which is told
    monkeypatch.setattr(connect, "read_ray_address", lambda: None)


def test_a_ray_that_did_not_start_in_time_is_started_again(not_joined, monkeypatch, capsys):
    init, calls = failing(1, TIMED_OUT)
    monkeypatch.setattr("ray.init", init)
    connect.connect()
    assert len(calls) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("Ray did not start; trying again: The current node timed out")


@pytest.mark.parametrize(
    "error", [TIMED_OUT, RuntimeError("Failed to start GCS."), OSError(28, "No space left"), TimeoutError()]
)
def test_a_ray_that_never_starts_is_told_in_one_line(not_joined, monkeypatch, error):
    init, calls = failing(99, error)
    monkeypatch.setattr("ray.init", init)
    with pytest.raises(UserError, match=r"Ray does not start on this machine: .* logs are in") as told:
        connect.connect()
    assert len(calls) == 2 and "\n" not in str(told.value)


def test_a_defect_is_no_slow_start(not_joined, monkeypatch):
    init, calls = failing(99, TypeError("no such argument"))
    monkeypatch.setattr("ray.init", init)
    with pytest.raises(TypeError):
        connect.connect()
    assert len(calls) == 1


@pytest.mark.slow
def test_a_node_that_died_while_it_started_is_followed_by_another(tmp_path):
    environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    done = subprocess.run(
        [sys.executable, "-c", START.replace("{late}", "sleep 5")],
        env=environment | {"RAY_raylet_start_wait_time_s": "45"},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    assert "Ray did not start; trying again: The current node timed out" in done.stderr
    assert (tmp_path / "died").is_dir() and "Traceback" not in done.stderr
