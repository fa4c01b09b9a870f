"""Objects that no further try makes readable: told once, left alone until something changes, no failing store."""

import json
import uuid
from collections import Counter
from dataclasses import replace

import pyarrow as pa
import pytest
from fault_proxy import FaultProxy, Plan
from files import encode
from objects import Objects
from PIL import Image

from dtn_ray.bulk.actor import Actor
from dtn_ray.bulk.ledger import Ledger
from dtn_ray.convert.job import convert
from dtn_ray.convert.options import Conversion
from dtn_ray.errors import UserError


class Shop:
    """A bucket of photos below in/, and a conversion of it."""

    def __init__(self, proxy: FaultProxy, server: dict[str, str], checkpoint: str) -> None:
        self.proxy, self.objects = proxy, Objects(server)
        self.prefix = uuid.uuid4().hex[:12]
        self.source, self.out = f"s3://causes/{self.prefix}/in", f"s3://causes/{self.prefix}/out"
        self.job = Conversion(checkpoint, self.source, self.out, sheet=0)

    def put(self, *keys: str) -> None:
        photo = encode(Image.new("RGB", (32, 32)))
        self.objects.put(self.source, dict.fromkeys(keys, photo))

    def rows(self) -> dict[str, dict]:
        return self.objects.newest(self.out)

    def causes(self) -> Counter[str | None]:
        return Counter(row["cause"] for row in self.rows().values())

    def asked(self) -> int:
        """How many requests were refused since the plan was set."""
        return self.proxy.faults["refused"]


@pytest.fixture(scope="module")
def a_bucket(s3_server) -> None:
    Objects(s3_server).client.create_bucket(Bucket="causes")


@pytest.fixture
def shop(store, s3_server, a_bucket, made, monkeypatch) -> Shop:
    monkeypatch.setattr("dtn_ray.bulk.run.JUDGED_FROM", 20)
    return Shop(store, s3_server, f"{made}/dtn")


def refusing(code: str = "AccessDenied", keys: str = "/in/a", status: int = 403, **others) -> Plan:
    return Plan(refused=1, methods="GET", keys=keys, code=code, status=status, **others)


def counts(summary: dict) -> tuple[int, ...]:
    return tuple(summary[name] for name in ("images", "done_before", "converted", "failed", "remaining"))


def test_archived_objects_are_asked_once_until_the_listing_says_that_they_can_be_read(shop):
    shop.put(*(f"a{i:02}.png" for i in range(30)), *(f"b{i}.png" for i in range(5)))
    shop.proxy.plan = archived = refusing("InvalidObjectState", storage_class="GLACIER")
    first = convert(shop.job)
    assert counts(first) == (35, 0, 5, 30, 0) and first["causes"] == {"archived": 30}
    assert {row["reason"] for row in shop.rows().values() if row["cause"]} == {"archived: restore it first"}

    shop.proxy.plan = archived
    second = convert(shop.job)
    assert counts(second) == (35, 5, 0, 30, 0) and second["causes"] == {"archived": 30}
    assert shop.asked() == 0 and {row["attempts"] for row in shop.rows().values()} == {1}

    shop.proxy.plan = Plan(storage_class="GLACIER", keys="/in/a[^0]")
    assert counts(convert(shop.job)) == (35, 5, 10, 20, 0), "copied to another storage class"
    shop.proxy.plan = Plan(storage_class="GLACIER", keys="/in/a", restored="2999-01-01T00:00:00.000Z")
    assert counts(convert(shop.job)) == (35, 15, 20, 0, 0), "restored"
    shop.proxy.plan = Plan(storage_class="GLACIER", keys="/in/a", restored="2001-01-01T00:00:00.000Z")
    assert counts(convert(shop.job)) == (35, 35, 0, 0, 0), "what is converted is left, whatever its class"


def test_a_copy_that_expired_is_no_restored_object(shop):
    shop.put("a.png", "b.png")
    shop.proxy.plan = refusing("InvalidObjectState", storage_class="DEEP_ARCHIVE")
    convert(shop.job)
    past = "2001-01-01T00:00:00.000Z"
    shop.proxy.plan = refusing("InvalidObjectState", storage_class="DEEP_ARCHIVE", restored=past)
    assert counts(convert(shop.job)) == (2, 1, 0, 1, 0) and shop.asked() == 0


def test_denied_objects_are_left_until_they_change_or_are_asked_for(shop):
    shop.put(*(f"a{i:02}.png" for i in range(30)), *(f"b{i}.png" for i in range(5)))
    shop.proxy.plan = refusing()
    assert convert(shop.job)["causes"] == {"denied": 30}, "most of the bucket, but not all of it"
    shop.proxy.plan = refusing()
    assert counts(convert(shop.job)) == (35, 5, 0, 30, 0) and shop.asked() == 0
    shop.proxy.plan = Plan()
    shop.objects.put(shop.source, {"a07.png": encode(Image.new("RGB", (32, 32), "red"))})
    assert counts(convert(shop.job)) == (35, 5, 1, 29, 0)
    assert counts(convert(replace(shop.job, retry_failed=True))) == (35, 6, 29, 0, 0)


@pytest.mark.parametrize(
    ("code", "status"), [("AccessDenied", 403), ("KMS.DisabledException", 400), ("NoSuchKey", 404)]
)
def test_a_bucket_of_which_nothing_can_be_read_is_a_failing_store(shop, code, status):
    shop.put(*(f"a{i:02}.png" for i in range(30)))
    shop.proxy.plan = refusing(code, status=status)
    with pytest.raises(
        UserError, match=r"stopped: 30 of the last 30 images failed.*: check (the credentials|that the)"
    ):
        convert(shop.job)
    assert shop.causes() == {"store": 30}
    shop.proxy.plan = Plan()
    assert counts(convert(shop.job)) == (30, 0, 30, 0, 0)


def test_a_few_objects_of_which_none_can_be_read_are_tried_again(shop):
    shop.put("a1.png", "a2.png")
    shop.proxy.plan = refusing()
    assert convert(shop.job)["causes"] == {"store": 2}
    shop.proxy.plan = Plan()
    assert counts(convert(shop.job)) == (2, 0, 2, 0, 0)
    shop.put("a3.png", "a4.png")
    shop.proxy.plan = refusing(keys="/in/a[34]")
    assert convert(shop.job)["causes"] == {"denied": 2}, "those of before can still be read"
    shop.put("a5.png")
    shop.proxy.plan = refusing(keys="/in/a")
    assert convert(shop.job)["causes"] == {"denied": 2, "store": 1}, "nothing can be read any more"


def test_objects_that_only_some_nodes_may_not_read_are_not_settled(shop, monkeypatch):
    """An actor elsewhere is refused; the driver is not."""
    shop.put(*(f"a{i:02}.png" for i in range(30)))

    def refused(self, batch):
        shop.proxy.plan = refusing()
        outcomes = call(self, batch)
        shop.proxy.plan = Plan()
        return outcomes

    call = Actor.__call__
    monkeypatch.setattr(Actor, "__call__", refused)
    with pytest.raises(UserError, match="though the driver can read it: check the credentials of each node"):
        convert(shop.job)
    assert shop.causes() == {"store": 30}


def test_whoever_says_so_has_a_bucket_entered_as_denied(shop):
    shop.put(*(f"a{i:02}.png" for i in range(30)))
    shop.proxy.plan = refusing()
    assert convert(replace(shop.job, max_failure_rate=1.0))["causes"] == {"denied": 30}


def test_an_object_deleted_since_it_was_listed_is_tried_when_it_is_listed_again(shop):
    shop.put(*(f"a{i:02}.png" for i in range(30)), "b.png")
    shop.proxy.plan = refusing("NoSuchKey", status=404)
    assert convert(shop.job)["causes"] == {"gone": 30}
    shop.objects.client.delete_object(Bucket="causes", Key=f"{shop.prefix}/in/a07.png")
    shop.proxy.plan = Plan()
    assert counts(convert(shop.job)) == (30, 1, 29, 0, 0)


def test_credentials_that_expire_are_never_an_object_s_own_fault(shop):
    shop.put("a1.png", "b.png")
    shop.proxy.plan = refusing("ExpiredToken", status=400)
    assert convert(shop.job)["causes"] == {"store": 1}
    shop.proxy.plan = Plan()
    assert counts(convert(shop.job)) == (2, 1, 1, 0, 0)


def test_a_cause_that_another_version_wrote_is_tried_again(shop):
    shop.put("a1.png", "b.png")
    summary = convert(shop.job)
    row = shop.rows()["a1.png"]
    newer = row | {"status": "failed", "cause": "quarantined", "reason": None, "output": None, "attempts": 2}
    ledger = Ledger(f"{shop.out}/ledger/{summary['model']}")
    ledger.append(pa.Table.from_pylist([newer]).drop_columns("time"))
    assert counts(convert(replace(shop.job, limit=0))) == (2, 1, 0, 0, 1)
    assert counts(convert(shop.job)) == (2, 1, 1, 0, 0)
    assert shop.rows()["a1.png"]["attempts"] == 3


def test_report_summary_last_run_and_exit_code_tell_the_causes(shop, call):
    shop.put(*(f"a/{i:02}.png" for i in range(40)), "b.png")
    glacier = "<StorageClass>GLACIER</StorageClass>"
    shop.proxy.plan = refusing("InvalidObjectState", keys="/in/a/", elements=glacier)
    code, stdout, stderr = call(f"convert {shop.job.checkpoint} {shop.source} {shop.out}")
    assert code == 0, stderr
    found = shop.objects.read(shop.out)
    (summary,) = [json.loads(content) for key, content in found.items() if key.endswith("summary.json")]
    assert summary["causes"] == json.loads(stdout[stdout.index("{") :])["causes"] == {"archived": 40}
    assert json.loads(found["last-run.json"])["causes"] == {"archived": 40}
    (report,) = [content.decode() for key, content in found.items() if key.endswith("report.html")]
    reason = "archived in GLACIER: restore it first"
    assert report.count(f"<summary>40 × archived: {reason}</summary>") == 1
    assert report.count("<li><code>a/") == 20 and "and 20 more, which the ledger lists" in report
    assert "Not tried again until its storage class changes" in report
    assert summary["failures"] == {f"a/{i:02}.png": reason for i in range(20)}


def test_a_preview_looks_at_objects_that_can_be_read_too(shop):
    shop.put(*(f"a{i:02}.png" for i in range(40)), *(f"b{i:02}.png" for i in range(20)))
    shop.proxy.plan = refusing("InvalidObjectState")
    summary = convert(replace(shop.job, dry_run=True))
    assert (summary["to_convert"], summary["causes"]) == (60, {}) and 0 < shop.asked() < 32
    assert not shop.rows()


@pytest.mark.slow
def test_seventy_live_objects_behind_six_hundred_archived_ones_are_converted_in_the_first_night(
    shop, ray_cluster, monkeypatch
):
    monkeypatch.setattr("dtn_ray.bulk.run.JUDGED_FROM", 100)
    shop.put(*(f"archived/{i:03}.png" for i in range(600)), *(f"live/{i:02}.png" for i in range(70)))
    for code, cause in (("InvalidObjectState", "archived"), ("AccessDenied", "denied")):
        job = replace(shop.job, out=f"{shop.out}-{cause}", actors=1)
        shop.proxy.plan = refusing(code, keys="/in/archived/")
        summary = convert(job)
        assert counts(summary) == (670, 0, 70, 600, 0) and summary["causes"] == {cause: 600}
        shop.proxy.plan = refusing(code, keys="/in/archived/")
        assert counts(convert(job)) == (670, 70, 0, 600, 0) and shop.asked() == 0
