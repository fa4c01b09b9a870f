"""A stand-in for Amazon's S3, reached without an endpoint: in a network of its own, its names lead to a SeaweedFS.

A TLS listener on port 443 has a certificate of a private CA, and refuses as Amazon does: requests to another region
than the bucket's, and those that do not pay. As a program it is what runs in that network; `Amazon` starts and asks it.
"""

import fcntl
import io
import os
import re
import shutil
import socket
import ssl
import struct
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import trustme
from aiohttp import web
from fault_proxy import FaultProxy
from identities import Identities
from seaweedfs import SeaweedFS, client

REGIONS = ("eu-west-1", "us-west-2", "us-east-1")  # the last is asked by those who know of none
HOMES = {"far": "us-west-2"}  # all other buckets are in the first
BUCKETS = ("photos", "my.dotted.bucket", "far", "public", "payers")
HOST = re.compile(r"(?:(.+)\.)?s3(?:\.([a-z0-9-]+))?\.amazonaws\.com(?::443)?")
IDENTITIES = 8100
PROXY = 8101
ERROR = "<?xml version='1.0' encoding='UTF-8'?>\n<Error><Code>{}</Code><Message>{}</Message>{}</Error>"


class Amazon:
    """The network, for the duration of a `with`. Raises RuntimeError if it cannot be created."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.variables = {
            "AWS_REGION": REGIONS[0],
            "AWS_ACCESS_KEY_ID": "tester",
            "AWS_SECRET_ACCESS_KEY": "not-a-secret",
            "AWS_CA_BUNDLE": str(folder / "ca.pem"),
            "AWS_EC2_METADATA_DISABLED": "true",
        }

    def __enter__(self) -> "Amazon":
        self.process = subprocess.Popen(
            ["unshare", "--net", "--mount", sys.executable, __file__, str(self.folder)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=(self.folder / "stderr").open("w"),
            text=True,
        )
        if self.process.stdout.readline() != "ready\n":
            self.process.wait()
            raise RuntimeError((self.folder / "stderr").read_text().strip()[-1000:])
        return self

    def __exit__(self, *_: object) -> None:
        self.process.stdin.close()
        self.process.wait()

    def start(self, command: list[str], variables: dict[str, str], **options) -> subprocess.Popen:
        """A process in that network, with these AWS `variables`."""
        inherited = {name: value for name, value in os.environ.items() if not name.startswith(("AWS_", "RAY_"))}
        namespaces = [
            f"--{kind}=/proc/{self.process.pid}/ns/{name}" for kind, name in (("net", "net"), ("mount", "mnt"))
        ]
        return subprocess.Popen(
            ["nsenter", *namespaces, f"--wd={os.getcwd()}", *command],
            env=inherited | variables,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            **options,
        )

    def run(self, command: list[str], variables: dict[str, str], given: str = "") -> subprocess.CompletedProcess:
        process = self.start(command, variables, stdin=subprocess.PIPE)
        try:
            out, err = process.communicate(given, timeout=200)
        except subprocess.TimeoutExpired:
            process.kill()
            out, err = process.communicate()
        return subprocess.CompletedProcess(command, process.returncode, out, err)


class Front(FaultProxy):
    """Enforces Amazon's rules in front of a server that lacks them."""

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        return self._refusal(request) or await super()._answer(request)

    def _refusal(self, request: web.Request) -> web.Response | None:
        host = HOST.fullmatch(request.host)
        if not host:
            return None
        bucket, region = (
            host[1] or request.raw_path.lstrip("/").partition("?")[0].partition("/")[0],
            host[2] or "us-east-1",
        )
        home = HOMES.get(bucket, REGIONS[0])
        headers = {"x-amz-bucket-region": home}
        signed = re.search(r"Credential=[^/]*/\d+/([^/]+)/s3/", request.headers.get("Authorization", ""))
        if region != home:
            text = ERROR.format("PermanentRedirect", "Use the other endpoint", f"<Endpoint>s3.{home}</Endpoint>")
            return web.Response(status=301, headers=headers, text=text, content_type="application/xml")
        if signed and signed[1] != home:
            text = ERROR.format("AuthorizationHeaderMalformed", "wrong region", f"<Region>{home}</Region>")
            return web.Response(status=400, headers=headers, text=text, content_type="application/xml")
        if bucket == "payers" and request.headers.get("x-amz-request-payer") != "requester":
            text = ERROR.format("AccessDenied", "Access Denied", "")
            return web.Response(status=403, headers=headers, text=text, content_type="application/xml")
        return None


def main(folder: Path) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as lo:  # up, which a new network's is not
        flags = struct.unpack("16sh", fcntl.ioctl(lo, 0x8913, struct.pack("16sh", b"lo", 0)))[1]  # SIOCGIFFLAGS
        fcntl.ioctl(lo, 0x8914, struct.pack("16sh", b"lo", flags | 1))  # SIOCSIFFLAGS, IFF_UP
    hosts = ["s3.amazonaws.com", *(f"s3.{region}.amazonaws.com" for region in REGIONS)]
    names = [*hosts, *(f"{bucket}.{host}" for bucket in BUCKETS for host in hosts)]
    (folder / "hosts").write_text(
        "127.0.0.1 localhost " + socket.gethostname() + "\n127.0.0.1 " + " ".join(names) + "\n"
    )
    subprocess.run(["mount", "--make-rprivate", "/"], check=True)
    subprocess.run(["mount", "--bind", folder / "hosts", "/etc/hosts"], check=True)
    authority = trustme.CA()
    authority.cert_pem.write_to_path(folder / "ca.pem")
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert(*hosts, *(f"*.{host}" for host in hosts)).configure_cert(context)
    store = folder / "store"
    store.mkdir()
    with (
        SeaweedFS(store, f"-s3.domainName={','.join(hosts)}") as server,
        Front(server.environment["AWS_ENDPOINT_URL"], 443, ssl=context),
        Identities(IDENTITIES),
    ):
        direct = client(server.environment)
        table = io.BytesIO()
        pq.write_table(pa.table({"n": [1, 2, 3]}), table)
        for bucket in BUCKETS:
            direct.create_bucket(Bucket=bucket)
            for key in ("public/table.parquet", "public/odd\tname"):
                direct.put_object(Bucket=bucket, Key=key, Body=table.getvalue())
        print("ready", flush=True)
        sys.stdin.read()
    shutil.rmtree(store, ignore_errors=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
