"""Ray Train: trains SRCNN (Dong et al. 2015), which Sec. 5.2 enlarges g's output with, and measures it by PSNR.

As the literature does it: on the luminance of BT.601 in studio range, rounded to 8 bits; blurred by MATLAB's bicubic
interpolation; in PSNR, without `factor` pixels of the border. Adam instead of the paper's SGD with momentum, whose
8·10⁸ patches no one waits for.
"""

import hashlib
import math
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import ray
import ray.train
import ray.train.torch
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dtn_ray import checkpoint, storage
from dtn_ray.cluster import connect
from dtn_ray.config import Run, SuperResolution, check, fingerprint
from dtn_ray.data.order import step_seed, worker_slice
from dtn_ray.display import line
from dtn_ray.errors import UserError
from dtn_ray.images import SUFFIXES, is_photo_name, photo
from dtn_ray.metrics import TrainingMetrics
from dtn_ray.models.srcnn import SRCNN, degrade, rgb_to_ycbcr
from dtn_ray.progress import Progress
from dtn_ray.resumable import Finished, report, run_training, use_assigned_cpus

MAX_PIXELS = 100_000_000  # of one image
FILES_AT_ONCE = 64
WARM_UP = 100  # steps
LEAST_TEST = 32  # pixels of a test image's side, so that something is left without the border

Luminances = dict[str, np.ndarray]
"""Y of images by their keys, H×W uint8."""


def train_super_resolution(config: SuperResolution, run: Run) -> Finished:
    """Trains an SRCNN and reports its PSNR on the test images, beside bicubic interpolation's.

    Its checkpoint is what `dtn_ray.upscaling.load` takes. The same call goes on where an earlier one stopped, and
    ends with an uninterrupted run's weights. Raises UserError for bad settings, files or resources.
    """
    if config.steps < 1 or config.patch < 1:
        raise UserError("--steps and --patch must be at least 1")
    run.check(config.batch_size)
    if not config.factors or not {*config.factors} <= {2, 3, 4} or len({*config.factors}) < len(config.factors):
        raise UserError(f"--factors {' '.join(map(str, config.factors))}: needs one or more of 2, 3 and 4, each once")
    check(config)
    # A crop to a multiple of the factor must leave as much as the network sees.
    least = config.patch + 2 * SRCNN(config.middle).margin + max(config.factors) - 1
    images = read_luminances(config.images, least)
    tests = read_luminances(config.test_images, LEAST_TEST) if config.test_images else {}
    content = hashlib.sha256()
    for key, image in images.items():
        content.update(f"{key} {image.shape}".encode() + image.tobytes())

    connect(trains=True)
    pairs = ray.put([pair for factor in config.factors for pair in make_pairs(images, factor)])
    loop_config = {"config": config, "run": run, "pairs": pairs, "tests": ray.put(tests), "images": len(images)}
    name = run.name or f"super-resolution-{fingerprint(config)}"
    identity = {"kind": "super_resolution", "config": config, "images": content.hexdigest()}
    return run_training(_loop, loop_config, run, name, identity)


def read_luminances(uri: str, least: int) -> Luminances:
    """Y of all images below a folder or prefix, in the order of their keys.

    Images that cannot be read, or with a side of less than `least` pixels, are named in a warning and left out. Raises
    UserError where none is left.
    """
    keys = list(filter(is_photo_name, storage.list_keys(uri)))
    found: Luminances = {}
    for i in range(0, len(keys), FILES_AT_ONCE):
        part = keys[i : i + FILES_AT_ONCE]
        for key, content in zip(part, storage.read_many([storage.join(uri, key) for key in part]), strict=True):
            try:
                if isinstance(content, OSError):
                    raise content
                pixels = photo(content, MAX_PIXELS)[0].transpose(2, 0, 1)
                if min(pixels.shape[1:]) < least:
                    height, width = pixels.shape[1:]
                    raise ValueError(f"{width}×{height} pixels, and {least}×{least} are the least that serve here")
                found[key] = _luminance(pixels)
            except (OSError, ValueError) as error:
                print(f"warning: {line(storage.join(uri, key))}: left out: {line(error)}", flush=True)
    if not found:
        others = f"no file ends in {', '.join(SUFFIXES)}"
        there = f"none of {len(keys)} can be used (the warnings above say why)" if keys else others
        raise UserError(f"{uri}: no images there: {there}; give a folder or s3:// prefix of images")
    return found


def _luminance(pixels: np.ndarray) -> np.ndarray:
    rgb = torch.from_numpy(pixels)[None].float() / 255
    return (rgb_to_ycbcr(rgb)[0, 0] * 255).round().byte().numpy()


def _to_float(y: np.ndarray) -> Tensor:
    """H×W uint8 to 1×1×H×W in [0, 1]."""
    return torch.from_numpy(y.astype(np.float32) / 255)[None, None]


def _cropped(image: np.ndarray, factor: int) -> np.ndarray:
    height, width = image.shape
    return image[: height - height % factor, : width - width % factor]


@dataclass(frozen=True)
class Pair:
    """An image as the network gets it and as it should be."""

    blurred: np.ndarray
    """H×W float16, shrunk and enlarged again."""
    sharp: np.ndarray
    """H×W uint8."""


def make_pairs(images: Luminances, factor: int) -> list[Pair]:
    """The images, cropped to multiples of the factor, beside what `degrade` makes of them."""
    cropped = [np.ascontiguousarray(_cropped(image, factor)) for image in images.values()]
    # Half precision errs by a sixteenth of a grey level at most.
    return [Pair(degrade(_to_float(image), factor)[0, 0].half().numpy(), image) for image in cropped]


def draw_patches(shapes: np.ndarray, side: int, count: int, seed: int) -> np.ndarray:
    """`count` random patches: int64, columns image, top, left and turn (0 to 7); every place is equally likely.

    `shapes`: heights and widths of the images, N×2, none less than `side`.
    """
    generator = np.random.default_rng(seed)
    places = shapes - side + 1
    chances = places.prod(1) / places.prod(1).sum()
    chosen = generator.choice(len(shapes), count, p=chances)
    return np.column_stack([chosen, generator.integers(places[chosen]), generator.integers(8, size=count)])


def cut(pairs: list[Pair], patches: np.ndarray, side: int, margin: int) -> tuple[Tensor, Tensor]:
    """Patches as the network gets them, N×1×`side`×`side`, and as they should be, `margin` smaller on each side."""
    x, y = np.empty((2, len(patches), 1, side, side), np.float32)
    for i, (chosen, top, left, turn) in enumerate(patches):
        window = slice(top, top + side), slice(left, left + side)
        for array, image in ((x, pairs[chosen].blurred[window]), (y, pairs[chosen].sharp[window])):
            turned = np.rot90(image, turn % 4)
            array[i, 0] = turned.T if turn >= 4 else turned
    inside = slice(margin, side - margin)
    return torch.from_numpy(x), torch.from_numpy(y[..., inside, inside] / 255)


def psnr(y: Tensor, reference: Tensor, border: int) -> float:
    """Peak signal-to-noise ratio in dB of two luminances H×W in [0, 1], rounded to 8 bits, without `border` pixels."""
    inside = slice(border, -border or None)
    difference = (y.clamp(0, 1) * 255).round() - (reference * 255).round()
    error = difference[..., inside, inside].double().square().mean().item()
    return 10 * math.log10(255**2 / error) if error else math.inf


@torch.no_grad()
def measure(network: nn.Module, images: Luminances, factor: int) -> dict[str, tuple[float, float]]:
    """PSNR in dB of each image shrunk and enlarged again: by bicubic interpolation, and sharpened by the network."""
    device = next(network.parameters()).device
    found = {}
    for key, image in images.items():
        sharp = _to_float(_cropped(image, factor)).to(device)
        blurred = degrade(sharp, factor)
        found[key] = psnr(blurred, sharp, factor), psnr(network(blurred), sharp, factor)
    return found


def rate(config: SuperResolution, step: int) -> float:
    """The learning rate of a step: a linear warm-up, then a cosine to 0."""
    return config.lr * min(1.0, (step + 1) / WARM_UP) * (1 + math.cos(math.pi * step / config.steps)) / 2


def coarse(config: SuperResolution, step: int) -> bool:
    """Whether a step computes in bfloat16: not the last tenth.

    The weights learn to make good for the rounding, and in float32 the image would be 0.8 grey levels too bright.
    """
    return config.bf16 and step < 0.9 * config.steps


def _loop(settings: dict[str, Any]) -> None:
    config: SuperResolution = settings["config"]
    run: Run = settings["run"]
    pairs: list[Pair] = ray.get(settings["pairs"])
    tests: Luminances = ray.get(settings["tests"])
    context = ray.train.get_context()
    rank, workers = context.get_world_rank(), context.get_world_size()
    device = ray.train.torch.get_device()

    # Network and optimiser.
    use_assigned_cpus()
    torch.manual_seed(config.seed)
    network = SRCNN(config.middle).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    parallel: nn.Module = ray.train.torch.prepare_model(network)
    optimizer = torch.optim.Adam(network.parameters(), lr=config.lr)
    shapes = np.array([pair.sharp.shape for pair in pairs])
    side = config.patch + 2 * network.margin

    # Resume.
    start = 0
    if (last := ray.train.get_checkpoint()) is not None:
        with last.as_directory() as path:
            folder = Path(path)
            start = checkpoint.read_manifest(folder, "super_resolution", ("step",))["step"]
            checkpoint.load_weights(network, folder, "srcnn")
            checkpoint.load_optimizers(folder, {"srcnn": optimizer})
    progress = Progress("srcnn", start, config.steps, config.batch_size, quiet=rank > 0)
    exported = TrainingMetrics(context.get_experiment_name())

    for step in range(start, config.steps):
        # This worker's share of a batch that all draw alike.
        patches = draw_patches(shapes, side, config.batch_size, step_seed(config.seed, step, 0))
        blurred, sharp = cut(pairs, worker_slice(patches, rank, workers), side, network.margin)
        with torch.autocast(device.type, torch.bfloat16, enabled=coarse(config, step)):
            y = parallel(blurred.to(device, memory_format=torch.channels_last), pad=False)
        loss = F.mse_loss(y.float(), sharp.to(device))
        for group in optimizer.param_groups:
            group["lr"] = rate(config, step)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        done = step + 1
        if rank == 0 and done % run.log_every == 0:
            images_per_second = progress.update(done, {"training PSNR": -10 * math.log10(loss.item())})
            exported.log(done, images_per_second, {"loss": loss.item()})

        if done % run.checkpoint_every == 0 or done == config.steps:
            metrics: dict[str, Any] = {"step": done, "resumed_at": start, "loss": loss.item()}
            if rank:
                report(metrics)
                continue
            metrics["images"] = settings["images"]
            if tests:
                metrics |= _measured(network, tests, config.factors)
                found = {name: value for name, value in metrics.items() if name.startswith("psnr")}
                progress.update(done, found)
                exported.validated(found)
            report(metrics, partial(_save, config, network, optimizer, metrics))


def _measured(network: nn.Module, tests: Luminances, factors: tuple[int, ...]) -> dict[str, Any]:
    metrics: dict[str, Any] = {}
    for factor in factors:
        found = measure(network, tests, factor)
        bicubic, sharpened = np.mean([*found.values()], 0).tolist()
        metrics |= {f"bicubic_x{factor}": bicubic, f"psnr_x{factor}": sharpened}
        metrics[f"images_x{factor}"] = {PurePosixPath(key).stem: [*values] for key, values in found.items()}
    return metrics


def _save(
    config: SuperResolution, network: SRCNN, optimizer: torch.optim.Optimizer, metrics: dict[str, Any], folder: Path
) -> None:
    checkpoint.save_optimizers(folder, {"srcnn": optimizer})
    checkpoint.save(folder, "super_resolution", config, {"srcnn": network}, step=metrics["step"], metrics=metrics)
