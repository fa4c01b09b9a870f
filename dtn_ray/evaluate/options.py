"""The options of a retrieval. They have a module of their own so that --help does not import torch."""

from dataclasses import dataclass
from typing import Annotated, Literal

import tyro


@dataclass(frozen=True)
class Retrieval:
    """One measurement of Table 4."""

    checkpoint: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="CHECKPOINT")]
    """A checkpoint of jobs/train.py faces, or the folder of a finished run (local or s3://)."""
    probes: str
    """Parquet file, folder or s3:// prefix of aligned faces with columns `image` and --identity."""
    distractors: tuple[str, ...]
    """The same of other persons' faces, of any number, without identities; one or many."""
    judge: str
    """Face network that ranks the faces; must not be the checkpoint's f. NETWORK.onnx, of which NETWORK.json beside it
    tells what it sees, unless it is known (dtn_ray/perceptual/load.py); or a checkpoint of jobs/pretrain.py faces."""
    identity: str = "identity"
    """Column of --probes that tells who it is; rows without a value are left out."""
    pairs_per_person: int = 1
    """Pairs of a probe and its mate drawn of each person with two photos or more, as far as there are so many."""
    seed: int = 0
    """Draws the pairs, whose emoji stands in for another's, the intervals, and what the figure shows."""
    weights: Literal["convert", "g"] = "convert"
    """convert: g as it should be used, averaged and recalibrated on s; g: as training left it."""
    actors: int | None = None
    """Actors that hold the judge and share the faces; by default one for each CPU, or GPU, of the cluster."""
    gpu: bool = False
    """Compute on GPUs."""
    out: str = "runs/retrieval"
    """Folder or s3:// prefix for retrieval.json and retrieval.png."""
