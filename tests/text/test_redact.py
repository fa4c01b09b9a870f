"""Secrets stay out of all that a job prints, stores and sends, whoever put them there."""

import json
import os
import pickle
import re
import subprocess
import sys
import time
import uuid
from contextlib import suppress
from pathlib import Path

import psutil
import pyarrow.parquet as pq
import pytest
from fault_proxy import Plan
from files import encode
from objects import Objects
from PIL import Image
from ray.tune.execution import class_cache
from scraping import wait_for
from webhooks import last_run, receiving

from dtn_ray.bulk import outcome
from dtn_ray.convert.options import Conversion
from dtn_ray.errors import UserError
from dtn_ray.metrics import JobMetrics
from dtn_ray.search.tuner import known_to_trials
from dtn_ray.text.display import line
from dtn_ray.text.redact import redact, redact_all

KEY, SECRET = "AKIAIOSFODNN7EXAMPLE", "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY"
SESSION = "IQoJb3JpZ2luX2VjEXAMPLE+TOKEN/7=="
SIGNATURE = "fe5f80f77d5fa3beca038a248ff027d0445342fe2855ddc963176630326f1024"
SIGNED = (
    f"https://photos.s3.us-west-2.amazonaws.com/2026/a.png?X-Amz-Algorithm=AWS4-HMAC-SHA256&X-Amz-Credential={KEY}%2F20261128"
    f"%2Fus-west-2%2Fs3%2Faws4_request&X-Amz-Security-Token=IQoJb3JpZ2luX2VjEXAMPLE&X-Amz-Signature={SIGNATURE}"
)
SIGNED_2 = (
    f"https://photos.s3.amazonaws.com/a.png?AWSAccessKeyId={KEY}&Expires=1767225600&Signature=vjbyPxybdZaNmGa%2ByT272"
)
AZURE = "https://photos.blob.core.windows.net/c/a.png?sv=2025-01-05&se=2026-12-01&sp=r&sig=Zk9vQmFyQmF6UXV4%3D"
CANONICAL = f"GET\n/photos/a.png\n\nhost:127.0.0.1\nx-amz-security-token:{SESSION}\n\nhost;x-amz-date\n{SIGNATURE}"
TO_SIGN = f"AWS4-HMAC-SHA256\n20261128T120000Z\n20261128/us-west-2/s3/aws4_request\n{SIGNATURE}"
NEVER = re.compile(
    "|".join(
        map(re.escape, [KEY, SECRET, SECRET[:12], SESSION, "IQoJb3", SIGNATURE, "vjbyPxyb", "Zk9vQm", "pass-word"])
    )
)

JOBS = Path(__file__).parents[2] / "jobs"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        (f"s3://{KEY}:{SECRET}@photos/2026: no", "s3://***@photos/2026: no"),
        (f"S3A://{KEY}@photos/2026", "S3A://***@photos/2026"),
        ("the endpoint (http://me:pass-word@store:8333, from", "the endpoint (http://***@store:8333, from"),
        ("http://me:pass-word/with@all@store:8333/b", "http://***@store:8333/b"),
        ("https://me:p%40ss-word@store", "https://***@store"),
        (f"{SIGNED}: unknown", "https://photos.s3.us-west-2.amazonaws.com/2026/a.png?***: unknown"),
        (SIGNED_2, "https://photos.s3.amazonaws.com/a.png?***"),
        (f"({AZURE})", "(https://photos.blob.core.windows.net/c/a.png?***)"),
        (SIGNED.partition("?")[2], "X-Amz-Algorithm=AWS4-HMAC-SHA256&X-Amz-Credential=***&X-Amz-Security-Token=***"),
        (CANONICAL, "***"),
        (f"said: {CANONICAL} and {TO_SIGN}, both", "said: *** and ***, both"),
        (" ".join(CANONICAL.split()), "***"),
        (f"<StringToSign>{TO_SIGN}</StringToSign><Code>7</Code>", "<StringToSign>***</StringToSign><Code>7</Code>"),
        (f"<CanonicalRequest>GET\n/x\n{SESSION}", "<CanonicalRequest>***</CanonicalRequest>"),
        (f"Authorization: AWS4-HMAC-SHA256 Credential={KEY}/2026, Signature={SIGNATURE}", "Authorization: ***, Sig"),
        (f"{{'x-amz-security-token': '{SESSION}', 'Host': 'a'}}", "{'x-amz-security-token': '***', 'Host': 'a'}"),
        ("Proxy-Authorization: Basic bWU6cGFzcy13b3Jk, so", "Proxy-Authorization: ***, so"),
        ("Bearer eyJhbGciOiJIUzI1NiJ9.e30.x", "Bearer ***"),
        ("https://hooks.slack.com/services/T024BE7LD/B01/x7", "https://hooks.slack.com/***"),
        ("https://discord.com/api/webhooks/1/abc.", "https://discord.com/***"),
        (f"the key {KEY} does not exist", "the key AKIA*** does not exist"),
    ],
)
def test_secrets_are_known_by_their_form(text, shown):
    assert redact(text).startswith(shown) and not NEVER.search(redact(text))
    assert redact(redact(text)) == redact(text) and shown in line(text)
    assert redact_all({"a": [text]}) == {"a": [redact(text)]}


@pytest.mark.parametrize(
    "text",
    [
        "s3://photos/2026/mail@home.png: no such key",
        "s3://arn:aws:s3:us-west-2:123456789012:accesspoint:photos/me@home.png",
        "http://127.0.0.1:8333/photos/me@home.png and http://[::1]:8333/me@home",
        "/data/token=1/key=2/what?.png",
        "Basic authentication, bearer of news, GET / and more",
        "AsiaPacificRegion2026 and the signature: none",
        "changed (alpha: 1.0 → 2.0), https://openreview.net/forum",
    ],
)
def test_what_only_looks_like_it_stays(text):
    assert redact(text) == text


def test_secrets_are_known_by_their_value(monkeypatch):
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    monkeypatch.setenv("AWS_SESSION_TOKEN", SESSION)
    monkeypatch.setenv("https_proxy", "me:pa%73s-word@proxy:3128")
    shown = redact(f"{SECRET} {SECRET.replace('/', '%2F')} {SESSION} pa%73s-word pass-word")
    assert shown == "*** *** *** *** ***"
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "a")  # too short to be told from what is none
    assert redact("a cat") == "a cat"


@pytest.mark.parametrize(
    ("place", "told"),
    [
        (f"s3://{KEY}:{SECRET}@photos/2026", "must not hold credentials"),
        (f"s3a://{KEY}:{SECRET}@photos", "must not hold credentials"),
        (f"s3://{KEY}@photos", "must not hold credentials"),
        (f"s3://{KEY}:{SECRET}/photos", "must not hold credentials"),
        (SIGNED, "https://photos.s3.us-west-2.amazonaws.com/2026/a.png?***: unknown scheme"),
        (SIGNED_2, "https://photos.s3.amazonaws.com/a.png?***: unknown scheme"),
        (AZURE, "https://photos.blob.core.windows.net/c/a.png?***: unknown scheme"),
    ],
)
@pytest.mark.parametrize("argument", ["checkpoint", "in", "out", "inventory", "people"])
def test_credentials_in_a_place_are_refused_and_not_repeated(made, tmp_path, call, argument, place, told):
    places = {"checkpoint": f"{made}/dtn", "in": f"{made}/photos", "out": f"{tmp_path}/out"}
    (tmp_path / "out").mkdir()
    options = {"inventory": f"--inventory '{place}'", "people": f"--people '{place}'"}.get(argument, "")
    given = " ".join(f"'{place if name == argument else usual}'" for name, usual in places.items())
    with receiving() as server:
        code, stdout, stderr = call(f"convert {given} {options} --webhook http://127.0.0.1:{server.server_port}")
    assert (code, stdout) == (2, "") and stderr.count("\n") == 1
    assert told in stderr and not NEVER.search(stderr)
    assert told in server.bodies[0]["error"] and not NEVER.search(json.dumps(server.bodies))
    if argument != "out":
        assert last_run(tmp_path / "out") == server.bodies[0]


@pytest.fixture
def photos(s3_server) -> str:
    """A bucket with a photo and a file that is none."""
    objects, bucket = Objects(s3_server), f"secrets-{uuid.uuid4().hex[:12]}"
    objects.client.create_bucket(Bucket=bucket)
    objects.put(f"s3://{bucket}", {"a.png": encode(Image.new("RGB", (40, 40))), "b.png": b"no image"})
    return f"s3://{bucket}"


def left(folder: Path) -> str:
    """All text that a run has left, the ledger's too."""
    tables = [str(pq.read_table(path).to_pylist()) for path in folder.rglob("*.parquet")]
    texts = [path.read_text() for path in folder.rglob("*") if path.suffix in (".json", ".html", ".csv", ".txt")]
    assert tables or texts
    return "\n".join(tables + texts)


def test_a_run_by_an_endpoint_with_a_password(made, photos, tmp_path, call, s3_server, monkeypatch):
    for name, value in s3_server.items():
        monkeypatch.setenv(name, value.replace("http://", "http://me:pass-word@"))
    code, stdout, stderr = call(f"convert {made}/dtn {photos} {tmp_path}/out")
    assert code == 0, stderr
    assert json.loads(stdout)["converted"] == 1
    assert not NEVER.search(stdout + stderr + left(tmp_path / "out"))

    code, stdout, stderr = call(f"convert {made}/dtn {photos} s3://no-such-bucket/out")
    assert (code, stdout) == (2, "") and stderr.splitlines()[-1].startswith("error: ")
    assert not NEVER.search(stderr)
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://me:pass-word@127.0.0.1:9")
    monkeypatch.setattr("dtn_ray.storage.s3.PATIENCE", 1.0)
    code, stdout, stderr = call(f"convert {made}/dtn {photos} {tmp_path}/out")
    assert (code, stdout) == (2, "") and "http://***@127.0.0.1:9" in stderr and not NEVER.search(stderr)
    assert "http://***@127.0.0.1:9" in last_run(tmp_path / "out")["error"]
    assert not NEVER.search(left(tmp_path / "out"))


@pytest.mark.parametrize("url", ["http://me:pass-word/x@127.0.0.1:9", "me:pass-word@127.0.0.1", "http://me:pass-word"])
def test_an_endpoint_that_is_none_is_one_line_without_its_password(made, tmp_path, call, s3_server, monkeypatch, url):
    for name, value in (s3_server | {"AWS_ENDPOINT_URL": url}).items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr("dtn_ray.storage.s3.PATIENCE", 1.0)
    code, stdout, stderr = call(f"convert {made}/dtn s3://photos {tmp_path}/out")
    assert (code, stdout) == (2, "") and stderr.count("\n") == 1 and not NEVER.search(stderr), stderr


ELEMENTS = (
    f"<AWSAccessKeyId>{KEY}</AWSAccessKeyId><StringToSign>{TO_SIGN}</StringToSign>"
    f"<SignatureProvided>{SIGNATURE}</SignatureProvided><CanonicalRequest>{CANONICAL}</CanonicalRequest>"
)


@pytest.mark.parametrize(
    ("message", "elements"), [("The signature does not match", ELEMENTS), (f"We signed {CANONICAL} and {TO_SIGN}", "")]
)
@pytest.mark.parametrize("methods", ["GET", "PUT"])
def test_a_store_s_error_that_repeats_what_was_signed(
    made, photos, tmp_path, call, store, monkeypatch, methods, message, elements
):
    monkeypatch.setattr("dtn_ray.storage.s3.PATIENCE", 1.0)
    refusal = {"code": "SignatureDoesNotMatch", "message": message, "elements": elements}
    out = f"{tmp_path}/out"
    if methods == "GET":  # of objects alone: the listing comes
        store.plan = Plan(refused=1, methods="GET", keys=r"/[ab]\.png$", **refusal)
        code, stdout, stderr = call(f"convert {made}/dtn {photos} {out}")
        assert code == 2 and "SignatureDoesNotMatch" in left(tmp_path / "out")
        store.plan = Plan(refused=1, methods="GET", **refusal)
        code, _, listing = call(f"convert {made}/dtn {photos} {out}")
        assert (code, listing.count("\n")) == (2, 1) and not NEVER.search(listing)
        code, _, parquet = call(f"convert {made}/dtn {made}/photos {out} --inventory {photos}/keys.parquet")
        assert (code, parquet.count("\n")) == (2, 1) and not NEVER.search(parquet)
        assert not NEVER.search(left(tmp_path / "out"))
    else:
        store.plan = Plan(refused=1, methods=methods, **refusal)
        code, stdout, stderr = call(f"convert {made}/dtn {made}/photos {photos}/out")
        assert (code, stdout) == (2, "")
    assert "SignatureDoesNotMatch" in stderr and not NEVER.search(stdout + stderr)


def test_metrics_and_errors_of_any_kind(ray_cluster, monkeypatch):
    out = f"s3://{KEY}:{SECRET}@photos/Bücher/\x1b[31m\n" + "x" * 5000 + uuid.uuid4().hex
    JobMetrics("conversion", out).ended("failed", 7.5)
    found = wait_for(lambda samples: any(out[-20:] in each.labels.get("out", "") for each in samples))
    labels = {each.labels["out"] for each in found if out[-20:] in each.labels.get("out", "")}
    assert len(labels) == 1 and not NEVER.search(str(labels))
    assert all(len(each) <= 200 and each.isprintable() for each in labels)


class Stop(Exception):
    """Neither a UserError nor told of in words."""


def test_a_defect_s_traceback_and_warnings_of_libraries_hold_none(tmp_path, capsys):
    script = f"""
import logging, warnings
from dtn_ray import cli

def job():
    logging.getLogger("a library").warning("with %s", "http://me:pass-word@store")
    warnings.warn({SIGNED!r})
    raise RuntimeError("http://me:pass-word@store \\x1b]0;title\\x07")

cli.run(job)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=100)
    assert done.returncode == 1 and "RuntimeError: http://***@store \\x1b]0;title\\x07" in done.stderr
    assert "with http://***@store" in done.stderr and "a.png?***" in done.stderr
    # The source line that a traceback quotes is the program's own.
    assert not NEVER.search(re.sub(r"^.*(raise|warning\(|warn\().*$", "", done.stderr, flags=re.MULTILINE))


@pytest.mark.slow
def test_what_ray_prints_of_its_workers_is_cleaned_too():
    script = f"""
import time
from contextlib import suppress
import ray
from dtn_ray import cli
from dtn_ray.ray_cluster.connect import connect

@ray.remote
def task():
    print("a worker says http://me:pass-word@store \x1b]0;owned\x07", flush=True)
    raise RuntimeError({SIGNED!r})

def job():
    connect()
    try:
        ray.get(task.remote())
    finally:
        time.sleep(3)  # for Ray to bring the worker's lines

cli.run(job)
"""
    environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=200, env=environment)
    printed = done.stdout + done.stderr
    assert done.returncode == 1 and "a worker says http://***@store \\x1b]0;owned\\x07" in printed, printed
    assert "RuntimeError: https://photos.s3.us-west-2.amazonaws.com/2026/a.png?***" in done.stderr
    assert not NEVER.search(printed) and "\x1b]" not in printed


def test_a_run_that_fails_in_any_way_tells_none(made, tmp_path):
    def fail(job: Conversion) -> dict:
        assert job.webhook == "", "who works has no need of it"
        raise Stop(f"by {SIGNED}\nand\x1b[2J more {CANONICAL}")

    (tmp_path / "out").mkdir()
    os.environ["OWN_HOOK"] = "http://127.0.0.1:9/T0KEN"
    try:
        with pytest.raises(Stop):
            outcome.tell(fail, Conversion(f"{made}/dtn", f"{made}/photos", f"{tmp_path}/out", webhook="env:OWN_HOOK"))
    finally:
        del os.environ["OWN_HOOK"]
    told = last_run(tmp_path / "out")
    assert told["outcome"] == "failed" and not NEVER.search(str(told)) and "\x1b" not in str(told)


def test_an_error_crosses_processes_clean():
    error = UserError(f"{SIGNED}\n\x1b[1m")
    assert str(pickle.loads(pickle.dumps(error))) == str(error)
    assert str(error) == "https://photos.s3.us-west-2.amazonaws.com/2026/a.png?***\\n\\x1b[1m"
    assert str(UserError(str(error))) == str(error)


def test_the_trials_of_a_search_are_given_no_keys(monkeypatch):
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"):
        monkeypatch.setenv(name, SECRET)
    with known_to_trials("127.0.0.1:6379"):
        actor = class_cache._ActorClassCache().get(type("Trial", (), {}))
    variables = actor._default_options["runtime_env"]["env_vars"]
    assert variables["RAY_ADDRESS"] == "127.0.0.1:6379" and SECRET not in variables.values()


# The webhook's URL by the name of what holds it


@pytest.fixture(
    params=[
        "env",
        pytest.param("file", marks=pytest.mark.slow),
        pytest.param("file URI", marks=pytest.mark.slow),
    ]
)
def hook(request, tmp_path, monkeypatch):
    """Gives a function that puts a URL there, and what to write after --webhook."""

    def put(url: str) -> str:
        if request.param == "env":
            monkeypatch.setenv("OWN_HOOK", url)
            return "env:OWN_HOOK"
        (tmp_path / "hook").touch(0o600)
        (tmp_path / "hook").write_text(url + "\n")
        return f"file:{'//' if request.param == 'file URI' else ''}{tmp_path}/hook"

    return put


def test_a_webhook_by_name_is_told_and_nobody_sees_it(made, tmp_path, hook):
    with receiving(503) as server:
        webhook = hook(server.url.replace("T0KEN", "T0KEN-of-twenty-characters"))
        job = subprocess.Popen(
            [sys.executable, JOBS / "convert.py", made / "dtn", tmp_path / "none", tmp_path, "--webhook", webhook],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        seen = set[str]()
        while job.poll() is None:
            with suppress(psutil.NoSuchProcess):
                own = psutil.Process(job.pid)
                seen |= {" ".join(each.cmdline()) for each in [own, *own.children(recursive=True)]}
            time.sleep(0.05)
        printed = job.communicate()[0]
    assert job.returncode == 2 and len(server.requests) == 2, printed
    assert any(webhook in each for each in seen), "the job was seen"
    told = "\n".join([printed, *seen, json.dumps(server.bodies), json.dumps(last_run(tmp_path))])
    assert not re.search("T0KEN|s3cret|pass-word|services", told)
    assert "warning" not in printed


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (None, "cannot be read: No such file or directory"),
        (b"", "the file is empty"),
        (b" \n", "the file is empty"),
        (b"https://a.example/T0KEN\nhttps://b.example/T0KEN\n", "it has several lines"),
        (b"T0KEN", "not a URL"),
        (b"\xff\xfeT0KEN", "not a text file"),
        (b"https://a.example/T0KEN" * 1000, "more than 8192 bytes"),
    ],
)
def test_a_file_without_a_url_is_refused_before_the_run(made, tmp_path, call, content, told):
    if content is not None:
        (tmp_path / "hook").touch(0o600)
        (tmp_path / "hook").write_bytes(content)
    code, stdout, stderr = call(f"convert {made}/dtn {made}/photos {tmp_path}/out --webhook file:{tmp_path}/hook")
    assert (code, stdout) == (2, "") and stderr.count("\n") == 1
    assert stderr.startswith("error: --webhook") and told in stderr and "T0KEN" not in stderr
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("where", ["env:NO_SUCH_HOOK", "env:", "file:", "file:.", "file:a\\x00b"])
def test_a_webhook_that_names_nothing_is_refused(made, tmp_path, call, where):
    where = where.replace("\\x00", "\0")
    code, stdout, stderr = call(f"convert {made}/dtn {made}/photos {tmp_path}/out --webhook '{where}'")
    assert (code, stdout) == (2, "") and stderr.startswith("error: --webhook ") and stderr.count("\n") == 1


def test_a_file_that_others_can_read_and_a_url_in_sight_are_warnings(made, tmp_path, call):
    with receiving() as server:
        (tmp_path / "hook").write_text(server.url)
        (tmp_path / "hook").chmod(0o644)
        end = f"convert {made}/dtn {tmp_path}/none {tmp_path}"
        _, _, stderr = call(f"{end} --webhook file:{tmp_path}/hook")
        warning, _ = stderr.splitlines()
        assert warning.endswith(f"chmod 600 {tmp_path}/hook") and warning.startswith("warning: ")
        _, _, stderr = call(f"{end} --webhook {server.url}")
        warning, _ = stderr.splitlines()
        assert "--webhook env:NAME or --webhook file:PATH" in warning and not re.search(
            "T0KEN|s3cret|pass-word", stderr
        )
        _, _, stderr = call(f"{end} --webhook http://127.0.0.1:{server.server_port}")
        assert stderr.count("\n") == 1, "a URL that says no more than where a server is may be seen"
    assert len(server.requests) == 3
