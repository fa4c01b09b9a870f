"""The conversion of one batch: f → g on the images that a pipeline fetches and writes. Does not import Ray."""

import hashlib
import json
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pyarrow as pa
import torch

from dtn_ray.bulk.ledger import Row
from dtn_ray.bulk.pipeline import Found, Picture
from dtn_ray.bulk.shards import SCHEMA
from dtn_ray.convert.options import Conversion
from dtn_ray.errors import UserError
from dtn_ray.faces.find import FaceFinder, detector_file
from dtn_ray.images.decode import decode
from dtn_ray.ingest.faces import IN_SHARDS, WITHOUT_FACE, FacePipeline
from dtn_ray.method.pixels import to_float, to_uint8
from dtn_ray.method.precision import autocast
from dtn_ray.super_resolution.load import Upscaler, load_super_resolver
from dtn_ray.train.trained import Trained, load_trained


def finds_faces(job: Conversion, trained: Trained) -> bool:
    """Whether x are the faces found in a photo, instead of the whole image. Raises UserError for options that G
    lacks."""
    of_faces = trained.domain.of_faces
    if not of_faces:
        for name in ("detector", "aligned", "super_resolution"):
            if getattr(job, name):
                option = name.replace("_", "-")
                raise UserError(f"--{option} is for a DTN of faces, but {job.checkpoint} is one of digits")
    return of_faces and not job.aligned


def upscaler(job: Conversion) -> Upscaler | None:
    """The network that enlarges G's images, or None. Raises UserError if it is missing or unsuitable."""
    if job.upscale == 1 and job.super_resolution is None:
        return None
    if job.super_resolution is None:
        raise UserError(
            f"--upscale {job.upscale} needs a network: --super-resolution with a checkpoint of "
            "jobs/super_resolution.py, or NETWORK.onnx"
        )
    if job.upscale == 1:
        raise UserError("--super-resolution needs --upscale 2, 3 or 4")
    return Upscaler(load_super_resolver(job.super_resolution), job.upscale)


def identity(job: Conversion, trained: Trained, enlarged: Upscaler | None) -> str:
    """SHA-256 of everything that decides the outputs for a photo; G's own digest, if nothing else does."""
    parts = ["faces", job.faces] if finds_faces(job, trained) else []
    parts += [enlarged.digest] if enlarged else []
    return hashlib.sha256(json.dumps([trained.digest, *parts]).encode()).hexdigest() if parts else trained.digest


class Converter(FacePipeline):
    """Converts images, or the faces in photos, to the target domain with one copy of G."""

    def __init__(
        self, job: Conversion, detector: bytes | None = None, scratch: str | None = None, cpus: int | None = None
    ) -> None:
        """`detector`: the content of YuNet's file, if it has been read already."""
        super().__init__(job, job.batch_size or (256 if job.gpu else 64), scratch, cpus)
        if cpus is not None:
            torch.set_num_threads(cpus)
        trained = load_trained(job.checkpoint)
        enlarged = upscaler(job)
        chosen = job.gpu or job.batch_size
        self.at_once = self.batch_size if chosen else trained.domain.batch_on_a_cpu
        self.model, self.size = identity(job, trained, enlarged), trained.manifest["preprocessing"]["size"]
        self.folder, self.format, self.shards = model_folder(self.model), job.format, job.shards
        self.finder: FaceFinder | None = None
        if finds_faces(job, trained):
            yunet = detector or detector_file(job.detector)
            self.finder = FaceFinder(yunet, job.max_pixels, size=self.size, largest=job.faces == "largest")
        self.shard_schema = pa.schema([*SCHEMA, *(IN_SHARDS if self.finder else [])])
        self.gpu, self.bf16 = job.gpu, job.bf16
        self.device = "cuda" if job.gpu else "cpu"
        self.dtn = trained.dtn.to(self.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.upscaler = enlarged and enlarged.to(self.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.pass_through: Callable[[torch.Tensor], tuple[torch.Tensor, torch.Tensor]] = self._pass_through
        if job.compile:
            self.pass_through = torch.compile(self._pass_through)

    def find(self, content: bytes) -> Found:
        """The image's central square; or its faces, or an outcome if there are none."""
        if self.finder is None:
            return [Picture(decode(content, self.size, self.job.max_pixels))]
        found = self.finder(content)
        return [Picture(pixels.transpose(2, 0, 1), face.row()) for face, pixels in found] or WITHOUT_FACE

    def compute(self, pictures: list[Picture]) -> list[Picture]:
        """G(x) and the score for pictures of x."""
        passes = range(0, len(pictures), self.at_once)
        return [made for start in passes for made in self._transfer(pictures[start : start + self.at_once])]

    @torch.inference_mode()
    def _transfer(self, pictures: list[Picture]) -> list[Picture]:
        x = to_float(np.stack([picture.pixels for picture in pictures]))
        x = x.to(self.device, memory_format=torch.channels_last)
        with autocast(self.device, self.bf16):
            G_x, scores = self.pass_through(x)
        made, found = to_uint8(G_x.float()).cpu().numpy(), scores.float().cpu().numpy()
        return [
            replace(picture, pixels=pixels, score=float(score))
            for picture, pixels, score in zip(pictures, made, found, strict=True)
        ]

    def _pass_through(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        f_x = self.dtn.f(x)
        G_x = self.dtn.g(f_x if self.dtn.with_f else x)
        scores = (f_x.float() - self.dtn.f(G_x, True).float()).norm(dim=1)
        return (self.upscaler(G_x) if self.upscaler else G_x), scores

    def metadata(self, file: Row) -> dict[str, str]:
        return {"model": self.model} | super().metadata(file)


def model_folder(model: str) -> str:
    """The folder of a model's results, below OUT."""
    return model[:12]
