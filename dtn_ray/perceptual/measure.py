"""The measurements of a classifier: its error, and verification of people."""

from typing import Any

import numpy as np
import torch.nn.functional as F
from torch import nn

from dtn_ray.data.labelled import LabelledImages
from dtn_ray.method.pixels import in_batches
from dtn_ray.models.digits import DigitF
from dtn_ray.models.faces import DeepFace


def predict(network: nn.Module, images: np.ndarray, batch_size: int = 500) -> np.ndarray:
    """Labels, N int64, that a classifier gives to images N×C×H×W uint8; switches it to eval mode."""
    network.eval()
    device = next((each.device for each in network.parameters()), "cpu")
    return in_batches(lambda x: network(x).argmax(1), images, batch_size, device).numpy()


def accuracy(network: nn.Module, images: np.ndarray, labels: np.ndarray, batch_size: int = 500) -> float:
    """The fraction of uint8 images that a network classifies correctly; switches it to eval mode."""
    return float((predict(network, images, batch_size) == labels).mean())


def score(predicted: np.ndarray, labels: np.ndarray) -> dict[str, Any]:
    """`accuracy`, its 95 % interval `accuracy_95`, and the number of `images`; plain values for JSON.

    The interval is Wilson's, which is also valid near 100 %. Raises ValueError for no images.
    """
    from scipy.stats import binomtest  # takes seconds to import, and trainings of f do not need it

    correct = int((predicted == labels).sum())
    interval = binomtest(correct, len(labels)).proportion_ci(0.95, method="wilson")
    return {
        "accuracy": correct / len(labels),
        "accuracy_95": [float(interval.low), float(interval.high)],
        "images": len(labels),
    }


def verification_auc(network: DeepFace, faces: LabelledImages, batch_size: int = 100) -> float | None:
    """Area under the ROC curve of cosines of f(x) over all pairs of faces; switches the network to eval mode.

    None if all pairs, or no pairs, show the same person.
    """
    network.eval()
    device = next(network.parameters()).device
    features = in_batches(lambda x: F.normalize(network.represent(x)), faces.images, batch_size, device)
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
