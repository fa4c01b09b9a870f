"""The options of an ingestion."""

from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

import tyro

from dtn_ray.bulk.kinds import CONVERTED, Count, Kind, Status
from dtn_ray.bulk.options import OUTPUT, BulkJob
from dtn_ray.option_groups import Group

FACE = Group("face")
NO_FACE = Status("no face", "no_face", "without a face")
FACES = Count("faces", "faces", "faces")
INGESTION = Kind("ingestion", CONVERTED, others=(NO_FACE,), counts=(FACES,), todo="to_convert")


@dataclass(frozen=True)
class Ingestion(BulkJob):
    """One ingestion job."""

    kind: ClassVar[Kind] = INGESTION

    FIRST: ClassVar[tuple[str, ...]] = (
        *("match", "limit", "dry_run", "faces", "confidence", "min_face", "size", "format", "identity", "actors"),
    )

    source: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="PHOTOS")]
    """Folder or s3:// prefix of photos; all photos below it are searched for faces."""
    out: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="OUT")]
    """Folder or s3:// prefix for the faces, outside of PHOTOS; use one OUT for each PHOTOS and each choice of
    settings."""
    detector: Annotated[str | None, FACE] = None
    """File of the face detector YuNet; by default it is downloaded, and its hash is checked."""
    faces: Annotated[Literal["all", "largest"], FACE] = "all"
    """Keep every face of a photo, or only the largest."""
    confidence: Annotated[float, FACE] = 0.7
    """Minimum score of the detector, in [0, 1]."""
    min_face: Annotated[int, FACE] = 24
    """Minimum width of a face, in pixels of the photo; smaller faces are ignored."""
    size: Annotated[int, OUTPUT] = 152
    """Width and height of an aligned face, in pixels."""
    format: Annotated[Literal["jpeg", "png"], OUTPUT] = "jpeg"
    """Format of the aligned faces: JPEG of quality 95, or PNG, which is four times as large, for emoji."""
    identity: Annotated[str, OUTPUT] = ""
    """Regular expression (RE2's syntax) that finds the person in the key: its first group or, without groups, the whole
    match. The result is written to the column identity."""
