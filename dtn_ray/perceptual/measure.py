"""The measurements of a classifier: its error, and verification of people."""

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from dtn_ray.data.labelled import LabelledImages
from dtn_ray.method.pixels import to_float
from dtn_ray.models.digits import DigitF
from dtn_ray.models.faces import DeepFace


@torch.no_grad()
def accuracy(network: nn.Module, images: np.ndarray, labels: np.ndarray, batch_size: int = 500) -> float:
    """The fraction of uint8 images that a network classifies correctly; switches it to eval mode."""
    network.eval()
    device = next(network.parameters()).device
    predicted = [
        network(to_float(images[i : i + batch_size]).to(device)).argmax(1).cpu()
        for i in range(0, len(images), batch_size)
    ]
    return float((torch.cat(predicted).numpy() == labels).mean())


@torch.no_grad()
def verification_auc(network: DeepFace, faces: LabelledImages, batch_size: int = 100) -> float | None:
    """Area under the ROC curve of cosines of f(x) over all pairs of faces; switches the network to eval mode.

    None if all pairs, or no pairs, show the same person.
    """
    network.eval()
    device = next(network.parameters()).device
    features = torch.cat(
        [
            F.normalize(network.represent(to_float(faces.images[i : i + batch_size]).to(device))).cpu()
            for i in range(0, len(faces), batch_size)
        ]
    )
    first, second = np.triu_indices(len(faces), 1)
    same = faces.labels[first] == faces.labels[second]
    if same.all() or not same.any():
        return None
    from sklearn.metrics import roc_auc_score  # takes seconds to import, and only faces need it

    return float(roc_auc_score(same, (features @ features.T).numpy()[first, second]))


def measure(network: DigitF | DeepFace, test: LabelledImages) -> dict[str, float | None]:
    """`test_error`, over images of trained classes (None if there are none); for people also `verification_auc`."""
    known = test.labels >= 0
    error = 1 - accuracy(network, test.images[known], test.labels[known]) if known.any() else None
    if isinstance(network, DigitF):
        return {"test_error": error}
    return {"test_error": error, "verification_auc": verification_auc(network, test)}
