"""How good a classifier of the target is."""

from typing import Any

import numpy as np
import torch
from scipy.stats import binomtest
from torch import nn

from dtn_ray.method.pixels import to_float


@torch.no_grad()
def predict(network: nn.Module, images: np.ndarray, *, batch_size: int = 500) -> np.ndarray:
    """Labels, N int64, that a classifier gives to images N×C×H×W uint8; puts it into eval mode."""
    network.eval()
    device = next(network.parameters()).device
    batches = (to_float(images[i : i + batch_size]).to(device) for i in range(0, len(images), batch_size))
    return torch.cat([network(x).argmax(1).cpu() for x in batches]).numpy()


def score(predicted: np.ndarray, labels: np.ndarray) -> dict[str, Any]:
    """`accuracy`, `accuracy_95`, its 95 % interval, and `images`, their number; plain values for JSON.

    Wilson's interval: it holds near 100 % too. Raises ValueError for no images.
    """
    correct = int((predicted == labels).sum())
    interval = binomtest(correct, len(labels)).proportion_ci(0.95, method="wilson")
    return {
        "accuracy": correct / len(labels),
        "accuracy_95": [float(interval.low), float(interval.high)],
        "images": len(labels),
    }
