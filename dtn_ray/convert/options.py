"""The options of a conversion."""

from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

import tyro

from dtn_ray.bulk.kinds import CONVERTED, Kind, Score
from dtn_ray.bulk.options import OUTPUT, RESOURCES, BulkJob
from dtn_ray.ingest.options import FACE, FACES, NO_FACE

CONVERSION = Kind(
    "conversion",
    CONVERTED,
    others=(NO_FACE,),
    counts=(FACES,),
    score=Score(
        "Identity score ‖f(x) − f(G(x))‖",
        "The distance between f's features of each image and of its source: the lower, the better.",
    ),
    todo="to_convert",
)


@dataclass(frozen=True)
class Conversion(BulkJob):
    """One conversion job."""

    kind: ClassVar[Kind] = CONVERSION
    AT_LEAST_ONE: ClassVar[tuple[str, ...]] = (*BulkJob.AT_LEAST_ONE, "batch_size", "actors_per_gpu", "upscale")

    FIRST: ClassVar[tuple[str, ...]] = (
        *("match", "limit", "dry_run", "format", "shards", "faces", "upscale", "super_resolution", "person"),
        *("actors", "gpu", "webhook"),
    )

    checkpoint: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="CHECKPOINT")]
    """A checkpoint of jobs/train.py, or the folder of a finished run (local or s3://)."""
    source: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="IN")]
    """Folder or s3:// prefix of images; all below it are converted."""
    out: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="OUT")]
    """Folder or s3:// prefix for the results, outside of IN; use one OUT for each IN."""
    gpu: Annotated[bool, RESOURCES] = False
    """Compute on GPUs."""
    actors_per_gpu: Annotated[int, RESOURCES] = 1
    """Actors that share one GPU."""
    batch_size: Annotated[int | None, RESOURCES] = None
    """Images in one pass through the networks; by default the fastest measured size: 256 on a GPU, 64 digits or 8 faces
    on a CPU."""
    bf16: Annotated[bool, RESOURCES] = False
    """Compute in bfloat16 where autocast considers it safe."""
    compile: Annotated[bool, RESOURCES] = False
    """Compile the networks (torch.compile)."""
    format: Annotated[Literal["png", "webp"], OUTPUT] = "png"
    """Format of the images written; both are lossless."""
    shards: Annotated[Literal["none", "parquet", "webdataset"], OUTPUT] = "none"
    """Write about a thousand images into one file, Parquet or a WebDataset tar, instead of one file for each image. Use
    the same setting for all runs on one OUT."""
    detector: Annotated[str | None, FACE] = None
    """For a DTN of faces: file of the face detector YuNet; by default it is downloaded, and its hash is checked."""
    faces: Annotated[Literal["all", "largest"], FACE] = "all"
    """For a DTN of faces: make an emoji of every face in a photo, or only of the largest."""
    aligned: Annotated[bool, FACE] = False
    """For a DTN of faces: the images already are aligned faces, such as jobs/ingest.py writes."""

    upscale: Annotated[int, OUTPUT] = 1
    """For a DTN of faces: enlarge G's images by this factor, up to 4 (Sec. 5.2). Needs --super-resolution."""
    super_resolution: Annotated[str | None, OUTPUT] = None
    """The network that enlarges: a checkpoint of jobs/super_resolution.py, or another network as ONNX."""

    person: Annotated[str, OUTPUT] = ""
    """Also write one image for each person: of all photos of the person, the output with the lowest score (Eq. 8). This
    regular expression (RE2's syntax) finds the person in the key: its first group or, without groups, the whole
    match."""
    people: Annotated[str | None, OUTPUT] = None
    """As --person, but with the persons from a table: a Parquet or CSV file (local or s3://) with columns key (relative
    to IN) and person."""

    @property
    def gpus_per_actor(self) -> float:
        return 1 / self.actors_per_gpu if self.gpu else 0.0
