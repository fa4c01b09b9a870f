"""The faces of Sec. 5.2: photos → emoji, with a face network as f."""

import hashlib
from pathlib import Path
from typing import Any

from dtn_ray.checkpoints import checkpoint, onnx_files
from dtn_ray.checkpoints.checkpoint import MANIFEST, read_settings
from dtn_ray.data.bad_rows import BadRows
from dtn_ray.data.rows import count_rows, find_groups, hold_out
from dtn_ray.data.windows import sample_rows
from dtn_ray.errors import UserError
from dtn_ray.method.dtn import DTN
from dtn_ray.method.features import FrozenF
from dtn_ray.models.faces import DeepFace, FaceD, FaceG
from dtn_ray.models.imported import ImportedF
from dtn_ray.models.layers import unfilled
from dtn_ray.perceptual.load import build_deepface, build_imported, eye_of, load_face_network
from dtn_ray.perceptual.options import FacePretraining
from dtn_ray.resumable.options import Run
from dtn_ray.settings import fingerprint
from dtn_ray.train.domain import SCALING, Domain, Prepared
from dtn_ray.train.options import Experiment


def build(experiment: Experiment, f: FrozenF) -> DTN:
    """As `Domain.build`."""
    model = experiment.model
    g = FaceG(f.network.features, width=model.width_g, upscaling=model.upscaling)
    return DTN(f, g, FaceD(width=model.width_D, size=model.size_D, norm=model.norm_D))


def read_f(folder: Path, _: Experiment, manifest: dict[str, Any]) -> ImportedF | DeepFace:
    """As `Domain.read_f`."""
    uri = f"{folder}/{MANIFEST}"
    facts = manifest.get("f")
    if not isinstance(facts, dict):
        raise UserError(f"{uri}: f: missing; it must describe f")
    if "config" in facts:
        faces = read_settings(folder, FacePretraining, facts, "config")
        with unfilled():
            return build_deepface(faces, 0)
    eye, path = eye_of(facts.get("eye"), f"{uri}: f.eye"), folder / "f.onnx"
    content = onnx_files.read_alone(str(path))
    if (digest := hashlib.sha256(content).hexdigest()) != facts.get("sha256"):
        raise UserError(
            f"{path}: not the network that this was trained with: its SHA-256 is {digest}, but {MANIFEST} says "
            f"{str(facts.get('sha256'))[:64]}"
        )
    return build_imported(content, eye, str(path))


def prepare(experiment: Experiment, run: Run) -> Prepared:
    """As `Domain.prepare`."""
    from dtn_ray.data.streamed import Streamed

    chosen, model = experiment.data, experiment.model
    if model.f is None:
        raise UserError("faces need a face network as f: --f NETWORK.onnx, or a checkpoint of jobs/pretrain.py faces")
    if not (chosen.source and chosen.target):
        raise UserError(
            "faces need --source and --target: folders or s3:// prefixes of Parquet files with a column image, as "
            "jobs/ingest.py and jobs/make_emoji.py write them"
        )
    if model.binary or not model.with_f or experiment.loss.d2 == "gan":
        raise UserError("--binary, --no-with-f and --d2 gan are for digits only")
    t = find_groups(chosen.target)
    s, held = hold_out(find_groups(chosen.source), chosen.validation)
    if not held:
        raise UserError(
            f"no images to validate on: --validation must be at least 1, and {chosen.source} must have at least 10 "
            "images"
        )
    f, facts = load_face_network(model.f)
    name = run.name or f"dtn-faces-{fingerprint(experiment)}"
    validation = sample_rows(held, chosen.validation, chosen.size)["image"]
    some_s, some_t = (sample_rows(groups, SCALING, chosen.size)["image"] for groups in (s, t))
    facts = {"f": facts, "f_digest": checkpoint.digest(f)}
    facts |= {"s_images": count_rows(s), "t_images": count_rows(t)}
    feed = Streamed(s, t, chosen.size, BadRows(run.max_bad_rows))
    return Prepared(name, feed, some_s, some_t, validation, None, f, None, facts)


# Batches of eight faces on a CPU: with 64, each face took 1.1 to 1.4 times as long, because glibc returns blocks of 32
# MB and more to the kernel at once, which must clear them again for the next layer.
FACES = Domain("faces", True, 8, build, read_f, prepare)
