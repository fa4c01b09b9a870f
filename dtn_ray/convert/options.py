"""The options of a conversion."""

from dataclasses import dataclass
from typing import Annotated, Literal

import tyro

from dtn_ray.bulk.options import BulkJob


@dataclass(frozen=True)
class Conversion(BulkJob):
    """One conversion job."""

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
    """Images in one pass through the networks; by default 256 on a GPU, and on a CPU 64 digits or 8 faces, which
    was fastest."""
    bf16: bool = False
    """Compute in bfloat16 where that is safe (autocast)."""
    compile: bool = False
    """Compile the networks (torch.compile)."""
    format: Literal["png", "webp"] = "png"
    """Of the images written; both keep every pixel."""
    shards: Literal["none", "parquet", "webdataset"] = "none"
    """Write many images (about a thousand) into one file, Parquet or a WebDataset tar, instead of each into its own;
    one OUT keeps to one way."""
    detector: str | None = None
    """For a DTN of faces: file of the face detector YuNet; by default it is fetched, and its hash is checked."""
    faces: Literal["all", "largest"] = "all"
    """For a DTN of faces: make an emoji of every face of a photo, or of the largest alone."""
    aligned: bool = False
    """For a DTN of faces: the images are aligned faces already, as jobs/ingest.py makes them."""

    upscale: int = 1
    """For a DTN of faces: write images so many times larger than G draws them, up to 4 (Sec. 5.2), which takes …"""
    super_resolution: str | None = None
    """… a checkpoint of jobs/super_resolution.py, or another network as ONNX."""

    person: str = ""
    """Regular expression (RE2's syntax) whose first group, or whole match, in the key tells who is in the photo: also
    write one image of each person, that of the photo with the lowest score (Eq. 8)."""
    people: str | None = None
    """The same by a table: a Parquet or CSV file (local or s3://) with columns key, as below IN, and person."""

    @property
    def gpus_per_actor(self) -> float:
        return 1 / self.actors_per_gpu if self.gpu else 0.0
