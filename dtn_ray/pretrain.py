"""Ray Train: trains f, or the judge, as a classifier: of digits (Sec. 5.1), or of people (Sec. 5.2)."""

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import ray
import ray.train
import ray.train.torch
import torch
import torch.nn.functional as F
from torch import nn

from dtn_ray import checkpoint, data
from dtn_ray.cluster import connect
from dtn_ray.config import FacePretraining, Pretraining, Run, check, fingerprint
from dtn_ray.data import stream
from dtn_ray.data.augment import augment
from dtn_ray.data.bad_rows import BadRows
from dtn_ray.data.feed import InMemoryLabelled, Stages
from dtn_ray.data.labelled import LabelledImages
from dtn_ray.data.order import step_seed
from dtn_ray.data.pixels import to_float
from dtn_ray.errors import UserError
from dtn_ray.metrics import TrainingMetrics
from dtn_ray.models.digits import DigitF
from dtn_ray.models.faces import DeepFace
from dtn_ray.progress import Progress
from dtn_ray.resumable import Finished, of_all_workers, report, run_training, use_assigned_cpus
from dtn_ray.streaming import CPUS_TO_READ, StreamedPeople

UNKNOWN = -1  # label of a test face whose person is not trained on


def pretrain(config: Pretraining, run: Run) -> Finished:
    """Trains a classifier of digits and reports its error on the test split; its checkpoint serves as f or as a judge.

    The same call goes on where an earlier one stopped. Raises UserError for bad settings, files or resources.
    """
    run.check(config.batch_size)
    check(config)
    train = data.load(config.dataset, config.split, config.data_dir, download=config.download).without(config.without)
    test = data.load(config.dataset, config.test_split, config.data_dir, download=config.download)
    name = run.name or f"classifier-{config.dataset}-{fingerprint(config)}"
    return _run(config, run, name, "classifier", InMemoryLabelled(train), test, 10)


def pretrain_faces(config: FacePretraining, run: Run) -> Finished:
    """Trains DeepFace to tell people apart, from a stream of any length; its checkpoint serves as f of faces.

    Reports `test_error`, of naming the test faces of people trained on, and `verification_auc`: how well the cosine of
    f(x) tells pairs of one person from pairs of two, over all pairs of test faces (the area under the ROC curve).
    The same call goes on where an earlier one stopped. Raises UserError for bad settings, files or resources.
    """
    run.check(config.batch_size)
    check(config)
    train = stream.find_people(config.faces)
    if config.test_faces:
        held = stream.find_people(config.test_faces)
    else:
        train, held = stream.hold_out(train, config.held_out)
    people = stream.identities(train)
    if len(people) < 2:
        raise UserError(f"{config.faces}: faces of {len(people)} person; telling people apart needs two and more")
    test = _labelled(held, config.held_out, people)
    name = run.name or f"deepface-{fingerprint(config)}"
    feed = StreamedPeople(train, people, DeepFace.size, BadRows(run.max_bad_rows))
    print(f"{len(feed)} faces of {len(people)} people, {len(test)} to test on")
    return _run(config, run, name, "face_network", feed, test, len(people))


def _labelled(groups: list[stream.Rows], count: int, people: list[str]) -> LabelledImages:
    """About `count` faces of evenly spread groups, labels by `people`, or numbers below 0 for each of the others."""
    found = stream.sample(groups, count, DeepFace.size, ["identity"])
    names = [str(name) for name in found["identity"]]
    numbers = {name: i for i, name in enumerate(people)}
    for name in names:
        numbers.setdefault(name, UNKNOWN - len(numbers))
    return LabelledImages(found["image"], np.array([numbers[name] for name in names], np.int64))


@dataclass(frozen=True)
class Inputs:
    """What every worker of a classifier's training shares, as references into Ray's object store."""

    feed: ray.ObjectRef
    """InMemoryLabelled or StreamedPeople."""
    test: ray.ObjectRef
    """LabelledImages."""
    classes: int
    images: int
    """In the feed."""


def _run(
    config: Pretraining | FacePretraining,
    run: Run,
    name: str,
    kind: str,
    feed: InMemoryLabelled | StreamedPeople,
    test: LabelledImages,
    classes: int,
) -> Finished:
    connect(trains=True)
    # In the object store once per node: its workers share the arrays without copies.
    inputs = Inputs(ray.put(feed), ray.put(test), classes, len(feed))
    settings = {"config": config, "run": run, "inputs": inputs}
    spare = CPUS_TO_READ if isinstance(feed, StreamedPeople) else 0
    return run_training(_loop, settings, run, name, {"kind": kind, "config": config}, spare)


def total_steps(config: Pretraining | FacePretraining, images: int) -> int:
    """Steps of a pretraining over so many images; at least 1."""
    return max(1, round(config.epochs * images / config.batch_size))


@torch.no_grad()
def accuracy(network: nn.Module, images: np.ndarray, labels: np.ndarray, batch_size: int = 500) -> float:
    """Share of uint8 images that a classifier labels right; puts it into eval mode."""
    network.eval()
    device = next(network.parameters()).device
    predicted = [
        network(to_float(images[i : i + batch_size]).to(device)).argmax(1).cpu()
        for i in range(0, len(images), batch_size)
    ]
    return float((torch.cat(predicted).numpy() == labels).mean())


@torch.no_grad()
def verification_auc(network: DeepFace, faces: LabelledImages, batch_size: int = 100) -> float | None:
    """Area under the ROC curve of cosines of f(x) over all pairs of faces; puts the network into eval mode.

    None where all pairs are of one kind.
    """
    network.eval()
    device = next(network.parameters()).device
    features = torch.cat(
        [
            F.normalize(network.represent(to_float(faces.images[i : i + batch_size]).to(device))).cpu()
            for i in range(0, len(faces), batch_size)
        ]
    )
    first, second = np.triu_indices(len(faces), 1)
    same = faces.labels[first] == faces.labels[second]
    if same.all() or not same.any():
        return None
    from sklearn.metrics import roc_auc_score  # seconds to import, and for faces alone

    return float(roc_auc_score(same, (features @ features.T).numpy()[first, second]))


def _loop(settings: dict[str, Any]) -> None:
    config: Pretraining | FacePretraining = settings["config"]
    run: Run = settings["run"]
    inputs: Inputs = settings["inputs"]
    feed: InMemoryLabelled | StreamedPeople = ray.get(inputs.feed)
    test: LabelledImages = ray.get(inputs.test)
    context = ray.train.get_context()
    rank, workers = context.get_world_rank(), context.get_world_size()
    device = ray.train.torch.get_device()
    steps = total_steps(config, inputs.images)

    # Networks and optimiser.
    use_assigned_cpus()
    torch.manual_seed(config.seed)
    network: DigitF | DeepFace
    if isinstance(config, Pretraining):
        kind, title, network = "classifier", f"{config.dataset} classifier", checkpoint.build_classifier(config)
    else:
        kind, title, network = "face_network", "deepface", checkpoint.build_deepface(config, inputs.classes)
    network = network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    parallel: nn.Module = ray.train.torch.prepare_model(network)
    optimizer = torch.optim.AdamW(network.parameters(), lr=config.lr, weight_decay=config.weight_decay)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, config.lr, total_steps=steps)

    # Resume.
    before: Stages = []
    if (last := ray.train.get_checkpoint()) is not None:
        with last.as_directory() as path:
            folder = Path(path)
            before = [(count, done) for count, done in checkpoint.read_manifest(folder, kind, ("stages",))["stages"]]
            checkpoint.load_weights(network, folder, kind)
            checkpoint.load_optimizers(folder, {kind: optimizer})
    start = sum(done for _, done in before)
    schedule.last_epoch = start
    progress = Progress(title, start, steps, config.batch_size, quiet=rank > 0)
    exported = TrainingMetrics(context.get_experiment_name())

    shares = feed.batches(before, rank, workers, config.batch_size, config.seed)
    for step in range(start, steps):
        images, labels = next(shares)
        torch.manual_seed(step_seed(config.seed, step, rank))
        x = augment(to_float(images), config.augment).to(device, memory_format=torch.channels_last)
        with torch.autocast(device.type, torch.bfloat16, enabled=config.bf16):
            logits = parallel(x)
        loss = F.cross_entropy(
            logits.float(), torch.from_numpy(labels).to(device), label_smoothing=config.label_smoothing
        )
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        if step + 1 < steps:
            schedule.step()
        done = step + 1
        if rank == 0 and done % run.log_every == 0:
            values = {"loss": loss.item()}
            exported.log(done, progress.update(done, values), values)

        if done % run.checkpoint_every == 0 or done == steps:
            metrics: dict[str, Any] = {"step": done, "resumed_at": start, "loss": loss.item()}
            if isinstance(feed, StreamedPeople):
                metrics["bad_rows"] = len(of_all_workers(feed.bad_rows.found))
            if rank:
                report(metrics)
                continue
            found = measure(network, test)
            network.train()
            known = {name: value for name, value in found.items() if value is not None}
            progress.update(done, {name.replace("_", " "): value for name, value in known.items()})
            exported.validated(known)
            metrics |= found | {"test_images": len(test), "train_images": inputs.images}
            facts = {"step": done, "stages": [*before, (workers, done - start)], "metrics": metrics}
            if kind == "face_network":
                facts["people"] = inputs.classes
            report(metrics, partial(_save, kind, config, network, optimizer, facts))


def measure(network: DigitF | DeepFace, test: LabelledImages) -> dict[str, float | None]:
    """`test_error`, over images whose class is trained on; of people also `verification_auc`. Of none, None."""
    known = test.labels >= 0
    error = 1 - accuracy(network, test.images[known], test.labels[known]) if known.any() else None
    if isinstance(network, DigitF):
        return {"test_error": error}
    return {"test_error": error, "verification_auc": verification_auc(network, test)}


def _save(
    kind: str,
    config: Pretraining | FacePretraining,
    network: nn.Module,
    optimizer: torch.optim.Optimizer,
    facts: dict[str, Any],
    folder: Path,
) -> None:
    checkpoint.save_optimizers(folder, {kind: optimizer})
    checkpoint.save(folder, kind, config, {kind: network}, **facts)
