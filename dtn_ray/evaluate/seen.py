"""Which scores are taken on images that training has seen.

Images are told by where they come from: the name of an official split, the path of a file, and the content of a file
where both are at hand. A file that holds some images of another one is not recognised.
"""

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from dtn_ray import storage
from dtn_ray.data.digits import load
from dtn_ray.errors import UserError
from dtn_ray.perceptual.options import Pretraining
from dtn_ray.settings import from_dict
from dtn_ray.train.trained import Trained

BYTES_AT_ONCE = 16 << 20  # of a file, to the digest


@dataclass(frozen=True)
class Images:
    """A split of a dataset of digits."""

    dataset: str
    split: str
    data_dir: str | None = None

    def __str__(self) -> str:
        return f"{self.dataset} {self.split}"

    def shares_with(self, other: "Images") -> bool:
        """Whether a part of this split is a part of the other one too."""
        if self.dataset != other.dataset:
            return False
        ours, theirs = (load.parts(each.dataset, each.split, each.data_dir) for each in (self, other))
        return any(_same(one, another) for one in ours for another in theirs)


def _same(one: load.Part, other: load.Part) -> bool:
    if one.name is not None and one.name == other.name:
        return True
    if one.uri is None or other.uri is None:
        return False
    if storage.absolute(one.uri) == storage.absolute(other.uri):
        return True
    try:
        sizes = {storage.stat(uri)[1] for uri in (one.uri, other.uri)}
        return len(sizes) == 1 and _digest(one.uri) == _digest(other.uri)
    except OSError:  # one of them is no longer there
        return False


def _digest(uri: str) -> str:
    filesystem, path = storage.resolve(uri)
    sha = hashlib.sha256()
    with filesystem.open_input_stream(path) as file:
        while part := file.read(BYTES_AT_ONCE):
            sha.update(part)
    return sha.hexdigest()


@dataclass(frozen=True)
class TrainedOn:
    """What the networks of a digit DTN were trained on. Of f and the judge None where the checkpoint does not say."""

    s: Images
    t: Images
    f: Images | None
    judge: Images | None

    def reasons(self, scored: Images, t: Images, judged: Images, t_unseen: Images) -> dict[str, list[str]]:
        """By the names of scores, why they are not those of unseen images; of others, nothing.

        `scored`: images x that G is scored on. `t`: those that f is scored on. `judged`: those that the judge is.
        `t_unseen`: those of L_TID.
        """
        found: dict[str, list[str]] = {}
        rules: Sequence[tuple[Images | None, Images, str, Sequence[str]]] = (
            (
                self.s,
                scored,
                "G was trained on these images, without labels",
                ("accuracy", "f_accuracy_on_G_s", "L_const"),
            ),
            (self.t, scored, "G was trained on these images as t", ("accuracy", "f_accuracy_on_G_s", "L_const")),
            (
                self.f,
                scored,
                "f was trained on these images and their labels",
                ("accuracy", "f_error_on_s", "f_accuracy_on_G_s", "L_const"),
            ),
            (self.f, t, "f was trained on these images and their labels", ("f_accuracy_on_t",)),
            (
                self.judge,
                scored,
                "the judge was trained on these images and their labels",
                ("original_image_accuracy",),
            ),
            (self.judge, judged, "the judge was trained on these images and their labels", ("judge_accuracy",)),
            (self.t, t_unseen, "G was trained on these images", ("L_tid",)),
        )
        for trained, measured, reason, scores in rules:
            if trained is not None and measured.shares_with(trained):
                for score in scores:
                    found.setdefault(score, []).append(f"{reason} ({measured})")
        return found


def trained_on(trained: Trained) -> TrainedOn:
    """What the networks of a digit DTN were trained on, by its checkpoint."""
    chosen = trained.experiment.data

    def of(role: str) -> Images | None:
        try:
            config = from_dict(Pretraining, trained.manifest[role])
        except (KeyError, UserError):
            return None
        return Images(config.dataset, config.split, config.data_dir)

    s, t = (
        Images(dataset, split, chosen.data_dir)
        for dataset, split in ((chosen.source, chosen.source_split), (chosen.target, chosen.target_split))
    )
    return TrainedOn(s, t, of("f"), of("judge"))


def unseen(preferred: Sequence[Images], by: Images | None) -> Images:
    """The first of some splits that shares nothing with what a network was trained on; the first, if none is such."""
    return next((each for each in preferred if by is None or not each.shares_with(by)), preferred[0])


def faces_trained_on(trained: Trained, uris: Iterable[str]) -> list[str]:
    """Those of some files and folders of faces that are s of a faces DTN, lie in it, or hold it, by their paths."""

    def folder(uri: str) -> str:
        return f"{storage.absolute(uri).rstrip('/')}/"

    s = folder(trained.experiment.data.source)
    return [uri for uri in uris if s.startswith(folder(uri)) or folder(uri).startswith(s)]


def warnings(seen: Mapping[str, Sequence[str]]) -> Iterator[str]:
    """A line for each reason that `TrainedOn.reasons` found."""
    for reason in dict.fromkeys(each for reasons in seen.values() for each in reasons):
        scores = [score for score, reasons in seen.items() if reason in reasons]
        yield f"{', '.join(scores)}: not measured on unseen images: {reason}"
