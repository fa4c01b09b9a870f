"""The options of training an SRCNN."""

from dataclasses import dataclass
from typing import Annotated, Any, Literal

import tyro
from pydantic import Field

from dtn_ray.bounds import AtLeastOne, Count, NotNegative, Seed


@dataclass(frozen=True)
class SuperResolution:
    """One training of SRCNN (Dong et al. 2015), which enlarges the images of g."""

    images: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="IMAGES")]
    """Folder or s3:// prefix of images to train on; the smaller set of the published networks is T91."""
    test_images: str | None = None
    """Folder or s3:// prefix of images to test on, such as Set5; their PSNR is reported."""
    factors: Annotated[tuple[Annotated[int, Field(ge=2, le=4)], ...], Field(min_length=1)] = (2,)
    """Factors by which the network can enlarge: 2, 3 or 4. A network for several factors is worse at each of them."""
    middle: Literal[1, 3, 5] = 5
    """Width and height of the second layer's filters; the published networks are 9-1-5, 9-3-5 and 9-5-5."""
    steps: Count = 12_000
    """Steps of Adam; the paper used SGD with momentum, which needs 10⁸ patches and more."""
    batch_size: AtLeastOne = 16
    """Patches in one step, over all workers together."""
    patch: AtLeastOne = 48
    """Width and height, in pixels, of the square over which the loss of a patch is computed; the network's input is
    larger."""
    lr: NotNegative = 1e-3
    """Highest learning rate, reached after a short warm-up; it then falls to 0 along a cosine."""
    bf16: bool = False
    """Compute in bfloat16 where autocast considers it safe, except in the last tenth of the steps."""
    seed: Seed = 0
    """Seed of initialisation, the choice of patches and all other randomness."""

    @property
    def preprocessing(self) -> dict[str, Any]:
        """The networks' input, for the manifest (dtn_ray/checkpoints/checkpoint.py)."""
        return {"luminance": "BT.601, studio range", "range": [0, 1], "layout": "NCHW"}
