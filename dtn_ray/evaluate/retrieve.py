"""Table 4 on Ray: a gallery of any number of faces passes the judge once, and leaves nothing but counts.

Probes and mates are drawn and seen first; their features go to every actor. An actor reads a block of distractors,
decodes it, lets the judge see it, and returns how many are above each mate, for all that is compared at once.
"""

import io
import json
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import ray
import torch
from PIL import Image
from torch import Tensor
from tqdm import tqdm

from dtn_ray import perceptual, storage
from dtn_ray.checkpoint import Trained, digest, load_trained
from dtn_ray.cluster import causes, connect, worker_resources
from dtn_ray.data import stream
from dtn_ray.data.labelled import to_float, to_uint8
from dtn_ray.data.stream import Group
from dtn_ray.dtn import DTN
from dtn_ray.errors import UserError
from dtn_ray.evaluate import retrieval
from dtn_ray.evaluate.figures import Retrieved, retrieval_figure
from dtn_ray.evaluate.options import Retrieval
from dtn_ray.evaluate.retrieval import Counts, Hit
from dtn_ray.images import to_image
from dtn_ray.models.imported import ImportedF

T = TypeVar("T")
R = TypeVar("R")

# Every pass of a network has the same shape, filled up with black: with another, a face's features differ in their last
# digits, and so would depend on which faces it comes with. On a CPU few fit the cache best.
BATCH = {"cpu": 8, "cuda": 256}
DECODERS = {"cpu": 1, "cuda": 8}  # threads
PAIRS_AT_ONCE = 16
FACES_AT_ONCE = 256  # compared with all mates, and the next decoded meanwhile
FACES_PER_BLOCK = 512
BLOCKS_PER_GROUP = 8  # more would read a large row group, of which one cannot skip rows, too often
SHOWN = 12  # pairs on the figure …
TOP = 3  # … with the faces most similar to G(x)


@dataclass(frozen=True)
class Photo:
    """An encoded face and the file it comes from."""

    uri: str
    image: bytes


@dataclass(frozen=True)
class Probes:
    """Photos x and mates x' of the same persons."""

    x: list[Photo]
    mates: list[Photo]
    persons: np.ndarray
    """Whose they are, as numbers; P int64."""


@dataclass(frozen=True)
class Seen:
    """What the judge sees of P pairs, each P×features, and G(x), P×3×H×W uint8."""

    x: np.ndarray
    mates: np.ndarray
    G_x: np.ndarray
    G_mates: np.ndarray
    emoji: np.ndarray


@dataclass(frozen=True)
class Sought:
    """Probes and mates by what is compared, each P×features, and features whose most similar faces are kept."""

    pairs: dict[str, tuple[np.ndarray, np.ndarray]]
    shown: np.ndarray


@dataclass(frozen=True)
class Found:
    """What a part of the gallery tells; sums add up."""

    faces: int
    counts: dict[str, Counts]
    best: list[list[Hit]]
    seconds: dict[str, float]
    """Of one actor, by what it did."""

    def __add__(self, other: "Found") -> "Found":
        return Found(
            self.faces + other.faces,
            {name: counts + other.counts[name] for name, counts in self.counts.items()},
            [retrieval.best([*own, *others]) for own, others in zip(self.best, other.best, strict=True)],
            {name: spent + other.seconds[name] for name, spent in self.seconds.items()},
        )

    @staticmethod
    def nothing(sought: Sought) -> "Found":
        counts = {
            name: Counts(np.zeros(len(probes), np.int64), np.zeros(len(probes), np.int64))
            for name, (probes, _) in sought.pairs.items()
        }
        return Found(0, counts, [[] for _ in sought.shown], dict.fromkeys(("decode", "judge", "compare"), 0.0))


def retrieve(job: Retrieval) -> dict[str, Any]:
    """Measures Table 4 of a faces DTN, writes retrieval.json and retrieval.png, and returns the values.

    Each probe is sought among the distractors and its mate: by G(x) (`emoji`), by x itself (`photo`, the ceiling) and
    by another person's emoji (`other_emoji`, the floor); and by G(x) among the emoji of all persons' mates
    (`emoji_to_emoji`). The judge sees G(x) at g's resolution and with 8 bits a pixel, as it would be saved, photos as
    they are stored; G takes x at the checkpoint's size.

    Raises UserError for a DTN that is none of faces, a judge that is its f, files that are missing, damaged or without
    what is needed, less than two persons with two photos, or more actors than fit.
    """
    _check(job)
    trained = load_trained(job.checkpoint, job.weights)
    if trained.experiment.model.kind != "faces":
        raise UserError(f"{job.checkpoint}: a DTN of digits; retrieval (Table 4) is measured of faces")
    judge, facts = perceptual.load(job.judge, "--judge")
    _refuse_f(job, trained, judge, facts)
    gallery = [group for uri in job.distractors for group in stream.find_groups(uri)]
    if len({(group.uri, group.index) for group in gallery}) < len(gallery):
        raise UserError(f"--distractors {' '.join(job.distractors)}: names a file twice; its faces would count twice")
    probes = read_probes(job)

    connect()
    blocks = split(gallery)
    actors = _start(job, judge, trained, len(blocks))
    try:
        with causes():
            seen = _see(actors, probes)
            strangers = retrieval.strangers(probes.persons, job.seed)
            shown = _shown(probes.persons, job.seed)
            sought = Sought(
                {
                    "emoji": (seen.G_x, seen.mates),
                    "photo": (seen.x, seen.mates),
                    "other_emoji": (seen.G_x[strangers], seen.mates),
                },
                seen.G_x[shown],
            )
            began = time.perf_counter()
            found = _compare(actors, blocks, sought)
            seconds = time.perf_counter() - began
    finally:
        for actor in actors:
            ray.kill(actor)

    # Measures.
    ranks = {name: counts.ranks() for name, counts in found.counts.items()}
    among = {name: found.faces + 1 for name in ranks}
    ranks["emoji_to_emoji"] = retrieval.among_each_other(seen.G_x, seen.G_mates, probes.persons).ranks()
    others = (probes.persons[:, None] != probes.persons).sum(1)
    among["emoji_to_emoji"] = round(float(others.mean())) + 1
    measures = {
        name: retrieval.summary(each, among[name], probes.persons, job.seed) for name, each in ranks.items()
    } | {"chance": retrieval.by_chance(found.faces + 1)}
    print(retrieval.table(_titled(measures)))
    values = {
        "checkpoint": job.checkpoint,
        "weights": job.weights,
        "model": trained.digest,
        "judge": {"uri": job.judge, **facts},
        "probes": job.probes,
        "identity": job.identity,
        "pairs_per_person": job.pairs_per_person,
        "distractors": list(job.distractors),
        "faces": found.faces,
        "gallery": found.faces + 1,
        "seed": job.seed,
        **measures,
        "paper": retrieval.PAPER,
        "seconds": round(seconds, 1),
        "images_per_second": round(found.faces / seconds, 1),
        "actors": len(actors),
        "shares_of_time": {
            name: round(spent / max(sum(found.seconds.values()), 1e-9), 3) for name, spent in found.seconds.items()
        },
    }

    # What is written.
    curves = {name: (ranks[name], found.faces + 1) for name in found.counts}
    rows = [_retrieved(probes, seen, ranks["emoji"], found.best[i], pair) for i, pair in enumerate(shown)]
    picture = io.BytesIO()
    retrieval_figure(curves, rows).savefig(picture, format="png", dpi=100)
    record = values | {"ranks": {name: each.tolist() for name, each in ranks.items()}}
    storage.write_bytes(storage.join(job.out, "retrieval.json"), json.dumps(record, indent=2).encode())
    storage.write_bytes(storage.join(job.out, "retrieval.png"), picture.getvalue(), "image/png")
    return values | {"figure": storage.join(job.out, "retrieval.png")}


def _check(job: Retrieval) -> None:
    """Raises UserError for settings that cannot be meant."""
    if not job.distractors:
        raise UserError("--distractors: name one Parquet file, folder or s3:// prefix of faces, or many")
    for name in ("pairs_per_person", "actors"):
        value = getattr(job, name)
        if value is not None and value < 1:
            raise UserError(f"--{name.replace('_', '-')} {value} must be at least 1")


def _refuse_f(job: Retrieval, trained: Trained, judge: ImportedF, facts: dict[str, Any]) -> None:
    f = trained.manifest["f"]
    if facts["sha256"] == f.get("sha256") or digest(judge) == trained.manifest.get("f_digest"):
        raise UserError(
            f"--judge {job.judge}: this is {job.checkpoint}'s own f ({facts['name']}). G was trained so that f knows "
            "the person in G(x) again, and f's ranks would flatter it; the paper's judge is VGG-face for that reason. "
            "Give another face network."
        )


def read_probes(job: Retrieval) -> Probes:
    """The photos of the pairs drawn by --seed.

    Raises UserError where --identity is missing, or less than two persons have two photos.
    """
    groups = stream.find_groups(job.probes)
    with ThreadPoolExecutor(8) as pool:
        columns = list(pool.map(lambda uri: _identities(uri, job.identity), dict.fromkeys(g.uri for g in groups)))
        identities = [identity for column in columns for identity in column]
        drawn = retrieval.pairs(identities, job.seed, job.pairs_per_person)
        numbers = {identities[probe]: number for number, (probe, _) in enumerate(drawn)}
        if len(numbers) < 2:
            raise UserError(
                f"{job.probes}: {len(numbers)} person with two photos or more, by the column `{job.identity}` of its "
                f"{len(identities)} photos; two are needed at least. --identity names the column of who it is"
            )
        ends = np.cumsum([group.rows for group in groups])
        places = sorted({i for pair in drawn for i in pair})
        by_group = dict[int, list[int]]()
        for i in places:
            by_group.setdefault(int(np.searchsorted(ends, i, side="right")), []).append(i)

        def read(wanted: tuple[int, list[int]]) -> list[Photo]:
            group = groups[wanted[0]]
            return _take(group, np.array(wanted[1]) - (ends[wanted[0]] - group.rows))

        photos = dict(zip(places, (p for some in pool.map(read, by_group.items()) for p in some), strict=True))
    return Probes(
        [photos[probe] for probe, _ in drawn],
        [photos[mate] for _, mate in drawn],
        np.array([numbers[identities[probe]] for probe, _ in drawn]),
    )


def _identities(uri: str, column: str) -> list[Any]:
    filesystem, path = storage.resolve(uri)
    with _readable(uri):
        schema = pq.read_schema(path, filesystem=filesystem)
        if column not in schema.names:
            raise UserError(
                f"{uri}: no column `{column}`; it has {', '.join(schema.names)}: --identity names the one of who it is"
            )
        if pa.types.is_nested(schema.field(column).type):
            raise UserError(f"{uri}: column `{column}` holds {schema.field(column).type}; one value a photo is needed")
        return pq.read_table(path, columns=[column], filesystem=filesystem)[column].to_pylist()


def _take(group: Group, rows: np.ndarray) -> list[Photo]:
    filesystem, path = storage.resolve(group.uri)
    with _readable(group.uri), pq.ParquetFile(path, filesystem=filesystem) as file:
        images = file.read_row_group(group.index, columns=["image"])["image"].take(pa.array(rows))
    return [Photo(group.uri, image) for image in images.to_pylist()]


@contextmanager
def _readable(uri: str) -> Iterator[None]:
    try:
        yield
    except (OSError, pa.ArrowException) as error:
        raise UserError(f"{uri}: not a readable Parquet file ({error})") from error


def split(groups: Sequence[Group]) -> list[Group]:
    """Row groups in blocks of about FACES_PER_BLOCK, large ones in larger blocks."""
    blocks = []
    for group in groups:
        size = max(FACES_PER_BLOCK, -(-group.rows // BLOCKS_PER_GROUP))
        for i in range(0, group.rows, size):
            blocks.append(replace(group, start=group.start + i, rows=min(size, group.rows - i)))
    return blocks


def read(block: Group) -> Iterator[list[bytes]]:
    """The block's encoded images in order, at most FACES_AT_ONCE each. Raises UserError where it is damaged."""
    filesystem, path = storage.resolve(block.uri)
    at, end = 0, block.start + block.rows
    with _readable(block.uri), pq.ParquetFile(path, filesystem=filesystem) as file:
        for batch in file.iter_batches(FACES_AT_ONCE, row_groups=[block.index], columns=["image"]):
            images = batch.column("image")[max(block.start - at, 0) : max(end - at, 0)]
            if len(images):
                yield images.to_pylist()
            at += len(batch)
            if at >= end:
                return


def decode(photo: Photo) -> np.ndarray:
    """An aligned face as it is stored, 3×H×H uint8. Raises UserError naming the file where it is none."""
    try:
        image = stream.decode(photo.image)
    except Exception as error:  # Pillow raises whatever the damaged byte leads to
        raise UserError(f"{photo.uri}: a row that is no image ({error}); write that file anew") from error
    if image.shape[1] != image.shape[2]:
        raise UserError(
            f"{photo.uri}: an image of {image.shape[2]}×{image.shape[1]} pixels; aligned faces are square: "
            "jobs/ingest.py makes them"
        )
    return image


class Examiner:
    """An actor's work: holds the judge, and G while probes are seen."""

    def __init__(self, judge: ImportedF, dtn: list[ray.ObjectRef], size: int, gpu: bool) -> None:
        self.device = "cuda" if gpu else "cpu"
        torch.set_num_threads(1)
        torch.backends.cudnn.allow_tf32 = False  # its ten bits would reorder faces, otherwise than a CPU does
        self.judge = judge.requires_grad_(False).to(self.device).eval()
        self.dtn, self.size = dtn, size
        self.pool = ThreadPoolExecutor(DECODERS[self.device])

    @torch.inference_mode()
    def see(self, x: list[Photo], mates: list[Photo]) -> Seen:
        """G(x), and what the judge sees of all. Raises UserError for what is no face."""
        dtn: DTN = ray.get(self.dtn[0]).to(self.device)
        emoji, emoji_of_mates = (self._transfer(dtn, photos) for photos in (x, mates))
        photos, photos_of_mates = ([decode(photo) for photo in some] for some in (x, mates))
        features = self._features([*photos, *photos_of_mates, *emoji, *emoji_of_mates])
        of_x, of_mates, of_G_x, of_G_mates = np.split(features, 4)
        return Seen(of_x, of_mates, of_G_x, of_G_mates, emoji)

    @torch.inference_mode()
    def compare(self, block: Group, sought: Sought) -> Found:
        """What a block of the gallery tells. Raises UserError for what is no face."""
        found, began = Found.nothing(sought), time.perf_counter()
        for contents, decoded in self._read_ahead(block):
            images = [image.result() for image in decoded]
            ready = time.perf_counter()
            features = self._features(images)
            judged = time.perf_counter()
            counts = {name: retrieval.count(*pair, features) for name, pair in sought.pairs.items()}
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

    def _transfer(self, dtn: DTN, photos: list[Photo]) -> np.ndarray:
        for photo in photos:
            decode(photo)  # which says what is wrong
        x = to_float(np.stack([stream.decode(photo.image, self.size) for photo in photos])).to(self.device)
        emoji = self._in_batches(dtn.G, list(x))
        if not emoji.isfinite().all():
            raise UserError("the checkpoint's G(x) are no finite numbers; its training diverged: take an earlier one")
        return to_uint8(emoji).numpy()

    def _features(self, images: Sequence[np.ndarray]) -> np.ndarray:
        """N×features float32 of images 3×H×H uint8, whose H may differ."""
        x = [self.judge.eye(to_float(image[None]).to(self.device))[0] for image in images]
        features = self._in_batches(lambda batch: self.judge.network(batch).flatten(1).float(), x).numpy()
        if not np.isfinite(features).all():
            raise UserError("--judge: its features of some face are no finite numbers; give another face network")
        return features

    def _in_batches(self, network: Callable[[Tensor], Tensor], x: list[Tensor]) -> Tensor:
        size, found = BATCH[self.device], []
        for i in range(0, len(x), size):
            some = torch.stack(x[i : i + size])
            filled = torch.cat([some, some.new_full((size - len(some), *some.shape[1:]), -1)])
            found.append(network(filled)[: len(some)].cpu())
        return torch.cat(found)


def _best(shown: np.ndarray, features: np.ndarray, contents: list[bytes], block: Group) -> list[list[Hit]]:
    """For each row of `shown`, the most similar of a block's faces."""
    cosines = retrieval.unit(shown) @ retrieval.unit(features).T
    places = [(block.uri, block.index, block.start + i) for i in range(len(contents))]
    likely = np.argsort(-cosines.round(9), axis=1, kind="stable")[:, :TOP]
    return [
        retrieval.best([Hit(float(cosines[row, i]), places[i], contents[i]) for i in chosen], TOP)
        for row, chosen in enumerate(likely)
    ]


def _start(job: Retrieval, judge: ImportedF, trained: Trained, blocks: int) -> list[Any]:
    """Actors, each with the judge. Raises UserError where the cluster does not hold them."""
    cluster, gpus = ray.cluster_resources(), 1 if job.gpu else 0
    number = min(job.actors or max(1, int(cluster.get("GPU" if job.gpu else "CPU", 0))), blocks)
    worker_resources(number, 1.0, gpus, "actors")
    remote: Any = ray.remote(Examiner).options(num_cpus=1, num_gpus=gpus, max_restarts=5, max_task_retries=5)
    shared, dtn = ray.put(judge), [ray.put(trained.dtn)]
    return [remote.remote(shared, dtn, trained.manifest["preprocessing"]["size"], job.gpu) for _ in range(number)]


def _on_all(actors: list[Any], call: Callable[[Any, T], ray.ObjectRef], items: Sequence[T]) -> Iterator[tuple[T, R]]:
    """Each item with its outcome, as they come; an actor has the next one at hand."""
    left, under_way = iter(items), dict[ray.ObjectRef, tuple[Any, T]]()
    for actor in [*actors, *actors]:
        under_way |= {call(actor, item): (actor, item) for item in islice(left, 1)}
    while under_way:
        (done,), _ = ray.wait(list(under_way), num_returns=1)
        actor, item = under_way.pop(done)
        under_way |= {call(actor, following): (actor, following) for following in islice(left, 1)}
        yield item, ray.get(done)


def _see(actors: list[Any], probes: Probes) -> Seen:
    starts = range(0, len(probes.x), PAIRS_AT_ONCE)

    def call(actor: Any, i: int) -> ray.ObjectRef:
        return actor.see.remote(probes.x[i : i + PAIRS_AT_ONCE], probes.mates[i : i + PAIRS_AT_ONCE])

    parts = dict[int, Seen]()
    with tqdm(total=len(probes.x), unit="pair", desc="probes") as bar:
        seen: Seen
        for i, seen in _on_all(actors, call, starts):
            parts[i] = seen
            bar.update(len(seen.x))
    columns = ("x", "mates", "G_x", "G_mates", "emoji")
    return Seen(*(np.concatenate([getattr(parts[i], name) for i in starts]) for name in columns))


def _compare(actors: list[Any], blocks: list[Group], sought: Sought) -> Found:
    shared, whole = ray.put(sought), Found.nothing(sought)
    with tqdm(total=sum(block.rows for block in blocks), unit="image", desc="gallery") as bar:
        found: Found
        for _, found in _on_all(actors, lambda actor, block: actor.compare.remote(block, shared), blocks):
            whole += found
            bar.update(found.faces)
    return whole


def _shown(persons: np.ndarray, seed: int) -> np.ndarray:
    """Pairs of some persons, drawn by `seed`, one of each."""
    _, first = np.unique(persons, return_index=True)
    return np.sort(np.random.default_rng(seed).permutation(first)[:SHOWN])


def _retrieved(probes: Probes, seen: Seen, ranks: np.ndarray, hits: list[Hit], pair: int) -> Retrieved:
    """What the figure shows of a pair; the mate is in the gallery too."""
    cosine = float(retrieval.unit(seen.G_x[[pair]])[0] @ retrieval.unit(seen.mates[[pair]])[0])
    mate = Hit(cosine, ("", 0, 0), probes.mates[pair].image)
    top = [(_picture(hit.image), hit is mate) for hit in retrieval.best([*hits, mate], TOP)]
    x, x_mate = (_picture(photos[pair].image) for photos in (probes.x, probes.mates))
    return Retrieved(x, to_image(seen.emoji[pair]), x_mate, float(ranks[pair]), top)


def _picture(content: bytes) -> Image.Image:
    return to_image(stream.decode(content))


def _titled(measures: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """The lines of the table, the paper's last."""
    titles = {
        "emoji": "emoji → photo",
        "photo": "photo → photo (ceiling)",
        "other_emoji": "another person's emoji → photo (floor)",
        "chance": "chance",
        "emoji_to_emoji": "emoji → emoji of the other photo",
    }
    paper = {"emoji": "the paper: emoji → photo", "manual_emoji": "the paper: emoji made by hand → photo"}
    return {title: measures[name] for name, title in titles.items()} | {
        title: retrieval.PAPER[name] for name, title in paper.items()
    }
