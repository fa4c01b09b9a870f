"""Table 4 on Ray: a gallery of any number of faces passes through the judge once; only counts are kept.

The probes and the photos to be found are drawn and processed first, and their features are sent to every actor. An
actor reads a block of distractors, decodes it, computes the judge's features, and returns how many distractors rank
above each photo to be found, for all comparisons at once.
"""

import io
import json
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa
import ray
from PIL import Image
from tqdm import tqdm

from dtn_ray import storage
from dtn_ray.checkpoints.checkpoint import digest
from dtn_ray.data import layouts
from dtn_ray.data.rows import Group, find_groups
from dtn_ray.data.windows import decode_row
from dtn_ray.errors import UserError
from dtn_ray.evaluate import ranking
from dtn_ray.evaluate.examiner import TOP, Found, Photo, RemoteExaminer, Seen, Sought, readable, split
from dtn_ray.evaluate.figures import Retrieved, retrieval_figure
from dtn_ray.evaluate.options import Retrieval
from dtn_ray.evaluate.ranking import Hit
from dtn_ray.evaluate.seen import faces_trained_on
from dtn_ray.images.encode import to_image
from dtn_ray.models.faces import DeepFace
from dtn_ray.models.imported import ImportedF
from dtn_ray.parquet import tables
from dtn_ray.perceptual.load import load_face_network
from dtn_ray.ray_cluster import actor_warning
from dtn_ray.ray_cluster.connect import causes, connect, worker_resources
from dtn_ray.storage.ownership import refuse_foreign
from dtn_ray.text.display import line
from dtn_ray.train.trained import Trained, load_trained

T = TypeVar("T")
R = TypeVar("R")

PAIRS_AT_ONCE = 16
SHOWN = 12  # pairs on the figure


@dataclass(frozen=True)
class Probes:
    """Photos x and mates x' of the same persons."""

    x: list[Photo]
    mates: list[Photo]
    persons: np.ndarray
    """The person of each pair, as a number; P int64."""


def retrieve(job: Retrieval) -> dict[str, Any]:
    """Measures Table 4 of a faces DTN, writes retrieval.json and retrieval.png, and returns the values.

    For each pair, the mate is searched for among itself and the distractors. The query is G(x) (`emoji`), x itself
    (`photo`, the ceiling) or another person's emoji (`other_emoji`, the floor). In addition, G(x) searches among the
    emoji of all persons' mates (`emoji_to_emoji`). The judge's input is G(x) at g's resolution with 8 bits per channel,
    as it would be saved, and photos as they are stored. G's input is x at the checkpoint's size.

    Raises UserError for a DTN of digits, a judge that is its f, files that are missing, damaged or incomplete, fewer
    than two persons with two photos, or more actors than fit.
    """
    _check(job)
    trained = load_trained(job.checkpoint, job.weights)
    if not trained.domain.of_faces:
        raise UserError(f"{job.checkpoint}: a DTN of digits, but retrieval (Table 4) needs a DTN of faces")
    judge, facts = load_face_network(job.judge, "--judge")
    _refuse_f(job, trained, judge, facts)
    gallery = [group for uri in job.distractors for group in find_groups(uri)]
    if len({(group.uri, group.index) for group in gallery}) < len(gallery):
        raise UserError(f"--distractors {' '.join(job.distractors)}: the same file twice; its faces would count twice")
    probes = read_probes(job)
    trained_on = faces_trained_on(trained, (job.probes, *job.distractors))
    for uri in trained_on:
        print(f"warning: {line(uri)}: G was trained on these faces (--source); the paper's gallery holds none of them")

    connect()
    blocks = split(gallery)
    networks: list[ray.ObjectRef] = [ray.put(judge), ray.put(trained.dtn)]
    actors = _start(job, networks, trained.manifest["preprocessing"]["size"], len(blocks))
    try:
        with causes():
            seen = _see(actors, probes)
            strangers = ranking.strangers(probes.persons, job.seed)
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
    ranks["emoji_to_emoji"] = ranking.among_each_other(seen.G_x, seen.G_mates, probes.persons).ranks()
    own = np.unique(probes.persons, return_inverse=True, return_counts=True)
    others = len(probes.x) - own[2][own[1]]
    among["emoji_to_emoji"] = round(float(others.mean())) + 1  # persons with fewer pairs have more others
    measures = {name: ranking.summary(each, among[name], probes.persons, job.seed) for name, each in ranks.items()} | {
        "chance": ranking.by_chance(found.faces + 1)
    }
    print(ranking.table(_titled(measures)))
    values = {
        "checkpoint": job.checkpoint,
        "weights": job.weights,
        "model": trained.digest,
        "judge": {"uri": job.judge, **facts},
        "probes": job.probes,
        "identity": job.identity,
        "pairs_per_person": job.pairs_per_person,
        "distractors": list(job.distractors),
        "seen_in_training": trained_on,
        "faces": found.faces,
        "gallery": found.faces + 1,
        "seed": job.seed,
        **measures,
        "paper": ranking.PAPER,
        "seconds": round(seconds, 1),
        "images_per_second": round(found.faces / seconds, 1),
        "actors": len(actors),
        "shares_of_time": {
            name: round(spent / max(sum(found.seconds.values()), 1e-9), 3) for name, spent in found.seconds.items()
        },
    }

    # Output.
    curves = {name: (ranks[name], found.faces + 1) for name in found.counts}
    rows = [_retrieved(probes, seen, ranks["emoji"], found.best[i], pair) for i, pair in enumerate(shown)]
    picture = io.BytesIO()
    retrieval_figure(curves, rows).savefig(picture, format="png", dpi=100)
    record = values | {"ranks": {name: each.tolist() for name, each in ranks.items()}}
    storage.write_bytes(storage.join(job.out, "retrieval.json"), json.dumps(record, indent=2).encode())
    storage.write_bytes(storage.join(job.out, "retrieval.png"), picture.getvalue(), "image/png")
    return values | {"figure": storage.join(job.out, "retrieval.png")}


def _check(job: Retrieval) -> None:
    """Raises UserError for invalid settings, and if files of others would be overwritten."""
    if not job.distractors:
        raise UserError("--distractors: name at least one Parquet file, folder or s3:// prefix of faces")
    for name in ("pairs_per_person", "actors"):
        value = getattr(job, name)
        if value is not None and value < 1:
            raise UserError(f"--{name.replace('_', '-')} {value} must be at least 1")
    refuse_foreign(job.out, "retrieval.json", ("checkpoint", "ranks"), ["retrieval.png"])


def _refuse_f(job: Retrieval, trained: Trained, judge: ImportedF | DeepFace, facts: dict[str, Any]) -> None:
    same_file = "sha256" in facts and facts["sha256"] == trained.manifest["f"].get("sha256")
    if same_file or digest(judge) == trained.manifest.get("f_digest"):
        raise UserError(
            f"--judge {job.judge}: this is {job.checkpoint}'s own f ({facts['name']}). G was trained so that f "
            "recognises the person in G(x), so ranks by f would be too good; that is why the paper uses VGG-face as "
            "its judge. Choose another face network."
        )


def read_probes(job: Retrieval) -> Probes:
    """The photos of the pairs drawn by --seed.

    Raises UserError if the column --identity is missing, or fewer than two persons have two photos.
    """
    groups = find_groups(job.probes)
    with ThreadPoolExecutor(8) as pool:
        columns = list(pool.map(lambda uri: _identities(uri, job.identity), dict.fromkeys(g.uri for g in groups)))
        identities = [identity for column in columns for identity in column]
        drawn = ranking.pairs(identities, job.seed, job.pairs_per_person)
        numbers = {identities[probe]: number for number, (probe, _) in enumerate(drawn)}
        if len(numbers) < 2:
            raise UserError(
                f"{job.probes}: {len(numbers)} person with two photos or more, by the column `{job.identity}` of its "
                f"{len(identities)} photos; at least two are needed. --identity names the column with the person"
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
    with readable(uri), tables.opened(uri) as file:
        schema = file.schema
        if column not in schema.names:
            raise UserError(
                f"{uri}: no column `{column}`; it has {', '.join(schema.names)}: --identity must name one of these"
            )
        if pa.types.is_nested(schema.field(column).type):
            raise UserError(
                f"{uri}: column `{column}` holds {schema.field(column).type}, but each photo needs one value"
            )
        groups = range(len(file.rows))
        return [each for group in groups for each in file.read(group, [column])[column].to_pylist()]


def _take(group: Group, rows: np.ndarray) -> list[Photo]:
    photos, at = list[Photo](), 0
    with readable(group.uri), tables.opened(group.uri) as file:
        column = layouts.image_column(file.schema)
        for batch in file.batches(group.index, [column]):
            here = rows[(rows >= at) & (rows < at + len(batch))] - at
            images = layouts.encoded(pa.chunked_array([batch.column("image")])).take(pa.array(here))
            photos += [Photo(group.uri, image) for image in images.to_pylist()]
            at += len(batch)
    return photos


def _start(job: Retrieval, networks: list[ray.ObjectRef], size: int, blocks: int) -> list[Any]:
    """Starts actors, each with judge and DTN. Raises UserError if they do not fit on the cluster."""
    cluster, gpus = ray.cluster_resources(), 1 if job.gpu else 0
    number = min(job.actors or max(1, int(cluster.get("GPU" if job.gpu else "CPU", 0))), blocks)
    worker_resources(number, 1.0, gpus, "actors")
    actor_warning.print_to_nobody()
    remote: Any = ray.remote(RemoteExaminer).options(num_cpus=1, num_gpus=gpus, max_restarts=5, max_task_retries=5)
    return [remote.remote(networks, size, job.gpu) for _ in range(number)]


def _on_all(actors: list[Any], call: Callable[[Any, T], ray.ObjectRef], items: Sequence[T]) -> Iterator[tuple[T, R]]:
    """Yields each item with its outcome, as they finish; each actor has one more item queued."""
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
    """A random choice of pairs, each of a different person."""
    _, first = np.unique(persons, return_index=True)
    return np.sort(np.random.default_rng(seed).permutation(first)[:SHOWN])


def _retrieved(probes: Probes, seen: Seen, ranks: np.ndarray, hits: list[Hit], pair: int) -> Retrieved:
    """The row of the figure for a pair; the mate is also in the gallery."""
    cosine = float(ranking.unit(seen.G_x[[pair]])[0] @ ranking.unit(seen.mates[[pair]])[0])
    mate = Hit(cosine, ("", 0, 0), probes.mates[pair].image)
    top = [(_picture(hit.image), hit is mate) for hit in ranking.best([*hits, mate], TOP)]
    x, x_mate = (_picture(photos[pair].image) for photos in (probes.x, probes.mates))
    return Retrieved(x, to_image(seen.emoji[pair]), x_mate, float(ranks[pair]), top)


def _picture(content: bytes) -> Image.Image:
    return to_image(decode_row(content))


def _titled(measures: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """The lines of the table; the paper's come last."""
    titles = {
        "emoji": "emoji → photo",
        "photo": "photo → photo (ceiling)",
        "other_emoji": "another person's emoji → photo (floor)",
        "chance": "chance",
        "emoji_to_emoji": "emoji → emoji of the other photo",
    }
    paper = {"emoji": "the paper: emoji → photo", "manual_emoji": "the paper: emoji made by hand → photo"}
    return {title: measures[name] for name, title in titles.items()} | {
        title: ranking.PAPER[name] for name, title in paper.items()
    }
