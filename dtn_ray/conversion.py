"""The options of a conversion; apart from config.py because tasks that list a bucket import it, and need no torch."""

from dataclasses import dataclass
from typing import Annotated, Literal

import tyro

from dtn_ray.images import SUFFIXES


@dataclass(frozen=True)
class Conversion:
    """One conversion job."""

    checkpoint: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="CHECKPOINT")]
    """A checkpoint of jobs/train.py, or the folder of a finished run (local or s3://)."""
    source: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="IN")]
    """Folder or s3:// prefix of images; all below it are converted."""
    out: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="OUT")]
    """Folder or s3:// prefix for the results, apart from the source; one OUT for each source."""
    actors: int | None = None
    """Actors that hold the model and share the work; by default one for each CPU, or GPU, of the cluster."""
    max_actors: int | None = None
    """Let Ray add actors up to so many while there is work, and the cluster nodes for them; by default --actors."""
    gpu: bool = False
    """Compute on GPUs."""
    actors_per_gpu: int = 1
    """Actors that share one GPU."""
    batch_size: int | None = None
    """Images in one pass through the networks; by default 256 on a GPU and 64 on a CPU, as fit its cache."""
    bf16: bool = False
    """Compute in bfloat16 where that is safe (autocast)."""
    compile: bool = False
    """Compile the networks (torch.compile)."""
    threads: int = 16
    """Threads of one actor that read and decode, and as many that write; on S3 each has up to 64 objects under way."""
    format: Literal["png", "webp"] = "png"
    """Of the images written; both keep every pixel."""
    shards: Literal["none", "parquet", "webdataset"] = "none"
    """Write many images (about a thousand) into one file, Parquet or a WebDataset tar, instead of each into its own;
    one OUT keeps to one way."""
    max_pixels: int = 50_000_000
    """Images of more pixels are refused before they are decoded."""
    max_bytes: int = 500_000_000
    """Larger files are refused before they are read."""
    sheet: int = 64
    """Pairs on the contact sheet."""
    inventory: str = ""
    """Take the objects from this file instead of listing IN: manifest.json of S3 Inventory, .parquet or .csv with a
    column key, or .txt with a key a line."""
    suffixes: tuple[str, ...] = SUFFIXES
    """Only keys that end so, in small letters or large; '' takes all, whatever they are called."""
    match: str = ""
    """Only keys in which this regular expression is found."""
    min_size: int = 0
    """Only objects of so many bytes or more."""
    modified_since: str = ""
    """Only objects changed at this time or later: 2026-01-31 or 2026-01-31T18:00+01:00; UTC where no zone is given."""
    limit: int | None = None
    """Convert so many at most; the next run goes on."""
    retry_failed: bool = False
    """Also try images again that could not be decoded, though they have not changed."""
    max_failure_rate: float = 0.5
    """End early if more than this part of the latest outcomes (100 to 1,000 of them) failed for want of the store or
    the model. Images that cannot be decoded do not count."""
    lease_seconds: float = 60.0
    """A run that was killed keeps others from OUT for so long; one that lives renews its lease."""
    dry_run: bool = False
    """Count, and estimate the time from a few images; write nothing."""
