"""The options of an ingestion."""

from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

import tyro

from dtn_ray.bulk.kinds import CONVERTED, Count, Kind, Status
from dtn_ray.bulk.options import BulkJob

NO_FACE = Status("no face", "no_face", "without a face")
FACES = Count("faces", "faces", "faces")
INGESTION = Kind("ingestion", CONVERTED, others=(NO_FACE,), counts=(FACES,), todo="to_convert")


@dataclass(frozen=True)
class Ingestion(BulkJob):
    """One ingestion job."""

    kind: ClassVar[Kind] = INGESTION

    source: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="PHOTOS")]
    """Folder or s3:// prefix of photos; faces are looked for in all below it."""
    out: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="OUT")]
    """Folder or s3:// prefix for the faces, apart from PHOTOS; one OUT for each PHOTOS and setting."""
    detector: str | None = None
    """File of the face detector YuNet; by default it is fetched, and its hash is checked."""
    faces: Literal["all", "largest"] = "all"
    """Keep every face of a photo, or the largest alone."""
    confidence: float = 0.7
    """Least score of the detector, in [0, 1]."""
    min_face: int = 24
    """Least width of a face, in pixels of the photo; smaller ones count as none."""
    size: int = 152
    """Pixels of the aligned square."""
    format: Literal["jpeg", "png"] = "jpeg"
    """Of the aligned faces: JPEG of quality 95, or PNG, four times as large, for emoji."""
    identity: str = ""
    """Regular expression (RE2's syntax) whose first group, or whole match, in the key tells who is in the photo: column
    identity."""
