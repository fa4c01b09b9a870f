"""Every job through the job server of a token-protected cluster, as its users submit them (docs/how-to/cluster.md)."""

import json
import re
import subprocess
import time
import uuid
from pathlib import Path

import pytest
from clusters import BIN, ROOT, Cluster
from conftest import client
from files import encode
from PIL import Image
from webhooks import receiving

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]

DIGITS = (
    "--source handwritten-digits --source-split train --target handwritten-digits --f {f} --judge {f} "
    "--width-g 0.0625 --width-D 0.125 --batch-size 16 --cpus-per-worker 1"
)


@pytest.fixture(scope="module")
def cluster(s3_server):
    """A head of two CPUs, whose jobs find the S3 server."""
    with Cluster(s3_server, cpus=2) as cluster:
        yield cluster


@pytest.fixture(scope="module")
def place(cluster, s3_server, classifier, portrait):
    """A bucket with photos, and where f lies, as s3://…"""
    name = f"submit-{uuid.uuid4().hex[:12]}"
    s3 = client(s3_server)
    s3.create_bucket(Bucket=name)
    s3.put_object(Bucket=name, Key="photos/a.png", Body=encode(Image.new("RGB", (40, 40), "red")))
    s3.put_object(Bucket=name, Key="portraits/a.png", Body=encode(portrait))
    for path in Path(classifier).iterdir():
        s3.upload_file(str(path), name, f"f/{path.name}")
    return f"s3://{name}"


def ray_job(cluster: Cluster, *arguments: str, **environment: str) -> subprocess.CompletedProcess:
    """`ray job …` from the repository's root, on the machine of someone who has the token."""
    own = {"RAY_API_SERVER_ADDRESS": cluster.jobs} | environment
    return subprocess.run(
        [str(BIN / "ray"), "job", *arguments],
        env=cluster.environment | own,
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=900,
    )


def submit(cluster: Cluster, command: str) -> subprocess.CompletedProcess:
    return ray_job(cluster, "submit", "--working-dir", ".", "--", *command.split())


def result(output: str) -> dict:
    """The JSON that a job prints last."""
    plain = re.sub(r"\x1b\[[0-9;]*m", "", output)
    return json.JSONDecoder().raw_decode(plain[plain.rindex("\n{\n") + 1 :])[0]


def test_the_code_that_is_sent_is_this_and_nothing_else(cluster):
    sent = ray_job(cluster, "submit", "--working-dir", ".", "--", "du", "-sm", ".")
    assert sent.returncode == 0, sent.stdout
    assert int(re.search(r"^(\d+)\t\.$", sent.stdout, re.MULTILINE).group(1)) < 50, "megabytes: not .venv, nor runs"


def test_a_training_a_search_and_what_they_leave_are_used_by_the_other_jobs(cluster, place):
    options = DIGITS.format(f=f"{place}/f")
    trained = submit(
        cluster, f"python jobs/train.py {options} --steps 4 --checkpoint-every 2 --storage {place}/runs --name dtn"
    )
    assert trained.returncode == 0, trained.stdout
    assert "dtn 4/4" in trained.stdout, "its lines are streamed"
    assert result(trained.stdout)["step"] == 4

    converted = submit(cluster, f"python jobs/convert.py {place}/runs/dtn {place}/photos {place}/emoji --actors 1")
    assert converted.returncode == 0, converted.stdout
    assert result(converted.stdout)["converted"] == 1

    scored = submit(cluster, f"python jobs/evaluate.py {place}/runs/dtn --out {place}/scores")
    assert scored.returncode == 0, scored.stdout
    assert result(scored.stdout)["images"] > 100

    searched = submit(
        cluster,
        f"python jobs/tune.py {options} --steps 4 --checkpoint-every 1 --trials 2 --storage {place}/runs --name search",
    )
    assert searched.returncode == 0, searched.stdout
    assert result(searched.stdout)["trials"] == 2


@pytest.mark.parametrize(
    ("command", "field"),
    [
        (
            "python jobs/pretrain.py --dataset handwritten-digits --split train --width 0.125 --epochs 1 "
            "--storage {place}/runs --name f --cpus-per-worker 1",
            "test_error",
        ),
        ("python jobs/make_emoji.py {place}/avatars --count 4", "sheet"),
        ("python jobs/ingest.py {place}/portraits {place}/faces --detector {yunet} --actors 1", "faces"),
        (
            "python jobs/super_resolution.py {place}/portraits --factors 2 --steps 2 --batch-size 2 "
            "--storage {place}/runs --name sr --cpus-per-worker 1",
            "checkpoint",
        ),
    ],
    ids=["pretrain", "make_emoji", "ingest", "super_resolution"],
)
def test_the_other_jobs(cluster, place, yunet, command, field):
    done = submit(cluster, command.format(place=place, yunet=yunet))
    assert done.returncode == 0, done.stdout
    assert field in result(done.stdout)


def test_a_job_that_fails_has_its_reason_in_the_log_and_exits_1(cluster):
    failed = submit(cluster, "python jobs/train.py digits --data-dir nowhere")
    assert failed.returncode == 1
    assert "error: nowhere" in failed.stdout and "Traceback" not in failed.stdout.split("error: nowhere")[0]


def test_a_webhook_by_name_is_not_in_the_list_of_jobs(cluster, tmp_path):
    hook = tmp_path / "hook"
    hook.touch(0o600)
    with receiving() as server:
        hook.write_text(server.url)
        failed = submit(cluster, f"python jobs/convert.py none {tmp_path} {tmp_path}/out --webhook file:{hook}")
        listed = ray_job(cluster, "list")
    assert failed.returncode == 1 and [each["outcome"] for each in server.bodies] == ["failed"], failed.stdout
    assert listed.returncode == 0 and f"--webhook file:{hook}" in listed.stdout, "commands are listed"
    assert not re.search("T0KEN|s3cret|pass-word", listed.stdout + failed.stdout)


@pytest.mark.parametrize("token", ["wrong-token-wrong-token-wrong-token", None], ids=["wrong", "none"])
def test_without_the_token_nothing_is_run(cluster, token, tmp_path):
    (tmp_path / "token").write_text(token or "")
    other = {"RAY_AUTH_TOKEN_PATH": str(tmp_path / "token")} if token else {"RAY_AUTH_MODE": "disabled"}
    refused = ray_job(cluster, "submit", "--", "echo", "it ran", **other)
    assert refused.returncode != 0
    assert "it ran" not in refused.stdout.replace("echo 'it ran'", "")
    assert re.search("401|[Uu]nauthori[sz]ed|InvalidAuthToken|[Tt]oken", refused.stdout), refused.stdout


def test_a_stopped_training_goes_on_by_the_same_command(cluster, place, s3_server):
    options = DIGITS.format(f=f"{place}/f")
    command = f"python jobs/train.py {options} --steps 400 --checkpoint-every 50 --storage {place}/runs --name stopped"
    started = ray_job(
        cluster, *("submit", "--working-dir", ".", "--no-wait", "--submission-id", "stopped", "--"), *command.split()
    )
    assert started.returncode == 0, started.stdout
    s3, bucket = client(s3_server), place.removeprefix("s3://")
    deadline = time.monotonic() + 300
    while not any(
        each["Key"].endswith("checkpoint.json")
        for each in s3.list_objects_v2(Bucket=bucket, Prefix="runs/stopped/").get("Contents", [])
    ):
        assert time.monotonic() < deadline
        time.sleep(0.2)
    stopped = ray_job(cluster, "stop", "stopped")
    assert stopped.returncode == 0, stopped.stdout
    again = submit(cluster, command)
    assert again.returncode == 0, again.stdout
    assert 50 <= result(again.stdout)["resumed_at"] < 400 and "dtn: resumed at step" in again.stdout
