"""The lease on an output: one holder, in folders and buckets."""

import json
import math
import os
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from small_store import SmallStore

from dtn_ray import storage
from dtn_ray.bulk.lease import Lease, hold
from dtn_ray.errors import UserError
from dtn_ray.storage import s3


@pytest.fixture(params=["folder", "bucket", "ceph_bucket"])
def uri(request, tmp_path) -> str:
    folder = str(tmp_path / "out") if request.param == "folder" else f"{request.getfixturevalue(request.param)}/out"
    return f"{folder}/lease.json"


def contend(uri: str, count: int = 16) -> list[Lease]:
    """Leases that were had of so many tries at once."""
    start = threading.Barrier(count)

    def attempt(_) -> Lease | None:
        start.wait()
        try:
            return Lease(uri, 60)
        except UserError:
            return None

    with ThreadPoolExecutor(count) as pool:
        return [lease for lease in pool.map(attempt, range(count)) if lease]


def test_the_second_is_told_who_holds_it(uri):
    with hold(uri, 60), pytest.raises(UserError) as refused:
        Lease(uri, 60)
    message = str(refused.value)
    assert message.startswith(f"{uri}: another run works here: process {os.getpid()} on {socket.gethostname()}, since ")
    assert "expires 2" in message


def test_a_lease_is_free_after_its_end_and_after_errors(uri):
    with pytest.raises(ZeroDivisionError), hold(uri, 60):
        _ = 1 / 0
    with hold(uri, 60) as lease:
        lease.check()


def test_one_of_many_gets_a_free_lease(uri):
    (lease,) = contend(uri)
    lease.check()
    lease.release()


def test_one_of_many_takes_over_an_expired_lease(uri):
    old = Lease(uri, 60)
    old._end.set()  # its process is gone
    record = json.loads(storage.read_bytes(uri)) | {"expires": time.time() - 1}
    storage.write_bytes(uri, json.dumps(record).encode())
    (new,) = contend(uri)
    new.check()
    new.release()


def test_a_lease_is_renewed_while_its_holder_lives(uri):
    with hold(uri, 1.0) as lease:
        for _ in range(6):
            time.sleep(0.4)
            with pytest.raises(UserError, match="another run works here"):
                Lease(uri, 1.0)
            lease.check()


def stalled(uri: str) -> Lease:
    """A lease that was not renewed in time, as that of a process that stood still."""
    lease = Lease(uri, 0.2)
    lease._end.set()
    lease._heart.join()
    time.sleep(0.3)
    return lease


def test_a_holder_that_stood_still_stops_once_another_took_over(uri):
    slept = stalled(uri)
    with hold(uri, 60) as new:
        with pytest.raises(UserError, match=r"this run lost its lease.*another run works here"):
            slept.check()
        slept.release()
        new.check()
        with pytest.raises(UserError, match="another run works here"):
            Lease(uri, 60)


def test_a_holder_that_stood_still_goes_on_if_nobody_took_over(uri):
    slept = stalled(uri)
    slept.check()
    with pytest.raises(UserError, match="another run works here"):
        slept.seconds = 60
        slept.record["expires"] = 0
        slept.check()
        Lease(uri, 60)


def test_a_heartbeat_that_finds_another_holder_ends_the_run_before_its_own_expiry(uri):
    lease = Lease(uri, 2.0)
    storage.write_bytes(uri, json.dumps({"holder": "other", "expires": time.time() + 60}).encode())
    time.sleep(1.2)
    with pytest.raises(UserError, match="this run lost its lease"):
        lease.check()
    lease.release()


def test_a_damaged_record_is_nobodys(tmp_path):
    (tmp_path / "lease.json").write_bytes(b"{cut")
    with hold(str(tmp_path / "lease.json"), 60) as lease:
        lease.check()


@pytest.mark.parametrize("content", [b"", b"{cut", b"[1, 2]", b"7", b"null", b"{}", b"[" * 100_000, b"\xff\xfe\x00"])
def test_what_no_version_has_written_is_nobodys(tmp_path, content):
    (tmp_path / "lease.json").write_bytes(content)
    with hold(str(tmp_path / "lease.json"), 60) as lease:
        lease.check()


ODD = [None, "soon", "1e18", 1e18, -math.inf, math.inf, math.nan, True, [], {}, 10**400, 4e9]


@pytest.mark.parametrize("expires", ODD, ids=str)
def test_an_expiry_that_cannot_be_meant_holds_while_the_record_is_renewed_and_not_for_ever(tmp_path, expires):
    path = tmp_path / "lease.json"
    path.write_text(json.dumps({"holder": "x", "host": "elsewhere", "pid": 7, "since": 0, "expires": expires}))
    with pytest.raises(UserError, match=r"another run works here: process 7 on elsewhere.*cannot be read.* counts as"):
        Lease(str(path), 60)
    os.utime(path, (time.time() - 61,) * 2)
    with hold(str(path), 60) as lease:
        lease.check()


@pytest.mark.parametrize(
    "record",
    [
        {"owner": "another version", "until": "2030-01-01"},
        {"holder": 7, "host": None, "pid": "x", "since": "yesterday", "expires": 4e9},
        {"holder": ["x"], "host": "\n" * 500, "pid": 1e300, "since": 1e300, "seconds": -1},
        {"holder": {}, "host": {}, "pid": [], "since": math.nan, "seconds": 1e18, "expires": 1e18},
    ],
)
def test_a_record_of_other_fields_is_told_as_far_as_it_is_known(tmp_path, record):
    path = tmp_path / "lease.json"
    path.write_text(json.dumps(record))
    with pytest.raises(UserError, match=r"another run works here: .* since ") as refused:
        Lease(str(path), 60)
    assert "\n" not in str(refused.value) and len(str(refused.value)) < 600
    os.utime(path, (time.time() - 61,) * 2)
    with hold(str(path), 60):
        pass


def test_a_record_tells_the_length_of_its_lease(tmp_path):
    path = tmp_path / "lease.json"
    with hold(str(path), 600):
        path.write_text(json.dumps(json.loads(path.read_text()) | {"expires": None}))
        os.utime(path, (time.time() - 300,) * 2)
        with pytest.raises(UserError, match="another run works here"):
            Lease(str(path), 60)


def test_a_record_that_was_edited_while_its_holder_lives_is_written_anew(uri):
    with hold(uri, 1.0) as lease:
        record = json.loads(storage.read_bytes(uri)) | {"expires": None}
        storage.write_bytes(uri, json.dumps(record).encode())
        deadline = time.monotonic() + 20
        while json.loads(storage.read_bytes(uri))["expires"] is None:
            assert time.monotonic() < deadline
            time.sleep(0.05)
        lease.check()


@pytest.fixture
def small_store(monkeypatch):
    """Starts a SmallStore that this process uses; gives it, and the URI of a lease there."""
    stores = []

    def start(**options) -> tuple[SmallStore, str]:
        store = SmallStore(**options).__enter__()
        stores.append(store)
        keys = {"AWS_ACCESS_KEY_ID": "x", "AWS_SECRET_ACCESS_KEY": "not-a-secret", "AWS_REGION": "us-east-1"}
        for name, value in (keys | {"AWS_ENDPOINT_URL": store.endpoint}).items():
            monkeypatch.setenv(name, value)
        return store, "s3://bucket/out/lease.json"

    yield start
    for store in stores:
        store.__exit__()


@pytest.mark.parametrize("ahead", [180, -180])
@pytest.mark.parametrize("place", ["folder", "small_store", "ceph_bucket"])
def test_clocks_that_differ_neither_give_a_lease_away_nor_keep_it(place, ahead, request, tmp_path, monkeypatch, capsys):
    found = str(tmp_path) if place == "folder" else request.getfixturevalue(place)
    uri = found()[1] if place == "small_store" else f"{found}/lease.json"
    true = time.time

    def set_clock(offset: float) -> None:
        monkeypatch.setattr(time, "time", lambda: true() + offset)

    for first, second in ((0, ahead), (ahead, 0)):
        set_clock(first)
        lease = Lease(uri, 60)
        set_clock(second)
        with pytest.raises(UserError, match="another run works here"):
            Lease(uri, 60)
        lease.check()
        lease.release()
        Lease(uri, 60).release()
        set_clock(0)
        lines = capsys.readouterr().err.splitlines()
        how = "ahead of" if ahead > 0 else "behind"
        assert lines and all(line.startswith("warning: this machine's clock is 1") and how in line for line in lines)


@pytest.mark.parametrize("etags", ["either", "bare", "quoted"])
def test_a_store_may_want_an_etag_with_or_without_quotes(small_store, etags):
    _, uri = small_store(etags=etags)
    for _ in range(2):
        with hold(uri, 2.0) as lease:
            before = lease.record["expires"]
            time.sleep(1.5)
            assert lease.record["expires"] > before
            lease.check()
            with pytest.raises(UserError, match="another run works here"):
                Lease(uri, 60)
    (lease,) = contend(uri)
    lease.release()


@pytest.mark.parametrize("conditions", ["ignore", "501"])
def test_a_store_without_conditional_writes_is_refused_unless_the_user_vouches_for_it(small_store, conditions):
    _, uri = small_store(conditions=conditions)
    for _ in range(2):
        with pytest.raises(UserError, match=r"the store has no conditional writes.* --unconditional-lease"):
            Lease(uri, 60)
    with hold(uri, 2.0, conditional=False) as lease:
        for _ in range(3):
            time.sleep(1)
            with pytest.raises(UserError, match="another run works here"):
                Lease(uri, 60, conditional=False)
        lease.check()
    with hold(uri, 60, conditional=False) as lease:
        storage.write_bytes(uri, json.dumps(lease.record | {"holder": "other"}).encode())
        lease.record["expires"] = 0
        with pytest.raises(UserError, match="this run lost its lease"):
            lease.check()


def test_of_several_without_conditions_that_start_at_once_one_stays(small_store):
    small_store(conditions="501")
    start, uri = threading.Barrier(8), "s3://bucket/out/lease.json"

    def attempt(_) -> Lease | None:
        start.wait()
        try:
            return Lease(uri, 60, conditional=False)
        except UserError:
            return None

    with ThreadPoolExecutor(8) as pool:
        (lease,) = filter(None, pool.map(attempt, range(8)))
    lease.release()


def test_an_expired_lease_that_the_store_does_not_give_is_told_as_that(small_store):
    store, uri = small_store(conditions="refuse")
    record = {"holder": "x", "host": "elsewhere", "pid": 7, "since": time.time(), "expires": time.time() - 9}
    storage.write_bytes(uri, json.dumps(record).encode())
    with pytest.raises(
        UserError, match=r"the lease of process 7 on elsewhere.* has expired, but the store does not"
    ) as told:
        Lease(uri, 60)
    assert "another run" not in str(told.value)
    store.objects.clear()
    with pytest.raises(UserError, match=r"the store refuses to write this file, as if .*, although it is absent"):
        Lease(uri, 60)


def test_a_write_whose_answer_was_lost_is_this_runs_own(small_store, monkeypatch):
    monkeypatch.setattr(s3, "PATIENCE", 1.0)  # of 20 s
    store, uri = small_store()
    store.lost["PUT"] = 1
    lease = Lease(uri, 60)
    lease._end.set()
    lease._heart.join()
    store.lost["PUT"] = 20  # more than one call repeats
    with pytest.raises(UserError):
        lease._renew()
    assert json.loads(storage.read_bytes(uri)) != lease.record, "the store has written it"
    store.lost.clear()
    lease.record["expires"] = 0
    lease.check()
    assert json.loads(storage.read_bytes(uri)) == lease.record
    store.lost["PUT"] = 20
    lease.release()
    store.lost.clear()
    store.objects["/bucket/out/lease.json"] = (json.dumps(lease.record).encode(), store.now())  # it never came there
    Lease(uri, 60).release()
