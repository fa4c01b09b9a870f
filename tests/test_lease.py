"""The lease on an output: one holder, in folders and buckets."""

import json
import os
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from dtn_ray import storage
from dtn_ray.errors import UserError
from dtn_ray.lease import Lease, hold


@pytest.fixture(params=["folder", "bucket"])
def uri(request, tmp_path) -> str:
    folder = str(tmp_path / "out") if request.param == "folder" else f"{request.getfixturevalue('bucket')}/out"
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
        with pytest.raises(UserError, match=r"the lease is lost.*another run works here"):
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
    with pytest.raises(UserError, match="the lease is lost"):
        lease.check()
    lease.release()


def test_a_damaged_record_is_nobodys(tmp_path):
    (tmp_path / "lease.json").write_bytes(b"{cut")
    with hold(str(tmp_path / "lease.json"), 60) as lease:
        lease.check()
