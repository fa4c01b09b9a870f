"""Random changes to batches of images, one draw per image (torchvision's transforms draw once per batch)."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from dtn_ray.method.options import Augment
from dtn_ray.models.workers import drawn_by_sample


def augment(images: Tensor, options: Augment) -> Tensor:
    """Applies `options` to images N×C×H×W float in [-1, 1], each with its own draw; the result stays in [-1, 1].

    Draws come from torch's global generator of the CPU, noise from that of the images' device: torch.manual_seed sets
    both, and makes the result reproducible. On several workers, an image gets the draw that it would get on one: by its
    place in the global batch.
    """
    count = len(images)

    def uniform(limit: float, low: float | None = None) -> Tensor:
        low = -limit if low is None else low
        return drawn_by_sample(torch.rand, count) * (limit - low) + low

    if any((options.rotation, options.aspect, options.shear, options.shift)) or options.scale != (1.0, 1.0):
        # affine_grid needs the inverse mapping, from the result to the image, so scales are inverted.
        angle = torch.deg2rad(uniform(options.rotation))
        zoom = torch.exp(-uniform(math.log(options.scale[1]), math.log(options.scale[0])))
        wide = torch.exp(uniform(math.log1p(options.aspect)) / 2)
        shear = uniform(options.shear)
        x, y = uniform(2 * options.shift), uniform(2 * options.shift)
        cos, sin = torch.cos(angle) * zoom, torch.sin(angle) * zoom
        theta = torch.stack([cos * wide, (shear * zoom - sin), x, sin, cos / wide, y], dim=1).view(count, 2, 3)
        grid = F.affine_grid(theta.to(images, non_blocking=True), list(images.shape), align_corners=False)
        images = F.grid_sample(images, grid, padding_mode="border", align_corners=False)
    if options.contrast or options.brightness or options.invert:
        gain, bias = 1 + uniform(options.contrast), uniform(options.brightness)
        sign = torch.where(drawn_by_sample(torch.rand, count) < options.invert, -1.0, 1.0)
        gain, bias, sign = (value.view(-1, 1, 1, 1).to(images, non_blocking=True) for value in (gain, bias, sign))
        mean = images.mean(dim=(1, 2, 3), keepdim=True)
        images = (((images - mean) * gain + mean + bias) * sign).clamp(-1, 1)
    if options.saturation:
        grey = images.mean(1, keepdim=True)
        taken = (drawn_by_sample(torch.rand, count) * options.saturation).view(-1, 1, 1, 1)
        images = torch.lerp(images, grey, taken.to(images, non_blocking=True))
    if options.mirror:
        mirrored = (
            (drawn_by_sample(torch.rand, count) < options.mirror).view(-1, 1, 1, 1).to(images.device, non_blocking=True)
        )
        images = torch.where(mirrored, images.flip(3), images)
    if options.noise:
        noise = drawn_by_sample(torch.randn, *images.shape, device=images.device)
        images = (images + options.noise * noise).clamp(-1, 1)
    return images
