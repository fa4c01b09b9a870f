"""The measurements of a validation."""

from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import nn

from dtn_ray.method import losses
from dtn_ray.method.dtn import DTN, DTNTrainer, recalibrate
from dtn_ray.method.features import FrozenF
from dtn_ray.method.kid import kid
from dtn_ray.method.pixels import to_float
from dtn_ray.models.perceptual import Perceptual
from dtn_ray.train.domains import build_dtn
from dtn_ray.train.options import Experiment

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter


AT_ONCE = 16  # images per pass of f, which fit a CPU's cache; with 128 a MobileNet takes three times as long
VALIDATION = 64  # at once


@torch.no_grad()
def for_conversion(experiment: Experiment, trainer: DTNTrainer, s: np.ndarray) -> nn.Module:
    """g for use after training, in eval mode: its average if there is one, with batch norm recalibrated on s.

    `s`: some of its images, N×C×H×W uint8.
    """
    source = trainer.ema.module if trainer.ema is not None else trainer.dtn.g
    g = build_dtn(experiment, trainer.dtn.f).g.to(trainer.device)
    g.load_state_dict(source.state_dict())
    batches = [to_float(s[i : i + VALIDATION]).to(trainer.device) for i in range(0, len(s), VALIDATION)]
    inputs = torch.cat([trainer.dtn.f(batch) if trainer.dtn.with_f else batch for batch in batches])
    recalibrate(g, inputs)
    return g.eval()


@torch.no_grad()
def domain_features(f: FrozenF, judge: Perceptual | None, images: np.ndarray) -> torch.Tensor:
    """The features N×features by which G(x) and t are compared: the judge's, or f's if there is no judge.

    `images`: images of t, or to be compared with t, N×C×H×W uint8.
    """
    batches = (to_float(images[i : i + AT_ONCE]) for i in range(0, len(images), AT_ONCE))
    represent = judge.represent if judge is not None else partial(f, of_t=True)
    return torch.cat([represent(batch) for batch in batches])


@torch.no_grad()
def measure(
    dtn: DTN,
    g: nn.Module,
    judge: Perceptual | None,
    s: np.ndarray,
    labels: np.ndarray | None,
    of_t: torch.Tensor,
) -> tuple[dict[str, float], torch.Tensor]:
    """Measures G with this g on held-out images of s; also returns some pairs of x and G(x).

    Measures L_CONST, the paper's signal for choosing α, β, γ; the KID between G(s) and t, because a g that ignores t
    would have the lowest L_CONST; and the judge's accuracy, if there are `labels`. `s`: N×C×H×W uint8; `of_t`:
    `domain_features` of t. The pairs: up to 32, N×2×3×H×W in [-1, 1].
    """
    device = next(g.parameters()).device
    L_const, right = 0.0, 0.0
    drawn, pairs = list[torch.Tensor](), list[torch.Tensor]()
    for i in range(0, len(s), VALIDATION):
        x = to_float(s[i : i + VALIDATION]).to(device)
        f_x = dtn.f(x)
        G_x = g(f_x if dtn.with_f else x)
        f_G_x = dtn.f(G_x, True)
        L_const += len(x) / len(s) * losses.L_const(f_x, f_G_x).item()
        drawn.append(f_G_x if judge is None else judge.represent(G_x))
        if judge is not None and labels is not None:
            right += float((judge(G_x).argmax(1).cpu().numpy() == labels[i : i + VALIDATION]).sum())
        if not pairs:
            pairs = [images[:32].expand(-1, 3, -1, -1).cpu() for images in (dtn.as_drawn(x, G_x), G_x)]
    metrics = {"validation_L_const": L_const, "validation_KID": kid(torch.cat(drawn).cpu(), of_t)}
    if judge is not None and labels is not None:
        metrics["validation_accuracy"] = right / len(s)
    return metrics, torch.stack(pairs, dim=1)


def show(metrics: dict[str, float], pairs: torch.Tensor, board: "SummaryWriter", step: int) -> None:
    """Writes the results of `measure` to TensorBoard."""
    from torchvision.utils import make_grid  # imported here, because it takes seconds in every process

    for name, value in metrics.items():
        board.add_scalar(name, value, step)
    grid = make_grid(pairs.flatten(0, 1), nrow=16, normalize=True, value_range=(-1, 1))
    board.add_image("s and G(s)", grid, step)
