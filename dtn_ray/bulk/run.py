"""Ray Data: processes every object below a folder or prefix once. A later run processes what is new.

Blocks between tasks hold pointers into the work list and outcomes, never pixels. Each actor has a Pipeline, which
fetches, computes and writes (pipeline.py). The driver itself processes up to FEW objects. The driver writes finished
objects to the ledger.

OUT/.dtn-ray/        the mark of OUT, and the work list of the current run (ownership.py)
OUT/lease.json       the lease of the current run
OUT/ledger/<name>/   which object was done, with what outcome
OUT/<folder>/        the results (images/ or shards/), summary.json, report.html, sheet.png

docs/explanation/security.md lists what a run deletes and overwrites below OUT.
"""

import io
import json
import pickle
import time
import uuid
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Protocol, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import ray
import ray.data
from PIL import Image
from tqdm import tqdm

from dtn_ray import storage
from dtn_ray.bulk import lease, report
from dtn_ray.bulk.access import believed
from dtn_ray.bulk.actor import Actor
from dtn_ray.bulk.kinds import FAILED, Kind
from dtn_ray.bulk.lease import Lease
from dtn_ray.bulk.ledger import Ledger, Part, Row, read_range
from dtn_ray.bulk.options import BulkJob
from dtn_ray.bulk.pipeline import Pipeline
from dtn_ray.bulk.plan import Filters, Plan, list_source, once, sift
from dtn_ray.bulk.shards import is_shard
from dtn_ray.bulk.tally import Tally
from dtn_ray.errors import UserError
from dtn_ray.failures import COUNTED
from dtn_ray.images.contact_sheet import contact_sheet
from dtn_ray.listing.inventory import is_short, open_inventory, read_inventory
from dtn_ray.listing.left_out import LeftOut
from dtn_ray.metrics import JobMetrics
from dtn_ray.ray_cluster import actor_warning
from dtn_ray.ray_cluster.connect import causes, connect, has_cluster, quiet_ray_data, worker_resources
from dtn_ray.storage import ownership

T = TypeVar("T")
R = TypeVar("R")
LISTED = storage.LISTING.append(pa.field("left_out", pa.binary()))
RESULTS = ("images", "shards")  # folders below that of the results
Block = tuple[str, int, int]  # a file of the work list, its first row, the row after the last

# Less than a core, so that other tasks fit beside the actors; otherwise Ray Data stalls on a machine with two cores.
ACTOR_CPUS = 0.5

# Images in a block, which one actor processes at a time: enough to keep its stages busy, few enough to lose if it is
# killed. A block is a fraction of an actor's share of the remaining work, so blocks become smaller and all actors
# finish at nearly the same time.
IMAGES_PER_BLOCK = 1024
PARTS_OF_SHARE = 4
LEAST_PER_BLOCK = 64
LEAST_PER_SHARD = 256  # each block becomes a shard
FEW = LEAST_PER_BLOCK  # the driver processes so many in less time than an actor takes to start
BLOCKS_TO_QUEUE = 16  # with more blocks per actor, the next block already waits at an actor while it works
BLOCKS = 10_000  # more would burden the driver; of a hundred million images, each block then has ten thousand

# The driver collects outcomes and writes them as one part. If it is killed, the next run repeats what was not written.
ROWS_PER_PART = 10_000
SECONDS_PER_PART = 5.0

# --max-failure-rate applies to the latest outcomes, so that a failure late in a long run is noticed too.
JUDGED_FROM = 100
JUDGED_AT_MOST = 1000


class Make(Protocol):
    """Makes a Pipeline, in the process in which it will run."""

    def __call__(self, scratch: str | None = None, cpus: int | None = None) -> Pipeline: ...


@dataclass(frozen=True)
class Bulk:
    """A bulk job: what to do with each object, and where the results go."""

    job: BulkJob
    identity: str
    """Digest of everything that decides the results; objects done with another digest are processed again."""
    folder: str
    """Folder of the results, below OUT."""
    make: Make
    before: Callable[[bytes, Row], Image.Image]
    """The source picture on the contact sheet, from an object's bytes and its ledger row. May raise ValueError."""
    facts: dict[str, Any]
    """Further entries of the summary."""
    shards: str = "none"
    """The kind of shard that holds many results, or "none" for one file per result."""
    format: str = "png"
    """Format of the images."""
    folders: tuple[str, ...] = ()
    """Further folders that the job writes into, below `folder`."""
    begin: Callable[[], None] | None = None
    """Called once the run holds the lease and the source is known to have images."""

    @property
    def ledger(self) -> Ledger:
        return Ledger(storage.join(self.job.out, "ledger", self.identity[:12]), root=self.job.out)


def run(bulk: Bulk) -> dict[str, Any]:
    """Processes the objects that the ledger lacks; returns counts and the places of the results.

    An object is done once the ledger has its current version with one of the statuses of the job's kind. The cause of a
    failure decides whether the object is tried again (failures.py). A bad image does not stop the run. Raises UserError
    for a missing or empty source, an output inside it, more actors than fit, another run on the same OUT, or if more
    than `max_failure_rate` fails.
    """
    job, ledger, began = bulk.job, bulk.ledger, time.time()
    _check(job)
    _check_out(bulk)
    if job.dry_run:
        plan = _plan(job, ledger.parts(), None)
        return _summary(bulk, plan, Tally()) | _estimate(bulk, plan)
    with lease.hold(storage.join(job.out, ownership.LEASE), job.lease_seconds, not job.unconditional_lease) as held:
        ownership.mark(job.out)
        ownership.sweep(job.out)  # scratch files of killed runs
        work = ownership.scratch_folder(job.out)
        plan = _plan(job, ledger.parts(), work)
        if bulk.begin:
            bulk.begin()
        try:
            done = _run(bulk, plan, work, held) if plan.todo else Tally()
        finally:
            held.check()
            ownership.sweep(job.out)
        ledger.compact(apply)
        held.check()
        if bulk.shards != "none":
            _sweep_shards(bulk)
        return _finish(bulk, plan, done, time.time() - began)


def _check(job: BulkJob) -> None:
    """Raises UserError for invalid settings, and for places that do not exist."""
    Filters.of(job)
    if not 0 <= job.max_failure_rate <= 1:
        raise UserError(f"--max-failure-rate {job.max_failure_rate} must lie between 0 and 1")
    if job.limit is not None and job.limit < 0:
        raise UserError(f"--limit {job.limit} must be at least 0")
    if not 0 < job.lease_seconds <= lease.LONGEST:
        raise UserError(f"--lease-seconds {job.lease_seconds} must be more than 0 and at most {lease.LONGEST:g}, a day")
    for name in job.AT_LEAST_ONE:
        value = getattr(job, name)
        if value is not None and value < 1:
            raise UserError(f"--{name.replace('_', '-')} {value} must be at least 1")
    if job.max_actors is not None and job.max_actors < (job.actors or 1):
        raise UserError(f"--max-actors {job.max_actors} must be at least --actors {job.actors or 1}")
    try:
        job.out.encode()
    except UnicodeEncodeError as error:
        raise UserError(f"{job.out}: this name is not valid UTF-8; choose another OUT") from error
    if not storage.is_folder(job.source):
        raise UserError(f"{job.source}: no such folder or prefix; check its name and the bucket's")
    storage.resolve(job.out)
    if _inside(job.out, job.source):
        raise UserError(
            f"{job.out} lies inside the source {job.source}: the next run would convert the output of this one. Choose "
            "another OUT"
        )


def _check_out(bulk: Bulk) -> None:
    """Raises UserError if OUT holds links, or files of others, under names that this job writes to."""
    out = bulk.job.out
    for names in (
        ["ledger"],
        ["ledger", bulk.identity[:12]],
        [bulk.folder],
        *([bulk.folder, each] for each in (*RESULTS, *bulk.folders)),
    ):
        storage.require_no_link(storage.join(out, *names))
    ownership.check_out(out, bulk.folder)


def _inside(out: str, source: str) -> bool:
    """Whether one URI lies at or below another."""
    return f"{storage.absolute(out).rstrip('/')}/".startswith(f"{storage.absolute(source).rstrip('/')}/")


def _sweep_shards(bulk: Bulk) -> None:
    """Deletes shards that the ledger does not name: those of killed runs, which later runs do not overwrite."""
    folder = storage.join(bulk.job.out, bulk.folder, "shards")
    named = set[str]()
    for part in bulk.ledger.parts():
        outputs = pc.call_function("unique", [read_range([part])["output"]]).to_pylist()
        named |= {output.partition("#")[0].rpartition("/")[2] for output in outputs if output}
    for page in storage.list_pages(folder):
        for name in set(page["key"].to_pylist()) - named:
            uri = storage.join(folder, name)
            if "/" not in name and is_shard(uri):
                storage.delete(uri, root=bulk.job.out)


def _plan(job: BulkJob, ledger: list[Part], work: str | None) -> Plan:
    """The plan of the run; the work list is written to the folder `work`. Raises UserError if there are no images."""
    plan = Plan()
    for part in _sift_inventory(job, ledger, work) if job.inventory else list_source(job, ledger, work, apply):
        plan.merge(part)
    if not plan.photos:
        where = f"--inventory {job.inventory}: no images below {job.source} in it"
        raise UserError(
            f"{where if job.inventory else f'{job.source}: no images there'}. A file counts as an image by its suffix: "
            f"check the path, or set --suffixes. Found there: {plan.left_out.told() or 'nothing'}"
        )
    return plan


def _sift_inventory(job: BulkJob, ledger: list[Part], work: str | None) -> Iterator[Plan]:
    """The plans of parts of an inventory, of any size: Ray Data sorts it, since it may be in any order."""
    files, filters = open_inventory(job.inventory), Filters.of(job)

    def sifted(listed: pa.Table, left_out: Iterable[LeftOut]) -> Plan:
        uri = work and storage.join(work, uuid.uuid4().hex)
        plan = sift(job, filters, ledger, once(listed), uri)
        for each in left_out:
            plan.left_out.merge(each)
        return plan

    if is_short(files):
        left_out = LeftOut()
        tables = list(read_inventory(files[0], job.source, left_out.add))
        yield sifted(pa.concat_tables([storage.LISTING.empty_table(), *tables]), [left_out])
        return
    connect()
    quiet_ray_data()

    def read(batch: pa.Table) -> Iterator[pa.Table]:
        for i in batch["file"].to_pylist():
            left_out = LeftOut()
            for table in read_inventory(files[i], job.source, left_out.add):
                yield table.append_column("left_out", pa.nulls(len(table), pa.binary()))
            # The counts of left-out lines are passed on in a row of their own.
            yield pa.Table.from_pylist([{"key": "", "left_out": pickle.dumps(left_out)}], LISTED)

    def plan_of(listed: pa.Table) -> pa.Table:
        left_out = map(pickle.loads, listed["left_out"].drop_null().to_pylist())
        objects = listed.filter(pc.field("left_out").is_null()).select(storage.LISTING.names)
        return pa.table({"plan": [pickle.dumps(sifted(objects, left_out))]})

    inventory = ray.data.from_items([{"file": i} for i in range(len(files))], override_num_blocks=len(files))
    listed = inventory.map_batches(read, batch_size=1, batch_format="pyarrow", num_cpus=0.25)
    plans = listed.sort("key").map_batches(plan_of, batch_size=None, batch_format="pyarrow", num_cpus=0.25)
    with causes():
        for row in plans.iter_rows():
            yield pickle.loads(row["plan"])


def apply(function: Callable[[T], R], items: Iterable[T]) -> Iterator[R]:
    """`map` on the cluster, in order; a single item needs no cluster."""
    items = list(items)
    if len(items) < 2:
        yield from map(function, items)
        return
    connect()
    # Half a CPU, because the work is mostly waiting for the store; with less, a small machine would start many
    # processes.
    remote: Any = ray.remote(_call).options(num_cpus=0.5, max_retries=5)
    with causes():
        for future in tqdm([remote.remote(function, item) for item in items], unit="part", desc="keys", leave=False):
            yield ray.get(future)


def _call(function: Callable[[T], R], item: T) -> R:
    return function(item)  # also for methods, which cannot be tasks themselves


def _run(bulk: Bulk, plan: Plan, work: str, held: Lease) -> Tally:
    """Processes the work list and writes the outcomes to the ledger.

    Raises UserError if too many objects fail, or the lease is lost.
    """
    job = bulk.job
    few = _left(plan, job.limit) <= FEW and not (job.actors or job.max_actors or job.gpus_per_actor)
    blocks, outcomes = _here(bulk, plan, work) if few else _on_actors(bulk, plan, work)
    done, latest = Tally(), deque[str | None](maxlen=JUDGED_AT_MOST)
    waiting, since = list[pa.Table](), time.monotonic()
    metrics = JobMetrics(job.kind.name, job.out)
    metrics.count(_counts(job.kind, plan, done), plan.settled.causes)

    def enter() -> None:
        nonlocal since
        held.check()
        if waiting:
            rows = pa.concat_tables(waiting)
            bulk.ledger.append(rows.append_column("model", pa.array([bulk.identity] * len(rows), pa.string())))
        waiting.clear()
        since = time.monotonic()

    with tqdm(total=sum(stop - start for _, start, stop in blocks), unit="image", desc="images") as bar:
        try:
            for number, made in enumerate(outcomes):
                part = believed(made, job, plan, done)
                waiting.append(part)
                done.add(part, job.kind, seed=number)
                metrics.count(_counts(job.kind, plan, done), plan.settled.causes + done.causes)
                bar.update(len(part))
                bar.set_postfix_str(f"{done.bytes / 1e6 / bar.format_dict['elapsed']:.1f} MB/s, {done.failed} failed")
                if sum(map(len, waiting)) >= ROWS_PER_PART or time.monotonic() - since > SECONDS_PER_PART:
                    enter()
                failed = part.filter(pc.field("cause").isin(COUNTED))["reason"].to_pylist()
                latest.extend([*failed, *[None] * (len(part) - len(failed))])
                if len(latest) >= JUDGED_FROM:
                    _judge(job, latest)
        finally:
            enter()
    return done


def _here(bulk: Bulk, plan: Plan, work: str) -> tuple[list[Block], Iterator[pa.Table]]:
    """The work list in blocks, and their outcomes, computed in this process, so that Ray need not start."""
    if has_cluster():
        connect()  # so that its metrics include this run
    blocks = share_out(plan, bulk.job.limit, 1, shards=bulk.shards != "none")
    return blocks, map(Actor(bulk.make, work, None), (pa.Table.from_pylist([_row(block)]) for block in blocks))


def _on_actors(bulk: Bulk, plan: Plan, work: str) -> tuple[list[Block], Iterator[pa.Table]]:
    """The work list in blocks, and their outcomes, computed by actors. Raises UserError for more actors than fit."""
    connect()
    job, cpus, gpus = bulk.job, ACTOR_CPUS, bulk.job.gpus_per_actor
    cluster = ray.cluster_resources()
    actors = job.actors or max(1, int(cluster.get("GPU", 0) / gpus if gpus else cluster.get("CPU", 0)))
    most = max(actors, job.max_actors or 0)
    blocks = share_out(plan, job.limit, most, shards=bulk.shards != "none")
    growing, actors = most > actors, min(actors, len(blocks))
    worker_resources(actors, cpus, gpus, "actors")
    quiet_ray_data()
    actor_warning.print_to_nobody()
    outcomes: Any = (
        ray.data.from_items([_row(block) for block in blocks], override_num_blocks=len(blocks))
        .map_batches(
            Actor,
            fn_constructor_args=(bulk.make, work, None if gpus else 1),
            batch_size=1,
            batch_format="pyarrow",
            compute=ray.data.ActorPoolStrategy(
                min_size=actors,
                max_size=most if growing else actors,
                # With few blocks, one at a time: otherwise the actor that is ready first would get all of them. A pool
                # that may grow needs waiting blocks, because these make it grow.
                max_tasks_in_flight_per_actor=None if growing or len(blocks) >= BLOCKS_TO_QUEUE * actors else 1,
            ),
            num_cpus=cpus,
            num_gpus=gpus,
        )
        .iter_batches(batch_size=None, batch_format="pyarrow")
    )
    return blocks, _told(outcomes)


def _told(outcomes: Iterable[pa.Table]) -> Iterator[pa.Table]:
    with causes():
        yield from outcomes


def _row(block: Block) -> dict[str, Any]:
    return dict(zip(("uri", "start", "stop"), block, strict=True))


def _left(plan: Plan, limit: int | None) -> int:
    return plan.todo if limit is None else min(limit, plan.todo)


def share_out(plan: Plan, limit: int | None, actors: int, shards: bool) -> list[Block]:
    """Divides the work list into blocks, largest first. With `shards`, each block is as large as possible."""
    left = _left(plan, limit)
    parts, least = (1, LEAST_PER_SHARD) if shards else (PARTS_OF_SHARE, LEAST_PER_BLOCK)
    least = max(least, -(-left // BLOCKS))
    blocks, size, times = list[Block](), 0, 0
    for uri, rows in plan.work:
        start, end = 0, min(rows, left)
        while start < end:
            if not times:
                size, times = _round(left, actors, parts, least)
            stop = min(start + size, end)
            blocks.append((uri, start, stop))
            left, start, times = left - (stop - start), stop, times - 1
    return blocks


def _round(left: int, actors: int, parts: int, least: int) -> tuple[int, int]:
    """The size of the next blocks of `left` images, and their number: a multiple of `actors`, if all can get one."""
    part = min(-(-left // (parts * actors)), max(IMAGES_PER_BLOCK, least))
    if part >= least:
        return part, actors
    pieces = actors * (left // (actors * least)) or -(-left // least)
    return -(-left // pieces), pieces


def _judge(job: BulkJob, latest: deque[str | None]) -> None:
    """Raises UserError if too many of the latest outcomes are failures of the store or the model."""
    reasons = [reason for reason in latest if reason is not None]
    if len(reasons) > job.max_failure_rate * len(latest):
        raise UserError(
            f"{job.out}: stopped: {len(reasons)} of the last {len(latest)} images failed, more than "
            f"--max-failure-rate {job.max_failure_rate}; most often: {Counter(reasons).most_common(1)[0][0]}. "
            "Once that is fixed, the same command continues with what is missing."
        )


def _estimate(bulk: Bulk, plan: Plan) -> dict[str, Any]:
    """What a run would do; its time is estimated by processing a few images here, without start-up time."""
    job = bulk.job
    todo = _left(plan, job.limit)
    seconds = 0.0
    if todo:
        sample = pa.concat_tables(plan.sample)
        sample = sample.take(np.linspace(0, len(sample) - 1, min(32, len(sample))).astype(int))
        pipeline = bulk.make()
        began = time.perf_counter()
        pipeline(sample)
        seconds = (time.perf_counter() - began) / len(sample) * todo / (job.actors or 1)
    return {
        job.kind.todo: todo,
        "bytes_to_read": round(plan.bytes * todo / max(plan.todo, 1)),
        "estimated_seconds": round(seconds, 1),
    }


def _counts(kind: Kind, plan: Plan, done: Tally) -> dict[str, int]:
    """Counts that add up to the images of the plan."""
    both = plan.settled.statuses + done.statuses
    counts = {
        "done_before": plan.settled.statuses[kind.made.name],
        kind.made.count: done.statuses[kind.made.name],
        **{status.count: both[status.name] for status in kind.others},
        "failed": both[FAILED],
    }
    return counts | {"remaining": plan.images - sum(counts.values())}


def _summary(bulk: Bulk, plan: Plan, done: Tally) -> dict[str, Any]:
    kind, counts = bulk.job.kind, plan.settled.counts + done.counts
    return {
        "source": bulk.job.source,
        "out": bulk.job.out,
        **bulk.facts,
        "model": bulk.identity[:12],
        "images": plan.images,
        **_counts(kind, plan, done),
        **{count.name: counts[count.name] for count in kind.counts},
        "causes": dict((plan.settled.causes + done.causes).most_common()),
        "in_part": plan.settled.in_part + done.in_part,
        "failures": done.failures | plan.settled.failures,
        "left_out": plan.left_out.row(),
    }


def _finish(bulk: Bulk, plan: Plan, done: Tally, seconds: float) -> dict[str, Any]:
    """Writes contact sheet, report and summary, and returns the summary."""
    job, folder = bulk.job, storage.join(bulk.job.out, bulk.folder)
    summary = _summary(bulk, plan, done) | {"folder": folder, "seconds": round(seconds, 3)}
    whole = plan.settled
    whole.merge(done)
    sample, sections = report.chosen(whole, job.kind, job.sheet)
    rows = {row["key"]: row for chosen in (sample, *sections.values()) for row in chosen}  # read each image once
    read = report.pairs(job, [*rows.values()], bulk.before, bulk.shards, bulk.format)
    pairs = {pair[0]["key"]: pair for pair in read}
    sheet = [pairs[row["key"]][1:] for row in sample if row["key"] in pairs]
    if sheet:
        buffer = io.BytesIO()
        contact_sheet(sheet).save(buffer, format="png")
        summary["sheet"] = storage.join(folder, "sheet.png")
        storage.write_bytes(summary["sheet"], buffer.getvalue(), "image/png", root=job.out)
    summary["report"] = storage.join(folder, "report.html")
    ended = datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")
    shown = {title: [pairs[row["key"]] for row in some if row["key"] in pairs] for title, some in sections.items()}
    page = report.page(bulk.job.kind, bulk.folder, bulk.facts, summary, whole, shown, ended).encode(
        errors="backslashreplace"
    )  # IN's name may not be UTF-8
    storage.write_bytes(summary["report"], page, "text/html", root=job.out)
    content = json.dumps(summary, indent=2).encode()
    storage.write_bytes(storage.join(folder, "summary.json"), content, "application/json", root=job.out)
    return summary
