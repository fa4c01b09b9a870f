"""The ingestion of one batch: finds and aligns faces in the photos that a pipeline fetches. It does not use Ray."""

import hashlib
import json

import pyarrow as pa

from dtn_ray.bulk.ledger import Row
from dtn_ray.bulk.pipeline import Found, Picture
from dtn_ray.bulk.shards import SCHEMA
from dtn_ray.errors import UserError
from dtn_ray.faces.find import YUNET, FaceFinder, detector_file
from dtn_ray.ingest.faces import IN_SHARDS, WITHOUT_FACE, FacePipeline
from dtn_ray.ingest.options import Ingestion
from dtn_ray.listing.patterns import Pattern

FACES_AT_ONCE = 64


def identity(job: Ingestion) -> str:
    """SHA-256 of all that decides the faces of a photo. Raises UserError for impossible settings."""
    if not 16 <= job.size <= 2048:
        raise UserError(f"--size {job.size} must lie between 16 and 2048")
    if not 0 <= job.confidence <= 1:
        raise UserError(f"--confidence {job.confidence} must lie between 0 and 1")
    if job.identity:
        Pattern("--identity", job.identity)
    settings = [YUNET, job.faces, job.confidence, job.min_face, job.size, job.format, job.identity]
    return hashlib.sha256(json.dumps(settings).encode()).hexdigest()


class Ingester(FacePipeline):
    """Turns photos into aligned faces, with one face detector per thread."""

    shards = "parquet"
    folder = "faces"

    def __init__(
        self, job: Ingestion, detector: bytes | None = None, scratch: str | None = None, cpus: int | None = None
    ) -> None:
        """`detector`: the content of YuNet's file, if already loaded."""
        super().__init__(job, FACES_AT_ONCE, scratch, cpus)
        self.format, self.pattern = job.format, Pattern("--identity", job.identity) if job.identity else None
        self.finder = FaceFinder(
            detector or detector_file(job.detector),
            job.max_pixels,
            size=job.size,
            largest=job.faces == "largest",
            confidence=job.confidence,
            min_face=job.min_face,
        )
        columns = [field for field in SCHEMA if field.name != "score"]
        self.shard_schema = pa.schema(
            [*columns, *IN_SHARDS, *([pa.field("identity", pa.string())] if job.identity else [])]
        )

    def find(self, content: bytes) -> Found:
        return [Picture(pixels.transpose(2, 0, 1), face.row()) for face, pixels in self.finder(content)] or WITHOUT_FACE

    def shard_row(self, file: Row, number: int, picture: Picture, content: bytes) -> Row:
        row = super().shard_row(file, number, picture, content)
        if self.pattern:
            row["identity"] = self.pattern.person(file["key"])
        return row
