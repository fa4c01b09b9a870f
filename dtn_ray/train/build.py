"""The networks of an experiment."""

from torch import Tensor, nn

from dtn_ray.data.digits.load import CHANNELS
from dtn_ray.errors import UserError
from dtn_ray.method.dtn import DTN
from dtn_ray.method.features import FrozenF
from dtn_ray.models.digits import DigitD, DigitF, DigitG
from dtn_ray.models.faces import FaceD, FaceG
from dtn_ray.train.options import Experiment


def build_dtn(experiment: Experiment, f: FrozenF) -> DTN:
    """The networks of an experiment around f, with g and D freshly initialised."""
    model = experiment.model
    if model.kind == "faces":
        g_of_faces = FaceG(f.network.features, width=model.width_g, upscaling=model.upscaling)  # type: ignore[arg-type]
        return DTN(f, g_of_faces, FaceD(width=model.width_D, size=model.size_D, norm=model.norm_D))
    if (target := experiment.data.target) not in CHANNELS:
        raise UserError(f"--target {target}: no dataset of digits; there are {', '.join(CHANNELS)}")
    channels = CHANNELS[target]
    g: nn.Module = DigitG(f.network.features, channels, model.width_g)  # type: ignore[arg-type]
    if not model.with_f:
        g = nn.Sequential(Encoder(DigitF(model.width_f)), DigitG(round(128 * model.width_f), channels, model.width_g))
    D = DigitD(channels, 1 if model.binary else 3, model.width_D)
    D2 = DigitD(2 * channels, 1, model.width_D) if experiment.loss.d2 == "gan" else None
    return DTN(f, g, D, D2=D2, with_f=model.with_f, binary=model.binary)


class Encoder(nn.Module):
    """An untrained network of f's shape at the bottom of g, where G does not contain f (Table 1)."""

    def __init__(self, network: DigitF) -> None:
        super().__init__()
        self.layers = network.layers

    def forward(self, x: Tensor) -> Tensor:
        """N×3×32×32 or N×1×32×32 in [-1, 1] to N×features."""
        return self.layers(x.expand(-1, 3, -1, -1)).flatten(1)
