"""What of an experiment is the paper's and what is ours, for the lines below a table."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from dtn_ray.errors import changes
from dtn_ray.experiments.grid import Training
from dtn_ray.experiments.trainings import Classifier, Given
from dtn_ray.settings import to_dict
from dtn_ray.train.options import Experiment
from dtn_ray.train.presets import PRESETS

if TYPE_CHECKING:
    from dtn_ray.experiments.digits import Digits

OURS = (
    "f's features are divided by one number so that they have unit variance over s (--feature-scale unit)",
    "f is trained with AdamW on a one-cycle schedule, dropout, label smoothing and augmentation: shifts, rotations, "
    "contrast, brightness, and inverted colours for half of the images",
    "MNIST is enlarged from 28 to 32 pixels, not padded",
    "g's batch normalization is recalibrated on s after training",
    "a linear layer without batch normalization gives D's logits",
)
"""Ours in every preset of the digits, paper-digits included; the paper says nothing about these, or is silent."""
LEFT_OPEN = (
    "kernels of 3×3 in f and 4×4 in g and D",
    "Adam at 2e-4 with β1 = 0.5, as Radford et al. (2015)",
    "one update of D for each of g",
    "batches of 64",
    "separate passes of s, t and real images through batch normalization",
    "d and d2 as means over elements",
)
"""What the paper leaves open, as paper-digits has it."""
CHOSEN = {
    "paper-digits": "No setting was chosen by a score: α = β = 15 are the paper's.",
    "digits": "The number of steps and g's rate were chosen on seeds 0 and 1, by 1,500 of SVHN's test images.",
    "embedded": "α was chosen on seeds 0 to 2, by the judge's accuracy on the embedded test images.",
}
"""By preset, what its settings were chosen by (docs/results/digits.md)."""


def caption(
    digits: "Digits",
    presets: Sequence[str] = (),
    base: Experiment | None = None,
    judge: Training | None = None,
    test_split: str | None = None,
) -> list[str]:
    """The lines below a table of digits; arguments tell where its rows do not follow the options.

    `presets`: those of its rows; `base`: the experiment that they vary; `judge`: theirs; `test_split`: of s.
    """
    base, judge, test_split = base or digits.base, judge or digits.judge, test_split or digits.test_split
    options, data, model = digits.options, base.data, base.model
    names = presets or (digits.preset,)
    seeds = [str(seed) for seed in digits.seeds]
    lines = [
        f"s: {data.source}, split {data.source_split}. t: {data.target}, split {data.target_split}. Scored on "
        f"{data.source}'s split {test_split}. The paper: SVHN's extra split of 531,131 images, MNIST's test "
        "split, scored on SVHN's 26,032 test images.",
        f"Widths: g {model.width_g:g}, D {model.width_D:g}, f and the judge {model.width_f:g} of the paper's.",
        f"Seeds of the DTN: {', '.join(seeds)}. f and the judge are the same for all of them: f {made(digits.f)}; "
        f"judge {made(judge)}.",
    ]
    for name in names:
        lines.append(f"Preset {name}: {_differences(name)} {CHOSEN[name]}")
    if changed := _given(options):
        lines.append(f"Changed by options in all rows: {', '.join(changed)}.")
    return [
        *lines,
        f"Ours in every preset: {'; '.join(OURS)}.",
        f"Left open by the paper, and chosen so: {'; '.join(LEFT_OPEN)}.",
        "±: standard deviation over seeds (n - 1). Interval: Wilson's for the mean, by the number of images; other "
        "seeds add no images.",
    ]


def _differences(preset: str) -> str:
    before, after = (to_dict(PRESETS[name][0]()) for name in ("paper-digits", preset))
    before["data"] = after["data"] = None
    found = changes(before, after)
    return f"differs from paper-digits in {', '.join(found)}." if found else "α = β = 15, γ = 0, nothing added."


def made(training: Training) -> str:
    """How a classifier was made."""
    if isinstance(training, Given):
        return f"given, SHA-256 {training.digest[:12]}"
    assert isinstance(training, Classifier)
    config = training.config
    return f"trained on {config.dataset} {config.split}, {config.epochs:g} epochs, seed {config.seed}"


def _given(options: Any) -> list[str]:
    names = ("width_g", "width_D", "width_f", "steps", "batch_size", "epochs")
    found = [f"--{name.replace('_', '-')} {value:g}" for name in names if (value := getattr(options, name)) is not None]
    return found + (["--bf16"] if options.bf16 else [])
