"""The options of a conversion."""

from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

import tyro

from dtn_ray.bulk.kinds import CONVERTED, Kind, Score
from dtn_ray.bulk.options import BulkJob
from dtn_ray.ingest.options import FACES, NO_FACE

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

    checkpoint: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="CHECKPOINT")]
    """A checkpoint of jobs/train.py, or the folder of a finished run (local or s3://)."""
    source: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="IN")]
    """Folder or s3:// prefix of images; all below it are converted."""
    out: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="OUT")]
    """Folder or s3:// prefix for the results, apart from the source; one OUT for each source."""
    gpu: bool = False
    """Compute on GPUs."""
    actors_per_gpu: int = 1
    """Actors that share one GPU."""
    batch_size: int | None = None
    """Images in one pass through the networks; by default 256 on a GPU, and 64 digits or 8 faces on a CPU, the fastest
    sizes that were measured."""
    bf16: bool = False
    """Compute in bfloat16 where that is safe (autocast)."""
    compile: bool = False
    """Compile the networks (torch.compile)."""
    format: Literal["png", "webp"] = "png"
    """Format of the images written; both are lossless."""
    shards: Literal["none", "parquet", "webdataset"] = "none"
    """Write about a thousand images into one file, Parquet or a WebDataset tar, instead of one file each; use one way
    per OUT."""
    detector: str | None = None
    """For a DTN of faces: file of the face detector YuNet; by default it is fetched, and its hash is checked."""
    faces: Literal["all", "largest"] = "all"
    """For a DTN of faces: make an emoji of every face of a photo, or of the largest alone."""
    aligned: bool = False
    """For a DTN of faces: the images already are aligned faces, as jobs/ingest.py makes them."""

    upscale: int = 1
    """For a DTN of faces: enlarge G's images by this factor, up to 4 (Sec. 5.2). Needs --super-resolution."""
    super_resolution: str | None = None
    """The network that enlarges: a checkpoint of jobs/super_resolution.py, or another network as ONNX."""

    person: str = ""
    """Also write one image of each person, that of the photo with the lowest score (Eq. 8). This regular expression
    (RE2's syntax) finds the person in the key: its first group, or the whole match."""
    people: str | None = None
    """The same from a table: a Parquet or CSV file (local or s3://) with columns key (relative to IN) and person."""

    @property
    def gpus_per_actor(self) -> float:
        return 1 / self.actors_per_gpu if self.gpu else 0.0
