"""How a run ended: OUT/last-run.json, and a webhook that a real HTTP server takes."""

import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from files import encode
from PIL import Image
from webhooks import last_run, receiving

from dtn_ray import storage
from dtn_ray.bulk.lease import hold

JOBS = Path(__file__).parents[2] / "jobs"


@pytest.fixture
def photos(tmp_path) -> str:
    for i in range(3):
        storage.write_bytes(f"{tmp_path}/in/{i}.png", encode(Image.new("RGB", (32, 32), (60 * i, 90, 30))))
    storage.write_bytes(f"{tmp_path}/in/broken.png", b"not an image")
    return f"{tmp_path}/in"


def test_success_then_failure_are_told_and_the_last_good_facts_stay(
    made, photos, tmp_path, call, ray_cluster, monkeypatch
):
    out = tmp_path / "out"
    with receiving() as server:
        monkeypatch.setenv("OWN_HOOK", server.url)
        code, stdout, stderr = call(f"convert {made}/dtn {photos} {out} --webhook env:OWN_HOOK")
        assert code == 0, stderr
        (path, headers, told) = server.requests[0]
        assert path == "/services/T0KEN?key=s3cret" and headers["Authorization"].startswith("Basic ")
        assert (told["job"], told["source"], told["out"]) == ("conversion", photos, str(out))
        counts = {"images": 4, "done_before": 0, "converted": 3, "no_face": 0, "faces": 0, "failed": 1, "remaining": 0}
        assert (told["outcome"], told["counts"]) == ("succeeded", counts)
        assert told["seconds"] > 0 and "error" not in told
        assert "succeeded after" in told["text"] and "3 converted" in told["text"]
        assert last_run(out) == told
        (summary,) = out.glob("*/summary.json")
        good = summary.read_bytes()

        code, stdout, stderr = call(f"convert {made}/nothing {photos} {out} --webhook env:OWN_HOOK")
        assert (code, stdout) == (2, "")
        failed = server.bodies[1]
        assert failed["outcome"] == "failed" and stderr == f"error: {failed['error']}\n"
        assert f"{made}/nothing" in failed["error"] and failed["error"] in failed["text"] and "counts" not in failed
        assert last_run(out) == failed
        assert summary.read_bytes() == good


def test_an_ingestion_tells_too(photos, tmp_path, call):
    with receiving() as server:
        detector = tmp_path / "detector.onnx"
        detector.write_bytes(b"not a detector")
        code, _, stderr = call(
            f"ingest {photos} {tmp_path}/out --detector {detector} --webhook http://127.0.0.1:{server.server_port}"
        )
    assert code == 2
    (told,) = server.bodies
    assert (told["job"], told["outcome"]) == ("ingestion", "failed") and told["error"] in stderr
    assert not (tmp_path / "out").exists(), "a place that was not there is not made for a failure"


def test_of_two_at_once_the_second_tells_who_works_there(made, photos, tmp_path, call):
    with receiving() as server, hold(f"{tmp_path}/out/lease.json", 60):
        code, _, _ = call(f"convert {made}/dtn {photos} {tmp_path}/out --webhook {server.url}")
    assert code == 2
    assert "another run works here" in server.bodies[0]["error"] == last_run(tmp_path / "out")["error"]


def test_a_dry_run_tells_nothing(made, photos, tmp_path, call):
    with receiving() as server:
        code, _, _ = call(f"convert {made}/dtn {photos} {tmp_path}/out --dry-run --webhook {server.url}")
    assert code == 0 and server.requests == [] and not (tmp_path / "out").exists()


@pytest.fixture
def failing(made, tmp_path, call, monkeypatch):
    """Calls a conversion that fails for its source, with a webhook; gives the warnings, and how long it took."""

    def run(webhook: str) -> tuple[list[str], float]:
        began = time.monotonic()
        monkeypatch.setenv("OWN_HOOK", webhook)
        code, stdout, stderr = call(f"convert {made}/dtn {tmp_path}/nothing {tmp_path}/out --webhook env:OWN_HOOK")
        assert (code, stdout) == (2, ""), "the run's own outcome stays"
        warnings, error = stderr.splitlines()[:-1], stderr.splitlines()[-1]
        assert "no such folder" in error
        assert not re.search("T0KEN|s3cret|pass-word|services", stderr), "no secret is printed"
        return warnings, time.monotonic() - began

    return run


@pytest.mark.parametrize("statuses", [(503,), (429, 500)])
def test_a_webhook_that_is_busy_is_tried_again(failing, statuses):
    with receiving(*statuses) as server:
        warnings, seconds = failing(server.url)
    assert warnings == [] and len(server.bodies) == len(statuses) + 1
    assert server.bodies[0] == server.bodies[-1] and seconds < 20


@pytest.mark.parametrize(
    ("statuses", "tries", "told"), [((404,), 1, "HTTP status 404"), ((302,), 1, "302"), ((503,) * 9, 3, "503")]
)
def test_a_webhook_that_refuses_is_a_warning(failing, statuses, tries, told):
    with receiving(*statuses) as server:
        (warning,), seconds = failing(server.url)
    assert len(server.requests) == tries and seconds < 20
    assert warning.startswith("warning: --webhook: 127.0.0.1 ") and warning.endswith(told)


def test_a_webhook_that_does_not_answer_is_a_warning_before_a_job_is_killed(failing):
    with receiving(silent=True) as server:
        (warning,), seconds = failing(server.url)
    assert warning.startswith("warning: --webhook: 127.0.0.1 ") and seconds < 30


def test_a_webhook_that_is_not_there_is_a_warning(failing):
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    (warning,), _ = failing(f"http://127.0.0.1:{port}/services/T0KEN")
    assert warning.endswith("127.0.0.1 was not told how the run ended: ConnectionError")


@pytest.mark.parametrize("webhook", ["hooks/T0KEN", "ftp://host/T0KEN", "https:///T0KEN", "http://host:70000/T0KEN"])
def test_a_webhook_that_is_no_url_is_refused_before_the_run(made, photos, tmp_path, call, webhook):
    code, stdout, stderr = call(f"convert {made}/dtn {photos} {tmp_path}/out --webhook {webhook}")
    assert (code, stdout) == (2, "")
    advice = "nor env:NAME or file:PATH, which name a variable or a file that holds the URL"
    assert stderr == f"error: --webhook: not a URL such as https://HOST/PATH, {advice}\n"


@pytest.mark.slow
def test_a_run_stopped_by_sigterm_tells_so(made, tmp_path):
    image = encode(Image.effect_noise((64, 64), 90))
    for i in range(20_000):
        storage.write_bytes(f"{tmp_path}/in/{i}.png", image)
    with receiving() as server:
        command = [sys.executable, str(JOBS / "convert.py"), f"{made}/dtn", f"{tmp_path}/in", f"{tmp_path}/out"]
        job = subprocess.Popen(
            [*command, "--webhook", server.url, "--batch-size", "4"],
            env=os.environ | {"RAY_ADDRESS": "local"},
            stderr=subprocess.PIPE,
            text=True,
        )
        deadline = time.monotonic() + 240
        while not list(tmp_path.glob("out/ledger/*/*.parquet")):
            assert job.poll() is None and time.monotonic() < deadline
            time.sleep(0.1)
        job.send_signal(signal.SIGTERM)
        _, stderr = job.communicate(timeout=60)
    assert job.returncode == 143, stderr
    assert "terminated; the same command continues" in stderr and "SIGTERM received" not in stderr
    (told,) = server.bodies
    assert told["outcome"] == "stopped" and last_run(tmp_path / "out") == told
    assert not list(tmp_path.glob("out/*/summary.json"))


@pytest.mark.parametrize(
    "kind", ["a byte a second", "continues for ever", "headers for ever", "a huge answer", "elsewhere"]
)
def test_no_server_holds_a_job_up(failing, monkeypatch, kind):
    monkeypatch.setattr("dtn_ray.bulk.outcome.WAIT_FOR_WEBHOOK", 5.0)
    end = threading.Event()

    def answer(connection: socket.socket) -> None:
        with connection:
            connection.recv(65536)
            try:
                if kind == "a huge answer":
                    connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 100000000000\r\n\r\n")
                while not end.is_set():
                    if kind == "a byte a second":
                        connection.sendall(b"H")
                    elif kind == "continues for ever":
                        connection.sendall(b"HTTP/1.1 100 Continue\r\n\r\n")
                    elif kind == "headers for ever":
                        connection.sendall(b"HTTP/1.1 200 OK\r\nX: " + b"x" * 100)
                    else:
                        connection.sendall(b"x" * 65536)
                        continue
                    end.wait(0.5)
            except OSError:
                pass

    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            while not end.is_set():
                try:
                    threading.Thread(target=answer, args=(server.accept()[0],), daemon=True).start()
                except OSError:
                    return

        threading.Thread(target=serve, daemon=True).start()
        url = f"http://127.0.0.1:{server.getsockname()[1]}/services/T0KEN"
        if kind == "elsewhere":
            with receiving(302) as redirecting:
                warnings, seconds = failing(redirecting.url)
                assert len(redirecting.requests) == 1, "not followed"
        else:
            warnings, seconds = failing(url)
        end.set()
    assert seconds < 30
    if kind == "a huge answer":
        assert warnings == [], "its status says that it was taken"
    else:
        (warning,) = warnings
        assert warning.startswith("warning: --webhook: 127.0.0.1 was not told how the run ended")


def test_a_name_that_nobody_resolves_holds_no_job_up(failing, monkeypatch):
    monkeypatch.setattr("dtn_ray.bulk.outcome.WAIT_FOR_WEBHOOK", 2.0)
    real, end = socket.getaddrinfo, threading.Event()

    def hangs(host, *arguments, **options):
        if host == "hooks.invalid":
            end.wait(60)
        return real(host, *arguments, **options)

    monkeypatch.setattr("socket.getaddrinfo", hangs)
    try:
        (warning,), seconds = failing("https://hooks.invalid/services/T0KEN")
    finally:
        end.set()
    assert warning.endswith("no complete answer within 2 s") and seconds < 30
