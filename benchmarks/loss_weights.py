"""Effects of α, β, γ, the GAN and transported features on faces: trainings with one warm-up that differ in one setting.

python benchmarks/loss_weights.py OUT --source FACES --target EMOJI --f NETWORK.onnx --judge OTHER.onnx --probes PEOPLE

With the `faces-small` preset, in one process, without Ray: the networks after the warm-up are kept, and each
setting continues from there with the same images in the same order. At the end all are scored as jobs/evaluate.py
retrieval scores them (FACES are the distractors), and by the validation of a training, on held-out images; the
figure has them one below the other. Most of an hour on two CPU cores. Each setting's g is kept in OUT, so that a run
that was stopped continues with the next one.
"""

import copy
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import tyro
from safetensors.torch import save_file
from tqdm import tqdm

from dtn_ray import cli
from dtn_ray.checkpoints import checkpoint
from dtn_ray.data.order import step_seed
from dtn_ray.data.rows import Rows, find_groups, hold_out
from dtn_ray.data.windows import Window, read_window
from dtn_ray.errors import UserError
from dtn_ray.evaluate import ranking
from dtn_ray.evaluate.examiner import Examiner, Found, Sought, split
from dtn_ray.evaluate.options import Retrieval
from dtn_ray.evaluate.retrieval import read_probes
from dtn_ray.method.augment import augment
from dtn_ray.method.dtn import DTN, DTNTrainer
from dtn_ray.method.features import FrozenF, moments, transport
from dtn_ray.method.options import Augment
from dtn_ray.method.pixels import to_float, to_uint8
from dtn_ray.perceptual.load import load_face_network
from dtn_ray.search.figures import samples_figure
from dtn_ray.search.space import changed
from dtn_ray.train.domain import SCALING
from dtn_ray.train.domains import build_dtn
from dtn_ray.train.measure import AT_ONCE, domain_features, for_conversion, measure
from dtn_ray.train.options import Experiment
from dtn_ray.train.prepare import CALIBRATION, VALIDATION_T
from dtn_ray.train.presets import faces_small

sys.path.insert(0, str(Path(__file__).parent))
from harness import keep

SETTINGS: dict[str, dict[str, Any]] = {
    "preset": {},
    "transport": {},
    "alpha-0": {"alpha": 0.0},
    "alpha-16": {"alpha": 16.0},
    "beta-2": {"beta": 2.0},
    "gamma-0.05": {"gamma": 0.05},
    "gan-0": {"gan": 0.0},
}
SHOWN = 16


@dataclass(frozen=True)
class Options:
    out: tyro.conf.Positional[Path]
    """Folder for weights.json, weights.png, and each setting's g."""
    source: str
    """Parquet files of s: aligned faces."""
    target: str
    """Parquet files of t."""
    f: str
    """A face network."""
    judge: str
    """Another face network."""
    probes: str
    """Parquet files of aligned faces with a column identity."""
    warm_up: int = 250
    """Steps of the common warm-up, with L_TID alone."""
    ramp: int = 100
    """Steps after the warm-up in which α grows."""
    steps: int = 300
    """Steps of each setting after the warm-up."""
    width_g: float = 0.5
    """Number of filters of g, relative to the paper's; half of the preset's, because there are many trainings."""


@dataclass(frozen=True)
class Data:
    """N×3×H×W uint8 each, and f in the unit that they give it."""

    s: np.ndarray
    t: np.ndarray
    held: np.ndarray
    f: dict[str, FrozenF]
    """By --feature-scale."""
    augment_s: Augment


def read(options: Options, preset: Experiment) -> Data:
    def images(groups: Sequence[Rows]) -> np.ndarray:
        return np.concatenate([rows["image"] for rows in read_window(Window(tuple(groups), (0,)), preset.data.size)])

    rest, held = hold_out(find_groups(options.source), preset.data.validation)
    s, t = images(rest), images(find_groups(options.target))
    network, _ = load_face_network(options.f)
    network.to(memory_format=torch.channels_last)
    of_s, of_t = (
        moments(network, map(to_float, tqdm(np.array_split(some, -(-len(some) // AT_ONCE)), "measuring f")))
        for some in (s[:SCALING], t[:SCALING])
    )
    scaled = {
        name: FrozenF(network, domains=(of_s, of_t), transport=s_as_t, exaggeration=preset.model.exaggeration)
        for name, s_as_t in (("per-domain", None), ("transport", transport(of_s, of_t)))
    }
    return Data(s, t, images(held), scaled, preset.data.augment_s)


def train(trainer: DTNTrainer, data: Data, steps: range, title: str) -> dict[str, float]:
    """The mean of each loss over the last tenth."""
    last = list[dict[str, torch.Tensor]]()
    for step in tqdm(steps, title, mininterval=10):
        torch.manual_seed(step_seed(0, step))
        s, t = (some[torch.randint(len(some), (trainer.optim.batch_size,)).numpy()] for some in (data.s, data.t))
        terms = trainer.step(augment(to_float(s), data.augment_s), to_float(t), step)
        if step >= steps.stop - max(1, len(steps) // 10):
            last.append(terms)
    return {name: torch.stack([terms[name] for terms in last]).mean().item() for name in last[0]}


def start(experiment: Experiment, data: Data, after: DTNTrainer | None = None) -> DTNTrainer:
    """A trainer that continues from the state of another one."""
    torch.manual_seed(0)
    dtn = build_dtn(experiment, data.f[experiment.model.feature_scale])
    trainer = DTNTrainer(dtn, experiment.loss, experiment.optim)
    if after is not None:
        dtn.g.load_state_dict(after.dtn.g.state_dict())
        dtn.D.load_state_dict(after.dtn.D.state_dict())
        for name, optimizer in trainer.optimizers.items():
            optimizer.load_state_dict(copy.deepcopy(after.optimizers[name].state_dict()))  # which would be shared
        assert trainer.ema and after.ema
        trainer.ema.load_state_dict(after.ema.state_dict())
    return trainer


def train_all(options: Options, experiment: Experiment, data: Data) -> dict[str, DTN]:
    """The DTN of each setting, as it converts; those whose g is in OUT are not trained."""
    dtns, warm, calibration = dict[str, DTN](), None, data.s[:CALIBRATION]
    for name, setting in SETTINGS.items():
        chosen = changed(experiment, setting)
        if name == "transport":  # the one setting that is no weight
            chosen = replace(chosen, model=replace(chosen.model, feature_scale="transport"))
        dtn = build_dtn(chosen, data.f[chosen.model.feature_scale])
        if not (options.out / f"{name}.json").exists():
            if warm is None:
                warm = start(experiment, data)
                train(warm, data, range(options.warm_up), "warm-up")
            trainer = start(chosen, data, warm)
            losses = train(trainer, data, range(options.warm_up, options.warm_up + options.steps), name)
            save_file(for_conversion(chosen, trainer, calibration).state_dict(), options.out / f"{name}.safetensors")
            keep(losses, str(options.out / f"{name}.json"))
        checkpoint.load_weights(dtn.g, options.out, name)
        dtns[name] = dtn.eval()
    return dtns


def score(options: Options, dtns: dict[str, DTN], data: Data) -> dict[str, Any]:
    """Table 4 and the validation's measures of each, and the figure."""
    job = Retrieval("", options.probes, (options.source,), options.judge)
    judge, _ = load_face_network(options.judge, "--judge")
    probes = read_probes(job)
    strangers = ranking.strangers(probes.persons, job.seed)
    of_t = domain_features(data.f["per-domain"], None, data.t[:VALIDATION_T])
    rows, pairs, results = dict[str, np.ndarray](), dict[str, tuple[np.ndarray, np.ndarray]](), dict[str, Any]()
    for name, dtn in tqdm(dtns.items(), "scoring"):
        examiner = Examiner(judge, dtn, data.s.shape[-1], gpu=False)
        seen = examiner.see(probes.x, probes.mates)
        pairs |= {name: (seen.G_x, seen.mates), f"{name} floor": (seen.G_x[strangers], seen.mates)}
        measured, drawn = measure(dtn, dtn.g, None, data.held, None, of_t)
        results[name] = SETTINGS[name] | json.loads((options.out / f"{name}.json").read_text()) | measured
        rows[name] = to_uint8(drawn[:SHOWN]).numpy()
    sought = Sought(pairs, np.empty((0, seen.mates.shape[1])))
    found = Found.nothing(sought)
    for block in tqdm(split(find_groups(options.source)), "the gallery"):
        found += examiner.compare(block, sought)
    for name, counts in found.counts.items():
        measures = ranking.summary(counts.ranks(), found.faces + 1, probes.persons, job.seed)
        setting, _, floor = name.partition(" ")
        results[setting][floor or "retrieval"] = measures
    samples_figure(rows, SHOWN).savefig(options.out / "weights.png", dpi=100, bbox_inches="tight")
    return results


def main(options: Options) -> dict[str, Any]:
    options.out.mkdir(parents=True, exist_ok=True)
    record, own = options.out / "options.json", {name: str(value) for name, value in vars(options).items()}
    if record.exists() and json.loads(record.read_text()) != own:
        raise UserError(f"{record}: a run with other options is there; choose another OUT")
    keep(own, str(record))
    preset = faces_small()
    experiment = replace(
        preset,
        model=replace(preset.model, width_g=options.width_g),
        loss=replace(preset.loss, warm_up=options.warm_up, ramp=options.ramp),
        optim=replace(preset.optim, steps=options.warm_up + options.steps),
    )
    data = read(options, preset)
    dtns = train_all(options, experiment, data)
    return keep(score(options, dtns, data), str(options.out / "weights.json"))


if __name__ == "__main__":
    cli.run(lambda: main(tyro.cli(Options, description=__doc__)))
