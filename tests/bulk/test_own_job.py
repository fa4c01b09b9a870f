"""A bulk job that the package does not have: with statuses, counts, columns and words of its own."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import ClassVar

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from files import encode
from PIL import Image

from dtn_ray.bulk import outcome
from dtn_ray.bulk.kinds import Count, Kind, Score, Status
from dtn_ray.bulk.ledger import Ledger, Row, make_row
from dtn_ray.bulk.options import BulkJob
from dtn_ray.bulk.pipeline import Found, Picture, Pipeline
from dtn_ray.bulk.run import Bulk, run
from dtn_ray.errors import UserError
from dtn_ray.images.decode import decode
from dtn_ray.images.encode import to_image
from dtn_ray.metrics import JobMetrics

TILING = Kind(
    "tiling",
    made=Status("tiled", "tiled", "cut into tiles"),
    others=(Status("blank", "blank", "of one colour"),),
    counts=(Count("tiles", "tiles", "tiles"), Count("blackest", "black", "black pixels")),
    score=Score("Darkness", "How dark the first tile is."),
    todo="to_tile",
)


@dataclass(frozen=True)
class Tiling(BulkJob):
    source: str
    out: str
    side: int = 2
    kind: ClassVar[Kind] = TILING
    AT_LEAST_ONE: ClassVar[tuple[str, ...]] = (*BulkJob.AT_LEAST_ONE, "side")


class Tiler(Pipeline):
    """Cuts an image into side×side tiles."""

    folder, format = "tiles", "png"
    columns = pa.schema(
        {"tiles": pa.list_(pa.struct({"output": pa.string(), "left": pa.int32()})), "blackest": pa.int64()}
    )

    def __init__(self, job: Tiling, scratch: str | None = None, cpus: int | None = None) -> None:
        super().__init__(job, 8, scratch, cpus)
        self.side = job.side

    def find(self, content: bytes) -> Found:
        pixels = decode(content, 32, 10_000)
        if pixels.min() == pixels.max():
            return make_row("blank", reason="one colour")
        tiles = [pixels[:, :, left : left + 32 // self.side] for left in range(0, 32, 32 // self.side)]
        return [Picture(tile, {"left": i}, score=float(255 - tile.mean())) for i, tile in enumerate(tiles)]

    def own_columns(self, pictures: list[Picture], outputs: Sequence[str | None]) -> Row:
        tiles = [{**(each.details or {}), "output": output} for each, output in zip(pictures, outputs, strict=True)]
        return {"tiles": tiles, "blackest": 7}


def tile(job: Tiling) -> dict:
    def before(content: bytes, row: Row) -> Image.Image:
        return to_image(decode(content, 32, 10_000))

    return run(Bulk(job, identity="ab" * 32, folder="tiles", make=partial(Tiler, job), before=before, facts={}))


@pytest.fixture
def job(tmp_path) -> Tiling:
    (tmp_path / "in").mkdir()
    for i in range(3):
        noise = np.random.default_rng(i).integers(0, 80 * (i + 1), (32, 32, 3), np.uint8)
        (tmp_path / f"in/{i}.png").write_bytes(encode(Image.fromarray(noise)))
    (tmp_path / "in/blank.png").write_bytes(encode(Image.new("RGB", (32, 32), "white")))
    (tmp_path / "in/bad.png").write_bytes(b"no image")
    return Tiling(f"{tmp_path}/in", f"{tmp_path}/out")


def test_a_job_brings_its_statuses_counts_columns_and_words(job, tmp_path, monkeypatch):
    counted = []
    monkeypatch.setattr(JobMetrics, "count", lambda self, counts, _: counted.append((self.tags["kind"], dict(counts))))
    summary = outcome.tell(tile, job)
    assert list(summary)[:12] == [
        *("source", "out", "model", "images"),
        *("done_before", "tiled", "blank", "failed", "remaining", "tiles", "black", "causes"),
    ]
    counts = {
        "images": 5,
        "done_before": 0,
        "tiled": 3,
        "blank": 1,
        "tiles": 6,
        "black": 21,
        "failed": 1,
        "remaining": 0,
    }
    assert {name: summary[name] for name in counts} == counts
    assert counted[-1] == ("tiling", {"done_before": 0, "tiled": 3, "blank": 1, "failed": 1, "remaining": 0})
    last = json.loads((tmp_path / "out/last-run.json").read_text())
    assert (last["job"], last["counts"]) == ("tiling", counts) and last["text"].startswith("tiling ")

    (part,) = (tmp_path / "out/ledger").rglob("*.parquet")
    rows = {row["key"]: row for row in pq.read_table(part).to_pylist()}
    assert {key: row["status"] for key, row in rows.items()} == {
        **{f"{i}.png": "tiled" for i in range(3)},
        **{"blank.png": "blank", "bad.png": "failed"},
    }
    assert [each["output"] for each in rows["1.png"]["tiles"]] == ["tiles/images/1.png.png", "tiles/images/1.png%2.png"]
    assert rows["1.png"]["blackest"] == 7 and rows["blank.png"]["tiles"] is None

    page = Path(summary["report"]).read_text()
    for words in ("cut into tiles before", "cut into tiles by this run", "of one colour", "black pixels", "Darkness"):
        assert words in page
    told = [page, json.dumps(summary), json.dumps(last), str(pq.read_schema(part))]
    assert not [text for text in told if "face" in text or "convert" in text], "words of other jobs"


def test_its_statuses_settle_objects_and_old_rows_are_counted(job, tmp_path):
    tile(job)
    (tmp_path / "in/new.png").write_bytes((tmp_path / "in/0.png").read_bytes())
    again = tile(job)
    names = ("images", "done_before", "tiled", "blank", "failed", "remaining", "tiles", "black")
    assert [again[name] for name in names] == [6, 3, 1, 1, 1, 0, 8, 28]
    tried = Ledger(f"{job.out}/ledger/{again['model']}").read().to_pylist()
    assert {row["key"]: row["attempts"] for row in tried} == dict.fromkeys([row["key"] for row in tried], 1)


def test_its_dry_run_and_its_options_are_its_own(job):
    assert tile(Tiling(job.source, job.out, dry_run=True))["to_tile"] == 5
    with pytest.raises(UserError, match="--side 0 must be at least 1"):
        tile(Tiling(job.source, job.out, side=0))
