"""Amazon's own S3, without an endpoint: what boto3 can reach there, every client of the project reaches."""

import base64
import json
import os
import shlex
import signal
import sys
from pathlib import Path

import numpy as np
import pytest
from amazon import IDENTITIES, Amazon
from files import encode
from PIL import Image
from reach import WRITTEN

SUPPORT = Path(__file__).parents[1] / "support"
ROOT = Path(__file__).parents[2]
STS = f"services = local\n[services local]\nsts =\n  endpoint_url = http://127.0.0.1:{IDENTITIES}\n"


@pytest.fixture(scope="module")
def amazon(tmp_path_factory):
    try:
        with Amazon(tmp_path_factory.mktemp("amazon")) as network:
            yield network
    except RuntimeError as error:
        if "unshare" in str(error):
            pytest.skip(f"no network namespace of its own: {error}")
        raise


def key(user: str) -> str:
    return f"aws_access_key_id = {user}\naws_secret_access_key = not-a-secret\n"


def cases(amazon: Amazon) -> dict[str, tuple[str, dict[str, str], str | None]]:
    """By name: a bucket, variables, and the text of a configuration file, without which variables tell all."""
    echo = json.dumps({"Version": 1, "AccessKeyId": "tester", "SecretAccessKey": "not-a-secret"})
    (amazon.folder / "process.json").write_text(echo)
    place = f"region = eu-west-1\nca_bundle = {amazon.folder}/ca.pem\n"
    return {
        "variables": ("photos", {}, None),
        "dotted": ("my.dotted.bucket", {}, None),
        "another region": ("far", {}, None),
        "no region": ("photos", {"AWS_REGION": ""}, None),
        "requester pays": ("payers", {"AWS_REQUEST_PAYER": "requester"}, None),
        "profile": ("photos", {"AWS_PROFILE": "work"}, f"[profile work]\n{place}{key('tester')}"),
        "process": ("photos", {}, f"[default]\n{place}credential_process = cat {amazon.folder}/process.json\n"),
        "role": (
            "far",
            {"AWS_PROFILE": "role"},
            f"[profile role]\n{place}role_arn = arn:aws:iam::1:role/r\nsource_profile = base\n{STS}"
            f"[profile base]\n{key('nobody')}",
        ),
    }


NAMES = list(cases(Amazon(Path("/tmp"))))


@pytest.fixture(scope="module")
def reached(amazon):
    """What each case came to, read and written, in one process."""
    asked = []
    for name, (bucket, variables, config) in cases(amazon).items():
        if config is None:
            variables = amazon.variables | variables
        else:
            path = amazon.folder / f"{name}.config"
            path.write_text(config)
            variables = {"AWS_CONFIG_FILE": str(path), "AWS_EC2_METADATA_DISABLED": "true"} | variables
        variables = {key: value for key, value in variables.items() if value}
        asked += [{"bucket": bucket, "variables": variables, "write": write} for write in (False, True)]
    anonymous = {name: value for name, value in amazon.variables.items() if "KEY" not in name}
    for value in ("true", "elsewhere,public", "elsewhere"):
        variables = anonymous | {"AWS_NO_SIGN_REQUEST": value}
        asked.append({"bucket": "public", "variables": variables, "write": False})
    asked.append({"bucket": "payers", "variables": amazon.variables, "write": False})
    strangers = {name: value for name, value in amazon.variables.items() if name != "AWS_CA_BUNDLE"}
    asked.append({"bucket": "photos", "variables": strangers, "write": False})
    done = amazon.run([sys.executable, str(SUPPORT / "reach.py")], {}, json.dumps(asked))
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.parametrize("name", NAMES)
def test_what_boto3_reaches_all_clients_reach(reached, name):
    at = 2 * NAMES.index(name)
    assert reached[at : at + 2] == [{"keys": ["odd\tname", "table.parquet"]}, {"keys": WRITTEN}]


def test_public_buckets_are_read_without_credentials_where_that_is_wished(reached):
    everywhere, named, other, *_ = reached[2 * len(NAMES) :]
    assert everywhere == named == {"keys": ["odd\tname", "table.parquet"]}
    assert "credentials" in other["error"]


def test_what_cannot_be_reached_is_told_with_what_was_tried(reached):
    unpaid, untrusted = reached[-2:]
    assert "AccessDenied" in unpaid["error"] and "https://s3.eu-west-1.amazonaws.com, Amazon's" in unpaid["error"]
    assert "certificate" in untrusted["error"].lower() and "\n" not in untrusted["error"]
    assert not any("not-a-secret" in json.dumps(each) for each in reached)


def put(amazon: Amazon, bucket: str, contents: dict[str, bytes]) -> None:
    script = (
        "import sys, json, base64; from dtn_ray import storage\n"
        "for uri, text in json.load(sys.stdin).items(): storage.write_bytes(uri, base64.b64decode(text))"
    )
    given = {f"s3://{bucket}/{name}": base64.b64encode(content).decode() for name, content in contents.items()}
    done = amazon.run([sys.executable, "-c", script], amazon.variables, json.dumps(given))
    assert done.returncode == 0, done.stderr


def images(count: int) -> dict[str, bytes]:
    noise = np.random.default_rng(0).integers(0, 256, (count, 32, 32, 3), np.uint8)
    return {f"in/{i:03}.png": encode(Image.fromarray(pixels)) for i, pixels in enumerate(noise)}


def job(amazon: Amazon, line: str, **variables: str) -> dict:
    """The result of a job's command."""
    name, *arguments = shlex.split(line)
    command = [sys.executable, str(ROOT / f"jobs/{name}.py"), *arguments]
    done = amazon.run(command, amazon.variables | variables)
    assert done.returncode == 0, done.stdout + done.stderr
    return json.loads(done.stdout[done.stdout.rindex("\n{") if "\n{" in done.stdout else 0 :])


@pytest.mark.slow
@pytest.mark.parametrize(("source", "out"), [("far", "my.dotted.bucket"), ("photos", "far")])
def test_a_conversion_from_and_to_amazon(amazon, made, source, out):
    put(amazon, source, images(12) | {"in": b"an object that is named like the prefix"})
    line = f"convert {made}/dtn s3://{source}/in s3a://{out}/out-of-{source} --sheet 4"
    summary = job(amazon, line)
    assert (summary["converted"], summary["failed"], summary["remaining"]) == (12, 0, 0)
    assert job(amazon, line)["done_before"] == 12


@pytest.mark.slow
def test_an_ingestion_from_and_to_amazon(amazon, yunet, portrait):
    put(amazon, "far", {"faces/a.jpg": encode(portrait, "jpeg"), "faces/b.png": encode(portrait.resize((256, 300)))})
    summary = job(amazon, f"ingest s3://far/faces s3://my.dotted.bucket/faces --detector {yunet} --sheet 0")
    assert (summary["converted"], summary["failed"]) == (2, 0)


AWAIT_CHECKPOINT = """
import sys, time
from dtn_ray import storage
deadline = time.monotonic() + 200
while not any(key.endswith("checkpoint.json") for key in storage.list_keys(sys.argv[1])):
    assert time.monotonic() < deadline
    time.sleep(0.2)
"""


@pytest.mark.slow
@pytest.mark.parametrize("bucket", ["photos", "my.dotted.bucket", "far"])
def test_a_training_on_amazon_goes_on_after_a_kill(amazon, bucket):
    command = [sys.executable, str(ROOT / "jobs/pretrain.py"), "--dataset", "handwritten-digits", "--split", "train"]
    command += ["--width", "0.15", "--epochs", "40", "--lr", "5e-3", "--cpus-per-worker", "1", "--name", "f"]
    command += ["--checkpoint-every", "20", "--log-every", "10", "--storage", f"s3://{bucket}/runs"]
    listing = [sys.executable, "-c", "import sys\nfrom dtn_ray import storage\nprint(*storage.list_keys(sys.argv[1]))"]
    driver = amazon.start(command, amazon.variables, start_new_session=True)
    # One process that looks often: a new one for each look takes longer than the whole training.
    saved = amazon.run([sys.executable, "-c", AWAIT_CHECKPOINT, f"s3://{bucket}/runs/f"], amazon.variables)
    assert saved.returncode == 0 and driver.poll() is None, driver.communicate()
    os.killpg(driver.pid, signal.SIGKILL)  # nsenter has become the driver
    driver.communicate()
    assert "result.json" not in amazon.run([*listing, f"s3://{bucket}/runs/f"], amazon.variables).stdout
    again = amazon.run(command, amazon.variables)
    assert again.returncode == 0, again.stdout + again.stderr
    result = json.loads(again.stdout[again.stdout.rindex("\n{") :])
    assert result["checkpoint"].startswith(f"s3://{bucket}/runs/f/checkpoint_")
    assert "not-a-secret" not in again.stdout + again.stderr
    assert result["resumed_at"] >= 20
