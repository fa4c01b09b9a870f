"""The kinds of trainings: f and the judge, DTNs, and what Table 2 trains beside them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from dtn_ray import storage
from dtn_ray.baselines.options import AdaptationOptions
from dtn_ray.experiments.grid import Checkpoints, Training, readable
from dtn_ray.method.options import LossConfig, OptimConfig
from dtn_ray.perceptual.options import Pretraining
from dtn_ray.resumable.options import Run
from dtn_ray.settings import fingerprint
from dtn_ray.train.options import Experiment, ModelConfig

if TYPE_CHECKING:
    from ray.train import UserCallback


@dataclass(frozen=True)
class Given(Training):
    """A checkpoint that was trained elsewhere."""

    kind = "given"
    digest: str
    """SHA-256 of its weights, which is its identity wherever it lies."""
    checkpoint: str
    width: float
    """Of its layers, relative to the paper's."""

    @property
    def label(self) -> str:
        return self.digest[:8]

    @property
    def key(self) -> str:
        return self.digest[:8]

    def trained(self, folder: str) -> str:
        return self.checkpoint

    def train(self, checkpoints: Checkpoints, run: Run, prepared: Any, callbacks: "Sequence[UserCallback]") -> str:
        return self.checkpoint


@dataclass(frozen=True)
class Classifier(Training):
    """A classifier of digits: f, or a judge."""

    kind = "classifier"
    config: Pretraining

    @property
    def label(self) -> str:
        without = "".join(f"-without{digit}" for digit in self.config.without)
        return readable(f"{self.config.dataset}-{self.config.split}{without}")

    @property
    def size(self) -> float:
        return self.config.epochs

    def train(self, checkpoints: Checkpoints, run: Run, prepared: Any, callbacks: "Sequence[UserCallback]") -> str:
        from dtn_ray.perceptual.job import pretrain

        return pretrain(self.config, _seldom_validated(run), callbacks).checkpoint

    def done(self, metrics: Mapping[str, Any]) -> float:
        from dtn_ray.perceptual.loop import total_steps

        return metrics.get("step", 0) / total_steps(self.config, metrics.get("train_images", 0))


@dataclass(frozen=True)
class Transfer(Training):
    """A DTN. `experiment` names no checkpoints of f and the judge where they are trainings."""

    kind = "dtn"
    experiment: Experiment
    f: Training | None = None
    judge: Training | None = None

    @property
    def label(self) -> str:
        data = self.experiment.data
        return readable(f"{data.source}-{data.target}-seed{self.experiment.seed}")

    @property
    def size(self) -> float:
        return self.experiment.optim.steps

    @property
    def shares(self) -> str | None:
        """Data, networks' judges and f are shared; the networks trained, losses and rates may differ."""
        model, plain = self.experiment.model, ModelConfig()
        trained = {name: getattr(plain, name) for name in ("width_g", "width_D", "with_f", "binary")}
        same = replace(self.experiment, model=replace(model, **trained), loss=LossConfig(), optim=OptimConfig())
        return "-".join([fingerprint(same), *(each.key for each in self.needs)])

    def filled(self, checkpoints: Checkpoints) -> Experiment:
        """The experiment with its f and its judge."""
        made = {role: checkpoints[each.key] for role in ("f", "judge") if (each := getattr(self, role)) is not None}
        return self.experiment.changed(**made)

    @property
    def spare(self) -> float:
        from dtn_ray.data.streamed import CPUS_TO_READ
        from dtn_ray.train.domains import domain_of

        return CPUS_TO_READ if domain_of(self.experiment).of_faces else 0.0

    def check(self, run: Run) -> None:
        from dtn_ray.train.prepare import check_settings

        check_settings(self.experiment, run)

    def prepare(self, checkpoints: Checkpoints, run: Run) -> Any:
        from dtn_ray.train.prepare import prepare

        return prepare(self.filled(checkpoints), run)

    def train(self, checkpoints: Checkpoints, run: Run, prepared: Any, callbacks: "Sequence[UserCallback]") -> str:
        from dtn_ray.train.job import fit

        return fit(self.filled(checkpoints), run, prepared, callbacks).checkpoint

    def done(self, metrics: Mapping[str, Any]) -> float:
        return metrics.get("step", 0) / max(self.experiment.optim.steps, 1)


@dataclass(frozen=True)
class Adaptation(Classifier):
    """A classifier trained on G(s) with s's labels, without labels of t (Sec. 2). `config`: its split is not read."""

    kind = "adaptation"
    dtn: Transfer

    @property
    def label(self) -> str:
        return self.dtn.label

    def train(self, checkpoints: Checkpoints, run: Run, prepared: Any, callbacks: "Sequence[UserCallback]") -> str:
        from dtn_ray.experiments.measures import transferred
        from dtn_ray.perceptual.job import pretrain

        data = self.dtn.experiment.data
        images = transferred(checkpoints[self.dtn.key], data.source, data.source_split, data.data_dir)
        config = replace(self.config, split=f"G({data.source} {data.source_split}) of {self.dtn.name}")
        return pretrain(config, _seldom_validated(run), callbacks, images).checkpoint


@dataclass(frozen=True)
class Adapted(Training):
    """A classifier of s that also learns from t's images without labels."""

    options: AdaptationOptions
    f: Training | None = None
    """The classifier of s to begin with."""

    @property
    def label(self) -> str:
        return readable(f"{self.options.source}-{self.options.target}-seed{self.options.seed}")

    @property
    def size(self) -> float:
        return self.options.steps

    def train(self, checkpoints: Checkpoints, run: Run, prepared: Any, callbacks: "Sequence[UserCallback]") -> str:
        from dtn_ray.baselines.job import adapt

        begun = self.options if self.f is None else replace(self.options, f=checkpoints[self.f.key])
        return adapt(begun, _seldom_validated(run)).checkpoint


@dataclass(frozen=True)
class Dann(Adapted):
    """DANN (Ganin et al. 2016): its features do not tell s from t."""

    kind = "dann"


@dataclass(frozen=True)
class FixMatch(Adapted):
    """FixMatch (Sohn et al. 2020): its own sure answers are its labels of t."""

    kind = "fixmatch"


def given(uri: str) -> Given:
    """A classifier's checkpoint, or the folder of a finished run. Raises UserError where it is none."""
    from dtn_ray.checkpoints.checkpoint import open_folder, read_manifest

    with open_folder(uri) as folder:
        manifest = read_manifest(folder, "classifier")
    return Given(manifest["networks"]["classifier"], storage.absolute(uri), manifest["config"]["width"])


def _seldom_validated(run: Run) -> Run:
    """Of a classifier, whose whole test set is read each time."""
    return replace(run, checkpoint_every=max(run.checkpoint_every, Run.checkpoint_every))
