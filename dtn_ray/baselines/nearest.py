"""The "simple nearest neighbor classifier" of Sec. 5.1: the label of the nearest image of a labelled gallery."""

import numpy as np
import torch


@torch.no_grad()
def nearest_neighbour(gallery: np.ndarray, labels: np.ndarray, queries: np.ndarray, *, block: int = 2048) -> np.ndarray:
    """Labels of M `queries`, each that of its nearest image (L2 on pixels) of a `gallery` of N; of ties, the first.

    `gallery` N×… and `queries` M×… both uint8 or both float32, with finite values; `labels` N. Takes `block` images of
    each at a time, so memory beyond the arguments does not depend on N. Distances are sums in float64: exact for
    uint8, where float32 would round them (1,024 squared differences reach 2^26).

    Raises ValueError if the gallery is empty or the arrays do not fit each other.
    """
    if len(gallery) == 0 or len(gallery) != len(labels):
        raise ValueError(f"a gallery of {len(gallery)} images with {len(labels)} labels; each needs one")
    kinds = [(each.shape[1:], each.dtype) for each in (gallery, queries)]
    if kinds[0] != kinds[1]:
        raise ValueError(f"gallery and queries must be images of one shape and type, not {kinds[0]} and {kinds[1]}")
    if gallery.dtype not in (np.uint8, np.float32):
        raise ValueError(f"images must be uint8 or float32, not {gallery.dtype}")
    nearest = torch.zeros(len(queries), dtype=torch.int64)
    least = torch.full((len(queries),), torch.inf, dtype=torch.float64)
    for start in range(0, len(gallery), block):
        images = _rows(gallery[start : start + block])
        squares = images.square().sum(1)
        for first in range(0, len(queries), block):
            # ‖q - x‖² without ‖q‖², which is the same for all x.
            distances = torch.addmm(squares, _rows(queries[first : first + block]), images.T, alpha=-2)
            smallest, places = distances.min(1)  # the first of equal ones
            here = slice(first, first + len(places))
            closer = smallest < least[here]
            nearest[here] = torch.where(closer, places + start, nearest[here])
            least[here] = torch.where(closer, smallest, least[here])
    return labels[nearest.numpy()]


def _rows(images: np.ndarray) -> torch.Tensor:
    rows = torch.from_numpy(images.reshape(len(images), -1).astype(np.float64))
    if not rows.isfinite().all():
        raise ValueError("images with values that are not finite have no nearest neighbour")
    return rows
