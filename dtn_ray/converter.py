"""From keys to outcomes: fetch, decode, f → g, encode, write, beside one another. Knows no Ray."""

from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import torch

from dtn_ray import storage
from dtn_ray.checkpoint import Trained, load_trained
from dtn_ray.conversion import Conversion
from dtn_ray.data.labelled import to_float, to_uint8
from dtn_ray.images import CONTENT_TYPES, decode, encode
from dtn_ray.keys import output_key
from dtn_ray.ledger import SCHEMA
from dtn_ray.shards import Result, pack, shard_name

Row = dict[str, Any]
Writing = tuple[list[Row], list[Future[list[tuple[int, Row]]]]]
OUTCOME = pa.schema([SCHEMA.field(name) for name in ("status", "cause", "reason", "output", "score")])

# What one thread fetches at once: enough for the store to be busy, in memory that large photos do not fill.
OBJECTS_AT_ONCE = 64
BYTES_AT_ONCE = 16 << 20


class Made(NamedTuple):
    """An image to write: its place in the batch, the file it was made of, C×H×W uint8, and its score."""

    place: int
    file: Row
    pixels: np.ndarray
    score: float


class Converter:
    """Holds G once, turns rows of the work list into rows of the ledger.

    While the networks compute a batch, threads fetch and decode the next two and write the one before. A thread has
    many objects under way at once, since to hand each to a thread of its own takes as long as to decode it.
    """

    def __init__(self, job: Conversion, scratch: str | None = None, threads: int | None = None) -> None:
        """`scratch`: a folder beside local outputs, for files being written; `threads`: torch's own."""
        if threads is not None:
            torch.set_num_threads(threads)
        self.job, self.scratch = job, scratch
        self.device = "cuda" if job.gpu else "cpu"
        trained: Trained = load_trained(job.checkpoint)
        self.model = trained.digest
        self.dtn = trained.dtn.to(self.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.pass_through: Callable[[torch.Tensor], tuple[torch.Tensor, torch.Tensor]] = self._pass_through
        if job.compile:
            self.pass_through = torch.compile(self._pass_through)
        self.size = trained.manifest["preprocessing"]["size"]
        self.folder = model_folder(trained.digest)
        self.readers, self.writers = ThreadPoolExecutor(job.threads), ThreadPoolExecutor(job.threads)

    def __call__(self, work: pa.Table) -> pa.Table:
        """A table of the columns key, version, size (and others, which stay); the same with OUTCOME's columns."""
        files = work.select(["key", "version", "size"]).to_pylist()
        outcomes = [row for writing in self._ahead(files) for row in self._finish(writing)]
        if self.job.shards != "none":
            outcomes = self._pack(files, outcomes)
        table = pa.Table.from_pylist(outcomes, schema=OUTCOME)
        for name in OUTCOME.names:
            work = work.append_column(name, table[name])
        return work

    def _ahead(self, files: list[Row]) -> Iterator[Writing]:
        """Batches whose outputs are being written, one behind the networks, which are two behind the readers."""
        size = self.job.batch_size or (256 if self.job.gpu else 64)
        batches = (files[i : i + size] for i in range(0, len(files), size))
        reading = [self._start(batch) for batch in islice(batches, 2)]
        writing: Writing | None = None
        while reading:
            batch, futures = reading.pop(0)
            reading += [self._start(following) for following in islice(batches, 1)]
            started = self._transfer(batch, [each for future in futures for each in future.result()])
            if writing:
                yield writing
            writing = started
        if writing:
            yield writing

    def _start(self, batch: list[Row]) -> tuple[list[Row], list[Future[list[np.ndarray | Row]]]]:
        return batch, [self.readers.submit(self._read, files) for files in _together(batch)]

    def _finish(self, writing: Writing) -> list[Row]:
        outcomes, futures = writing
        for future in futures:
            for i, outcome in future.result():
                outcomes[i] = outcome
        return outcomes

    def _read(self, files: list[Row]) -> list[np.ndarray | Row]:
        limit = self.job.max_bytes
        large = [(file["size"] or 0) > limit for file in files]
        uris = [
            source_uri(self.job.source, file["key"])
            for file, is_large in zip(files, large, strict=True)
            if not is_large
        ]
        contents = iter(storage.read_many(uris))
        return [
            _failure("image", f"{file['size']} bytes, more than the limit of {limit}")
            if is_large
            else self._decode(file, next(contents))
            for file, is_large in zip(files, large, strict=True)
        ]

    def _decode(self, file: Row, content: bytes | OSError) -> np.ndarray | Row:
        if isinstance(content, OSError):
            return _failure("store", str(content).removeprefix(f"{source_uri(self.job.source, file['key'])}: "))
        if file["size"] is not None and len(content) != file["size"]:
            return _failure("store", f"{len(content)} bytes came of {file['size']}: cut short, or changed since listed")
        try:
            return decode(content, self.size, self.job.max_pixels)
        except ValueError as error:
            return _failure("image", str(error))

    def _transfer(self, batch: list[Row], read: list[np.ndarray | Row]) -> Writing:
        """Outcomes of a batch, and the futures of those that are being written."""
        outcomes = [each if isinstance(each, dict) else {} for each in read]
        where = [i for i, each in enumerate(read) if isinstance(each, np.ndarray)]
        if not where:
            return outcomes, []
        try:
            transferred, scores = self._compute(np.stack([read[i] for i in where]))  # type: ignore[misc]
        except RuntimeError as error:  # as torch tells of too little memory
            for i in where:
                outcomes[i] = _failure("model", f"the networks failed: {error}")
            return outcomes, []
        made = [
            Made(i, batch[i], pixels, float(score)) for i, pixels, score in zip(where, transferred, scores, strict=True)
        ]
        chunks = [made[i : i + OBJECTS_AT_ONCE] for i in range(0, len(made), OBJECTS_AT_ONCE)]
        return outcomes, [self.writers.submit(self._write, chunk) for chunk in chunks]

    @torch.inference_mode()
    def _compute(self, images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        x = to_float(images).to(self.device, memory_format=torch.channels_last)
        with torch.autocast(self.device, torch.bfloat16, enabled=self.job.bf16):
            G_x, score = self.pass_through(x)
        return to_uint8(G_x.float()).cpu().numpy(), score.float().cpu().numpy()

    def _pass_through(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        f_x = self.dtn.f(x)
        G_x = self.dtn.g(f_x if self.dtn.with_f else x)
        return G_x, (f_x.float() - self.dtn.f(G_x).float()).norm(dim=1)

    def _write(self, made: list[Made]) -> list[tuple[int, Row]]:
        """Encodes images and writes them; for each, its place in the batch and the outcome."""
        outcomes, outputs = dict[int, Row](), dict[int, storage.NewFile]()
        for i, file, pixels, score in made:
            if not np.isfinite(score):
                outcomes[i] = _failure("model", "the networks gave values that are not finite")
                continue
            content = encode(pixels, self.job.format)
            outcomes[i] = {"status": "converted", "score": score}
            if self.job.shards != "none":
                outcomes[i]["content"] = content
                continue
            outcomes[i]["output"] = f"{self.folder}/images/{output_key(file['key'], self.job.format)}"
            metadata = {"model": self.model, "source-version": file["version"] or ""}
            outputs[i] = self._new_file(outcomes[i]["output"], content, CONTENT_TYPES[self.job.format], metadata)
        failures = self._put(list(outputs.values()))
        outcomes |= {i: failure for i, failure in zip(outputs, failures, strict=True) if failure}
        return list(outcomes.items())

    def _new_file(
        self, output: str, content: bytes, content_type: str | None, metadata: dict[str, str]
    ) -> storage.NewFile:
        return storage.NewFile(storage.join(self.job.out, output), content, content_type, metadata)

    def _put(self, files: list[storage.NewFile]) -> list[Row | None]:
        """Writes below OUT, unless for a dry run; for each file, the failure if it fails."""
        errors = [None] * len(files) if self.job.dry_run else storage.write_many(files, self.scratch)
        return [
            _failure("store", str(error).replace(f"{file.uri}: ", "")) if error else None
            for file, error in zip(files, errors, strict=True)
        ]

    def _pack(self, files: list[Row], outcomes: list[Row]) -> list[Row]:
        """Writes the images among the outcomes of a block into one shard."""
        kind = self.job.shards
        done = [i for i, outcome in enumerate(outcomes) if "content" in outcome]
        if not done:
            return outcomes
        results = [
            Result(files[i]["key"], files[i]["version"], outcomes[i]["score"], outcomes[i]["content"]) for i in done
        ]
        name = shard_name([(result.key, result.version) for result in results], kind)
        output = f"{shards_folder(self.model)}/{name}"
        (failure,) = self._put(
            [self._new_file(output, pack(results, kind, self.job.format), None, {"model": self.model})]
        )
        for number, i in enumerate(done):
            del outcomes[i]["content"]
            outcomes[i] = failure or outcomes[i] | {"output": f"{output}#{number}"}
        return outcomes


def _together(files: list[Row]) -> Iterator[list[Row]]:
    """The files in pieces of OBJECTS_AT_ONCE and BYTES_AT_ONCE at most; one of unknown size counts as a megabyte."""
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


def model_folder(model: str) -> str:
    """Where a model's results lie below OUT."""
    return model[:12]


def shards_folder(model: str) -> str:
    """Where a model's shards lie below OUT; the ledger calls an image in one of them <shard>#<number>."""
    return f"{model_folder(model)}/shards"


def source_uri(source: str, key: str) -> str:
    """Of a source object; keys may begin with a slash, which `storage.join` would take for an absolute path."""
    return f"{source.rstrip('/')}/{key}"


def _failure(cause: str, reason: str) -> Row:
    return {"status": "failed", "cause": cause, "reason": " ".join(reason.split())[:500]}
