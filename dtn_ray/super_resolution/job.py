"""Ray Train: trains SRCNN (Dong et al. 2015), which enlarges g's output in Sec. 5.2, and measures its PSNR.

It follows the literature: the luminance of BT.601 in studio range, rounded to 8 bits; MATLAB's bicubic interpolation;
PSNR without `factor` pixels of the border. Adam replaces the paper's SGD with momentum, which took 8·10⁸ patches.
"""

import hashlib

import ray
import ray.train
import ray.train.torch

from dtn_ray.errors import UserError
from dtn_ray.models.srcnn import SRCNN
from dtn_ray.ray_cluster.connect import connect
from dtn_ray.resumable.options import Run
from dtn_ray.resumable.run import Finished, run_training
from dtn_ray.settings import check, fingerprint
from dtn_ray.super_resolution.loop import loop
from dtn_ray.super_resolution.options import SuperResolution
from dtn_ray.super_resolution.patches import LEAST_TEST, make_pairs, read_luminances


def train_super_resolution(config: SuperResolution, run: Run) -> Finished:
    """Trains an SRCNN and reports its PSNR on the test images, and that of bicubic interpolation.

    `load_super_resolver` reads its checkpoint. The same call resumes where an earlier one stopped, and ends with the
    weights of an uninterrupted run. Raises UserError for bad settings, files or resources.
    """
    if config.steps < 1 or config.patch < 1:
        raise UserError("--steps and --patch must be at least 1")
    run.check(config.batch_size)
    if not config.factors or not {*config.factors} <= {2, 3, 4} or len({*config.factors}) < len(config.factors):
        raise UserError(f"--factors {' '.join(map(str, config.factors))}: needs one or more of 2, 3 and 4, each once")
    check(config)
    # After cropping to a multiple of the factor, an image must still be as large as the network's input.
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
    return run_training(loop, loop_config, run, name, identity)
