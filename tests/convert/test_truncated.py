"""--truncated: what conversion and ingestion do with images that are cut short, and what their rows tell."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from files import encode
from PIL import Image

from dtn_ray.bulk.ledger import Ledger
from dtn_ray.bulk.options import BulkJob
from dtn_ray.bulk.pipeline import Found, Picture, Pipeline
from dtn_ray.convert.job import convert
from dtn_ray.convert.options import Conversion
from dtn_ray.images.decode import decode
from dtn_ray.ingest.faces import WITHOUT_FACE

IN_PART = "the file is cut short; what is missing is blank"
REFUSED = "the file is cut short: a part of the picture is missing"
NOISE = Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8))
JPEG, PNG, WEBP = (encode(NOISE, form) for form in ("jpeg", "png", "webp"))


@pytest.fixture
def photos(tmp_path) -> Path:
    folder = tmp_path / "in"
    folder.mkdir()
    for name, content in {
        "half.jpg": JPEG[: len(JPEG) // 2],
        "half.png": PNG[: len(PNG) // 2],
        "half.webp": WEBP[: len(WEBP) // 2],
        "no-end.jpg": JPEG[:-2],
        "text.jpg": b"just some text",
        "whole.jpg": JPEG,
    }.items():
        (folder / name).write_bytes(content)
    return folder


def rows(out: Path) -> dict[str, dict]:
    (folder,) = (out / "ledger").iterdir()
    return {row["key"]: row for row in Ledger(str(folder)).read().to_pylist()}


def test_cut_short_images_are_refused_or_taken_in_part(made, photos, tmp_path):
    job = Conversion(f"{made}/dtn", str(photos), str(tmp_path / "out"), threads=2)
    summary = convert(job)
    assert (summary["converted"], summary["failed"], summary["in_part"]) == (2, 4, 0)
    before = rows(tmp_path / "out")
    for name in ("half.jpg", "half.png", "half.webp"):
        row = before[name]
        assert (row["status"], row["cause"], row["reason"]) == ("failed", "image", REFUSED)
    assert before["no-end.jpg"]["status"] == "converted" and before["no-end.jpg"]["reason"] is None
    assert before["no-end.jpg"]["score"] == before["whole.jpg"]["score"], "the same picture"

    again = convert(job)
    assert again["done_before"] == 2 and rows(tmp_path / "out") == before, "settled, while they are refused"

    summary = convert(replace(job, truncated="accept"))
    assert (summary["done_before"], summary["converted"], summary["failed"], summary["in_part"]) == (2, 2, 2, 2)
    after = rows(tmp_path / "out")
    for name in ("half.jpg", "half.png"):
        assert (after[name]["status"], after[name]["cause"], after[name]["reason"]) == ("converted", None, IN_PART)
        assert (tmp_path / "out" / after[name]["output"]).exists() and after[name]["attempts"] == 2
    assert after["half.webp"]["reason"] == "no part of the picture can be decoded, and the file is cut short"
    assert after["text.jpg"] == before["text.jpg"] and after["whole.jpg"] == before["whole.jpg"], "not tried again"
    page = (Path(summary["folder"]) / "report.html").read_text()
    assert "of images that are cut short" in page and page.count("<figure>") == 4
    assert json.loads((Path(summary["folder"]) / "summary.json").read_text())["in_part"] == 2

    summary = convert(replace(job, truncated="accept"))
    assert (summary["done_before"], summary["converted"], summary["in_part"]) == (4, 0, 2)
    assert rows(tmp_path / "out") == after, "nothing is tried a third time"


class Faceless(Pipeline):
    """Finds a face in nothing that is cut short."""

    folder, format = "model", "png"

    def find(self, content: bytes) -> Found:
        pixels = decode(content, 32, 10_000)
        return [Picture(pixels)] if content == JPEG else WITHOUT_FACE


@pytest.mark.parametrize("truncated", ["refuse", "accept"])
def test_a_photo_in_part_without_a_face_tells_both(photos, tmp_path, truncated):
    job: BulkJob = Conversion("", str(photos), str(tmp_path / "out"), threads=1, truncated=truncated)
    work = pa.table({"key": ["half.jpg", "whole.jpg"], "version": ["v", "v"], "size": pa.nulls(2, pa.int64())})
    half, whole = Faceless(job, 64)(work).to_pylist()
    assert (whole["status"], whole["reason"]) == ("converted", None)
    if truncated == "refuse":
        assert (half["status"], half["reason"]) == ("failed", REFUSED)
    else:
        assert (half["status"], half["reason"]) == ("no face", f"no face was found; {IN_PART}")
