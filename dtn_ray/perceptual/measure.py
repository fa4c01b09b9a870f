"""How good a classifier is: its error, and how well it tells people apart."""

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
    """Share of uint8 images that a classifier labels right; puts it into eval mode."""
    network.eval()
    device = next(network.parameters()).device
    predicted = [
        network(to_float(images[i : i + batch_size]).to(device)).argmax(1).cpu()
        for i in range(0, len(images), batch_size)
    ]
    return float((torch.cat(predicted).numpy() == labels).mean())


@torch.no_grad()
def verification_auc(network: DeepFace, faces: LabelledImages, batch_size: int = 100) -> float | None:
    """Area under the ROC curve of cosines of f(x) over all pairs of faces; puts the network into eval mode.

    None where all pairs are of one kind.
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
    from sklearn.metrics import roc_auc_score  # seconds to import, and for faces alone

    return float(roc_auc_score(same, (features @ features.T).numpy()[first, second]))


def measure(network: DigitF | DeepFace, test: LabelledImages) -> dict[str, float | None]:
    """`test_error`, over images whose class is trained on; of people also `verification_auc`. Of none, None."""
    known = test.labels >= 0
    error = 1 - accuracy(network, test.images[known], test.labels[known]) if known.any() else None
    if isinstance(network, DigitF):
        return {"test_error": error}
    return {"test_error": error, "verification_auc": verification_auc(network, test)}
