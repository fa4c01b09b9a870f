"""Ray Train: trains f or the judge, as a classifier of digits (Sec. 5.1) or of people (Sec. 5.2)."""

from collections.abc import Sequence

import numpy as np
import ray
import ray.train
import ray.train.torch
from ray.train import UserCallback

from dtn_ray.data.bad_rows import BadRows
from dtn_ray.data.digits import load
from dtn_ray.data.feed import InMemoryLabelled
from dtn_ray.data.labelled import LabelledImages
from dtn_ray.data.rows import Rows, find_people, hold_out, identities
from dtn_ray.data.streamed import CPUS_TO_READ, StreamedPeople
from dtn_ray.data.windows import sample_rows
from dtn_ray.errors import UserError
from dtn_ray.models.faces import DeepFace
from dtn_ray.perceptual.loop import Inputs, loop
from dtn_ray.perceptual.options import FacePretraining, Pretraining
from dtn_ray.ray_cluster.connect import connect
from dtn_ray.resumable.options import Run
from dtn_ray.resumable.run import Finished, run_training
from dtn_ray.settings import check, fingerprint

UNKNOWN = -1  # label of a test face whose person is not trained on


def pretrain(
    config: Pretraining,
    run: Run,
    callbacks: Sequence[UserCallback] = (),
    train: LabelledImages | None = None,
) -> Finished:
    """Trains a classifier of digits and reports its error on the test split; its checkpoint serves as f or as a judge.

    `callbacks`: Ray Train's, told of each report; the training then prints no progress. `train`: images to train on in
    place of the config's split, of which `config.split` then only tells what they are.

    The same call continues where an earlier one stopped. Raises UserError for bad settings, files or resources.
    """
    run.check(config.batch_size)
    check(config)
    if train is None:
        train = load.load(config.dataset, config.split, config.data_dir, download=config.download)
    train = train.without(config.without)
    test = load.load(config.dataset, config.test_split, config.data_dir, download=config.download)
    name = run.name or f"classifier-{config.dataset}-{fingerprint(config)}"
    return _run(config, run, name, "classifier", InMemoryLabelled(train), test, 10, callbacks)


def pretrain_faces(config: FacePretraining, run: Run) -> Finished:
    """Trains DeepFace to tell people apart, from a stream of any length; its checkpoint can be used as f of faces.

    Reports `test_error`, the classification error on test faces of people in the training set, and `verification_auc`:
    the area under the ROC curve for deciding by the cosine of f(x) whether two test faces are of the same person.
    The same call continues where an earlier one stopped. Raises UserError for bad settings, files or resources.
    """
    run.check(config.batch_size)
    check(config)
    train = find_people(config.faces)
    if config.test_faces:
        held = find_people(config.test_faces)
    else:
        train, held = hold_out(train, config.held_out)
    people = identities(train)
    if len(people) < 2:
        raise UserError(f"{config.faces}: faces of {len(people)} person; at least two people are needed")
    test = _labelled(held, config.held_out, people)
    name = run.name or f"deepface-{fingerprint(config)}"
    feed = StreamedPeople(train, people, DeepFace.size, BadRows(run.max_bad_rows))
    print(f"{len(feed)} faces of {len(people)} people, {len(test)} to test on")
    return _run(config, run, name, "face_network", feed, test, len(people))


def _labelled(groups: list[Rows], count: int, people: list[str]) -> LabelledImages:
    """About `count` faces from evenly spaced groups. Labels are indices in `people`, or negative for other people."""
    found = sample_rows(groups, count, DeepFace.size, ["identity"])
    names = [str(name) for name in found["identity"]]
    numbers = {name: i for i, name in enumerate(people)}
    for name in names:
        numbers.setdefault(name, UNKNOWN - len(numbers))
    return LabelledImages(found["image"], np.array([numbers[name] for name in names], np.int64))


def _run(
    config: Pretraining | FacePretraining,
    run: Run,
    name: str,
    kind: str,
    feed: InMemoryLabelled | StreamedPeople,
    test: LabelledImages,
    classes: int,
    callbacks: Sequence[UserCallback] = (),
) -> Finished:
    connect(trains=True)
    # In the object store once per node: its workers share the arrays without copies.
    inputs = Inputs(ray.put(feed), ray.put(test), classes, len(feed))
    settings = {"config": config, "run": run, "inputs": inputs, "quiet": bool(callbacks)}
    spare = CPUS_TO_READ if isinstance(feed, StreamedPeople) else 0
    return run_training(loop, settings, run, name, {"kind": kind, "config": config}, spare, callbacks)
