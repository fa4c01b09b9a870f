"""DeepFace: trained to tell people apart, from Parquet files and from folders, and used as f."""

import io
import json
from dataclasses import replace
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import client
from files import encode, write_faces
from PIL import Image

from dtn_ray.checkpoints import checkpoint
from dtn_ray.data.labelled import LabelledImages
from dtn_ray.data.rows import find_people, hold_out, identities
from dtn_ray.data.streamed import StreamedPeople
from dtn_ray.data.windows import Window, decode_row, read_window
from dtn_ray.errors import UserError
from dtn_ray.method.features import FrozenF
from dtn_ray.method.options import OptimConfig
from dtn_ray.method.pixels import to_float
from dtn_ray.models.faces import DeepFace
from dtn_ray.perceptual.job import UNKNOWN, pretrain_faces
from dtn_ray.perceptual.load import build_deepface, load_classifier, load_face_network
from dtn_ray.perceptual.measure import measure, verification_auc
from dtn_ray.perceptual.options import FacePretraining
from dtn_ray.resumable.options import Run
from dtn_ray.train.domains import build_dtn
from dtn_ray.train.job import train
from dtn_ray.train.presets import paper_faces
from dtn_ray.train.trained import load_trained


def portraits(people: int, each: int, seed: int = 0) -> tuple[list[bytes], list[int]]:
    """Noisy pictures of a pattern that is a person's own."""
    rng = np.random.default_rng(7)
    own = rng.integers(40, 216, (people, 4, 4, 3))
    rng = np.random.default_rng([7, seed])
    images, persons = [], []
    for _ in range(each):
        for person in range(people):
            pixels = (own[person] + rng.integers(-30, 31, (4, 4, 3))).astype(np.uint8)
            images.append(encode(Image.fromarray(pixels).resize((48, 48), Image.Resampling.BICUBIC)))
            persons.append(person)
    return images, persons


def folder_of(path: Path, people: int, each: int) -> str:
    for i, (image, person) in enumerate(zip(*portraits(people, each), strict=True)):
        (path / f"person {person}").mkdir(parents=True, exist_ok=True)
        (path / f"person {person}/{i}.png").write_bytes(image)
    return str(path)


SMALL = FacePretraining("", width=0.06, features=8, epochs=3, batch_size=16, held_out=20, dropout=0.0, lr=5e-3)


def run(folder: Path | str, **options) -> Run:
    return Run(storage=f"{folder}/runs", name="f", cpus_per_worker=1, log_every=5, **options)


@pytest.fixture(scope="module")
def trained(tmp_path_factory, ray_cluster, s3_server):
    """A finished training and its settings; faces are on a disk, and the run on S3."""
    images, persons = portraits(5, 40)
    faces = write_faces(tmp_path_factory.mktemp("deepface") / "a.parquet", images, rows=30, identity=persons)
    client(s3_server).create_bucket(Bucket="deepface")
    config, on_s3 = replace(SMALL, faces=faces), run("s3://deepface")
    return pretrain_faces(config, on_s3), config, on_s3


@pytest.mark.slow
def test_it_learns_to_name_people_and_to_tell_them_apart(trained) -> None:
    outcome, *_ = trained
    assert outcome.metrics["test_images"] == 20 and outcome.metrics["train_images"] == 180
    assert outcome.metrics["test_error"] < 0.2  # by chance 0.8
    assert outcome.metrics["verification_auc"] > 0.9


@pytest.mark.slow
def test_its_run_lives_on_s3(trained) -> None:
    outcome, config, on_s3 = trained
    assert outcome.checkpoint.startswith("s3://deepface/runs/f/checkpoint_")
    assert pretrain_faces(config, on_s3).resumed
    _, manifest = load_face_network("s3://deepface/runs/f")
    assert manifest["name"] == "DeepFace"
    assert not any("not-a-secret" in json.dumps(value) for value in (manifest, outcome.metrics))


@pytest.mark.slow
@pytest.mark.slow
def test_a_dtn_trains_on_it_as_f(trained, tmp_path) -> None:
    outcome, *_ = trained
    images, _ = portraits(5, 4, seed=1)
    source = write_faces(tmp_path / "s.parquet", images)
    paper = paper_faces()
    experiment = replace(
        paper,
        data=replace(paper.data, source=source, target=source, size=48, validation=2),
        model=replace(paper.model, f=outcome.folder, width_g=0.03, width_D=0.03, size_D=64),
        optim=OptimConfig(steps=2, batch_size=4),
    )
    dtn = train(experiment, Run(storage=f"{tmp_path}/runs", name="dtn", cpus_per_worker=1))
    loaded = load_trained(dtn.folder).dtn.f.network
    given, _ = load_face_network(outcome.folder)
    assert isinstance(loaded, DeepFace) and loaded.classifier is None
    x = to_float(np.stack([decode_row(image) for image in images[:3]]))
    assert torch.equal(loaded.represent(x), given.represent(x)) and given.features == 8
    assert loaded.represent(x).std(0).min() > 0


def test_its_checkpoint_serves_as_f(tmp_path) -> None:
    torch.manual_seed(0)
    network = build_deepface(SMALL, 5)
    checkpoint.save(tmp_path / "f", "face_network", SMALL, {"face_network": network}, people=5)
    f, facts = load_face_network(f"{tmp_path}/f")
    experiment = replace(paper_faces(), model=replace(paper_faces().model, width_g=0.03, width_D=0.03))
    dtn = build_dtn(experiment, FrozenF(f, scale=2.0))
    networks = {"f": dtn.f, "g": dtn.g, "D": dtn.D, "g_convert": dtn.g}
    checkpoint.save(tmp_path / "dtn", "dtn", experiment, networks, f=facts)
    loaded = load_trained(f"{tmp_path}/dtn").dtn
    x = torch.rand(2, 3, 152, 152) * 2 - 1
    assert torch.equal(loaded.f(x), network.eval().represent(x) / 2)
    assert loaded.G(x).shape == (2, 3, 64, 64)
    with pytest.raises(UserError, match=r"kind 'face_network', but one of jobs/pretrain\.py \(kind 'classifier'\)"):
        load_classifier(f"{tmp_path}/f")


@pytest.mark.slow
def test_a_folder_of_people_is_the_same_as_parquet(tmp_path, ray_cluster) -> None:
    faces = folder_of(tmp_path / "faces", 3, 12)
    groups = find_people(faces)
    assert sum(group.rows for group in groups) == 36 and identities(groups) == [f"person {i}" for i in range(3)]
    rest, held = hold_out(groups, 3)
    keys = [key for group in (*rest, *held) for key in group.table(["identity"])["identity"].to_pylist()]
    assert len(keys) == 36 and len({*keys[:8]}) > 1  # shuffled, or those held out would be one person's
    for rows in read_window(Window(tuple(groups), (0,)), 16, ["identity"]):
        for image, name in zip(rows["image"], rows["identity"], strict=True):
            own = np.asarray(Image.open(io.BytesIO(portraits(3, 1)[0][int(name[-1])])).resize((16, 16)))
            assert np.abs(image.transpose(1, 2, 0).astype(int) - own).mean() < 40
    feed = StreamedPeople(groups, identities(groups), 16)
    assert len(feed) == 36

    def labels(done: list[tuple[int, int]], steps: int) -> list[int]:
        return [label for _, labels in islice(feed.batches(done, 0, 1, 6, seed=1), steps) for label in labels]

    whole = labels([], 6)
    assert sorted(whole) == [0] * 12 + [1] * 12 + [2] * 12
    assert labels([(1, 2)], 4) == whole[12:]


def test_other_people_have_no_label_and_count_for_verification_alone() -> None:
    torch.manual_seed(0)
    network = DeepFace(3, width=0.06, features=8)
    images = np.random.default_rng(0).integers(0, 256, (6, 3, 20, 20), np.uint8)
    images[3:] = images[:3]  # each face twice
    others = LabelledImages(images, np.array([UNKNOWN, UNKNOWN - 1, UNKNOWN - 2] * 2))
    assert measure(network, others) == {"test_error": None, "verification_auc": 1.0}
    assert verification_auc(network, LabelledImages(images, np.zeros(6, np.int64))) is None


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({}, r"a\.parquet: no column `identity`, which tells who is who; it has image"),
        ({"identity": ["a"] * 20}, "faces of 1 person"),
        ({"identity": [None] * 8 + ["a"] * 12}, "faces of 1 person"),  # nobody is no person
    ],
)
def test_faces_that_cannot_serve_are_refused(tmp_path, columns, message) -> None:
    faces = write_faces(tmp_path / "a.parquet", portraits(2, 10)[0], **columns)
    with pytest.raises(UserError, match=message):
        pretrain_faces(replace(SMALL, faces=faces), run(tmp_path))


def test_a_folder_without_people_is_refused(tmp_path) -> None:
    (tmp_path / "flat").mkdir()
    (tmp_path / "flat/a.png").write_bytes(portraits(1, 1)[0][0])
    with pytest.raises(UserError, match="neither Parquet files there nor folders of images"):
        find_people(f"{tmp_path}/flat")


@pytest.mark.slow
def test_a_broken_image_is_left_out_counted_and_where_none_is_allowed_named(tmp_path, ray_cluster) -> None:
    faces = folder_of(tmp_path / "faces", 2, 10)
    Path(faces, "person 1", "broken.png").write_bytes(b"text")
    some = replace(SMALL, faces=faces, held_out=2)
    assert pretrain_faces(some, run(tmp_path)).metrics["bad_rows"] == 1
    with pytest.raises(UserError, match=r"person 1/broken\.png: not an image.*more than --max-bad-rows 0"):
        pretrain_faces(some, run(tmp_path / "strict", max_bad_rows=0))
