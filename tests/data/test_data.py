"""Datasets: what every reader gives, every way in which its files can be wrong, and the order of samples."""

import gzip
import struct
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
import scipy.io
import torch
import torchvision
from files import idx, svhn_images, write_mat, write_mnist
from sklearn.datasets import load_digits

from dtn_ray.data.digits import load, mnist, svhn
from dtn_ray.data.digits.street_digits import street_digits
from dtn_ray.data.labelled import LabelledImages
from dtn_ray.data.order import batch_indices, permutation, step_seed, worker_slice
from dtn_ray.errors import UserError
from dtn_ray.method.pixels import to_float, to_uint8

HDF5_MAT = b"MATLAB 7.3 MAT-file".ljust(124) + struct.pack("<H", 0x0200) + b"IM" + bytes(512)


def labelled(count: int) -> LabelledImages:
    """Image i is filled with i and labelled with its last digit."""
    images = np.arange(count, dtype=np.uint8)[:, None, None, None] * np.ones((1, 1, 32, 32), np.uint8)
    return LabelledImages(images, np.arange(count) % 10)


# SVHN


def test_svhn_images_become_channels_first(tmp_path):
    images = np.zeros((32, 32, 3, 2), np.uint8)
    images[5, 7, 2, 1] = 200
    read = svhn.read_mat(write_mat(tmp_path / "a.mat", [1, 2], images))
    assert read.images.shape == (2, 3, 32, 32) and read.images.dtype == np.uint8 and read.images.flags.c_contiguous
    assert np.argwhere(read.images).tolist() == [[1, 2, 5, 7]] and read.images.max() == 200


@pytest.mark.parametrize(
    "labels",
    [
        np.array([[10], [1], [9]], np.uint8),
        np.array([[0], [1], [9]], np.uint8),
        np.array([[10, 1, 9]], np.uint8),
        np.array([[10.0], [1.0], [9.0]]),
    ],
    ids=["0 as 10", "0 as 0", "row", "doubles"],
)
def test_svhn_labels_are_digits(tmp_path, labels):
    read = svhn.read_mat(write_mat(tmp_path / "a.mat", labels))
    assert read.labels.tolist() == [0, 1, 9] and read.labels.dtype == np.int64


def test_svhn_file_of_one_image(tmp_path):
    images = svhn_images(1)
    read = svhn.read_mat(write_mat(tmp_path / "a.mat", [7], images[..., 0]))
    assert read.labels.tolist() == [7]
    np.testing.assert_array_equal(read.images[0], images[..., 0].transpose(2, 0, 1))


@pytest.mark.parametrize(
    ("variables", "reason"),
    [
        ({"y": np.ones((2, 1))}, "no variables X and y"),
        ({"X": svhn_images(2)}, "no variables X and y"),
        ({"X": np.zeros((28, 28, 3, 2), np.uint8), "y": np.ones((2, 1))}, r"X is \(28, 28, 3, 2\) uint8"),
        ({"X": np.zeros((2, 3, 32, 32), np.uint8), "y": np.ones((2, 1))}, r"X is \(2, 3, 32, 32\) uint8"),
        ({"X": np.zeros((32, 32), np.uint8), "y": np.ones((1, 1))}, r"X is \(32, 32\) uint8"),
        ({"X": svhn_images(2) / 255, "y": np.ones((2, 1))}, r"X is \(32, 32, 3, 2\) float64"),
        ({"X": "text", "y": np.ones((1, 1))}, "X is .* expected 32×32×3×N uint8"),
        ({"X": svhn_images(2), "y": np.ones((3, 1))}, "2 images in X but 3 labels in y"),
        ({"X": svhn_images(2), "y": [[1], [11]]}, "all in 1..10"),
        ({"X": svhn_images(2), "y": np.array([[1], [-1]], np.int8)}, "all in 1..10"),
        ({"X": svhn_images(0), "y": np.zeros((0, 1))}, "at least one label"),
        ({"X": svhn_images(2), "y": [[1.5], [2]]}, "y must hold"),
        ({"X": svhn_images(2), "y": [[np.nan], [2]]}, "y must hold"),
        ({"X": svhn_images(2), "y": ["5", "6"]}, "y must hold"),
        ({"X": svhn_images(2), "y": np.array(["five", 6], object)}, "y must hold"),
    ],
    ids=[
        *("no X", "no y", "28×28", "channels first", "two axes", "floats", "X text", "lengths", "label 11", "label -1"),
        *("no images", "fractions", "NaN", "digits as text", "cells"),
    ],
)
@pytest.mark.filterwarnings("ignore:invalid value encountered in cast")
def test_svhn_file_of_another_content_is_refused(tmp_path, variables, reason):
    path = tmp_path / "a.mat"
    scipy.io.savemat(path, variables)
    with pytest.raises(UserError, match=reason) as caught:
        svhn.read_mat(str(path))
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("share", [0.001, 0.1, 0.5, 0.9])
@pytest.mark.parametrize("compressed", [False, True])
def test_truncated_svhn_file_is_refused(tmp_path, compressed, share):
    path = Path(write_mat(tmp_path / "a.mat", [1, 2, 3], do_compression=compressed))
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])
    with pytest.raises(UserError, match=f"{path}: damaged or truncated.*fetch it again"):
        svhn.read_mat(str(path))


@pytest.mark.parametrize(
    ("content", "advice"),
    [
        (b"", "fetch it again"),
        (b"<html>404: not found</html>" * 20, "fetch it again"),
        (HDF5_MAT, "save it as version 7"),
    ],
    ids=["empty", "web page", "MATLAB 7.3"],
)
def test_file_that_is_no_mat_file_is_refused(tmp_path, content, advice):
    path = tmp_path / "a.mat"
    path.write_bytes(content)
    with pytest.raises(UserError, match=advice) as caught:
        svhn.read_mat(str(path))
    assert str(path) in str(caught.value)


def test_missing_svhn_file_tells_where_to_fetch_it(tmp_path):
    with pytest.raises(UserError, match=r"svhn/test_32x32\.mat: no such file.*http.*--download"):
        load.load("svhn", "test", str(tmp_path))


def test_missing_file_in_a_folder_named_svhn_is_missed_in_that_folder(tmp_path):
    (tmp_path / "svhn").mkdir()
    with pytest.raises(UserError, match=f"{tmp_path}/svhn/test_32x32.mat: no such file"):
        load.load("svhn", "test", str(tmp_path / "svhn"))


def test_folder_in_place_of_an_svhn_file_is_refused(tmp_path):
    (tmp_path / "test_32x32.mat").mkdir()
    with pytest.raises(UserError, match=r"test_32x32\.mat"):
        load.load("svhn", "test", str(tmp_path))


@pytest.fixture
def svhn_folder(tmp_path):
    for split, labels in (("train", [1, 2]), ("extra", [3, 10]), ("test", [4])):
        write_mat(tmp_path / f"svhn/{split}_32x32.mat", labels, svhn_images(len(labels), seed=labels[0]))
    return tmp_path


@pytest.mark.parametrize(
    ("split", "labels"),
    [
        ("train", [1, 2]),
        ("extra", [3, 0]),
        ("test", [4]),
        ("train+extra", [1, 2, 3, 0]),
        ("largest", [3, 0]),
    ],
)
def test_svhn_splits(svhn_folder, split, labels):
    read = load.load("svhn", split, str(svhn_folder))
    assert read.labels.tolist() == labels and len(read) == len(labels)


def test_joined_splits_keep_images_beside_their_labels(svhn_folder):
    read = load.load("svhn", "train+extra", str(svhn_folder))
    np.testing.assert_array_equal(read.images[2], svhn_images(2, seed=3)[..., 0].transpose(2, 0, 1))


def test_largest_split_of_svhn_is_train_where_there_is_no_extra(svhn_folder):
    (svhn_folder / "svhn/extra_32x32.mat").unlink()
    assert load.load("svhn", "largest", str(svhn_folder)).labels.tolist() == [1, 2]


def test_data_dir_may_be_the_folder_of_the_mat_files_itself(svhn_folder):
    assert load.load("svhn", "test", str(svhn_folder / "svhn")).labels.tolist() == [4]


def test_a_mat_file_is_a_split_and_needs_no_data_dir(tmp_path):
    assert load.load("svhn", write_mat(tmp_path / "unseen.mat", [8, 10])).labels.tolist() == [8, 0]


@pytest.mark.parametrize("split", ["nope", "train+nope", ""])
def test_unknown_split_of_svhn_is_refused(svhn_folder, split):
    with pytest.raises(UserError, match=r"svhn has no split '(nope)?': choose train, test, extra"):
        load.load("svhn", split, str(svhn_folder))


# MNIST


@pytest.mark.parametrize("suffix", ["", ".gz"])
@pytest.mark.parametrize("folder", ["mnist/MNIST/raw", "MNIST/raw", "mnist", "."])
def test_mnist_is_found_in_every_usual_layout(tmp_path, folder, suffix):
    write_mnist(tmp_path / folder, [3, 0, 9], suffix=suffix)
    read = load.load("mnist", "test", str(tmp_path))
    assert read.labels.tolist() == [3, 0, 9] and read.labels.dtype == np.int64


def test_mnist_images_are_enlarged_to_32_pixels(tmp_path):
    images = np.full((2, 28, 28), 200, np.uint8)
    images[1, :, :14] = 0
    read = load.load("mnist", "test", str(write_mnist(tmp_path, [1, 2], images=images)))
    assert read.images.shape == (2, 1, 32, 32) and read.images.dtype == np.uint8
    assert (read.images[0] == 200).all()
    # The edge between columns 13 and 14 of 28 lies at the middle of 32; the nearest pixel centres are 7/16 from it.
    row = read.images[1, 0, 5]
    assert (row[:15] == 0).all() and (row[17:] == 200).all()
    assert row[15] == pytest.approx(200 / 16, abs=1) and row[16] == pytest.approx(200 * 15 / 16, abs=1)


def test_mnist_splits(tmp_path):
    write_mnist(tmp_path, [1, 2, 3], part="train")
    write_mnist(tmp_path, [4])
    splits = {split: load.load("mnist", split, str(tmp_path)).labels.tolist() for split in ("train", "test", "largest")}
    assert splits == {"train": [1, 2, 3], "test": [4], "largest": [1, 2, 3]}


def test_unknown_split_of_mnist_is_refused(tmp_path):
    with pytest.raises(UserError, match="mnist has no split 'extra': choose train or test"):
        load.load("mnist", "extra", str(write_mnist(tmp_path, [1])))


def test_missing_mnist_file_tells_where_it_was_looked_for(tmp_path):
    with pytest.raises(UserError, match=r"t10k-images-idx3-ubyte: no such file .*--download") as caught:
        load.load("mnist", "test", str(tmp_path))
    assert all(str(tmp_path / folder) in str(caught.value) for folder in ("mnist/MNIST/raw", "MNIST/raw", "mnist"))


def test_mnist_labels_missing_beside_images(tmp_path):
    (write_mnist(tmp_path, [1]) / "t10k-labels-idx1-ubyte").unlink()
    with pytest.raises(UserError, match="t10k-labels-idx1-ubyte: no such file"):
        load.load("mnist", "test", str(tmp_path))


LABELS = idx(np.arange(200) % 10)
COMPRESSED = gzip.compress(idx(np.random.default_rng(0).integers(0, 10, 5000)), mtime=0)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("labels", b""),
        ("labels", LABELS[:3]),
        ("labels", LABELS[:6]),
        ("labels", LABELS[:-1]),
        ("labels", b"\x89PNG" + LABELS[4:]),
        ("labels", idx(np.arange(200), kind=0x0D)),
        ("labels", idx(np.zeros((2, 28, 28)))),
        ("labels", struct.pack(">HBB3I", 0, 8, 3, *[2**32 - 1] * 3)),
        ("labels", COMPRESSED),
        ("labels.gz", COMPRESSED[:-20]),
        ("labels.gz", COMPRESSED[:40] + bytes(40) + COMPRESSED[80:]),
        ("labels.gz", COMPRESSED[:40] + b"\xff" * 40 + COMPRESSED[80:]),
        ("labels.gz", LABELS),
        ("labels.gz", b""),
    ],
    ids=[
        *("empty", "header cut", "shape cut", "data cut", "other magic", "floats", "images", "impossible size"),
        *("gz without .gz", "gz cut", "gz zeroed", "gz damaged", ".gz without gz", ".gz empty"),
    ],
)
def test_damaged_idx_file_is_refused(tmp_path, name, content):
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(UserError, match=f"{path}: damaged or truncated idx file.*fetch it again"):
        mnist.read_idx(str(path), 1)


def test_folder_in_place_of_an_idx_file_is_refused(tmp_path):
    write_mnist(tmp_path / "t10k-images-idx3-ubyte", [1])  # as some archives unpack
    with pytest.raises(UserError, match="t10k-images-idx3-ubyte"):
        load.load("mnist", "test", str(tmp_path))


@pytest.mark.parametrize(
    ("labels", "images"),
    [([1, 2, 3], np.zeros((2, 28, 28), np.uint8)), ([1, 2], np.zeros((2, 32, 32), np.uint8)), ([1, 10], None)],
    ids=["counts differ", "32×32 images", "label 10"],
)
def test_mnist_images_and_labels_that_do_not_fit_are_refused(tmp_path, labels, images):
    with pytest.raises(UserError, match=str(tmp_path)):
        load.load("mnist", "test", str(write_mnist(tmp_path, labels, images=images)))


# The door to all datasets


def test_unknown_dataset_is_refused_with_the_known_ones():
    with pytest.raises(UserError, match=r"unknown dataset 'cifar': choose one of street-digits.*svhn, mnist"):
        load.load("cifar", "train")


@pytest.mark.parametrize("dataset", ["svhn", "mnist"])
def test_datasets_in_files_need_a_data_dir(dataset):
    with pytest.raises(UserError, match=f"{dataset} is read from files.*--data-dir"):
        load.load(dataset, "train")


@pytest.mark.parametrize("dataset", ["street-digits", "handwritten-digits"])
def test_unknown_split_of_embedded_digits_is_refused(dataset):
    with pytest.raises(UserError, match=f"{dataset} has no split 'extra': choose train or test"):
        load.load(dataset, "extra")


@pytest.mark.parametrize("dataset", ["handwritten-digits", "street-digits"])
def test_embedded_digits_have_the_channels_announced_for_them(dataset):
    read = load.load(dataset, "test")
    assert read.images.shape == (len(read), load.CHANNELS[dataset], 32, 32) and len(read.labels) == len(read)
    assert set(read.labels) == set(range(10))


def test_street_digits_of_training_and_test_share_no_image(monkeypatch):
    monkeypatch.setattr(load, "street_digits", lambda count, seed: street_digits(100, seed))
    train, test = (
        {image.tobytes() for image in load.load("street-digits", split).images} for split in ("largest", "test")
    )
    assert len(train) == len(test) == 100 and not train & test


def test_downloads_land_where_they_are_read(tmp_path, monkeypatch):
    def download_svhn(url, root, filename, md5):
        assert url.endswith(f"housenumbers/{filename}") and len(md5) == 32
        write_mat(Path(root) / filename, [{"train_32x32.mat": 1, "extra_32x32.mat": 2}[filename]])

    def download_mnist(root, download):
        assert download
        write_mnist(Path(root) / "MNIST/raw", [5], part="train")

    monkeypatch.setattr(torchvision.datasets.utils, "download_url", download_svhn)
    monkeypatch.setattr(torchvision.datasets, "MNIST", download_mnist)
    folder = str(tmp_path)
    assert load.load("svhn", "train+extra", folder, download=True).labels.tolist() == [1, 2]
    assert load.load("svhn", "largest", folder, download=True).labels.tolist() == [2]
    assert load.load("mnist", "largest", folder, download=True).labels.tolist() == [5]


def test_download_leaves_what_is_there(tmp_path, monkeypatch):
    def download(*_):
        raise AssertionError("downloaded over a file of the user's")

    monkeypatch.setattr(torchvision.datasets.utils, "download_url", download)
    write_mat(tmp_path / "svhn/train_32x32.mat", [7])
    assert load.load("svhn", "train", str(tmp_path), download=True).labels.tolist() == [7]


def test_failed_download_tells_what_to_do(tmp_path, monkeypatch):
    def offline(*_, **__):
        raise RuntimeError("Error downloading train-images-idx3-ubyte.gz")

    monkeypatch.setattr(torchvision.datasets, "MNIST", offline)
    with pytest.raises(UserError, match=r"--download of mnist failed: Error downloading.* by hand"):
        load.load("mnist", "train", str(tmp_path), download=True)


def test_download_into_a_bucket_is_refused():
    with pytest.raises(UserError, match="--download writes to a local folder, not to s3://bucket/data"):
        load.load("mnist", "train", "s3://bucket/data", download=True)


def test_download_of_an_unknown_split_is_refused(tmp_path):
    with pytest.raises(UserError, match="svhn has no split 'nope'"):
        load.load("svhn", "nope", str(tmp_path), download=True)


def test_nothing_is_downloaded_for_a_mat_file(tmp_path):
    path = write_mat(tmp_path / "unseen.mat", [8])
    assert load.load("svhn", path, str(tmp_path), download=True).labels.tolist() == [8]


# The embedded handwritten digits


def test_handwritten_digits_are_the_real_ones_with_a_border():
    train, test = load.load("handwritten-digits", "train"), load.load("handwritten-digits", "test")
    assert train.images.shape == (899, 1, 32, 32) and test.images.shape == (898, 1, 32, 32)
    assert train.images.dtype == test.images.dtype == np.uint8
    assert train.labels.tolist() == load_digits().target[0::2].tolist()
    assert test.labels.tolist() == load_digits().target[1::2].tolist()
    inner = train.images[:, :, 2:30, 2:30]
    assert inner.sum(dtype=int) == train.images.sum(dtype=int), "the border of 2 is black"
    assert inner.max() > 250 and np.median(inner) < 50, "white on black"


def test_handwritten_digits_show_the_originals():
    original = load_digits().images[2]
    shown = load.load("handwritten-digits", "train").images[1, 0, 2:30, 2:30]
    reduced = torch.nn.functional.adaptive_avg_pool2d(torch.tensor(shown)[None].float(), 8)[0].numpy()
    assert np.corrcoef(reduced.ravel(), original.ravel())[0, 1] > 0.97


def test_handwritten_splits_share_no_image_and_are_the_same_each_time():
    train, test = load.load("handwritten-digits", "train"), load.load("handwritten-digits", "test")
    assert not {image.tobytes() for image in train.images} & {image.tobytes() for image in test.images}
    np.testing.assert_array_equal(load.load("handwritten-digits", "largest").images, train.images)


# Sets of labelled images


def test_without_drops_classes_and_keeps_images_beside_their_labels():
    rest = labelled(30).without((2, 7))
    kept = [i for i in range(30) if i % 10 not in (2, 7)]
    assert rest.images[:, 0, 0, 0].tolist() == kept
    assert rest.labels.tolist() == [i % 10 for i in kept]


def test_without_no_class_changes_nothing():
    assert labelled(30).without(()).labels.tolist() == labelled(30).labels.tolist()


def test_without_every_class_is_refused():
    with pytest.raises(UserError, match="no image is left without the classes 0, 1, 2"):
        labelled(3).without((0, 1, 2))


@pytest.mark.parametrize(("size", "count", "held"), [(100, 7, 7), (100, 10, 10), (100, 512, 10), (9, 5, 0), (50, 0, 0)])
def test_split_off_holds_out_at_most_a_tenth(size, count, held):
    rest, validation = labelled(size).split_off(count, seed=0)
    assert len(validation) == held and len(rest) == size - held


def test_split_off_parts_the_set():
    parts = labelled(100).split_off(10, seed=3)
    numbers = [part.images[:, 0, 0, 0].tolist() for part in parts]
    assert sorted(numbers[0] + numbers[1]) == list(range(100))
    assert [part.labels.tolist() for part in parts] == [[i % 10 for i in part] for part in numbers]


def test_split_off_is_decided_by_its_seed():
    def held(seed: int) -> list[int]:
        return labelled(200).split_off(20, seed)[1].images[:, 0, 0, 0].tolist()

    assert held(1) == held(1) and held(1) != held(2)


def test_uint8_to_float_and_back():
    values = np.arange(256, dtype=np.uint8)
    floats = to_float(values)
    assert floats.dtype == torch.float32
    assert floats[[0, 51, 255]].tolist() == pytest.approx([-1, -0.6, 1])
    assert to_uint8(floats).tolist() == values.tolist()
    assert to_uint8(torch.tensor([-1.5, 1.5])).tolist() == [0, 255]


# The order of samples


@pytest.mark.parametrize(("count", "batch"), [(10, 4), (12, 4), (3, 8), (1, 2)])
def test_every_epoch_is_a_permutation(count, batch):
    stream = np.concatenate([batch_indices(count, batch, step, seed=0) for step in range(3 * count)])
    epochs = stream.reshape(-1, count)
    assert (np.sort(epochs) == np.arange(count)).all()
    assert len(stream) == 3 * count * batch


def test_epochs_and_seeds_have_orders_of_their_own():
    orders = [batch_indices(50, 50, step, seed).tolist() for seed in (0, 1) for step in (0, 1)]
    assert all(a != b for a, b in combinations(orders, 2))


def test_a_batch_depends_on_its_step_alone():
    forwards = [batch_indices(10, 4, step, seed=5).tolist() for step in range(20)]
    permutation.cache_clear()
    backwards = [batch_indices(10, 4, step, seed=5).tolist() for step in reversed(range(20))]
    assert backwards[::-1] == forwards


def test_batches_of_an_empty_set_are_refused():
    with pytest.raises(ValueError, match="empty set"):
        batch_indices(0, 4, 0, seed=0)


@pytest.mark.parametrize("workers", [1, 2, 3, 6])
def test_worker_shares_make_up_the_batch(workers):
    batch = batch_indices(100, 12, 3, seed=0)
    shares = [worker_slice(batch, rank, workers) for rank in range(workers)]
    assert {len(share) for share in shares} == {12 // workers}
    assert np.concatenate(shares).tolist() == batch.tolist()


def test_batch_that_does_not_divide_among_workers_is_refused():
    with pytest.raises(
        ValueError, match="a batch of 10 cannot be divided evenly among 4 workers: choose a multiple of 4"
    ):
        worker_slice(np.arange(10), 0, 4)


def test_step_seeds_differ_and_suit_torch():
    places = [(seed, step) for seed in range(3) for step in range(80)]
    seeds = [step_seed(*place) for place in places]
    assert len(set(seeds)) == len(places) and all(0 <= seed < 2**63 for seed in seeds)
    assert seeds == [step_seed(*place) for place in places]
