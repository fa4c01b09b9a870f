"""Images as rows of numbers, for methods that take vectors."""

import numpy as np

from dtn_ray.method.pixels import in_batches, to_float
from dtn_ray.models.perceptual import Perceptual


def features(f: Perceptual, images: np.ndarray, *, batch_size: int = 500) -> np.ndarray:
    """f(x) of images N×C×H×W uint8, as N×features float32; puts f into eval mode."""
    f.eval()
    device = next(f.parameters()).device
    return in_batches(lambda x: f.represent(x).float(), images, batch_size, device).numpy()


def pixels(images: np.ndarray) -> np.ndarray:
    """Images N×C×H×W uint8 as N×3HW float32 in [-1, 1]; grayscale is replicated three times, as for f."""
    colour = np.broadcast_to(images, (len(images), 3, *images.shape[2:]))
    return to_float(colour.reshape(len(images), -1)).numpy()
