"""Training on Ray: what it leaves behind, its equality across workers, resources it refuses, and storage on S3."""

import json
import time
from dataclasses import replace
from pathlib import Path

import pytest
import ray
import torch
from safetensors.torch import load_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from dtn_ray.data.digits import load
from dtn_ray.errors import UserError
from dtn_ray.evaluate.digits import score_digits
from dtn_ray.method.options import LossConfig
from dtn_ray.perceptual.load import load_classifier
from dtn_ray.perceptual.measure import accuracy
from dtn_ray.ray_cluster.connect import worker_resources
from dtn_ray.resumable.options import Run
from dtn_ray.resumable.report import use_assigned_cpus
from dtn_ray.train.job import train
from dtn_ray.train.trained import load_trained


def run(folder: Path | str, **options) -> Run:
    return Run(storage=str(folder), name="dtn", cpus_per_worker=1, **options)


def weights(checkpoint: str, name: str = "g") -> torch.Tensor:
    return torch.cat([value.flatten().float() for value in load_file(Path(checkpoint, f"{name}.safetensors")).values()])


@pytest.mark.slow
def test_pretraining_reports_the_error_that_its_checkpoint_has(classifier):
    network, manifest = load_classifier(classifier)
    test = load.load("handwritten-digits", "test")
    error = manifest["metrics"]["test_error"]
    assert error < 0.5
    assert 1 - accuracy(network, test.images, test.labels) == pytest.approx(error)


def test_a_training_leaves_metrics_curves_and_images(trained):
    assert trained.metrics["step"] == 6
    assert {"L_d", "L_gan_g", "L_const", "L_tid", "L_tv", "L_g", "validation_L_const"} <= trained.metrics.keys()
    assert 0 <= trained.metrics["validation_accuracy"] <= 1
    curves = EventAccumulator(f"{trained.folder}/tensorboard", size_guidance={"scalars": 0}).Reload()
    assert [point.step for point in curves.Scalars("L_const")] == [2, 4, 6]
    assert [point.step for point in curves.Images("s and G(s)")] == [3, 6]


def test_the_checkpoint_can_be_scored_by_itself(trained):
    scores = score_digits(load_trained(trained.folder))
    assert scores.values["images"] == len(load.load("handwritten-digits", "test"))


def test_f_in_the_checkpoint_is_the_f_that_was_given(trained, experiment):
    given = load_file(Path(experiment.model.f, "classifier.safetensors"))
    kept = load_file(Path(trained.checkpoint, "f.safetensors"))
    assert all(torch.equal(given[name], kept[f"network.{name}"]) for name in given)


@pytest.mark.slow
def test_the_same_settings_give_the_same_weights(trained, experiment, tmp_path):
    again = train(experiment, run(tmp_path))
    assert not again.resumed
    assert all(torch.equal(weights(trained.checkpoint, name), weights(again.checkpoint, name)) for name in ("g", "D"))


def test_a_finished_run_is_not_trained_again(trained, experiment):
    again = train(experiment, run(Path(trained.folder).parent))
    assert again.resumed and again.checkpoint == trained.checkpoint and again.metrics == trained.metrics


def test_a_folder_of_another_experiment_is_refused_and_says_what_differs(trained, experiment):
    with pytest.raises(UserError, match=r"other settings \(config.loss.alpha: 15.0 → 3.0\)"):
        train(replace(experiment, loss=LossConfig(alpha=3.0)), run(Path(trained.folder).parent))


def test_a_run_of_a_version_that_had_fewer_settings_is_the_same_run(trained, experiment):
    record = Path(trained.folder, "experiment.json")
    before = record.read_text()
    identity = json.loads(before)
    del identity["config"]["loss"]["ramp"]
    record.write_text(json.dumps(identity))
    try:
        assert train(experiment, run(Path(trained.folder).parent)).resumed
        with pytest.raises(UserError, match=r"other settings \(config.loss.ramp: 0 → 5\)"):
            train(replace(experiment, loss=replace(experiment.loss, ramp=5)), run(Path(trained.folder).parent))
    finally:
        record.write_text(before)


@pytest.mark.slow
def test_two_workers_equal_one_with_the_same_global_batch(trained, experiment, tmp_path):
    two = train(experiment, run(tmp_path, workers=2))
    for name in ("g", "D", "g_convert"):
        # Sums run in another order; nothing else may differ. Of that, kernels make on some CPUs nothing (6e-10 on
        # average), on others, whose order depends on the size of the batch, 3e-6 after Adam; with batch norm over each
        # worker's share alone it is 2e-4.
        difference = (weights(trained.checkpoint, name) - weights(two.checkpoint, name)).abs()
        assert difference.mean() < 1e-5 and difference.max() < 5e-4, name


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"workers": 64, "cpus": None, "gpus": 0},
            r"64 workers, each with 1 CPU, do not fit: .* 4 CPUs .* enough for 4",
        ),
        ({"workers": 1, "cpus": 5, "gpus": 0}, r"1 workers, each with 5 CPUs, do not fit"),
        ({"workers": 2, "cpus": None, "gpus": 1}, r"0 GPUs .* enough for 0\. Lower --workers or add nodes"),
    ],
)
def test_more_workers_than_the_cluster_holds_fail_at_once_with_the_numbers(ray_cluster, options, message):
    began = time.monotonic()
    with pytest.raises(UserError, match=message):
        worker_resources(**options)
    assert time.monotonic() - began < 5


def test_workers_share_a_node_evenly(ray_cluster):
    assert worker_resources(1, None, False) == {"CPU": 4}
    assert worker_resources(3, None, False) == {"CPU": 1}
    assert worker_resources(1, None, False, spare=0.5) == {"CPU": 3.5}
    assert worker_resources(2, None, False, spare=0.5) == {"CPU": 1.75}
    assert worker_resources(4, None, False, spare=0.5) == {"CPU": 0.875}
    assert worker_resources(3, 1, False, spare=0.5) == {"CPU": 1}
    with pytest.raises(UserError, match=r"4 workers, each with 1 CPU, leave no CPU to read the data with: .* has 4"):
        worker_resources(4, 1, False, spare=0.5)


def test_a_part_of_a_cpu_is_a_thread_too(ray_cluster):
    @ray.remote
    def threads() -> int:
        use_assigned_cpus()
        return torch.get_num_threads()

    parts = 0.5, 1, 1.75
    assert [ray.get(threads.options(num_cpus=part).remote()) for part in parts] == [1, 1, 2]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"optim": {"batch_size": 15}}, "--batch-size 15 cannot be divided evenly among --workers 2"),
        ({"model": {"binary": True}}, "it needs --beta 0"),
        ({"data": {"source": "cats"}}, "unknown dataset 'cats'"),
        ({"data": {"t_without": tuple(range(10))}}, "no image is left"),
        ({"model": {"f": "nowhere"}}, "nowhere: no checkpoint here"),
    ],
)
def test_settings_that_cannot_work_are_refused_before_anything_starts(experiment, tmp_path, change, message):
    ((part, values),) = change.items()
    wrong = replace(experiment, **{part: replace(getattr(experiment, part), **values)})
    with pytest.raises(UserError, match=message):
        train(wrong, run(tmp_path, workers=2))
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_a_run_lives_on_s3_and_is_scored_from_there(experiment, bucket):
    finished = train(experiment, run(f"{bucket}/runs", checkpoint_every=3))
    assert finished.checkpoint.startswith(f"{bucket}/runs/dtn/checkpoint_")
    assert train(experiment, run(f"{bucket}/runs")).resumed
    trained = load_trained(f"{bucket}/runs/dtn")
    assert trained.manifest["step"] == 6
    assert not any("not-a-secret" in json.dumps(value) for value in (trained.manifest, finished.metrics))
