"""Subspace alignment: cases whose answer is known, and the job."""

import json
from pathlib import Path

import numpy as np
import pytest
from files import write_classifier

from dtn_ray.baselines.features import features, pixels
from dtn_ray.baselines.job import run_subspace_alignment
from dtn_ray.baselines.options import AlignmentOptions
from dtn_ray.baselines.subspace_alignment import align, subspace_alignment
from dtn_ray.data.digits import load
from dtn_ray.errors import UserError
from dtn_ray.models.digits import DigitF
from dtn_ray.perceptual.measure import predict, score
from dtn_ray.perceptual.options import Pretraining


def two_domains(count: int = 400) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Four classes by the signs of a and b. a fills three coordinates of the source and one of the target, b two and
    three, so that the first principal components are a and b in one domain, and b and a in the other.
    """
    rng = np.random.default_rng(0)
    a, b = rng.choice([-1.0, 1.0], (2, 2, count)) * rng.uniform(0.5, 1.5, (2, 2, count))
    none = np.zeros(count)
    source = np.stack([a[0], a[0], a[0], b[0], b[0], none], 1)
    target = np.stack([a[1], none, none, b[1], b[1], b[1]], 1) * 7 + 30  # and brighter, with more contrast
    labels = 2 * (a > 0) + (b > 0)
    return source.astype(np.float32), labels[0], target.astype(np.float32), labels[1]


@pytest.mark.parametrize("classifier", ["svm", "nearest"])
def test_it_is_right_about_every_vector_where_no_alignment_fails(classifier):
    source, labels, target, truth = two_domains()
    found = subspace_alignment(source, labels, target, dimensions=2, classifier=classifier)
    assert (found == truth).all()
    # Without the mapping between the subspaces, a is taken for b.
    from sklearn.decomposition import PCA
    from sklearn.svm import LinearSVC

    of_source, of_target = (PCA(2).fit_transform((x - x.mean(0)) / (x.std(0) + 1e-9)) for x in (source, target))
    assert (LinearSVC().fit(of_source, labels).predict(of_target) == truth).mean() < 0.6
    assert (LinearSVC(dual=False).fit(source, labels).predict(target) == truth).mean() < 0.6  # nor as they are


def test_the_aligned_coordinates_by_hand():
    """Source components: a = (1,1,1,0,0,0)/√3 and b = (0,0,0,1,1,0)/√2; of the target b = (0,0,0,1,1,1)/√3, a = e1."""
    source, _, target, _ = two_domains()
    of_source, of_target = align(source, target, 2)
    a, b = ((x - x.mean()) / x.std() for x in (source[:, 0], source[:, 3]))
    a_t, b_t = ((x - x.mean()) / x.std() for x in (target[:, 0], target[:, 3]))
    # Signs of components are arbitrary, but the same for both domains. a and b correlate a little in a sample.
    for ours, by_hand in ((of_source, (2 / np.sqrt(3) * b, a)), (of_target, (np.sqrt(3) * b_t, a_t))):
        for i in range(2):
            assert abs(np.corrcoef(ours[:, i], by_hand[i])[0, 1]) > 0.99
            assert ours[:, i].std() == pytest.approx(by_hand[i].std(), rel=0.05)


def test_a_domain_aligned_with_itself_stays_as_it_is():
    rng = np.random.default_rng(2)
    x = rng.normal(size=(50, 6)) @ rng.normal(size=(6, 6))
    of_source, of_target = align(x, x.copy(), 4)
    np.testing.assert_allclose(of_source, of_target, atol=1e-9)


@pytest.mark.parametrize("dimensions", [0, 7, 41])
def test_dimensions_that_do_not_fit_are_refused(dimensions):
    source, labels, target, _ = two_domains(40)
    with pytest.raises(ValueError, match="needs 1 to 6"):
        subspace_alignment(source, labels, target, dimensions=dimensions)


def test_features_are_f_of_x_and_pixels_are_three_times_grey():
    images = load.load("handwritten-digits", "test").images[:7]
    f = DigitF(width=0.05)
    found = features(f, images, batch_size=3)
    assert found.shape == (7, f.features) and found.std(0).max() > 0
    np.testing.assert_allclose(found[2:4], features(f, images[2:4]), rtol=1e-5, atol=1e-6)
    grey = pixels(images)
    assert grey.shape == (7, 3 * 1024) and -1 <= grey.min() < grey.max() <= 1
    np.testing.assert_array_equal(grey[:, :1024], grey[:, 2048:])
    np.testing.assert_array_equal(pixels(np.repeat(images, 3, axis=1)), grey)


def test_scores_by_hand():
    found = score(np.array([1, 2, 3, 4]), np.array([1, 2, 3, 5]))
    assert found["accuracy"] == 0.75 and found["images"] == 4
    assert found["accuracy_95"] == pytest.approx([0.3006, 0.9544], abs=1e-4)  # Wilson's interval of 3 of 4


def options(tmp_path: Path, **values) -> AlignmentOptions:
    small = {
        "source": "handwritten-digits",
        "source_split": "train",
        "out": str(tmp_path / "out"),
        "dimensions": (5, 20),
    }
    return AlignmentOptions(**(small | values))


def test_the_job_writes_the_best_of_several_dimensions_and_says_so(tmp_path, capsys):
    f, network = write_classifier(tmp_path / "f", Pretraining(dataset="handwritten-digits", width=0.25))
    found = run_subspace_alignment(options(tmp_path, f=f))
    assert json.loads((tmp_path / "out/scores.json").read_text()) == found
    assert found["accuracies"].keys() == {"5", "20"}
    assert found["accuracy"] == found["accuracies"][str(found["dimensions"])] == max(found["accuracies"].values())
    assert found["chosen_by_target_labels"] and found["accuracy_95"][0] < found["accuracy"] < found["accuracy_95"][1]
    test = load.load("handwritten-digits", "test")
    assert found["images"] == len(test) and found["source_images"] == 899
    # f has learnt nothing, but its features of digits tell them apart.
    assert found["source_only"] == pytest.approx((predict(network, test.images) == test.labels).mean())
    assert found["accuracy"] > 0.5 > found["source_only"]
    assert "20 dimensions: accuracy" in capsys.readouterr().out


def test_the_job_takes_pixels_and_one_number_of_dimensions(tmp_path):
    found = run_subspace_alignment(options(tmp_path, dimensions=(30,), classifier="nearest"))
    assert found["accuracy"] > 0.9 and not found["chosen_by_target_labels"] and "source_only" not in found


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"dimensions": (2, 5000)}, "--dimensions 5000: .*at most 898"),
        ({"dimensions": ()}, "--dimensions: needs one"),
        ({"dimensions": (0,)}, "dimensions"),
        ({"source": "nope"}, "unknown dataset 'nope'"),
        ({"f": "{tmp}/gone"}, "gone: no checkpoint here"),
    ],
)
def test_settings_that_do_not_fit_are_refused(tmp_path, values, message):
    values = {name: value.format(tmp=tmp_path) if name == "f" else value for name, value in values.items()}
    with pytest.raises(UserError, match=message):
        run_subspace_alignment(options(tmp_path, **values))
    assert not (tmp_path / "out").exists()


def test_foreign_scores_are_not_overwritten(tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out/scores.json").write_text("{}")
    with pytest.raises(UserError, match="did not write it"):
        run_subspace_alignment(options(tmp_path))
