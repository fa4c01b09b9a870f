"""Random changes to batches of images, one draw per image (torchvision's transforms draw once per batch)."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor


@dataclass(frozen=True)
class Augment:
    """How much training images vary; every field at 0 is off."""

    rotation: float = 0.0
    """Largest rotation, in degrees."""
    scale: float = 0.0
    """Largest relative change of size: 0.1 draws from 0.9 to 1.1."""
    shift: float = 0.0
    """Largest shift, as a fraction of the image's side."""
    contrast: float = 0.0
    """Largest relative change of contrast about the image's own mean."""
    brightness: float = 0.0
    """Largest change of brightness, on the scale of [-1, 1] images."""
    invert: float = 0.0
    """Probability of inverting the colours: makes f see dark on light and light on dark alike."""


def augment(images: Tensor, options: Augment) -> Tensor:
    """Applies `options` to images N×C×H×W float in [-1, 1], each with its own draw; the result stays in [-1, 1].

    Draws come from torch's global generator of the CPU, so seeding it makes the result reproducible.
    """
    count = len(images)

    def uniform(limit: float) -> Tensor:
        return (torch.rand(count) * 2 - 1) * limit

    angle, zoom = torch.deg2rad(uniform(options.rotation)), 1 / (1 + uniform(options.scale))
    cos, sin = torch.cos(angle) * zoom, torch.sin(angle) * zoom
    x, y = uniform(2 * options.shift), uniform(2 * options.shift)
    gain, bias = 1 + uniform(options.contrast), uniform(options.brightness)
    sign = torch.where(torch.rand(count) < options.invert, -1.0, 1.0)

    if options.rotation or options.scale or options.shift:
        theta = torch.stack([cos, -sin, x, sin, cos, y], dim=1).view(count, 2, 3).to(images)
        grid = F.affine_grid(theta, list(images.shape), align_corners=False)
        images = F.grid_sample(images, grid, padding_mode="border", align_corners=False)
    if options.contrast or options.brightness or options.invert:
        gain, bias, sign = (value.view(-1, 1, 1, 1).to(images) for value in (gain, bias, sign))
        mean = images.mean(dim=(1, 2, 3), keepdim=True)
        images = (((images - mean) * gain + mean + bias) * sign).clamp(-1, 1)
    return images
