"""The PSNR of the network and of bicubic interpolation."""

import math
from pathlib import PurePosixPath
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from dtn_ray.models.srcnn import degrade
from dtn_ray.super_resolution.patches import Luminances, crop_to_multiple, luminance_to_float


def psnr(y: Tensor, reference: Tensor, border: int) -> float:
    """Peak signal-to-noise ratio in dB of two luminances H×W in [0, 1], rounded to 8 bits, without `border` pixels."""
    inside = slice(border, -border or None)
    difference = (y.clamp(0, 1) * 255).round() - (reference * 255).round()
    error = difference[..., inside, inside].double().square().mean().item()
    return 10 * math.log10(255**2 / error) if error else math.inf


@torch.no_grad()
def measure(network: nn.Module, images: Luminances, factor: int) -> dict[str, tuple[float, float]]:
    """PSNR in dB of each image after shrinking and enlarging: by bicubic interpolation, and then by the network."""
    device = next(network.parameters()).device
    found = {}
    for key, image in images.items():
        sharp = luminance_to_float(crop_to_multiple(image, factor)).to(device)
        blurred = degrade(sharp, factor)
        found[key] = psnr(blurred, sharp, factor), psnr(network(blurred), sharp, factor)
    return found


def measure_all(network: nn.Module, tests: Luminances, factors: tuple[int, ...]) -> dict[str, Any]:
    metrics: dict[str, Any] = {}
    for factor in factors:
        found = measure(network, tests, factor)
        bicubic, sharpened = np.mean([*found.values()], 0).tolist()
        metrics |= {f"bicubic_x{factor}": bicubic, f"psnr_x{factor}": sharpened}
        metrics[f"images_x{factor}"] = {PurePosixPath(key).stem: [*values] for key, values in found.items()}
    return metrics
