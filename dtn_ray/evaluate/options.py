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
    """Parquet file, folder or s3:// prefix of aligned faces, with a column `image` and the column that --identity
    names."""
    distractors: tuple[str, ...]
    """One or more Parquet files, folders or s3:// prefixes of aligned faces of other people, without identities. Any
    number of faces."""
    judge: str
    """Face network that ranks the faces; it must not be the checkpoint's f. Either NETWORK.onnx, with NETWORK.json
    beside it, which describes its preprocessing (not needed for the networks listed in dtn_ray/perceptual/load.py); or
    a checkpoint of jobs/pretrain.py faces."""
    identity: str = "identity"
    """Column of --probes that names the person; rows without a value are left out."""
    pairs_per_person: int = 1
    """Pairs of two photos (probe and mate) that are drawn for each person with at least two photos; fewer if the person
    has too few photos."""
    seed: int = 0
    """Seed of the random choices: the pairs, the other persons of the floor, the intervals, and the faces in the
    figure."""
    weights: Literal["convert", "g"] = "convert"
    """Which weights of g: `convert`, those for use (averaged, and recalibrated on s); or `g`, those of the last
    step."""
    actors: int | None = None
    """Number of actors that run the judge; by default one for each CPU of the cluster, or each GPU with --gpu."""
    gpu: bool = False
    """Compute on GPUs."""
    out: str = "runs/retrieval"
    """Folder or s3:// prefix for retrieval.json and retrieval.png."""
