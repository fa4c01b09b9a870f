"""A score of images that training has seen never passes in silence."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from files import SMALL, write_dtn, write_mat, write_mnist

from dtn_ray.data.digits import load
from dtn_ray.evaluate.digits import score_digits
from dtn_ray.evaluate.seen import faces_trained_on, warnings
from dtn_ray.perceptual.measure import accuracy
from dtn_ray.perceptual.options import Pretraining
from dtn_ray.settings import to_dict
from dtn_ray.train.trained import Trained, load_trained

OF_G = ["accuracy", "f_accuracy_on_G_s", "L_const"]


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    rng = np.random.default_rng(0)
    for split, images in (("train", 30), ("test", 20), ("extra", 40)):
        write_mat(folder / f"svhn/{split}_32x32.mat", [1 + i % 10 for i in range(images)])
    for part, count in (("train", 24), ("t10k", 16)):
        write_mnist(folder, rng.integers(0, 10, count), part=part, images=rng.integers(0, 256, (count, 28, 28)))
    return folder


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory, data) -> str:
    chosen = replace(SMALL.data, source="svhn", target="mnist", data_dir=str(data))
    return write_dtn(tmp_path_factory.mktemp("seen") / "dtn", replace(SMALL, data=chosen))


@pytest.fixture
def trained(checkpoint, data):
    """A DTN that says of itself that it, f and the judge were trained on these splits."""

    def make(f: str | None = "extra", judge: str | None = "train", **chosen) -> Trained:
        loaded = load_trained(checkpoint)
        records = {
            "f": f and to_dict(Pretraining("svhn", str(data), f)),
            "judge": judge and to_dict(Pretraining("mnist", str(data), judge)),
        }
        experiment = replace(loaded.experiment, data=replace(loaded.experiment.data, **chosen))
        return replace(loaded, experiment=experiment, manifest=loaded.manifest | records)

    return make


def seen(trained: Trained, **options) -> dict[str, list[str]]:
    return score_digits(trained, **options).values["seen_in_training"]


def test_nothing_is_said_of_the_papers_splits(trained):
    values = score_digits(trained()).values
    assert values["seen_in_training"] == {} and not list(warnings({}))
    assert values["scored_on"] == {"accuracy": "test", "judge_accuracy": "test", "L_tid": "train"}


@pytest.mark.parametrize("split", ["test", "{data}/svhn/test_32x32.mat", "{data}/svhn/../svhn/test_32x32.mat"])
def test_an_s_that_is_scored_is_named_however_its_split_is_spelled(trained, data, split):
    found = seen(trained(source_split=split.format(data=data)))
    assert found == {key: ["G was trained on these images, without labels (svhn test)"] for key in OF_G}
    assert [*warnings(found)] == [
        "accuracy, f_accuracy_on_G_s, L_const: not measured on unseen images: G was trained on these images, without "
        "labels (svhn test)"
    ]


def test_a_split_of_several_files_is_seen_where_one_of_them_is(trained):
    assert [*seen(trained(source_split="train+test"))] == OF_G
    assert not seen(trained(source_split="train+extra"))


def test_a_copy_of_a_file_is_known_by_its_content_and_another_one_is_none(trained, data, tmp_path):
    copy = str(shutil.copy(data / "svhn/extra_32x32.mat", tmp_path / "unseen.mat"))
    for split in ("largest", "extra", "train+extra", f"{data}/svhn/extra_32x32.mat"):
        assert [*seen(trained(f="train", source_split=split), source_file=copy)] == OF_G
    assert not seen(trained(f="train", source_split="train"), source_file=copy)
    other = write_mat(tmp_path / "other.mat", [1 + i % 10 for i in range(40)], np.zeros((32, 32, 3, 40), np.uint8))
    assert not seen(trained(source_split="extra"), source_file=other)
    assert not seen(trained(source_split="/gone/unseen.mat"), source_file=other)


def test_the_test_split_of_another_folder_counts_as_the_same(trained, data):
    """The data of the training may be elsewhere by now: then its name is all there is."""
    assert [*seen(trained(source_split="test", data_dir="/gone"), data_dir=str(data))] == OF_G


def test_labels_that_f_has_seen_are_named(trained):
    reason = "f was trained on these images and their labels (svhn test)"
    assert seen(trained(f="test")) == {key: [reason] for key in [OF_G[0], "f_error_on_s", *OF_G[1:]]}


@pytest.mark.parametrize(
    ("target_split", "judge", "scored"),
    [("train", "train", "test"), ("train", "largest", "test"), ("test", "train", "test"), ("test", "test", "train")],
)
def test_the_judges_accuracy_is_taken_where_it_was_not_trained(trained, target_split, judge, scored):
    dtn = trained(judge=judge, target_split=target_split)
    values = score_digits(dtn).values
    assert values["scored_on"]["judge_accuracy"] == scored and values["seen_in_training"] == {}
    mnist = load.load("mnist", scored, dtn.experiment.data.data_dir)
    assert values["judge_accuracy"] == pytest.approx(accuracy(dtn.judge, mnist.images, mnist.labels))


def test_a_judge_without_a_record_is_scored_on_t(trained):
    values = score_digits(trained(f=None, judge=None, target_split="train")).values
    assert values["scored_on"]["judge_accuracy"] == "train" and values["seen_in_training"] == {}


def test_one_set_as_s_and_t_is_named(trained):
    found = seen(trained(source="handwritten-digits", target="handwritten-digits", source_split="train", judge=None))
    assert found == {key: ["G was trained on these images as t (handwritten-digits test)"] for key in OF_G}


def test_evaluate_says_it(call, data, tmp_path):
    chosen = replace(SMALL.data, source="svhn", target="mnist", data_dir=str(data), source_split="test")
    folder = write_dtn(tmp_path / "dtn", replace(SMALL, data=chosen))
    code, out, err = call(f"evaluate {folder} --out {tmp_path}/scores")
    assert code == 0 and json.loads(out)["seen_in_training"].keys() == {*OF_G}
    assert "warning: accuracy, f_accuracy_on_G_s, L_const: not measured on unseen images: G was trained on" in err
    assert json.loads((tmp_path / "scores/scores.json").read_text())["seen_in_training"]["accuracy"]


def test_faces_that_are_those_of_s_are_named(trained, monkeypatch, tmp_path):
    dtn = trained(source=f"{tmp_path}/faces/shards")
    monkeypatch.chdir(tmp_path)
    same = ["faces/shards", f"{tmp_path}/faces/shards/", "faces/shards/a.parquet", "faces", "faces/../faces"]
    others = ["faces/others", "faces/shards-2", "s3://bucket/faces/shards"]
    assert faces_trained_on(dtn, [*same, *others]) == same
    on_s3 = trained(source="s3://bucket/faces")
    assert faces_trained_on(on_s3, [*same, *others]) == ["s3://bucket/faces/shards"]
