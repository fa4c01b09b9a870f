"""Measurements of the cells: from URIs of checkpoints to numbers and pictures. Each runs in a task of Ray's."""

import numpy as np
import torch

from dtn_ray.data.digits.load import load
from dtn_ray.data.labelled import LabelledImages
from dtn_ray.errors import UserError
from dtn_ray.evaluate.digits import score_digits
from dtn_ray.experiments.grid import Measured
from dtn_ray.method.pixels import in_batches, to_uint8
from dtn_ray.perceptual.load import load_classifier
from dtn_ray.perceptual.measure import predict, score
from dtn_ray.train.trained import Trained, load_trained

SAMPLES = 16  # images in a row's sample
SHOWN = 84  # of a digit, in a panel of Fig. 3
PAIRS = 80  # in Fig. 10


def transfer(dtn: str, test_split: str) -> Measured:
    """Of a DTN, what jobs/evaluate.py tells of it: above all `accuracy`, the judge's on G(x), x in s's test split."""
    trained = load_trained(dtn)
    file = test_split if test_split.endswith(".mat") else None
    scores = score_digits(trained, source_file=file, device=_device())
    chosen = _drawn(len(scores.source), max(SAMPLES, PAIRS))
    x, G_x = scores.source[chosen], scores.transferred[chosen]
    facts = {name: trained.manifest.get(name) for name in ("s_images", "t_images", "f_test_error", "step")}
    pictures = {
        "x": strip(x[:SAMPLES]),
        "G_x": strip(G_x[:SAMPLES]),
        "pairs": np.concatenate([strip(x), strip(G_x)], axis=1),
    }
    return Measured(facts | scores.values, pictures)


def digit(dtn: str, digit: int, test_split: str) -> Measured:
    """Of a DTN, the judge's `accuracy` and `probabilities` of one digit on G(x), x the images of it in s's test split.

    The probabilities are those of a random subset, which the pictures `x` and `G_x` show in the same order.
    """
    trained = load_trained(dtn)
    if trained.judge is None:
        raise UserError(f"{dtn}: this checkpoint holds no judge, so its accuracy cannot be measured")
    data = trained.experiment.data
    s = load(data.source, test_split, data.data_dir)
    images = s.images[s.labels == digit]
    if not len(images):
        raise UserError(f"{data.source} {test_split}: holds no image of the digit {digit}")
    G_x = _transferred(trained, images)
    logits = in_batches(trained.judge.to(_device()), G_x, device=_device())
    chosen = _drawn(len(images), SHOWN)
    return Measured(
        {
            "accuracy": float((logits.argmax(1) == digit).float().mean()),
            "images": len(images),
            "probabilities": logits.softmax(1)[chosen, digit].tolist(),
        },
        {"x": strip(images[chosen]), "G_x": strip(G_x[chosen])},
    )


def classifier(checkpoint: str, dataset: str, split: str, data_dir: str | None) -> Measured:
    """The `accuracy` of a classifier on a split of a dataset."""
    network, _ = load_classifier(checkpoint)
    images = load(dataset, split, data_dir)
    return Measured(score(predict(network.to(_device()), images.images), images.labels))


def neighbours(
    dtn: str,
    source: str,
    source_split: str,
    source_data_dir: str | None,
    dataset: str,
    split: str,
    data_dir: str | None,
) -> Measured:
    """The `accuracy` of the nearest neighbour in G(s), by pixels, on a split of t's dataset (Sec. 5.1)."""
    from dtn_ray.baselines.nearest import nearest_neighbour

    gallery = transferred(dtn, source, source_split, source_data_dir)
    queries = load(dataset, split, data_dir)
    predicted = nearest_neighbour(gallery.images, gallery.labels, queries.images)
    return Measured({**score(predicted, queries.labels), "gallery": len(gallery)})


def aligned(
    f: str,
    source: str,
    source_split: str,
    source_data_dir: str | None,
    dataset: str,
    split: str,
    data_dir: str | None,
    dimensions: int,
) -> Measured:
    """The `accuracy` of SA on f's features, from s's labels to a split of t's dataset, whose labels take no part."""
    from dtn_ray.baselines.features import features
    from dtn_ray.baselines.subspace_alignment import subspace_alignment

    network, _ = load_classifier(f)
    s, t = load(source, source_split, source_data_dir), load(dataset, split, data_dir)
    of_s, of_t = (features(network.to(_device()), each.images) for each in (s, t))
    predicted = subspace_alignment(of_s, s.labels, of_t, dimensions=dimensions)
    return Measured({**score(predicted, t.labels), "dimensions": dimensions, "source_images": len(s)})


def transferred(dtn: str, source: str, split: str, data_dir: str | None) -> LabelledImages:
    """G(x) of all images of a split of s, with their labels."""
    s = load(source, split, data_dir)
    return LabelledImages(_transferred(load_trained(dtn), s.images), s.labels)


def strip(images: np.ndarray) -> np.ndarray:
    """Images N×C×H×W uint8 side by side, 3×H×NW."""
    colour = np.broadcast_to(images, (len(images), 3, *images.shape[2:]))
    return np.concatenate(list(colour), axis=2)


def _drawn(number: int, wanted: int) -> np.ndarray:
    """Indices of a random sample, the same for all cells of a test set."""
    return np.random.default_rng(0).permutation(number)[:wanted]


def _device() -> str:
    return "cuda" if torch.cuda.is_available() else "cpu"


def _transferred(trained: Trained, images: np.ndarray) -> np.ndarray:
    dtn = trained.dtn.to(_device())
    return in_batches(lambda x: to_uint8(dtn.G(x)), images, device=_device()).numpy()
