"""The encoder at the bottom of a g that does not contain f (Table 1)."""

from dataclasses import replace

import pytest
import torch
from files import SMALL, write_dtn
from safetensors.torch import load_file

from dtn_ray.data.digits import load
from dtn_ray.method.features import FrozenF
from dtn_ray.method.pixels import to_float
from dtn_ray.models.digits import DigitF
from dtn_ray.train.domains import build_dtn
from dtn_ray.train.options import Experiment, ModelConfig
from dtn_ray.train.trained import load_trained


def spread(encodings: torch.Tensor) -> float:
    """Root mean variance of the encodings over images."""
    return encodings.var(0).mean().sqrt().item()


@pytest.mark.parametrize("dataset", ["street-digits", "handwritten-digits"])
@pytest.mark.parametrize("binary", [False, True], ids=["G does not contain f", "baseline method"])
@torch.no_grad()
def test_its_output_differs_between_images_from_the_start(dataset, binary):
    x = to_float(load.load(dataset, "test").images[:200])
    torch.manual_seed(0)
    f = FrozenF(DigitF(0.5))
    dtn = build_dtn(
        Experiment(model=ModelConfig(width_g=0.1, width_D=0.1, width_f=0.5, with_f=False, binary=binary)), f
    )
    assert 0.2 < spread(dtn.g[0](x)) < 2
    # What it was before, and what a network of f's is before its training: torch's default initialisation.
    assert spread(f.network.represent(x)) < 0.02


def test_its_weights_come_back_from_a_checkpoint(tmp_path):
    write_dtn(tmp_path / "dtn", replace(SMALL, model=replace(SMALL.model, with_f=False)))
    written = load_file(tmp_path / "dtn/g.safetensors")
    read = load_trained(str(tmp_path / "dtn"), "g").dtn.g.state_dict()
    assert read.keys() == written.keys() and all(torch.equal(read[name], written[name]) for name in read)
    assert written["0.layers.0.weight"].std() > 0.1
