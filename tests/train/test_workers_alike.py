"""Two workers give one worker's weights, also where images are changed at random and units dropped, and a stream that
was interrupted goes on with the batches that it would have had."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from files import encode, write_faces
from PIL import Image
from safetensors.torch import load_file

from dtn_ray.method.options import Augment, LossConfig, OptimConfig
from dtn_ray.perceptual.job import pretrain, pretrain_faces
from dtn_ray.perceptual.options import FacePretraining, Pretraining
from dtn_ray.resumable.options import Run
from dtn_ray.train.job import train

EVERYTHING = Augment(
    rotation=20,
    scale=(0.7, 1.3),
    aspect=0.2,
    shear=0.2,
    shift=0.2,
    contrast=0.4,
    brightness=0.3,
    saturation=0.5,
    invert=0.3,
    mirror=0.5,
    noise=0.2,
)


def run(folder: Path, workers: int = 1, **options) -> Run:
    return Run(storage=str(folder), name=f"{workers}-workers", workers=workers, cpus_per_worker=1, **options)


def difference(one: str, other: str, name: str) -> float:
    """Mean absolute difference of two networks' weights."""
    first, second = (load_file(Path(checkpoint, f"{name}.safetensors")) for checkpoint in (one, other))
    parts = [(first[key].float() - second[key].float()).abs().flatten() for key in first]
    return torch.cat(parts).mean().item()


@pytest.mark.slow
def test_a_classifier_with_dropout_and_augmentation(ray_cluster, tmp_path):
    config = Pretraining(
        dataset="handwritten-digits", split="train", width=0.15, epochs=0.7, dropout=0.5, augment=EVERYTHING
    )
    one, two = (pretrain(config, run(tmp_path, workers)) for workers in (1, 2))
    # Sums run in another order; nothing else may differ.
    assert difference(one.checkpoint, two.checkpoint, "classifier") < 1e-5
    assert one.metrics["loss"] > 0


@pytest.mark.slow
def test_a_dtn_with_augmentation_that_compares_different_samples(ray_cluster, experiment, tmp_path):
    random = replace(
        experiment,
        data=replace(experiment.data, augment_s=EVERYTHING),
        loss=LossConfig(d="triplet", augment_D=replace(EVERYTHING, saturation=0.0), augment_G=EVERYTHING, r1=0.1),
        optim=OptimConfig(steps=6, batch_size=16, ema_decay=0.9),
    )
    one, two = (train(random, run(tmp_path, workers)) for workers in (1, 2))
    for name in ("g", "D", "g_convert"):
        assert difference(one.checkpoint, two.checkpoint, name) < 1e-5, name


@pytest.fixture
def dies_once(monkeypatch, tmp_path) -> Callable[[int], Path]:
    """Lets each worker of a classifier's training die in a step, once in all; gives the mark of it."""

    def at(step: int) -> Path:
        mark = tmp_path / "once"
        mark.touch()

        def loop(settings: dict, mark: str = str(mark), dies: int = step) -> None:
            import os
            from contextlib import suppress

            from dtn_ray.perceptual import loop as module

            step_of = module.ClassifierTraining.step

            def failing(self, batch, step):
                if step == dies and os.path.exists(mark):
                    with suppress(FileNotFoundError):
                        os.remove(mark)
                    raise RuntimeError("a worker is lost")
                return step_of(self, batch, step)

            module.ClassifierTraining.step = failing
            module.loop(settings)

        monkeypatch.setattr("dtn_ray.perceptual.job.loop", loop)
        return mark

    return at


@pytest.mark.slow
def test_deepface_from_an_uneven_stream_that_was_interrupted(ray_cluster, tmp_path, dies_once):
    rng = np.random.default_rng(0)
    pictures = [encode(Image.fromarray(each)) for each in rng.integers(0, 256, (70, 24, 24, 3), np.uint8)]
    for number, (first, last, rows) in enumerate([(0, 31, 9), (31, 34, 3), (34, 70, 5)]):
        write_faces(
            tmp_path / f"faces/{number}.parquet",
            pictures[first:last],
            rows=rows,
            identity=[i % 4 for i in range(first, last)],
        )
    config = FacePretraining(
        f"{tmp_path}/faces", width=0.06, features=8, epochs=2, batch_size=8, held_out=5, augment=EVERYTHING
    )
    whole = pretrain_faces(config, run(tmp_path))
    mark = dies_once(7)
    two = pretrain_faces(config, run(tmp_path, 2, checkpoint_every=5))
    assert not mark.exists() and (whole.metrics["resumed_at"], two.metrics["resumed_at"]) == (0, 5)
    assert whole.metrics["step"] == two.metrics["step"] == 16
    assert difference(whole.checkpoint, two.checkpoint, "face_network") < 1e-5
