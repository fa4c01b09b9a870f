"""One actor's work for Table 4: reads faces, computes the judge's features, and compares them with the probes'."""

import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import islice

import numpy as np
import pyarrow as pa
import ray
import torch
from torch import Tensor

from dtn_ray.data import layouts
from dtn_ray.data.rows import Group
from dtn_ray.data.windows import decode_row
from dtn_ray.errors import UserError
from dtn_ray.evaluate import ranking
from dtn_ray.evaluate.ranking import Counts, Hit
from dtn_ray.method.dtn import DTN
from dtn_ray.method.pixels import to_float, to_uint8
from dtn_ray.models.faces import DeepFace
from dtn_ray.models.imported import ImportedF
from dtn_ray.parquet import tables

# Every pass of a network has the same shape, padded with black images. With another shape, a face's features differ in
# their last digits, and would depend on the number of faces in the batch. On a CPU small batches fit the cache best.
BATCH = {"cpu": 8, "cuda": 256}
DECODERS = {"cpu": 1, "cuda": 8}  # threads
FACES_AT_ONCE = 256  # compared with all mates, while the next ones are decoded
FACES_PER_BLOCK = 512
BLOCKS_PER_GROUP = 8  # each block reads its row group from the beginning, so more blocks would read it too often
TOP = 3  # faces kept as the most similar to a probe


@dataclass(frozen=True)
class Photo:
    """An encoded face and the file it comes from."""

    uri: str
    image: bytes


@dataclass(frozen=True)
class Seen:
    """The judge's features of P pairs, each P×features, and G(x), P×3×H×W uint8."""

    x: np.ndarray
    mates: np.ndarray
    G_x: np.ndarray
    G_mates: np.ndarray
    emoji: np.ndarray


@dataclass(frozen=True)
class Sought:
    """Probes and mates (P×features) by comparison, and features for which the most similar faces are kept."""

    pairs: dict[str, tuple[np.ndarray, np.ndarray]]
    shown: np.ndarray


@dataclass(frozen=True)
class Found:
    """The counts over a part of the gallery. Counts of parts can be added."""

    faces: int
    counts: dict[str, Counts]
    best: list[list[Hit]]
    seconds: dict[str, float]
    """Time of one actor, by activity."""

    def __add__(self, other: "Found") -> "Found":
        return Found(
            self.faces + other.faces,
            {name: counts + other.counts[name] for name, counts in self.counts.items()},
            [ranking.best([*own, *others]) for own, others in zip(self.best, other.best, strict=True)],
            {name: spent + other.seconds[name] for name, spent in self.seconds.items()},
        )

    @staticmethod
    def nothing(sought: Sought) -> "Found":
        counts = {
            name: Counts(np.zeros(len(probes), np.int64), np.zeros(len(probes), np.int64))
            for name, (probes, _) in sought.pairs.items()
        }
        return Found(0, counts, [[] for _ in sought.shown], dict.fromkeys(("decode", "judge", "compare"), 0.0))


def split(groups: Sequence[Group]) -> list[Group]:
    """Divides row groups into blocks of about FACES_PER_BLOCK; large row groups into larger blocks."""
    blocks = []
    for group in groups:
        size = max(FACES_PER_BLOCK, -(-group.rows // BLOCKS_PER_GROUP))
        for i in range(0, group.rows, size):
            blocks.append(replace(group, start=group.start + i, rows=min(size, group.rows - i)))
    return blocks


@contextmanager
def readable(uri: str) -> Iterator[None]:
    """Raises UserError naming a Parquet file that cannot be read."""
    try:
        yield
    except OSError as error:
        raise UserError(f"{uri}: not a readable Parquet file ({error})") from error


def read(block: Group) -> Iterator[list[bytes]]:
    """The block's encoded images in order, at most FACES_AT_ONCE at a time. Raises UserError if it is damaged."""
    at, end = 0, block.start + block.rows
    with readable(block.uri), tables.opened(block.uri) as file:
        column = layouts.image_column(file.schema)
        for batch in file.batches(block.index, [column], FACES_AT_ONCE):
            images = layouts.encoded(pa.chunked_array([batch.column("image")]))
            images = images[max(block.start - at, 0) : max(end - at, 0)]
            if len(images):
                yield images.to_pylist()
            at += len(batch)
            if at >= end:
                return


def decode(photo: Photo) -> np.ndarray:
    """Decodes an aligned face, 3×H×H uint8. Raises UserError naming the file if it is not one."""
    try:
        image = decode_row(photo.image)
    except Exception as error:  # Pillow can raise anything for a damaged image
        raise UserError(f"{photo.uri}: a row that is not an image ({error}); write that file again") from error
    if image.shape[1] != image.shape[2]:
        raise UserError(
            f"{photo.uri}: an image of {image.shape[2]}×{image.shape[1]} pixels; aligned faces are square: "
            "jobs/ingest.py makes them"
        )
    return image


class Examiner:
    """Applies the networks to faces, in an actor. `size`: width and height of G's input."""

    def __init__(self, judge: ImportedF | DeepFace, dtn: DTN, size: int, gpu: bool) -> None:
        self.device = "cuda" if gpu else "cpu"
        torch.set_num_threads(1)
        torch.backends.cudnn.allow_tf32 = False  # with its ten-bit precision, ranks would differ from those on a CPU
        self.judge, self.dtn, self.size = judge.to(self.device).eval(), dtn.to(self.device).eval(), size
        self.pool = ThreadPoolExecutor(DECODERS[self.device])

    def see(self, x: list[Photo], mates: list[Photo]) -> Seen:
        """G(x), and the judge's features of all images. Raises UserError for a row that is not a face."""
        emoji, emoji_of_mates = (self._transfer(photos) for photos in (x, mates))
        photos, photos_of_mates = ([decode(photo) for photo in some] for some in (x, mates))
        features = self._features([*photos, *photos_of_mates, *emoji, *emoji_of_mates])
        of_x, of_mates, of_G_x, of_G_mates = np.split(features, 4)
        return Seen(of_x, of_mates, of_G_x, of_G_mates, emoji)

    def compare(self, block: Group, sought: Sought) -> Found:
        """The counts over a block of the gallery. Raises UserError for a row that is not a face."""
        found, began = Found.nothing(sought), time.perf_counter()
        for contents, decoded in self._read_ahead(block):
            images = [image.result() for image in decoded]
            ready = time.perf_counter()
            features = self._features(images)
            judged = time.perf_counter()
            counts = {name: ranking.count(*pair, features) for name, pair in sought.pairs.items()}
            hits = _best(sought.shown, features, contents, replace(block, start=block.start + found.faces))
            done = time.perf_counter()
            spent = {"decode": ready - began, "judge": judged - ready, "compare": done - judged}
            found, began = found + Found(len(contents), counts, hits, spent), done
        if found.faces != block.rows:
            raise UserError(f"{block.uri}: changed while it was read; run again")
        return found

    def _read_ahead(self, block: Group) -> Iterator[tuple[list[bytes], list[Future[np.ndarray]]]]:
        waiting = deque[tuple[list[bytes], list[Future[np.ndarray]]]]()
        for contents in read(block):
            photos = [Photo(block.uri, content) for content in contents]
            waiting.append((contents, [self.pool.submit(decode, photo) for photo in photos]))
            if len(waiting) > 1:
                yield waiting.popleft()
        yield from waiting

    def _transfer(self, photos: list[Photo]) -> np.ndarray:
        for photo in photos:
            decode(photo)  # raises UserError for a bad photo
        x = to_float(np.stack([decode_row(photo.image, self.size) for photo in photos])).to(self.device)
        emoji = self._in_batches(self.dtn.G, x)
        if not emoji.isfinite().all():
            raise UserError(
                "the checkpoint's G(x) has values that are not finite; its training diverged: use an earlier checkpoint"
            )
        return to_uint8(emoji).numpy()

    def _features(self, images: Sequence[np.ndarray]) -> np.ndarray:
        """N×features float32 of images 3×H×H uint8; H may differ between images."""
        x = (self.judge.eye(to_float(image[None]).to(self.device))[0] for image in images)
        features = self._in_batches(lambda batch: self.judge.network(batch).flatten(1).float(), x).numpy()
        if not np.isfinite(features).all():
            raise UserError(
                "--judge: its features of a face have values that are not finite; choose another face network"
            )
        return features

    @torch.inference_mode()
    def _in_batches(self, network: Callable[[Tensor], Tensor], x: Iterable[Tensor]) -> Tensor:
        left, size, found = iter(x), BATCH[self.device], []
        while some := list(islice(left, size)):
            filled = torch.stack([*some, *[torch.full_like(some[0], -1)] * (size - len(some))])
            found.append(network(filled)[: len(some)].cpu())
        return torch.cat(found)


class RemoteExaminer(Examiner):
    """An actor that Ray can restart, because the driver keeps the networks."""

    def __init__(self, networks: list[ray.ObjectRef], size: int, gpu: bool) -> None:
        judge, dtn = ray.get(networks)
        super().__init__(judge, dtn, size, gpu)


def _best(shown: np.ndarray, features: np.ndarray, contents: list[bytes], block: Group) -> list[list[Hit]]:
    """For each row of `shown`, the most similar of a block's faces."""
    cosines = ranking.unit(shown) @ ranking.unit(features).T
    places = [(block.uri, block.index, block.start + i) for i in range(len(contents))]
    likely = np.argsort(-cosines.round(9), axis=1, kind="stable")[:, :TOP]
    return [
        ranking.best([Hit(float(cosines[row, i]), places[i], contents[i]) for i in chosen], TOP)
        for row, chosen in enumerate(likely)
    ]
