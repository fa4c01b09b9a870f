"""The options of an experiment. They have a module of their own so that --help imports neither torch nor Ray."""

from dataclasses import dataclass
from typing import Annotated, Literal

from dtn_ray.bounds import AtLeastOne, Count, NotNegative, Seed, Width
from dtn_ray.option_groups import Group

DATA, ROWS, RUN = Group("data"), Group("row"), Group("run")

Preset = Literal["digits", "paper-digits", "embedded"]


@dataclass(frozen=True)
class Options:
    """What all rows of an experiment share, and where it runs."""

    data_dir: Annotated[str | None, DATA] = None
    """Folder or s3:// prefix with the files of SVHN and MNIST."""
    embedded: Annotated[bool, DATA] = False
    """Use the embedded digits in place of SVHN and MNIST: nothing to download, smaller networks."""
    preset: Annotated[Preset | None, ROWS] = None
    """Settings that the rows start from: digits (ours, the default), paper-digits (the paper's and nothing added), or
    embedded (the default with --embedded)."""
    seeds: Annotated[AtLeastOne, ROWS] = 3
    """Trainings of each row, which differ in their seed."""
    first_seed: Annotated[Seed, ROWS] = 3
    """The first of the seeds. The presets' settings were chosen on seeds 0 to 2."""
    f: Annotated[str | None, ROWS] = None
    """Checkpoint of jobs/pretrain.py to use as f, where f has seen all classes; without one, f is trained first."""
    judge: Annotated[str | None, ROWS] = None
    """Checkpoint of jobs/pretrain.py to use as the judge; without one, it is trained first."""
    f_seed: Annotated[Seed, ROWS] = 0
    """Seed of f and of the judge, which all seeds of a row share."""
    width_g: Annotated[Width | None, ROWS] = None
    """Filters of g, relative to the paper's; by default the preset's, as for all below."""
    width_D: Annotated[Width | None, ROWS] = None
    """Filters of D, relative to the paper's."""
    width_f: Annotated[Width | None, ROWS] = None
    """Filters of f, the judge and other classifiers that are trained here, relative to the paper's."""
    steps: Annotated[Count | None, ROWS] = None
    """Steps of each DTN."""
    batch_size: Annotated[AtLeastOne | None, ROWS] = None
    """Images of s, and as many of t, in one step of a DTN."""
    epochs: Annotated[NotNegative | None, ROWS] = None
    """Passes of f, the judge and other classifiers over their images."""
    bf16: Annotated[bool, ROWS] = False
    """Compute in bfloat16 where that is safe (autocast)."""
    source_split: Annotated[str, DATA] = "largest"
    """Split of s: train, test, extra, train+extra, a .mat file; largest is extra (the paper's) if it is there."""
    test_split: Annotated[str, DATA] = "test"
    """Split of s that is scored: test, or a .mat file of SVHN's layout."""
    download: Annotated[bool, DATA] = False
    """Fetch missing files with torchvision into --data-dir."""
    dann_steps: Annotated[Count | None, ROWS] = None
    """Steps of DANN (Table 2); by default its own."""
    fixmatch_steps: Annotated[Count | None, ROWS] = None
    """Steps of FixMatch (beyond); by default its own."""
    dimensions: Annotated[AtLeastOne, ROWS] = 32
    """Dimensions of the subspaces that SA aligns (Table 2)."""
    out: Annotated[str, RUN] = "runs/experiments"
    """Folder or s3:// prefix for trainings, cells and tables. Several experiments may share it, one at a time: what one
    has trained, the others use."""
    concurrent: Annotated[int | None, RUN] = None
    """Trainings at once; by default as many as the cluster has room for."""
    cpus_per_worker: Annotated[float, RUN] = 1.0
    """CPUs that each training takes."""
    gpu: Annotated[bool, RUN] = False
    """One GPU for each training."""
    checkpoint_every: Annotated[AtLeastOne, RUN] = 100
    """Steps of a DTN between its checkpoints."""
    max_failures: Annotated[Count, RUN] = 3
    """How many times a lost worker or node is replaced before a training is given up."""
