"""Listing a source in stretches: together they hold every key once, whatever the order a store lists in."""

import os
import random
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import obstore
import pytest
from files import encode
from obstore.store import S3Store
from PIL import Image

from dtn_ray import storage
from dtn_ray.convert.job import convert
from dtn_ray.convert.options import Conversion

CHARACTERS = "ab-. 0_é"


def names(seed: int, count: int) -> set[str]:
    """Keys that try the order: folders whose names begin others', names with what sorts before and after a slash."""
    rng = random.Random(seed)

    def name() -> str:
        return "".join(rng.choices(CHARACTERS, k=rng.randint(1, 5)))

    keys = {f"{name()}.jpg" for _ in range(count)} | {f"IMG-{i:04}.jpg" for i in range(count)}
    keys |= {f"{name()}/{name()}.jpg" for _ in range(count // 4)} | {
        f"d/e/{name()}/{name()}" for _ in range(count // 4)
    }
    folders = {"/".join(key.split("/")[:i]) for key in keys for i in range(1, key.count("/") + 1)}
    # No folder is a file too, and no component is a dot or two: other stores than Amazon's do not keep such keys apart.
    return {key for key in keys if key not in folders and not {".", ".."} & {*key.split("/")}}


class Store:
    """ListObjectsV2 over some keys in memory, in the order of Amazon (`bytes`) or of SeaweedFS (`tree`)."""

    def __init__(self, keys: set[str], order: str, page: int) -> None:
        self.rank = str.encode if order == "bytes" else lambda key: key.encode().rstrip(b"/").split(b"/")
        self.keys, self.page = sorted(keys, key=self.rank), page

    def list(self, bucket: str, prefix: str, after: str = "", folders_apart: bool = False) -> Iterator[dict[str, Any]]:
        entries = dict[str, bool]()  # whether it is a folder
        for key in self.keys:
            if key.startswith(prefix):
                inner, slash, _ = key[len(prefix) :].partition("/")
                folder = folders_apart and bool(slash)
                entries[f"{prefix}{inner}/" if folder else key] = folder
        left = [each for each in entries if not after or self.rank(each) > self.rank(prefix + after)]
        for i in range(0, max(len(left), 1), self.page):
            part = left[i : i + self.page]
            yield {
                "Contents": [
                    {"Key": each, "ETag": '"x"', "Size": 1, "LastModified": datetime.now(UTC)}
                    for each in part
                    if not entries[each]
                ],
                "CommonPrefixes": [{"Prefix": each} for each in part if entries[each]],
                "IsTruncated": i + self.page < len(left),
            }


def listed(uri: str, parts: int) -> tuple[list[str], int]:
    """All keys of all stretches, and their number."""
    stretches = storage.stretches(uri, parts)
    return [
        key for stretch in stretches for page in storage.list_pages(uri, stretch) for key in page["key"].to_pylist()
    ], len(stretches)


@pytest.mark.parametrize("order", ["bytes", "tree"])
@pytest.mark.parametrize("seed", range(8))
def test_every_key_is_in_one_stretch_in_either_order(order: str, seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    keys = names(seed, 300)
    store = Store({f"in/{key}" for key in keys} | {"other/a.jpg"}, order, page=20)
    monkeypatch.setattr("dtn_ray.storage.listing._list", store.list)
    monkeypatch.setattr("dtn_ray.storage.listing.PAGE", 20)
    monkeypatch.setattr("dtn_ray.storage.listing.FOLDER_PAGES", 2)
    found, stretches = listed("s3://bucket/in", 16)
    assert stretches >= 16
    assert sorted(found) == sorted(keys)


@pytest.mark.parametrize("store", ["bucket", "ceph_bucket"])
def test_a_real_store_in_stretches(store: str, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    keys, bucket = names(0, 800), request.getfixturevalue(store)
    client = S3Store(
        bucket.removeprefix("s3://"),
        endpoint=os.environ["AWS_ENDPOINT_URL"],
        client_options={"allow_http": True},
    )
    with ThreadPoolExecutor(16) as pool:
        list(pool.map(lambda key: obstore.put(client, f"in/{key}", b"x"), keys))
    monkeypatch.setattr("dtn_ray.storage.listing.FOLDER_PAGES", 1)
    found, stretches = listed(f"{bucket}/in", 8)
    assert stretches >= 8
    assert sorted(found) == sorted(keys)


def test_a_large_bucket_is_planned_by_many(
    bucket: str, made: Path, ray_cluster: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dtn_ray.bulk.plan.FEW_PAGES", 1)
    keys = names(1, 20)
    for key in keys:
        storage.write_bytes(f"{bucket}/in/{key}", encode(Image.new("RGB", (8, 8))))
    images = sum(key.endswith(".jpg") and not key.split("/")[-1].startswith("._") for key in keys)
    summary = convert(Conversion(f"{made}/dtn", f"{bucket}/in", f"{bucket}/out", sheet=0))
    assert (summary["images"], summary["converted"], summary["remaining"]) == (images, images, 0)
    assert convert(Conversion(f"{made}/dtn", f"{bucket}/in", f"{bucket}/out", sheet=0))["done_before"] == images
