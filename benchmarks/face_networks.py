"""Speed of f from ONNX, simplified as in the DTN, relative to the original network.

python benchmarks/face_networks.py dlib_resnet_128d.onnx hse_mobilenet_1024d.onnx
python benchmarks/face_networks.py dlib_resnet_128d.onnx --gpu --bf16

The two take turns; the best turn of each counts. A pass is forward, and back to the images, as in L_CONST.
"""

import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import tyro
from torch import Tensor, nn

from dtn_ray import cli
from dtn_ray.models import onnx_reader
from dtn_ray.perceptual.load import load_imported

sys.path.insert(0, str(Path(__file__).parent))
from harness import keep


@dataclass(frozen=True)
class Options:
    networks: tyro.conf.Positional[tuple[str, ...]]
    """Face networks as ONNX."""
    batch_size: int = 24
    """Images in one pass."""
    turns: int = 8
    """Turns of each network."""
    gpu: bool = False
    """Compute on a GPU."""
    bf16: bool = False
    """Compute in bfloat16 where autocast considers it safe."""
    out: str | None = None
    """A file for the numbers, as JSON."""


def seconds(function: Callable[[], Any], gpu: bool) -> float:
    began = time.perf_counter()
    function()
    if gpu:
        torch.cuda.synchronize()
    return time.perf_counter() - began


def compare(uri: str, options: Options) -> dict[str, Any]:
    """Images per second of both networks, forward only and with gradients."""
    f, facts = load_imported(uri)
    device = "cuda" if options.gpu else "cpu"
    networks: dict[str, nn.Module] = {"as read": onnx_reader.convert(f.content), "as used": f.network}
    images = torch.rand(options.batch_size, 3, 152, 152, generator=torch.Generator().manual_seed(0), device="cpu")
    images = (2 * images - 1).to(device).contiguous(memory_format=torch.channels_last)
    result: dict[str, Any] = {"network": facts["name"], "batch_size": options.batch_size, "device": device}
    for network in networks.values():
        network.to(device, memory_format=torch.channels_last).requires_grad_(False)  # type: ignore[call-overload]

    def forward(network: nn.Module, x: Tensor) -> Tensor:
        with torch.autocast(device, torch.bfloat16, enabled=options.bf16):
            return network(f.eye(x)).flatten(1).float()

    def inference(network: nn.Module) -> None:
        with torch.no_grad():
            forward(network, images)

    def gradients(network: nn.Module) -> None:
        forward(network, images.detach().requires_grad_()).square().sum().backward()

    with torch.no_grad():
        as_read, as_used = (forward(network, images) for network in networks.values())
        result["largest_difference"] = (as_used - as_read).abs().max().item() / as_read.abs().max().item()
    for name, run in {"forward": inference, "with gradients": gradients}.items():
        best = dict.fromkeys(networks, float("inf"))
        for _ in range(options.turns):
            for which, network in networks.items():
                best[which] = min(best[which], seconds(lambda network=network: run(network), options.gpu))  # noqa: B023
        rates = {which: round(options.batch_size / best[which], 1) for which in networks}
        result[name] = {"images_per_second": rates, "ratio": round(best["as read"] / best["as used"], 2)}
        print(f"{facts['name']}: {name}: {rates} images/s", file=sys.stderr, flush=True)
    return result


def main(options: Options) -> dict[str, Any]:
    return keep({"networks": [compare(uri, options) for uri in options.networks]}, options.out)


if __name__ == "__main__":
    cli.run(lambda: main(tyro.cli(Options, description=__doc__)))
