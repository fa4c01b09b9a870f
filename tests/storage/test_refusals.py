"""What stores and file systems refuse, one object at a time: each by its cause, with a reason that many share."""

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from fault_proxy import Plan
from objects import Objects

from dtn_ray import storage
from dtn_ray.errors import UserError
from dtn_ray.storage.refusals import Absent, Refused, refused

KEYS = ("in/2026/a-17.png", "in/2026//b-18.png")  # fetched by obstore, and by boto3
NEVER_KEPT = re.compile(r"\d|a-17|b-18|http:|RequestId|HostId")


@pytest.fixture(scope="module")
def shelf(s3_server) -> str:
    """A bucket with two objects."""
    objects = Objects(s3_server)
    objects.client.create_bucket(Bucket="refusals")
    for key in KEYS:
        objects.client.put_object(Bucket="refusals", Key=key, Body=b"content")
    return "s3://refusals"


ENCRYPTED = "The object was stored using a form of Server Side Encryption. The correct parameters must be provided."
KMS = "User: arn:aws:iam::12:user/x is not authorized to perform: kms:Decrypt on resource: arn:aws:kms:eu-1:12:key/7"
GLACIER = "<StorageClass>GLACIER</StorageClass>"
TIER = "<StorageClass>INTELLIGENT_TIERING</StorageClass><AccessTier>ARCHIVE_ACCESS</AccessTier>"


@pytest.mark.parametrize(
    ("status", "code", "message", "elements", "cause", "reason"),
    [
        (403, "InvalidObjectState", "Not for this class", GLACIER, "archived", "archived in GLACIER: restore it first"),
        (403, "InvalidObjectState", "", "", "archived", "archived: restore it first"),
        (
            *(403, "InvalidObjectState", "", TIER, "archived"),
            "archived in INTELLIGENT_TIERING (ARCHIVE_ACCESS): restore it first",
        ),
        (403, "AccessDenied", "Access Denied", "", "denied", "access denied (AccessDenied)"),
        (403, "AccessDenied", KMS, "", "denied", "access denied (AccessDenied, kms:Decrypt)"),
        (400, "KMS.DisabledException", "arn:7 is disabled", "", "denied", "access denied (KMS.DisabledException)"),
        (400, "KMS.NotFoundException", "no key 8", "", "denied", "access denied (KMS.NotFoundException)"),
        (
            *(400, "InvalidRequest", ENCRYPTED, "", "denied"),
            "access denied (encrypted with a key of the customer's own, SSE-C)",
        ),
        (404, "NoSuchKey", "no a-17", "<Key>in/2026/a-17.png</Key>", "gone", "gone since it was listed"),
        (404, "NoSuchVersion", "", "", "gone", "gone since it was listed"),
        (400, "KeyTooLongError", "1025", "", "name", "the store does not accept this name (KeyTooLongError)"),
        (404, "NoSuchBucket", "no bucket 7", "", "store", "the store answered NoSuchBucket"),
        (400, "KMS.ThrottlingException", "slower, 7", "", "store", "the store answered KMS.ThrottlingException"),
        (400, "InvalidRequest", "of another kind, 7", "", "store", "the store answered InvalidRequest"),
        (400, "ExpiredToken", "7 minutes ago", "", "store", "the store answered ExpiredToken"),
        (403, "InvalidAccessKeyId", "AKIA7", "", "store", "the store answered InvalidAccessKeyId"),
        (403, "SignatureDoesNotMatch", "7", "", "store", "the store answered SignatureDoesNotMatch"),
        (403, "RequestTimeTooSkewed", "7", "", "store", "the store answered RequestTimeTooSkewed"),
        (401, "Unauthorized", "7", "", "store", "the store answered Unauthorized"),
    ],
)
def test_a_store_s_answer_has_its_cause_whoever_asks(store, shelf, status, code, message, elements, cause, reason):
    store.plan = Plan(refused=1, status=status, code=code, message=message, elements=elements, methods="GET")
    uris = [f"{shelf}/{key}" for key in KEYS]
    for _ in range(2):
        for uri, found in zip(uris, storage.read_many(uris), strict=True):
            assert isinstance(found, Refused), "nothing came"
            assert (found.cause, found.reason) == (cause, reason)
            assert isinstance(found, FileNotFoundError) == (cause == "gone")
            assert str(found).startswith(f"{uri}: {reason}") and "\n" not in str(found)
            assert not NEVER_KEPT.search(found.reason)
            with pytest.raises(type(found)):
                storage.read_bytes(uri)
    assert store.faults["refused"] == 8


@pytest.mark.parametrize("key", KEYS)
def test_what_is_written_is_refused_by_the_same_words(store, shelf, key):
    store.plan = Plan(refused=1, message=f"on {key}", methods="PUT")
    uri = f"{shelf}/{key}"
    (found,) = storage.write_many([storage.NewFile(uri, b"new")])
    assert found is not None and (found.cause, found.reason) == ("store", "access denied (AccessDenied)")
    with pytest.raises(UserError) as refused:
        storage.write_bytes(uri, b"new")
    assert str(refused.value) == f"{uri}: cannot be written: access denied (AccessDenied): on {key}"
    store.plan = Plan()
    assert storage.read_many([uri]) == [b"content"]


@pytest.mark.parametrize("key", ["in/none-7.png", "in//none-7.png"])
def test_an_object_that_is_not_there_is_gone(store, shelf, key):
    (found,) = storage.read_many([f"{shelf}/{key}"])
    assert isinstance(found, Absent) and found.reason == "gone since it was listed"
    (other,) = storage.read_many([f"s3://no-such-bucket/{key}"])
    assert isinstance(other, Refused) and not isinstance(other, Absent)
    assert (other.cause, other.reason) == ("store", "the store answered NoSuchBucket")


@pytest.mark.slow
def test_a_store_that_is_not_there_is_a_failing_store(monkeypatch, s3_server):
    for name, value in (s3_server | {"AWS_ENDPOINT_URL": "http://127.0.0.1:9"}).items():
        monkeypatch.setenv(name, value)
    uris = [f"s3://bucket/in//{i}.png" for i in (1, 2)]  # through boto3, which gives up sooner
    found = storage.read_many(uris)
    assert {(each.cause, each.reason) for each in found if isinstance(each, Refused)} == {
        ("store", "the store failed (EndpointConnectionError)")
    }
    assert "127.0.0.1:9" in str(found[0])


@contextmanager
def not_root() -> Iterator[None]:
    """Root may read everything."""
    before = os.geteuid()
    if before == 0:
        os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(before)


def test_local_files_that_cannot_be_read_have_their_causes(tmp_path):
    tmp_path.chmod(0o755)
    for above in tmp_path.parents[:3]:
        above.chmod(0o755)
    (tmp_path / "file-7").write_bytes(b"content")
    (tmp_path / "secret-7").write_bytes(b"content")
    (tmp_path / "secret-7").chmod(0)
    (tmp_path / "folder-7").mkdir()
    (tmp_path / "loop-7").symlink_to("loop-7")
    (tmp_path / "broken-7").symlink_to("nothing-7")
    expected = {
        "file-7": None,
        "secret-7": ("denied", "access denied (Permission denied)"),
        "none-7": ("gone", "gone since it was listed"),
        "broken-7": ("gone", "gone since it was listed"),
        "folder-7": ("gone", "gone since it was listed (Is a directory)"),
        "file-7/below": ("gone", "gone since it was listed (Not a directory)"),
        "loop-7": ("gone", "gone since it was listed (Too many levels of symbolic links)"),
        "a\0b": ("name", "the store does not accept this name (a NUL in it)"),
        "half\ud800": ("name", "the store does not accept this name (not Unicode)"),
        "long" * 70: ("name", "the store does not accept this name (File name too long)"),
        "deep/" * 1000 + "a": ("gone", "gone since it was listed"),  # a path of any length can be read
    }
    with not_root():
        found = storage.read_many([f"{tmp_path}/{key}" for key in expected])
    told = [(each.cause, each.reason) if isinstance(each, Refused) else None for each in found]
    assert dict(zip(expected, told, strict=True)) == expected


def test_a_disk_that_fails_is_a_failing_store():
    """/proc/self/mem gives EIO for what is not mapped, as a broken disk does."""
    with pytest.raises(OSError) as failed:
        os.read(os.open("/proc/self/mem", os.O_RDONLY), 10)
    found = refused("x-7.png", failed.value)
    assert (found.cause, found.reason) == ("store", "Input/output error")


def test_local_files_that_cannot_be_written_have_their_causes(tmp_path: Path):
    (tmp_path / "file").write_bytes(b"content")
    found = storage.write_many(
        [storage.NewFile(f"{tmp_path}/{name}", b"new") for name in ("a", "long" * 70, "file/below", "7/b")]
    )
    told = [each and (each.cause, each.reason) for each in found]
    assert told[0] is None and told[3] is None
    assert told[1] == ("name", "the store does not accept this name (File name too long)")
    assert told[2] is not None and told[2][0] == "store" and "7" not in told[2][1]
