"""Training of a DTN of faces on Ray Train, from streams of Parquet files."""

import io
from dataclasses import replace

import numpy as np
import pytest
import torch
from files import encode, write_face_network, write_faces
from PIL import Image

from dtn_ray.convert.job import convert
from dtn_ray.convert.options import Conversion
from dtn_ray.errors import UserError
from dtn_ray.method.features import moments
from dtn_ray.method.options import OptimConfig
from dtn_ray.method.pixels import to_float
from dtn_ray.resumable.options import Run
from dtn_ray.train.job import train
from dtn_ray.train.options import Experiment
from dtn_ray.train.presets import paper_faces
from dtn_ray.train.trained import load_trained


def pictures(count: int, seed: int) -> list[bytes]:
    """Discs of one colour on another, enlarged noise."""
    rng = np.random.default_rng(seed)
    small = rng.integers(0, 256, (count, 6, 6, 3), np.uint8)
    return [encode(Image.fromarray(pixels).resize((40, 40), Image.Resampling.BICUBIC)) for pixels in small]


@pytest.fixture(scope="module")
def faces(tmp_path_factory) -> Experiment:
    """A training of seconds, with all that is ours in it."""
    folder = tmp_path_factory.mktemp("faces")
    source = write_faces(folder / "s/a.parquet", pictures(60, 1), rows=7)
    target = write_faces(folder / "t/a.parquet", pictures(40, 2), rows=9)
    paper = paper_faces()
    return replace(
        paper,
        data=replace(paper.data, source=source, target=target, size=40, validation=5),
        model=replace(
            paper.model,
            f=write_face_network(folder / "f.onnx", seed=1),
            width_g=0.03,
            width_D=0.03,
            size_D=64,
            upscaling="nearest",
            feature_scale="transport",
            exaggeration=1.5,
        ),
        loss=replace(paper.loss, warm_up=3, r1=0.1, alpha=1.0),
        optim=OptimConfig(steps=9, batch_size=8, ema_decay=0.9),
    )


def test_faces_train_from_streams_and_convert(faces, tmp_path, ray_cluster) -> None:
    run = Run(storage=f"{tmp_path}/runs", name="faces", cpus_per_worker=1, log_every=3, checkpoint_every=3)
    outcome = train(faces, run)
    assert outcome.metrics["step"] == 9 and np.isfinite(outcome.metrics["validation_L_const"])
    assert 0 < outcome.metrics["L_d"] < 10
    trained = load_trained(outcome.folder)
    assert trained.manifest["s_images"] == 55 and trained.manifest["t_images"] == 40
    f = trained.dtn.f
    t = np.stack([np.asarray(Image.open(io.BytesIO(content))).transpose(2, 0, 1) for content in pictures(40, 2)])
    torch.testing.assert_close(f.mean_t, moments(f.network, [to_float(t)]).mean)
    s = np.stack([np.asarray(Image.open(io.BytesIO(content))).transpose(2, 0, 1) for content in pictures(60, 1)])
    assert moments(f.network, [to_float(s)]).scale / f.scale == pytest.approx(1.5, rel=0.1)
    assert (f.mean_s - f.mean_t).abs().max() > 1e-3 and f.transport.diagonal().min() > 0
    G_t = trained.dtn.G(to_float(t), True)
    assert G_t.shape == (40, 3, 64, 64) and G_t.std() > 0.01
    # A finished run is not run again; what it made converts.
    assert train(faces, run).resumed
    for i, content in enumerate(pictures(4, 3)):
        (tmp_path / "in").mkdir(exist_ok=True)
        (tmp_path / f"in/{i}.png").write_bytes(content)
    summary = convert(Conversion(outcome.folder, f"{tmp_path}/in", f"{tmp_path}/out", aligned=True, sheet=4))
    assert summary["converted"] == 4 and summary["failed"] == 0


@pytest.mark.parametrize(
    ("part", "values", "message"),
    [
        ("model", {"f": None}, "faces need a face network as f: --f NETWORK.onnx"),
        ("model", {"f": "f.pt"}, "--f f.pt: neither a face network as ONNX"),
        ("data", {"source": ""}, "faces need --source and --target"),
        ("data", {"target": "nowhere"}, "nowhere: no Parquet files there"),
        ("data", {"validation": 0}, "no images to validate on"),
        ("model", {"with_f": False}, "are for digits only"),
        ("model", {"feature_scale": "unit"}, "--exaggeration 1.5 needs the mean.* choose --feature-scale per-domain"),
        ("model", {"exaggeration": 0.0}, "--exaggeration 0.0 must be greater than 0"),
    ],
)
def test_what_cannot_work_is_refused_before_anything_starts(faces, tmp_path, part, values, message) -> None:
    wrong = replace(faces, **{part: replace(getattr(faces, part), **values)})
    with pytest.raises(UserError, match=message):
        train(wrong, Run(storage=str(tmp_path)))
