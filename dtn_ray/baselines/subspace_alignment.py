"""SA (Fernando et al. 2013): aligns the principal subspace of the source with that of the target, then classifies."""

import numpy as np
from sklearn.decomposition import PCA
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import LinearSVC

from dtn_ray.baselines.options import Classifier


def subspace_alignment(
    source: np.ndarray,
    labels: np.ndarray,
    target: np.ndarray,
    *,
    dimensions: int,
    classifier: Classifier = "svm",
) -> np.ndarray:
    """Labels of M target vectors, by a classifier of N labelled source vectors that are aligned with them.

    `source` N×D and `target` M×D float, such as f(x) (`features`) or pixels; `labels` N; `dimensions` of both
    subspaces, at most D, N and M. `classifier`: `svm` is a linear SVM (LIBLINEAR, C = 1 on coordinates of unit
    variance), as in Ganin et al. (2016), whose 59.32 % Table 2 quotes; `nearest` is 1-NN, as in Fernando et al.

    Ganin et al. took the number of dimensions from 2..60 that was best on the labelled test images of the target. This
    function sees no label of the target: what the caller chooses by them is an upper bound.
    """
    of_source, of_target = align(source, target, dimensions)
    unit = 1 / of_source.std()  # or C would mean less the longer the vectors are; 1-NN does not mind
    return _classifier(classifier).fit(of_source * unit, labels).predict(of_target * unit)


def align(source: np.ndarray, target: np.ndarray, dimensions: int) -> tuple[np.ndarray, np.ndarray]:
    """(aligned source N×d, target M×d): source · Xs · (Xs' Xt) and target · Xt, d = `dimensions`.

    Xs and Xt, D×d, hold the first principal components of each domain, whose vectors have zero mean and unit variance
    in each coordinate, as in Fernando et al. Raises ValueError where `dimensions` does not fit.
    """
    most = min(*source.shape, len(target))
    if source.shape[1:] != target.shape[1:] or not 1 <= dimensions <= most:
        raise ValueError(
            f"{dimensions} dimensions of a source of {source.shape} and a target of {target.shape}: needs 1 to {most}, "
            "and vectors of one length"
        )
    of_source, of_target = _principal(dimensions), _principal(dimensions)
    coordinates = of_source.fit_transform(source)
    aligned = coordinates @ (of_source[-1].components_ @ of_target.fit(target)[-1].components_.T)
    return aligned, of_target.transform(target)


def _principal(dimensions: int) -> Pipeline:
    return make_pipeline(StandardScaler(), PCA(dimensions, random_state=0))


def _classifier(name: Classifier) -> KNeighborsClassifier | LinearSVC:
    if name == "nearest":
        return KNeighborsClassifier(1)
    # In the primal, since there are more images than dimensions.
    return LinearSVC(dual=False, random_state=0)
