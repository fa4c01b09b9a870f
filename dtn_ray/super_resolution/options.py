"""The options of training an SRCNN."""

from dataclasses import dataclass
from typing import Annotated, Any, Literal

import tyro
from pydantic import Field

from dtn_ray.bounds import AtLeastOne, Count, NotNegative, Seed


@dataclass(frozen=True)
class SuperResolution:
    """One training of SRCNN (Dong et al. 2015), which enlarges what g draws."""

    images: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="IMAGES")]
    """Folder or s3:// prefix of images to learn from; the published network's smaller set is T91."""
    test_images: str | None = None
    """Folder or s3:// prefix of images whose PSNR is reported, such as Set5."""
    factors: Annotated[tuple[Annotated[int, Field(ge=2, le=4)], ...], Field(min_length=1)] = (2,)
    """How many times the network will enlarge: 2, 3 or 4; trained for several at once it is worse at each."""
    middle: Literal[1, 3, 5] = 5
    """Side of the second layer's filters: 9-1-5, 9-3-5 or 9-5-5, the published networks."""
    steps: Count = 12_000
    """Steps of Adam; the paper took SGD with momentum, which needs 10⁸ patches and more."""
    batch_size: AtLeastOne = 16
    """Patches in one step over all workers."""
    patch: AtLeastOne = 48
    """Side of the square that a patch's loss is taken over, in pixels; what the network sees of it is larger."""
    lr: NotNegative = 1e-3
    """Highest learning rate, after a short warm-up; from there a cosine leads to 0."""
    bf16: bool = False
    """Compute in bfloat16 where that is safe (autocast), but for the last tenth of the steps."""
    seed: Seed = 0
    """Decides initialisation, the patches and all that is random."""

    @property
    def preprocessing(self) -> dict[str, Any]:
        """What the networks take (dtn_ray/checkpoints/checkpoint.py)."""
        return {"luminance": "BT.601, studio range", "range": [0, 1], "layout": "NCHW"}
