"""The embedded target domain t: the real handwritten digits inside scikit-learn, enlarged to 32×32."""

import numpy as np
from PIL import Image

from dtn_ray.data.labelled import LabelledImages
from dtn_ray.errors import UserError


def load(split: str) -> LabelledImages:
    """1,797 digits by 13 writers (Alpaydin & Kaynak 1998): N×1×32×32 uint8, white on black.

    `train` and `test` are the even and the odd ones, so that every writer is in both. The 8×8 originals are enlarged
    to 28×28, bicubic, with a border of 2, since they touch their own. Raises UserError for another split.
    """
    if split not in ("train", "test"):
        raise UserError(f"handwritten-digits has no split {split!r}: choose train or test")
    from sklearn.datasets import load_digits  # a second to import

    digits = load_digits()
    part = slice(0 if split == "train" else 1, None, 2)
    small = (digits.images[part] * (255 / 16)).astype(np.uint8)
    large = np.stack([np.asarray(Image.fromarray(image).resize((28, 28), Image.Resampling.BICUBIC)) for image in small])
    return LabelledImages(np.pad(large, ((0, 0), (2, 2), (2, 2)))[:, None], digits.target[part].astype(np.int64))
