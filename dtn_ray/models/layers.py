"""Layers that the networks of all domains share."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.nn.functional import all_reduce
from torch.overrides import TorchFunctionMode

from dtn_ray.models.workers import place


def scaled(filters: int, width: float) -> int:
    """Number of filters of a layer at a width multiplier; at least 1."""
    return max(1, round(filters * width))


def initialise(module: nn.Module) -> None:
    """DCGAN's initialisation: convolutions and linear layers from N(0, 0.02), batch norm's scale from N(1, 0.02).

    The paper refers to Radford et al. (2015) for g and D, and theirs is this. It matters: under torch's default
    initialisation the digit DTN learns nothing in its first 500 steps.
    """
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d | nn.Linear):
            nn.init.normal_(layer.weight, 0.0, 0.02)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
        elif isinstance(layer, nn.modules.batchnorm._BatchNorm):
            nn.init.normal_(layer.weight, 1.0, 0.02)
            nn.init.zeros_(layer.bias)


def initialise_for_relu(module: nn.Module) -> None:
    """He et al.'s (2015) initialisation of convolutions and linear layers: N(0, sqrt(2 / inputs)), biases 0.

    It keeps the size of the values through layers with ReLU and without normalization. Under torch's default, the
    differences between images shrink from layer to layer.
    """
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)


class _NotFilled(TorchFunctionMode):
    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in (Tensor.normal_, Tensor.uniform_) or getattr(func, "__module__", None) == "torch.nn.init":
            return args[0] if args else kwargs["tensor"]
        return func(*args, **(kwargs or {}))


@contextmanager
def unfilled() -> Iterator[None]:
    """Networks built during the `with` have shapes but no memory (torch's meta device): weights will come from a file.

    No module may be imported for the first time during the `with`, or its constants would have no values.
    Initialisation is left out, since torch imports for seconds what it needs to do it on that device.
    """
    with torch.device("meta"), _NotFilled():
        yield


class PerDomain(nn.Module):
    """Applies a network to several batches, one forward pass each, so that batch norm never mixes them.

    In a common pass the batch statistics reveal the domain of an image, and D wins at once; the paper does
    not say. `separate=False` is the common pass. One call per update is also what data-parallel wrappers expect.
    """

    def __init__(self, network: nn.Module, separate: bool = True) -> None:
        super().__init__()
        self.network, self.separate = network, separate

    def forward(self, *batches: Tensor) -> Sequence[Tensor]:
        if self.separate:
            return [self.network(batch) for batch in batches]
        return self.network(torch.cat(batches)).split([len(batch) for batch in batches])


class CPUSyncBatchNorm2d(nn.BatchNorm2d):
    """Batch norm over the batches of all workers, for CPU workers: torch's SyncBatchNorm only runs on GPUs.

    Input N×C×H×W, N the same on every worker. Without a process group, and in eval mode, it is nn.BatchNorm2d.
    """

    def forward(self, x: Tensor) -> Tensor:
        rank, workers = place()
        if not self.training or workers == 1:
            return super().forward(x)
        count = workers * x.numel() // x.shape[1]
        wide = x.float()
        # Combines each worker's mean and variance in one sum; E[x²] - E[x]² would lose precision for large means.
        own = torch.stack(torch.var_mean(wide, (0, 2, 3), correction=0)).unsqueeze(0)
        variances, means = all_reduce(nn.functional.pad(own, (0, 0, 0, 0, rank, workers - 1 - rank))).unbind(1)
        mean = means.mean(0)
        variance = (variances + (means - mean).square()).mean(0)
        with torch.no_grad():
            assert self.running_mean is not None and self.running_var is not None and self.momentum is not None
            assert self.num_batches_tracked is not None
            self.num_batches_tracked.add_(1)
            self.running_mean.lerp_(mean, self.momentum)
            self.running_var.lerp_(variance * (count / (count - 1)), self.momentum)
        scale = self.weight * torch.rsqrt(variance + self.eps)
        shift = self.bias - mean * scale
        return (wide * scale[:, None, None] + shift[:, None, None]).to(x.dtype)


def synchronise_batch_norm(network: nn.Module, device: torch.device) -> nn.Module:
    """Makes a network's batch norms use statistics over all workers; names and weights stay the same."""
    if device.type != "cpu":
        return nn.SyncBatchNorm.convert_sync_batchnorm(network)
    for layer in network.modules():
        if type(layer) is nn.BatchNorm2d:
            layer.__class__ = CPUSyncBatchNorm2d
    return network
