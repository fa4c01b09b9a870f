"""From keys to outcomes: fetch, decode, compute, encode and write concurrently. Does not import Ray."""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import islice
from threading import BoundedSemaphore

import numpy as np
import pyarrow as pa

from dtn_ray import storage
from dtn_ray.bulk.keys import output_key
from dtn_ray.bulk.kinds import FAILED
from dtn_ray.bulk.ledger import OUTCOME, Row, make_row
from dtn_ray.bulk.options import BulkJob
from dtn_ray.bulk.shards import pack, shard_name
from dtn_ray.failures import IMAGE, MODEL, NAME, STORE
from dtn_ray.images.encode import encode
from dtn_ray.images.names import CONTENT_TYPES
from dtn_ray.images.repair import IN_PART, Truncated, completed
from dtn_ray.storage.refusals import Refused
from dtn_ray.storage.uris import leads_out
from dtn_ray.text.display import LONGEST_LABEL, label, line

# What one thread fetches at once: enough to keep the store busy, and little memory even for large photos.
OBJECTS_AT_ONCE = 64
BYTES_AT_ONCE = 16 << 20
LONGEST_REASON = 500  # characters

NO_PIXELS = np.empty((0, 0, 0), np.uint8)

_completing = BoundedSemaphore(2)  # limits the memory of truncated files that are completed at the same time


@dataclass
class Picture:
    """An image found in an object, which becomes one output: the whole image, or a part of it such as a face."""

    pixels: np.ndarray
    """C×H×W uint8."""
    details: Row | None = None
    """Further facts for the job's own columns, such as its position in the object."""
    score: float | None = None
    """The ledger's score, for jobs that have one."""
    remark: str | None = None
    """The text of the ledger's column reason."""


Found = list[Picture] | Row  # a Row is an outcome (`make_row`): a failure, or that nothing was found
Writing = tuple[list[Row], list[Future[list[tuple[int, Row]]]]]


class Pipeline(ABC):
    """Turns rows of the work list into rows of the ledger.

    While one batch is computed, threads fetch and decode the next two and write the previous one. Each thread handles
    many objects at once, because passing a single object to a thread takes as long as decoding it. No more threads
    decode than there are CPUs: sixteen on one CPU took a sixth more of its time for large photos, and 1.6 times the
    memory.
    """

    folder: str
    """Folder of the results, below OUT."""
    format: str
    """Format of the images written."""
    shards: str = "none"
    """The kind of shard that holds many images, or "none" for one file per image."""
    shard_schema: pa.Schema
    columns: pa.Schema = pa.schema([])
    """The job's own columns of the ledger."""

    def __init__(self, job: BulkJob, batch_size: int, scratch: str | None = None, cpus: int | None = None) -> None:
        """`scratch`: a folder for temporary files, on the file system of local outputs; `cpus`: limit of CPUs to
        use."""
        self.job, self.batch_size, self.scratch = job, batch_size, scratch
        self.readers, self.writers = ThreadPoolExecutor(job.threads), ThreadPoolExecutor(job.threads)
        self.decoders = ThreadPoolExecutor(cpus or job.threads)

    @abstractmethod
    def find(self, content: bytes) -> Found:
        """Decodes an object, in a thread of `decoders`. Raises ValueError with the reason if it is not a valid
        image."""

    def compute(self, pictures: list[Picture]) -> list[Picture]:
        """The results for some pictures. A RuntimeError, as torch raises it, fails all of them; the next run
        retries."""
        return pictures

    def metadata(self, file: Row) -> dict[str, str]:
        """The S3 metadata of an output."""
        version = file["version"] or ""  # from an inventory it may be any text, but a header's value may not
        fits = version.isascii() and version.isprintable() and len(version) <= LONGEST_LABEL
        return {"source-version": version if fits else label(version)}

    def shard_row(self, file: Row, number: int, picture: Picture, content: bytes) -> Row:
        """The row of a shard for one picture; `number` counts the pictures of a file from 0."""
        return {"image": content, "key": file["key"], "version": file["version"], "score": picture.score}

    def own_columns(self, pictures: list[Picture], outputs: Sequence[str | None]) -> Row:
        """The values of `columns` for an object, from its pictures (maybe without pixels) and their outputs."""
        return {}

    def __call__(self, work: pa.Table) -> pa.Table:
        """Reads the columns key, version and size; returns all columns of `work`, OUTCOME and the job's own."""
        files = work.select(["key", "version", "size"]).to_pylist()
        outcomes = [row for writing in self._ahead(files) for row in self._finish(writing)]
        if self.shards != "none":
            outcomes = self._pack(files, outcomes)
        table = pa.Table.from_pylist(outcomes, schema=pa.schema([*OUTCOME, *self.columns]))
        for name in table.column_names:
            work = work.append_column(name, table[name])
        return work

    def _ahead(self, files: list[Row]) -> Iterator[Writing]:
        """Yields batches whose outputs are being written: one batch behind the networks, three behind the readers."""
        size = self.batch_size
        batches = (files[i : i + size] for i in range(0, len(files), size))
        reading = [self._start(batch) for batch in islice(batches, 2)]
        writing: Writing | None = None
        while reading:
            batch, futures = reading.pop(0)
            reading += [self._start(following) for following in islice(batches, 1)]
            started = self._transform(batch, [each for future in futures for each in future.result()])
            if writing:
                yield writing
            writing = started
        if writing:
            yield writing

    def _start(self, batch: list[Row]) -> tuple[list[Row], list[Future[list[Found]]]]:
        return batch, [self.readers.submit(self._read, files) for files in _together(batch)]

    def _finish(self, writing: Writing) -> list[Row]:
        outcomes, futures = writing
        for future in futures:
            for i, outcome in future.result():
                outcomes[i] = outcome
        return outcomes

    def _read(self, files: list[Row]) -> list[Found]:
        limit, refused = self.job.max_bytes, dict[int, Row]()
        for i, file in enumerate(files):
            if (file["size"] or 0) > limit:
                refused[i] = failure(IMAGE, f"{file['size']} bytes, more than the limit of {limit}")
            elif leads_out(file["key"]):
                refused[i] = failure(NAME, "leads out of IN")
        wanted = [file for i, file in enumerate(files) if i not in refused]
        contents = storage.read_many([source_uri(self.job.source, file["key"]) for file in wanted])
        # Waits for the decoder; otherwise fetched photos would accumulate in memory.
        return self.decoders.submit(self._decode, files, contents, refused).result()

    def _decode(self, files: list[Row], contents: list[bytes | Refused], refused: dict[int, Row]) -> list[Found]:
        rest = iter(contents)
        return [refused.get(i) or self._find(file, next(rest)) for i, file in enumerate(files)]

    def _find(self, file: Row, content: bytes | Refused) -> Found:
        if isinstance(content, Refused):
            return failure(content.cause, content.reason)
        if file["size"] is not None and len(content) != file["size"]:
            return failure(STORE, f"{len(content)} bytes instead of {file['size']}: cut short, or changed since listed")
        try:
            try:
                return self.find(content)
            except Truncated:
                if self.job.truncated == "refuse":
                    raise
                with _completing:
                    return _remarked(self.find(completed(content)), IN_PART)
        except ValueError as error:
            return failure(IMAGE, str(error))

    def _transform(self, batch: list[Row], found: list[Found]) -> Writing:
        """The outcomes of a batch, and futures for those that are being written."""
        outcomes = [each if isinstance(each, dict) else {} for each in found]
        pictures = [(i, picture) for i, each in enumerate(found) if isinstance(each, list) for picture in each]
        made: dict[int, list[Picture]] = {}
        for start in range(0, len(pictures), self.batch_size):
            some = pictures[start : start + self.batch_size]
            try:
                computed = self.compute([picture for _, picture in some])
            except RuntimeError as error:  # such as torch's, if memory runs out
                for i, _ in some:
                    outcomes[i] = failure(MODEL, f"the networks failed: {error}")
                continue
            for (i, _), picture in zip(some, computed, strict=True):
                made.setdefault(i, []).append(picture)
        whole = [(i, batch[i], each) for i, each in made.items() if not outcomes[i]]
        return outcomes, [self.writers.submit(self._write, chunk) for chunk in _chunks(whole)]

    def _write(self, made: list[tuple[int, Row, list[Picture]]]) -> list[tuple[int, Row]]:
        """Encodes and writes the pictures of some files; returns each file's position in the batch and its outcome."""
        outcomes, files = dict[int, Row](), list[tuple[int, storage.NewFile]]()
        for i, file, pictures in made:
            if not all(picture.score is None or np.isfinite(picture.score) for picture in pictures):
                outcomes[i] = failure(MODEL, "the networks gave values that are not finite")
                continue
            contents = [encode(picture.pixels, self.format) for picture in pictures]
            if self.shards != "none":
                rows = [
                    self.shard_row(file, number, picture, content)
                    for number, (picture, content) in enumerate(zip(pictures, contents, strict=True))
                ]
                outcomes[i] = {"rows": rows, "pictures": [replace(picture, pixels=NO_PIXELS) for picture in pictures]}
                continue
            outputs = [
                f"{self.folder}/images/{output_key(file['key'], self.format, number)}"
                for number in range(len(pictures))
            ]
            outcomes[i] = self._made(pictures, outputs)
            for output, content in zip(outputs, contents, strict=True):
                new = self._new_file(output, content, CONTENT_TYPES[self.format], self.metadata(file))
                files.append((i, new))
        for (i, _), failed in zip(files, self._put([file for _, file in files]), strict=True):
            if failed:
                outcomes[i] = failed
        return list(outcomes.items())

    def _new_file(
        self, output: str, content: bytes, content_type: str | None, metadata: Mapping[str, str]
    ) -> storage.NewFile:
        out = self.job.out
        return storage.NewFile(storage.join(out, output), content, content_type, metadata, root=out)

    def _put(self, files: list[storage.NewFile]) -> list[Row | None]:
        """Writes files below OUT, except in a dry run; returns for each file None, or its failure."""
        errors = [None] * len(files) if self.job.dry_run else storage.write_many(files, self.scratch)
        return [failure(error.cause, f"cannot be written: {error.reason}") if error else None for error in errors]

    def _pack(self, files: list[Row], outcomes: list[Row]) -> list[Row]:
        """Writes the pictures in the outcomes of a block into one shard."""
        done = [(i, outcome["rows"], outcome["pictures"]) for i, outcome in enumerate(outcomes) if "rows" in outcome]
        rows = [row for _, made, _ in done for row in made]
        if not rows:
            return outcomes
        name = shard_name([(files[i]["key"], files[i]["version"]) for i, _, _ in done], self.shards)
        output = f"{self.folder}/shards/{name}"
        content = pack(rows, self.shard_schema, self.shards, self.format)
        (failed,) = self._put([self._new_file(output, content, None, {})])
        number = 0
        for i, made, pictures in done:
            names = [f"{output}#{number + j}" for j in range(len(made))]
            outcomes[i] = failed or self._made(pictures, names)
            number += len(made)
        return outcomes

    def _made(self, pictures: list[Picture], outputs: Sequence[str | None]) -> Row:
        """The outcome of an object whose pictures (at least one) became these outputs."""
        first, own = pictures[0], self.own_columns(pictures, outputs)
        status = self.job.kind.made.name
        return make_row(status, reason=first.remark, output=outputs[0], score=first.score, **own)


def _remarked(found: Found, remark: str) -> Found:
    if isinstance(found, dict):
        return found | {"reason": f"{found['reason']}; {remark}"}
    return [replace(picture, remark=remark) for picture in found]


def _together(files: list[Row]) -> Iterator[list[Row]]:
    """Divides files into pieces of at most OBJECTS_AT_ONCE and BYTES_AT_ONCE; an unknown size counts as a megabyte."""
    piece, total = list[Row](), 0
    for file in files:
        size = 1 << 20 if file["size"] is None else file["size"]
        if piece and (len(piece) == OBJECTS_AT_ONCE or total + size > BYTES_AT_ONCE):
            yield piece
            piece, total = [], 0
        piece.append(file)
        total += size
    if piece:
        yield piece


def _chunks(
    made: list[tuple[int, Row, list[Picture]]],
) -> Iterator[list[tuple[int, Row, list[Picture]]]]:
    """Divides files with their pictures into pieces of about OBJECTS_AT_ONCE pictures."""
    piece, total = list[tuple[int, Row, list[Picture]]](), 0
    for each in made:
        piece.append(each)
        total += len(each[2])
        if total >= OBJECTS_AT_ONCE:
            yield piece
            piece, total = [], 0
    if piece:
        yield piece


def source_uri(source: str, key: str) -> str:
    """The URI of a source object."""
    return storage.child(source, key)


def failure(cause: str, reason: str) -> Row:
    """The outcome of an object that failed; `cause`: one of failures.CAUSES."""
    return make_row(FAILED, cause=cause, reason=line(" ".join(reason.split()), LONGEST_REASON))
