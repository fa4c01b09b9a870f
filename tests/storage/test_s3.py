"""How S3 is reached: credentials of every kind, proxies, names, pauses, against a real server."""

import json
import os
import pickle
import socket
import subprocess
import sys
import threading
import time
from datetime import UTC, datetime, timedelta
from hashlib import sha1
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from fault_proxy import FaultProxy
from files import encode
from identities import Identities
from objects import Objects
from PIL import Image
from pyarrow import fs
from reach import WRITTEN, write
from seaweedfs import SeaweedFS

from dtn_ray import storage
from dtn_ray.convert.job import convert
from dtn_ray.convert.options import Conversion
from dtn_ray.errors import UserError
from dtn_ray.ray_cluster.connect import connect
from dtn_ray.storage import s3

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def objects(s3_server) -> Objects:
    objects = Objects(s3_server)
    for bucket in ("ways", "my.dotted.ways", "public"):
        objects.client.create_bucket(Bucket=bucket)
    return objects


@pytest.fixture
def bare(monkeypatch, tmp_path):
    """No AWS settings of the machine's, nor of the session's; files of its own."""
    for name in [name for name in os.environ if name.startswith("AWS_") or name.lower().endswith("_proxy")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / ".aws/config"))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    return tmp_path


@pytest.fixture
def keys(bare, s3_server, objects, monkeypatch):
    """The test server by the variables."""
    for name, value in s3_server.items():
        monkeypatch.setenv(name, value)


@pytest.fixture
def identities():
    with Identities() as server:
        yield server


ROLE = "role_arn = arn:aws:iam::1:role/r\n"
BASE = "[profile base]\naws_access_key_id = nobody\naws_secret_access_key = not-a-secret\n"
SSO = "[sso-session us]\nsso_region = us-east-1\nsso_start_url = https://us.invalid/start\n"


@pytest.mark.parametrize("way", ["profile", "role", "web identity", "process", "container", "instance", "sso"])
def test_credentials_of_every_kind_serve_every_client(bare, s3_server, objects, identities, monkeypatch, way):
    endpoint, lines, more = s3_server["AWS_ENDPOINT_URL"], "region = eu-west-1", ""
    monkeypatch.setenv("AWS_PROFILE", "work")
    monkeypatch.setenv("AWS_ENDPOINT_URL_STS", identities.endpoint)
    if way == "profile":
        lines += "\naws_access_key_id = tester\naws_secret_access_key = not-a-secret"
    elif way == "role":
        lines, more = f"{lines}\n{ROLE}source_profile = base", BASE
    elif way == "web identity":
        (bare / "token").write_text("a token")
        lines += f"\n{ROLE}web_identity_token_file = {bare}/token"
    elif way == "process":
        (bare / "process.json").write_text(json.dumps(identities.document()))
        lines += f"\ncredential_process = cat {bare}/process.json"
    elif way == "container":
        monkeypatch.setenv("AWS_CONTAINER_CREDENTIALS_FULL_URI", f"{identities.endpoint}/container")
    elif way == "instance":
        monkeypatch.delenv("AWS_EC2_METADATA_DISABLED")
        monkeypatch.setenv("AWS_EC2_METADATA_SERVICE_ENDPOINT", identities.endpoint)
    else:
        lines += "\nsso_session = us\nsso_account_id = 1\nsso_role_name = r"
        more = SSO
        monkeypatch.setenv("AWS_ENDPOINT_URL_SSO", identities.endpoint)
        ends = (datetime.now(UTC) + timedelta(hours=1)).strftime("%Y-%m-%dT%H:%M:%SZ")
        (bare / ".aws/sso/cache").mkdir(parents=True)
        token = {"accessToken": "a token", "expiresAt": ends, "startUrl": "https://us.invalid/start"}
        (bare / f".aws/sso/cache/{sha1(b'us').hexdigest()}.json").write_text(json.dumps(token))
    profile_folder = bare / ".aws"
    profile_folder.mkdir(exist_ok=True)
    (profile_folder / "config").write_text(
        f"[profile work]\nservices = ours\n{lines}\n[services ours]\ns3 =\n  endpoint_url = {endpoint}\n{more}"
    )
    if way == "sso":  # botocore has found its home folder when it was imported
        variables = {name: value for name, value in os.environ.items() if name.startswith(("AWS_", "HOME"))}
        given = json.dumps([{"bucket": "ways", "variables": variables, "write": True}])
        command = [sys.executable, str(ROOT / "tests/support/reach.py")]
        done = subprocess.run(command, input=given, capture_output=True, text=True, cwd=ROOT)
        assert json.loads(done.stdout) == [{"keys": WRITTEN}], done.stderr
    else:
        assert write("ways") == WRITTEN
    asked = {"role": "AssumeRole", "web identity": "AssumeRoleWithWebIdentity"}.get(way, way)
    assert identities.asked == ({} if way in ("profile", "process") else {asked: 1})
    assert f"({endpoint}, from the profile work), the region (eu-west-1)" in s3.advice()


def test_credentials_that_end_are_renewed_for_every_client(bare, s3_server, objects, identities, monkeypatch):
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", s3_server["AWS_ENDPOINT_URL"])
    monkeypatch.setenv("AWS_REGION", "us-east-1")
    monkeypatch.setenv("AWS_CONTAINER_CREDENTIALS_FULL_URI", f"{identities.endpoint}/container")
    identities.lifetime = timedelta(seconds=4)
    # As a training holds it, in a process of its own, for as long as it lasts.
    filesystem = pickle.loads(pickle.dumps(storage.resolve("s3://ways/renewed")[0]))
    assert write("ways") == WRITTEN
    identities.user = "writer"  # from now on: tester's last credentials have ended when it is asked again
    before = identities.asked["container"]
    time.sleep(4.5)
    assert write("ways") == WRITTEN
    with filesystem.open_output_stream("ways/renewed/checkpoint") as file:
        file.write(b"weights")
    assert objects.read("s3://ways/renewed") == {"checkpoint": b"weights"}
    assert identities.asked["container"] > before


def test_a_filesystem_carries_no_credentials(keys):
    assert b"not-a-secret" not in pickle.dumps(storage.resolve("s3://ways/x")[0])
    assert "not-a-secret" not in s3.advice() + repr(s3.store("ways"))


@pytest.mark.parametrize("bucket", ["ways", "my.dotted.ways"])
def test_names_of_buckets(keys, bucket):
    assert write(bucket) == WRITTEN


@pytest.mark.parametrize("scheme", ["s3", "S3", "s3a", "s3n", "S3A"])
def test_schemes_that_mean_s3(keys, objects, scheme):
    objects.put("s3://ways/schemes", {"a.txt": b"a"})
    uri = f"{scheme}://ways/schemes"
    assert storage.list_keys(uri) == ["a.txt"] and storage.is_folder(uri) and storage.is_file(f"{uri}/a.txt")
    assert storage.read_bytes(f"{uri}/a.txt") == b"a" and storage.absolute(uri) == "s3://ways/schemes"
    filesystem, path = storage.resolve(f"{uri}/a.txt")
    assert filesystem.open_input_file(path).read() == b"a"
    assert storage.join(uri, "b") == storage.child(uri, "b") == "s3://ways/schemes/b"


@pytest.mark.parametrize("uri", ["s3://", "s3:///key", "s3a:///key"])
def test_a_bucket_without_a_name_is_refused(uri):
    for function in (storage.resolve, storage.is_folder, storage.is_file, storage.absolute):
        with pytest.raises(UserError, match=f"^{uri}: no bucket; give s3://bucket/prefix$"):
            function(uri)


def test_keys_that_begin_with_a_slash_can_be_a_source_and_nothing_else(made, bare, monkeypatch):
    # SeaweedFS makes one slash of two; Amazon and moto do not.
    moto = pytest.importorskip("moto", reason="moto keeps such keys as Amazon does")
    monkeypatch.setenv("AWS_REGION", "us-east-1")
    with moto.mock_aws():
        s3.client().create_bucket(Bucket="slashes")
        for key in ("/slash/a.png", "slash/b.png"):
            s3.client().put_object(Bucket="slashes", Key=key, Body=encode(Image.new("RGB", (32, 32))))
        summary = convert(Conversion(f"{made}/dtn", "s3://slashes//slash", f"{bare}/out", sheet=0))
        assert (summary["images"], summary["converted"]) == (1, 1), summary["failures"]
        with pytest.raises(UserError, match=r"s3://slashes//out: a folder name is empty \(//\)"):
            convert(Conversion(f"{made}/dtn", "s3://slashes//slash", "s3://slashes//out", sheet=0))


def test_an_object_named_like_the_prefix_does_not_hide_it(made, keys, objects):
    for name in ("hidden", "hidden/a.png", "hidden/b/c.png"):
        objects.client.put_object(Bucket="ways", Key=name, Body=encode(Image.new("RGB", (32, 32))))
    assert storage.is_folder("s3://ways/hidden") and storage.is_file("s3://ways/hidden")
    summary = convert(Conversion(f"{made}/dtn", "s3://ways/hidden", "s3://ways/out-of-hidden", sheet=0))
    assert (summary["converted"], summary["failed"]) == (2, 0)


@pytest.mark.parametrize("uri", ["file://{}/a%20b", "file://localhost{}/a%20b", "FILE:{}/a%20b", "{}/a b"])
def test_file_uris_are_read_as_uris(tmp_path, uri):
    (tmp_path / "a b").mkdir()
    uri = uri.format(tmp_path)
    assert storage.is_folder(uri) and storage.absolute(uri) == f"{tmp_path}/a b"
    storage.write_bytes(storage.join(uri, "x%2Fy.png"), b"x")  # as outputs are named, whose % is no escape
    assert storage.list_keys(uri) == ["x%2Fy.png"]
    assert storage.read_bytes(storage.child(uri, "x%2Fy.png")) == b"x"


def test_a_file_of_another_machine_is_refused():
    with pytest.raises(UserError, match="file://photos/a: a file on the host photos; give file:///PATH"):
        storage.is_folder("file://photos/a")


def test_pyarrow_sees_files_and_folders(keys, objects, tmp_path):
    objects.put("s3://ways/tree", {"a": b"1", "sub/b": b"22", "sub/deep/c": b"333"})
    filesystem, path = storage.resolve("s3://ways/tree/")
    kinds = {info.path: info.type for info in filesystem.get_file_info([f"{path}/{n}" for n in ("a", "sub", "gone")])}
    assert list(kinds.values()) == [fs.FileType.File, fs.FileType.Directory, fs.FileType.NotFound]
    found = filesystem.get_file_info(fs.FileSelector(path, recursive=True))
    assert {info.path: info.size for info in found if info.is_file} == {
        f"{path}/a": 1,
        f"{path}/sub/b": 2,
        f"{path}/sub/deep/c": 3,
    }
    assert {info.path for info in found if not info.is_file} == {f"{path}/sub", f"{path}/sub/deep"}
    assert {info.base_name for info in filesystem.get_file_info(fs.FileSelector(path))} == {"a", "sub"}
    with pytest.raises(FileNotFoundError):
        filesystem.get_file_info(fs.FileSelector(f"{path}/gone"))
    with pytest.raises(FileNotFoundError):
        filesystem.open_input_file(f"{path}/gone")
    storage.copy_folder("s3://ways/tree", str(tmp_path))
    assert (tmp_path / "sub/deep/c").read_bytes() == b"333"
    large = os.urandom(21 << 20)  # in parts
    (tmp_path / "large").write_bytes(large)
    storage.copy_folder(str(tmp_path), "s3://ways/copy")
    assert objects.read("s3://ways/copy", "large") == {"large": large}
    filesystem.delete_dir("ways/copy")
    assert objects.keys("s3://ways/copy") == [] and objects.keys("s3://ways/tree")


class Recorder:
    """A plain HTTP proxy that keeps what it was asked, and refuses it."""

    def __init__(self) -> None:
        self.lines: list[tuple[str, dict[str, str]]] = []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def log_message(self, *_: object) -> None:
                pass

            def answer(self) -> None:
                outer.lines.append((self.requestline, dict(self.headers)))
                self.send_response(403)
                self.send_header("Content-Length", "0")
                self.end_headers()

            do_GET = do_HEAD = do_PUT = do_CONNECT = answer

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.endpoint = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()


@pytest.fixture
def recorder():
    recorder = Recorder()
    yield recorder
    recorder.server.shutdown()
    recorder.server.server_close()


def ask(bucket: str) -> None:
    """One request of boto3's, of obstore's and of pyarrow's."""
    with pytest.raises(UserError):
        storage.is_folder(f"s3://{bucket}/x")
    with pytest.raises(OSError):
        storage.read_bytes(f"s3://{bucket}/x")
    filesystem, path = storage.resolve(f"s3://{bucket}/x")
    with pytest.raises(OSError):
        filesystem.open_input_file(path)


def test_proxies_are_used_by_every_client(keys, recorder, monkeypatch):
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://store.invalid:9000")
    monkeypatch.setenv("HTTP_PROXY", recorder.endpoint)
    ask("proxied")
    lines = {line for line, _ in recorder.lines}
    assert {line.split("?")[0].split(" ")[1] for line in lines} == {
        "http://store.invalid:9000/proxied",
        "http://store.invalid:9000/proxied/x",
    }
    assert {line.split()[0] for line in lines} == {"HEAD", "GET"}


def test_proxies_are_left_out_where_they_are_not_to_be_used(keys, recorder, monkeypatch):
    monkeypatch.setenv("HTTP_PROXY", recorder.endpoint)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    assert write("ways") == WRITTEN and not recorder.lines


def test_who_pays_and_who_signs_is_told_by_every_client(keys, recorder, monkeypatch):
    monkeypatch.setenv("AWS_ENDPOINT_URL", recorder.endpoint)
    ask("quiet")
    assert not any("x-amz-request-payer" in map(str.lower, headers) for _, headers in recorder.lines)
    assert all("Authorization" in {name.title() for name in headers} for _, headers in recorder.lines)
    recorder.lines.clear()
    monkeypatch.setenv("AWS_REQUEST_PAYER", "requester")
    ask("paid")
    assert len(recorder.lines) >= 4
    assert all({"x-amz-request-payer", "authorization"} <= {*map(str.lower, each)} for _, each in recorder.lines)
    recorder.lines.clear()
    monkeypatch.setenv("AWS_NO_SIGN_REQUEST", "some, loud")
    ask("loud")
    assert len(recorder.lines) >= 4
    assert not any("authorization" in map(str.lower, headers) for _, headers in recorder.lines)
    monkeypatch.setenv("AWS_REQUEST_PAYER", "me")
    with pytest.raises(UserError, match="AWS_REQUEST_PAYER=me: set it to requester"):
        storage.is_folder("s3://loud/x")


@pytest.mark.parametrize(("submitted", "told"), [(False, {"AWS_NO_SIGN_REQUEST": "public"}), (True, None)])
def test_a_cluster_is_told_who_signs_and_nothing_secret(keys, monkeypatch, submitted, told):
    given = {}
    monkeypatch.setattr("ray.is_initialized", lambda: False)
    monkeypatch.setattr("ray.init", lambda **options: given.update(options))
    monkeypatch.setenv("AWS_NO_SIGN_REQUEST", "public")
    if submitted:
        monkeypatch.setenv("RAY_JOB_CONFIG_JSON_ENV_VAR", "{}")
    with socket.create_server(("127.0.0.1", 0)) as head:
        monkeypatch.setenv("RAY_ADDRESS", f"127.0.0.1:{head.getsockname()[1]}")
        connect()
    assert given["runtime_env"] == (told and {"env_vars": told})


@pytest.mark.parametrize(
    ("variables", "message"),
    [
        ({"AWS_PROFILE": "gone"}, r"gone.*Check AWS_PROFILE"),
        ({"AWS_ENDPOINT_URL": "localhost:9000"}, "localhost:9000"),
        ({"AWS_ACCESS_KEY_ID": "", "AWS_SECRET_ACCESS_KEY": ""}, "Unable to locate credentials.*none were found"),
    ],
    ids=["profile", "endpoint", "credentials"],
)
def test_settings_that_lead_nowhere_get_one_line(keys, monkeypatch, variables, message):
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
        if not value:
            monkeypatch.delenv(name)
    with pytest.raises(UserError, match=message) as caught:
        storage.is_folder("s3://ways/x")
    assert "\n" not in str(caught.value)
    (error,) = storage.read_many(["s3://ways/x"])
    assert isinstance(error, OSError) and "\n" not in str(error)


@pytest.fixture
def away(keys, s3_server, monkeypatch):
    with FaultProxy(s3_server["AWS_ENDPOINT_URL"]) as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.endpoint)
        yield proxy


def test_a_store_that_is_away_for_six_seconds_is_waited_for(away, objects):
    contents = {f"{i:03}": bytes([i]) for i in range(200)}
    objects.put("s3://ways/away", contents)
    storage.list_keys("s3://ways/away")
    away.go_away(6)
    time.sleep(0.1)
    began = time.monotonic()
    outcomes: dict[str, object] = {}

    def read() -> None:
        outcomes["read"] = storage.read_many([f"s3://ways/away/{key}" for key in contents])

    def written() -> None:
        outcomes["written"] = storage.write_many([storage.NewFile(f"s3://ways/new/{k}", k.encode()) for k in contents])

    def listed(i: int) -> None:
        outcomes[f"list {i}"] = len(storage.list_keys("s3://ways/away"))

    def parquet() -> None:
        filesystem, path = storage.resolve("s3://ways/new.parquet")
        pq.write_table(pa.table({"n": [1]}), path, filesystem=filesystem)
        outcomes["parquet"] = pq.read_table(path, filesystem=filesystem)["n"].to_pylist()

    threads = [threading.Thread(target=function) for function in (read, written, parquet)]
    threads += [threading.Thread(target=listed, args=(i,)) for i in range(40)]  # more than boto3's own way would repeat
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert 5 < time.monotonic() - began < 20
    assert outcomes["read"] == list(contents.values()) and outcomes["written"] == [None] * 200
    assert [outcomes[f"list {i}"] for i in range(40)] == [200] * 40 and outcomes["parquet"] == [1]


@pytest.mark.parametrize("client", ["boto3", "obstore"])
def test_nobody_there_is_told_when_patience_ends(keys, monkeypatch, client):
    monkeypatch.setattr(s3, "PATIENCE", 3.0)  # of 20 s; obstore has five more
    with socket.create_server(("127.0.0.1", 0)) as closed:
        endpoint = f"http://127.0.0.1:{closed.getsockname()[1]}"
    monkeypatch.setenv("AWS_ENDPOINT_URL", endpoint)
    began = time.monotonic()
    with pytest.raises((UserError, OSError), match=endpoint):
        storage.is_folder("s3://ways/x") if client == "boto3" else storage.read_bytes("s3://ways/x")
    assert 2.9 < time.monotonic() - began < 20
    if client == "boto3":  # and the next request does not wait as long again
        began = time.monotonic()
        with pytest.raises(UserError, match=endpoint):
            storage.is_folder("s3://ways/x")
        assert time.monotonic() - began < 2


@pytest.mark.slow
def test_a_conversion_goes_on_when_its_server_was_killed_and_started_again(made, bare, tmp_path):
    (tmp_path / "store").mkdir()
    with SeaweedFS(tmp_path / "store") as server:
        objects = Objects(server.environment)
        objects.client.create_bucket(Bucket="killed")
        pixels = {f"{i:04}.png": encode(Image.new("RGB", (32, 32), (i % 256, i // 256, 9))) for i in range(2000)}
        objects.put("s3://killed/in", pixels)
        line = f"jobs/convert.py {made}/dtn s3://killed/in s3://killed/out --sheet 0 --actors 2"
        environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
        with subprocess.Popen(
            [sys.executable, *line.split()],
            env=environment | server.environment,
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        ) as run:
            while not objects.images("s3://killed/out") and run.poll() is None:
                time.sleep(0.2)
            server.kill()
            killed = time.monotonic()
            time.sleep(4)
            server.start()
            while not objects.answers("s3://killed/in/0000.png"):
                time.sleep(0.2)
            absent = time.monotonic() - killed
            out, err = run.communicate(timeout=240)
        print(f"the server was away for {absent:.1f} s")
        assert absent > 6
        assert run.returncode == 0, out + err
        summary = json.loads(out[f"\n{out}".rindex("\n{") :])
        assert (summary["converted"], summary["failed"], summary["remaining"]) == (2000, 0, 0)
        assert {row["attempts"] for row in objects.newest("s3://killed/out").values()} == {1}
