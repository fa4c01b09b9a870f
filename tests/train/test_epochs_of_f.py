"""How long f learns depends on the images that its split holds, and not on the split's name."""

import json
from pathlib import Path

import pytest
from files import write_classifier, write_mat

from dtn_ray.perceptual.options import Pretraining
from dtn_ray.resumable.options import Run
from dtn_ray.settings import to_dict
from dtn_ray.train.digits import prepare
from dtn_ray.train.options import DataConfig, Experiment, ModelConfig
from dtn_ray.train.presets import classifier_of


class Asked(Exception):
    """Training f was asked for."""


@pytest.fixture
def f_of(tmp_path, monkeypatch):
    """The settings of the f that a run on SVHN would train, by the run's --source-split."""

    def asked(config: Pretraining, run: Run) -> None:
        raise Asked(config, run)

    monkeypatch.setattr("dtn_ray.perceptual.job.pretrain", asked)
    monkeypatch.setattr("dtn_ray.train.presets.LARGE", 40)  # SVHN in small
    judge, _ = write_classifier(tmp_path / "judge")

    def settings(split: str, data_dir: Path, **data) -> Pretraining:
        chosen = DataConfig("svhn", "handwritten-digits", str(data_dir), source_split=split, **data)
        with pytest.raises(Asked) as caught:
            prepare(Experiment(data=chosen, model=ModelConfig(judge=judge)), Run(storage=f"{tmp_path}/runs", name="a"))
        return caught.value.args[0]

    return settings


@pytest.fixture
def svhn(tmp_path) -> Path:
    for split, images in (("train", 20), ("test", 12), ("extra", 50)):
        write_mat(tmp_path / f"svhn/{split}_32x32.mat", [1 + i % 10 for i in range(images)])
    return tmp_path


def test_the_same_images_give_the_same_epochs_however_the_split_is_called(f_of, svhn):
    large = ["largest", "extra", "train+extra", f"{svhn}/svhn/extra_32x32.mat"]
    assert [f_of(split, svhn).epochs for split in large] == [5.0] * 4
    small = ["train", "test", f"{svhn}/svhn/train_32x32.mat"]
    assert [f_of(split, svhn).epochs for split in small] == [40.0] * 3
    (svhn / "svhn/extra_32x32.mat").unlink()
    assert f_of("largest", svhn).epochs == f_of("train", svhn).epochs == 40.0


def test_classes_left_out_of_s_do_not_change_f(f_of, svhn):
    assert f_of("extra", svhn, s_without=(1, 2, 3)) == f_of("extra", svhn)


@pytest.mark.parametrize(("images", "epochs"), [(7_000, 40.0), (73_257, 40.0), (531_131, 5.0), (604_388, 5.0)])
def test_the_official_splits_take_as_many_steps(images, epochs):
    f = classifier_of("svhn", DataConfig("svhn", "mnist"), ModelConfig(), 0, images, judge=False)
    assert f.epochs == epochs
    assert images < 10_000 or 40_000 < f.epochs * images / f.batch_size < 48_000


def test_an_f_that_an_earlier_version_began_goes_on_as_it_began(f_of, svhn, tmp_path):
    """It took 40 epochs of a split called `largest`."""
    earlier = Pretraining(dataset="svhn", data_dir=str(svhn), split="largest", epochs=40.0)
    folder = tmp_path / "runs/a/f"
    folder.mkdir(parents=True)
    (folder / "experiment.json").write_text(json.dumps({"kind": "classifier", "config": to_dict(earlier)}))
    assert f_of("largest", svhn) == earlier
