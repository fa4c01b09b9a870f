"""Images as rows of numbers, for methods that take vectors."""

import numpy as np
import torch

from dtn_ray.method.pixels import to_float
from dtn_ray.models.perceptual import Perceptual


@torch.no_grad()
def features(f: Perceptual, images: np.ndarray, *, batch_size: int = 500) -> np.ndarray:
    """f(x) of images N×C×H×W uint8, as N×features float32; puts f into eval mode."""
    f.eval()
    device = next(f.parameters()).device
    batches = (
        to_float(images[i : i + batch_size]).to(device, memory_format=torch.channels_last)
        for i in range(0, len(images), batch_size)
    )
    return torch.cat([f.represent(x).float().cpu() for x in batches]).numpy()


def pixels(images: np.ndarray) -> np.ndarray:
    """Images N×C×H×W uint8 as N×3HW float32 in [-1, 1]; grayscale is replicated three times, as for f."""
    colour = np.broadcast_to(images, (len(images), 3, *images.shape[2:]))
    return to_float(colour.reshape(len(images), -1)).numpy()
