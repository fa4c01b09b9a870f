"""From keys to outcomes: fetch, decode, f → g, encode, write, beside one another. Knows no Ray."""

from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from dtn_ray import storage
from dtn_ray.checkpoint import Trained, load_trained
from dtn_ray.config import Conversion
from dtn_ray.data.labelled import to_float, to_uint8
from dtn_ray.errors import UserError
from dtn_ray.images import CONTENT_TYPES, decode, encode
from dtn_ray.keys import output_key
from dtn_ray.ledger import SCHEMA
from dtn_ray.shards import Result, pack, shard_name

Row = dict[str, Any]
OUTCOME = pa.schema([SCHEMA.field(name) for name in ("status", "cause", "reason", "output", "score")])


class Converter:
    """Holds G once, turns rows of the work list into rows of the ledger.

    While the networks compute a batch, threads fetch and decode the next two and write the one before.
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
        outcomes = [row for batch in self._ahead(files) for row in self._finish(*batch)]
        if self.job.shards != "none":
            outcomes = self._pack(files, outcomes)
        table = pa.Table.from_pylist(outcomes, schema=OUTCOME)
        for name in OUTCOME.names:
            work = work.append_column(name, table[name])
        return work

    def _ahead(self, files: list[Row]) -> Iterator[tuple[list[Row], list[Any]]]:
        """Batches whose outputs are being written, one behind the networks, which are two behind the readers."""
        size = self.job.batch_size
        batches = (files[i : i + size] for i in range(0, len(files), size))
        reading = [self._start(batch) for batch in islice(batches, 2)]
        writing: tuple[list[Row], list[Any]] | None = None
        while reading:
            batch, futures = reading.pop(0)
            reading += [self._start(following) for following in islice(batches, 1)]
            started = batch, self._transfer(batch, [future.result() for future in futures])
            if writing:
                yield writing
            writing = started
        if writing:
            yield writing

    def _start(self, batch: list[Row]) -> tuple[list[Row], list[Future[np.ndarray | Row]]]:
        return batch, [self.readers.submit(self._read, file) for file in batch]

    def _finish(self, batch: list[Row], outcomes: list[Any]) -> list[Row]:
        return [each.result() if isinstance(each, Future) else each for each in outcomes]

    def _read(self, file: Row) -> np.ndarray | Row:
        uri = source_uri(self.job.source, file["key"])
        try:
            content = storage.read_bytes(uri)
        except (OSError, ValueError) as error:
            return _failure("store", str(error).removeprefix(f"{uri}: "))
        if file["size"] is not None and len(content) != file["size"]:
            return _failure("store", f"{len(content)} bytes came of {file['size']}: cut short, or changed since listed")
        try:
            return decode(content, self.size, self.job.max_pixels)
        except ValueError as error:
            return _failure("image", str(error))

    def _transfer(self, batch: list[Row], read: list[np.ndarray | Row]) -> list[Any]:
        """Outcomes of a batch, of which those that are being written are futures."""
        outcomes: list[Any] = list(read)
        images = {i: each for i, each in enumerate(read) if isinstance(each, np.ndarray)}
        if not images:
            return outcomes
        try:
            transferred, scores = self._compute(np.stack(list(images.values())))
        except RuntimeError as error:  # as torch tells of too little memory
            return [
                _failure("model", f"the networks failed: {error}") if i in images else outcomes[i]
                for i in range(len(read))
            ]
        for i, pixels, score in zip(images, transferred, scores, strict=True):
            outcomes[i] = self.writers.submit(self._write, batch[i], pixels, float(score))
        return outcomes

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

    def _write(self, file: Row, pixels: np.ndarray, score: float) -> Row:
        if not np.isfinite(score):
            return _failure("model", "the networks gave values that are not finite")
        content = encode(pixels, self.job.format)
        done = {"status": "converted", "score": score}
        if self.job.shards != "none":
            return done | {"content": content}
        output = f"{self.folder}/images/{output_key(file['key'], self.job.format)}"
        metadata = {"model": self.model, "source-version": file["version"] or ""}
        return self._put(output, content, CONTENT_TYPES[self.job.format], metadata) or done | {"output": output}

    def _put(self, output: str, content: bytes, content_type: str | None, metadata: dict[str, str]) -> Row | None:
        """Writes below OUT, unless for a dry run. Returns the failure if it fails."""
        if self.job.dry_run:
            return None
        uri = storage.join(self.job.out, output)
        try:
            storage.write_bytes(uri, content, content_type, metadata, self.scratch)
        except UserError as error:
            return _failure("store", str(error).replace(f"{uri}: ", ""))
        return None

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
        failure = self._put(output, pack(results, kind, self.job.format), None, {"model": self.model})
        for number, i in enumerate(done):
            del outcomes[i]["content"]
            outcomes[i] = failure or outcomes[i] | {"output": f"{output}#{number}"}
        return outcomes


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
