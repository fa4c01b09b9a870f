"""SRCNN: its colours, interpolation and measure against known values, its training on Ray, networks brought along."""

import hashlib
import io
import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from conftest import client
from files import encode
from onnx import TensorProto, helper, numpy_helper
from PIL import Image
from torch import nn

from dtn_ray.checkpoints import checkpoint
from dtn_ray.errors import UserError
from dtn_ray.models.srcnn import SRCNN, bicubic, degrade, rgb_to_ycbcr, upscale, ycbcr_to_rgb
from dtn_ray.resumable.options import Run
from dtn_ray.settings import fingerprint, from_dict, to_dict
from dtn_ray.super_resolution.job import train_super_resolution
from dtn_ray.super_resolution.load import Upscaler, load_super_resolver
from dtn_ray.super_resolution.loop import coarse, rate
from dtn_ray.super_resolution.measure import measure, psnr
from dtn_ray.super_resolution.options import SuperResolution
from dtn_ray.super_resolution.patches import cut, draw_patches, make_pairs, read_luminances

SMALL = SuperResolution(images="", middle=1, steps=60, batch_size=8, patch=16, lr=2e-3)


def drawing(seed: int, height: int = 60, width: int = 52) -> Image.Image:
    """Coloured rectangles: edges to sharpen."""
    generator = np.random.default_rng(seed)
    pixels = np.zeros((height, width, 3), np.uint8)
    for _ in range(12):
        top, left = generator.integers(height - 8), generator.integers(width - 8)
        size = generator.integers(4, 24, 2)
        pixels[top : top + size[0], left : left + size[1]] = generator.integers(0, 256, 3)
    return Image.fromarray(pixels)


# Colours and interpolation


@pytest.mark.parametrize(
    ("rgb", "ycbcr"),
    [  # MATLAB's rgb2ycbcr, in 255ths
        ((1, 0, 0), (81.481, 90.203, 240.0)),
        ((0, 1, 0), (144.553, 53.797, 34.214)),
        ((0, 0, 1), (40.966, 240.0, 109.786)),
        ((1, 1, 1), (235.0, 128.0, 128.0)),
        ((0, 0, 0), (16.0, 128.0, 128.0)),
    ],
)
def test_colours_become_those_of_matlab(rgb, ycbcr):
    found = rgb_to_ycbcr(torch.tensor(rgb, dtype=torch.float32)[None, :, None, None])
    torch.testing.assert_close(found.flatten() * 255, torch.tensor(ycbcr), atol=1e-3, rtol=0)
    torch.testing.assert_close(ycbcr_to_rgb(found).flatten(), torch.tensor(rgb, dtype=torch.float32), atol=1e-5, rtol=0)


def test_bicubic_enlarges_by_keys_kernel():
    row = torch.zeros(1, 1, 1, 9)
    row[..., 4] = 1.0
    # Keys' cubic, a = -1/2, at distances of 1.75, 1.25, 0.75, 0.25 and back.
    half = [-0.0234375, -0.0703125, 0.2265625, 0.8671875]
    found = bicubic(row.expand(1, 1, 9, 9), 18, 18)[0, 0, 9]
    torch.testing.assert_close(found[5:13], torch.tensor(half + half[::-1]))
    assert not found[:5].any() and not found[13:].any()


def test_bicubic_agrees_with_pillow_both_ways():
    values = np.random.default_rng(0).random((24, 36)).astype(np.float32)
    for height, width in ((12, 18), (8, 12), (6, 9), (48, 72)):
        expected = np.asarray(Image.fromarray(values).resize((width, height), Image.Resampling.BICUBIC))
        found = bicubic(torch.from_numpy(values)[None, None], height, width)[0, 0]
        torch.testing.assert_close(found, torch.from_numpy(expected.copy()), atol=1e-5, rtol=0)


@pytest.mark.parametrize("factor", [2, 3, 4])
def test_a_slope_is_as_it_was_when_shrunk_and_enlarged(factor):
    slope = torch.linspace(0, 1, 48).expand(1, 1, 48, 48)
    inside = slice(4 * factor, -4 * factor)  # at the border there is nothing to go on with
    torch.testing.assert_close(degrade(slope, factor)[..., inside], slope[..., inside], atol=1e-5, rtol=0)


# The network


@pytest.mark.parametrize("middle", [1, 3, 5])
def test_srcnn_keeps_the_size_and_treats_the_border_as_repeated(middle):
    network = SRCNN(middle)
    y = torch.rand(2, 1, 20, 30)
    margin = network.margin
    assert margin == (9 // 2 + middle // 2 + 5 // 2)
    inside = slice(margin, -margin)
    assert network(y).shape == y.shape
    torch.testing.assert_close(network(y)[..., inside, inside], network(y, pad=False))
    assert network(y[..., :3, :2]).shape == (2, 1, 3, 2)  # smaller than its filters


def test_srcnn_begins_near_bicubic_interpolation():
    torch.manual_seed(0)
    y = degrade(rgb_to_ycbcr(torch.rand(2, 3, 24, 24))[:, :1], 2)
    assert (SRCNN()(y) - y).abs().max() < 0.1


@pytest.mark.parametrize("factor", [2, 3, 4])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_flat_image_stays_flat(factor, dtype):
    x = torch.tensor([0.5, -0.25, 0.0], dtype=dtype)[None, :, None, None].expand(2, 3, 7, 5)
    plain = upscale(nn.Identity(), x, factor)
    assert plain.shape == (2, 3, 7 * factor, 5 * factor) and plain.dtype == dtype
    torch.testing.assert_close(plain, x[..., :1, :1].expand_as(plain), atol=1e-5, rtol=0)
    sharpened = upscale(SRCNN(), x, factor).float()
    assert (sharpened - sharpened[..., :1, :1]).abs().max() < 1e-5


def test_upscale_gives_luminance_what_the_network_was_trained_on():
    """The network's input is what `degrade` makes, and its output comes out unchanged as the image's luminance."""
    seen = []

    def network(y: torch.Tensor) -> torch.Tensor:
        seen.append(y)
        return y + 0.05

    small = bicubic(torch.rand(1, 3, 24, 24) * 0.6 + 0.2, 12, 12)
    large = upscale(network, small * 2 - 1, 2)  # type: ignore[arg-type]
    torch.testing.assert_close(seen[0], bicubic(rgb_to_ycbcr(small)[:, :1], 24, 24), atol=1e-5, rtol=0)
    found = rgb_to_ycbcr((large + 1) / 2)
    torch.testing.assert_close(found[:, :1], seen[0] + 0.05, atol=1e-5, rtol=0)
    torch.testing.assert_close(found[:, 1:], bicubic(rgb_to_ycbcr(small)[:, 1:], 24, 24), atol=1e-5, rtol=0)


# The measure


def test_psnr_by_hand():
    reference = torch.full((6, 6), 100 / 255)
    y = reference + 5 / 255
    assert psnr(y, reference, 0) == pytest.approx(34.1514, abs=1e-4)  # 10 log10(255² / 25)
    y[0] = 1.0
    assert psnr(y, reference, 1) == pytest.approx(34.1514, abs=1e-4)
    assert psnr(y, reference, 0) < 20
    assert psnr(reference + 0.4 / 255, reference, 0) == float("inf")  # the same in 8 bits
    assert psnr(reference * 0 - 1, reference * 0, 0) == float("inf")


def test_the_measure_crops_to_multiples_and_says_bicubic_beside():
    image = np.asarray(drawing(0, 50, 47).convert("L"))
    (bicubic_alone, same), *rest = measure(SameSize(), {"a": image}, 3).values()
    assert not rest and bicubic_alone == same
    sharp = torch.from_numpy(image[:48, :45].astype(np.float32) / 255)
    assert bicubic_alone == psnr(degrade(sharp[None, None], 3)[0, 0], sharp, 3)


class SameSize(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.anything = nn.Parameter(torch.zeros(1))

    def forward(self, y: torch.Tensor) -> torch.Tensor:
        return y


# Patches


def test_patches_are_drawn_from_every_place_and_by_the_seed_alone():
    shapes = np.array([(10, 12), (8, 8)])
    patches = draw_patches(shapes, 8, 4000, seed=3)
    np.testing.assert_array_equal(patches, draw_patches(shapes, 8, 4000, seed=3))
    places, counts = np.unique(patches[:, :3], axis=0, return_counts=True)
    expected = [(0, top, left) for top in range(3) for left in range(5)] + [(1, 0, 0)]
    assert sorted(map(tuple, places.tolist())) == expected
    assert counts.min() > 180 and counts.max() < 330  # 250 each
    assert {*patches[:, 3]} == {*range(8)}


def test_patches_lie_on_one_another_however_they_are_turned():
    image = np.random.default_rng(0).integers(0, 256, (14, 15), np.uint8)
    (pair,) = make_pairs({"a": image}, 2)
    assert pair.sharp.shape == pair.blurred.shape == (14, 14)
    same = replace(pair, blurred=(pair.sharp / 255).astype(np.float16))
    patches = np.array([(0, 1, 2, turn) for turn in range(8)])
    x, y = cut([same], patches, side=10, margin=2)
    assert x.shape == (8, 1, 10, 10) and y.shape == (8, 1, 6, 6)
    torch.testing.assert_close(x[..., 2:-2, 2:-2], y, atol=1e-3, rtol=0)
    assert len({patch.numpy().tobytes() for patch in x}) == 8
    torch.testing.assert_close(y[0, 0], torch.from_numpy(image[3:9, 4:10] / np.float32(255)))


def test_the_rate_warms_up_and_ends_near_zero():
    config = replace(SMALL, steps=1000, lr=1e-3)
    assert rate(config, 0) == pytest.approx(1e-5) and rate(config, 99) == pytest.approx(1e-3, rel=0.03)
    assert rate(config, 500) == pytest.approx(5e-4) and 0 < rate(config, 999) < 1e-8


def test_the_last_tenth_of_the_steps_is_exact():
    config = replace(SMALL, steps=100, bf16=True)
    assert [step for step in range(100) if not coarse(config, step)] == [*range(90, 100)]
    assert not coarse(replace(config, bf16=False), 0)


# Images to learn from


def test_images_that_do_not_serve_are_named_and_left_out(tmp_path, capsys):
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub/good.png").write_bytes(encode(Image.new("RGB", (40, 30), "red")))
    (tmp_path / "small.png").write_bytes(encode(Image.new("RGB", (40, 29))))
    (tmp_path / "cut.png").write_bytes(encode(drawing(0))[:300])
    (tmp_path / "empty.jpg").touch()
    (tmp_path / "notes.txt").write_text("no image")
    found = read_luminances(str(tmp_path), 30)
    assert [*found] == ["sub/good.png"] and found["sub/good.png"].shape == (30, 40)
    assert {*found["sub/good.png"].flat} == {81}
    warnings = capsys.readouterr().out
    assert f"{tmp_path}/small.png: left out: 40×29 pixels; at least 30×30 are needed" in warnings
    assert "cut.png: left out: the file is cut short" in warnings and "empty.jpg: left out: empty file" in warnings
    assert warnings.count("warning: ") == 3


@pytest.mark.parametrize(
    ("files", "said"),
    [
        ({"empty.png": b""}, r"no images there: none of 1 can be used"),
        ({"a.txt": b"a"}, "no images there"),
        ({}, "no images there"),
    ],
    ids=["bad", "others", "none"],
)
def test_a_folder_without_images_is_refused(tmp_path, files, said):
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=f"{tmp_path}: {said}.*give a folder or s3:// prefix"):
        train_super_resolution(replace(SMALL, images=str(tmp_path)), Run())


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"factors": (2, 5)}, "--factors 2 5: needs one or more of 2, 3 and 4"),
        ({"factors": (2, 2)}, "--factors 2 2"),
        ({"factors": ()}, "--factors"),
        ({"steps": 0}, "--steps"),
        ({"batch_size": 0}, "--batch-size"),
    ],
)
def test_settings_that_cannot_be_are_refused(changes, said):
    with pytest.raises(UserError, match=said):
        train_super_resolution(replace(SMALL, **changes), Run())
    with pytest.raises(UserError, match="cannot be divided evenly among --workers 3"):
        train_super_resolution(SMALL, Run(workers=3))


def test_the_options_survive_json_and_make_the_runs_name():
    config = replace(SMALL, images="photos", factors=(2, 4), test_images="s3://b/set5")
    assert from_dict(SuperResolution, json.loads(json.dumps(to_dict(config)))) == config
    assert fingerprint(config) != fingerprint(SMALL)


# Training


@pytest.fixture(scope="module")
def drawings(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("drawings")
    for seed in range(6):
        (folder / f"{seed}.png").write_bytes(encode(drawing(seed)))
    (folder / "damaged.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    return folder


@pytest.fixture(scope="module")
def trained(ray_cluster, drawings, tmp_path_factory):
    """A training of a few seconds, with three checkpoints."""
    config = replace(SMALL, images=str(drawings), test_images=str(drawings), factors=(2, 3))
    run = Run(storage=str(tmp_path_factory.mktemp("runs")), name="a", cpus_per_worker=1, checkpoint_every=20)
    return config, run, train_super_resolution(config, run)


@pytest.mark.slow
def test_training_beats_bicubic_and_says_so(trained):
    metrics = trained[2].metrics
    assert metrics["step"] == 60 and metrics["images"] == 6
    for factor in (2, 3):
        assert metrics[f"psnr_x{factor}"] > metrics[f"bicubic_x{factor}"] + 0.2
        each = metrics[f"images_x{factor}"]
        assert sorted(each) == list("012345")
        assert np.mean([*each.values()], 0) == pytest.approx(
            [metrics[f"bicubic_x{factor}"], metrics[f"psnr_x{factor}"]]
        )


@pytest.mark.slow
def test_the_checkpoint_is_data_and_enlarges(trained, drawings):
    config, _, outcome = trained
    manifest = json.loads((Path(outcome.checkpoint) / "checkpoint.json").read_text())
    assert manifest["kind"] == "super_resolution" and manifest["preprocessing"]["luminance"] == "BT.601, studio range"
    assert from_dict(SuperResolution, manifest["config"]) == config

    resolver = load_super_resolver(outcome.checkpoint)
    assert (resolver.factors, resolver.channels, resolver.enlarges) == ((2, 3), 1, 1)
    assert resolver.digest == checkpoint.digest(resolver.network) == load_super_resolver(outcome.folder).digest
    # The measure of what the checkpoint holds is what the training reported.
    found = measure(resolver.network, read_luminances(str(drawings), 32), 2)
    reported = outcome.metrics["images_x2"]
    for key, values in found.items():
        assert values == pytest.approx(reported[key.removesuffix(".png")], abs=0.01)


@pytest.mark.slow
def test_a_training_that_lost_its_worker_ends_with_the_same_weights(trained, tmp_path, monkeypatch):
    config, run, outcome = trained
    mark = tmp_path / "once"
    mark.touch()

    def dies_once(settings: dict, mark: str = str(mark)) -> None:
        import os

        from dtn_ray.super_resolution import loop as module

        rate_of = module.rate

        def failing(config: SuperResolution, step: int) -> float:
            if step == 55 and os.path.exists(mark):
                os.remove(mark)
                raise RuntimeError("a worker is lost")
            return rate_of(config, step)

        module.rate = failing
        module.loop(settings)

    monkeypatch.setattr("dtn_ray.super_resolution.job.loop", dies_once)
    resumed = train_super_resolution(config, replace(run, storage=str(tmp_path)))
    assert not mark.exists() and resumed.metrics["resumed_at"] in (20, 40)
    assert load_super_resolver(resumed.checkpoint).digest == load_super_resolver(outcome.checkpoint).digest


@pytest.mark.slow
def test_two_workers_end_with_the_weights_of_one(trained, tmp_path):
    config, run, outcome = trained
    two = train_super_resolution(config, replace(run, storage=str(tmp_path), workers=2))
    one, other = (load_super_resolver(each.checkpoint).network.state_dict() for each in (outcome, two))
    for name, value in one.items():
        torch.testing.assert_close(other[name], value, atol=1e-4, rtol=0)


@pytest.mark.slow
def test_the_same_call_is_not_run_again_and_other_images_are_refused(trained, tmp_path):
    config, run, outcome = trained
    assert replace(train_super_resolution(config, run), resumed=False).checkpoint == outcome.checkpoint
    (tmp_path / "0.png").write_bytes(encode(drawing(9)))
    with pytest.raises(UserError, match=r"other settings \(.*images"):
        train_super_resolution(replace(config, images=str(tmp_path)), run)


def test_images_are_read_from_s3(bucket, s3_server):
    s3 = client(s3_server)
    s3.put_object(Bucket=bucket.removeprefix("s3://"), Key="t/a.png", Body=encode(drawing(0)))
    s3.put_object(Bucket=bucket.removeprefix("s3://"), Key="t/b.png", Body=b"nothing")
    assert [*read_luminances(f"{bucket}/t", 20)] == ["a.png"]


# Enlarging


def srcnn_checkpoint(folder: Path, factors: tuple[int, ...] = (2, 4)) -> str:
    config = replace(SMALL, factors=factors)
    torch.manual_seed(0)
    checkpoint.save(folder, "super_resolution", config, {"srcnn": SRCNN(config.middle)}, step=1, metrics={})
    return str(folder)


@pytest.mark.parametrize("factor", [1, 2, 4])
def test_the_upscaler_gives_the_size_in_every_layout(tmp_path, factor):
    upscaler = Upscaler(load_super_resolver(srcnn_checkpoint(tmp_path / "c")), factor)
    x = torch.rand(2, 3, 16, 12) * 2 - 1
    with torch.inference_mode():
        y = upscaler(x)
        other = upscaler.to(memory_format=torch.channels_last)(x.contiguous(memory_format=torch.channels_last))
    assert y.shape == (2, 3, 16 * factor, 12 * factor) and y.abs().max() <= 1
    torch.testing.assert_close(other, y, atol=1e-5, rtol=0)
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(upscaler(x), y, atol=1e-5, rtol=0)
    if factor == 1:
        assert torch.equal(y, x)


def test_the_digest_tells_weights_and_factor_apart(tmp_path):
    resolver = load_super_resolver(srcnn_checkpoint(tmp_path / "a"))
    assert resolver.digest == load_super_resolver(srcnn_checkpoint(tmp_path / "b")).digest
    digests = {Upscaler(resolver, factor).digest for factor in (1, 2, 4)}
    assert len(digests) == 3 and all(re.fullmatch("[0-9a-f]{64}", each) for each in digests)


def test_factors_that_do_not_serve_are_refused(tmp_path):
    resolver = load_super_resolver(srcnn_checkpoint(tmp_path / "c"))
    for factor in (0, 5, -1):
        with pytest.raises(UserError, match=f"1, 2, 3 or 4 times, not {factor}"):
            Upscaler(resolver, factor)
    with pytest.raises(UserError, match=f"{tmp_path}/c: enlarges 2 or 4 times, not 3 times; .*--factors 3"):
        Upscaler(resolver, 3)


def test_checkpoints_that_do_not_serve_are_refused(tmp_path, made):
    with pytest.raises(UserError, match=f"{tmp_path}/gone: not there; give a checkpoint of jobs/super_resolution"):
        load_super_resolver(str(tmp_path / "gone"))
    with pytest.raises(UserError, match=f"{tmp_path}: no checkpoint here"):
        load_super_resolver(str(tmp_path))
    with pytest.raises(UserError, match=r"kind 'classifier', but one of jobs/super_resolution\.py"):
        load_super_resolver(str(made / "classifier"))
    uri = srcnn_checkpoint(tmp_path / "c")
    (tmp_path / "c/srcnn.safetensors").write_bytes(b"damaged")
    with pytest.raises(UserError, match=r"c/srcnn\.safetensors: missing, damaged, or the weights of another network"):
        load_super_resolver(uri)


# Networks brought along


def onnx_network(path: Path, channels: int, times: int = 1, kernel: int = 3, gives: int | None = None) -> str:
    """A convolution that leaves its input as it is or, transposed, repeats each pixel `times` times."""
    gives = gives or channels
    if times == 1:
        weight = torch.zeros(gives, channels, kernel, kernel)
        for i in range(min(channels, gives)):
            weight[i, i, kernel // 2, kernel // 2] = 1.0
        node = helper.make_node("Conv", ["x", "weight"], ["y"], kernel_shape=[kernel] * 2, pads=[1] * 4)
    else:
        weight = torch.eye(channels)[:, :, None, None].expand(channels, channels, times, times)
        node = helper.make_node("ConvTranspose", ["x", "weight"], ["y"], kernel_shape=[times] * 2, strides=[times] * 2)
    graph = helper.make_graph(
        [node],
        "network",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", channels, "h", "w"])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", gives, "H", "W"])],
        [numpy_helper.from_array(np.ascontiguousarray(weight.numpy()), "weight")],
    )
    buffer = io.BytesIO()
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8), buffer)
    path.write_bytes(buffer.getvalue())
    return str(path)


@pytest.mark.parametrize("channels", [1, 3])
def test_an_onnx_network_sharpens_what_is_enlarged(tmp_path, channels):
    resolver = load_super_resolver(onnx_network(tmp_path / "same.onnx", channels))
    assert (resolver.channels, resolver.enlarges, resolver.factors) == (channels, 1, (2, 3, 4))
    x = torch.rand(2, 3, 8, 10) * 2 - 1
    with torch.inference_mode():
        for factor in (1, 2, 3, 4):
            y = Upscaler(resolver, factor)(x)
            expected = bicubic(x, 8 * factor, 10 * factor).clamp(-1, 1) if factor > 1 else x
            torch.testing.assert_close(y, expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("channels", [1, 3])
def test_an_onnx_network_may_enlarge_by_itself(tmp_path, channels):
    resolver = load_super_resolver(onnx_network(tmp_path / "three.onnx", channels, times=3))
    assert (resolver.channels, resolver.enlarges, resolver.factors) == (channels, 3, (3,))
    x = (torch.rand(2, 1, 8, 10) * 2 - 1).expand(2, 3, 8, 10)  # grey: all of it is luminance
    repeated = x.repeat_interleave(3, 2).repeat_interleave(3, 3)
    torch.testing.assert_close(Upscaler(resolver, 3)(x), repeated, atol=1e-5, rtol=0)
    with pytest.raises(UserError, match=r"three\.onnx: enlarges 3 times, not 2 times"):
        Upscaler(resolver, 2)


def test_the_digest_of_an_onnx_network_is_its_files(tmp_path):
    uri = onnx_network(tmp_path / "a.onnx", 1)
    assert load_super_resolver(uri).digest == hashlib.sha256(Path(uri).read_bytes()).hexdigest()


@pytest.mark.parametrize(
    "options",
    [{"channels": 2}, {"channels": 3, "gives": 1}, {"channels": 1, "kernel": 5}, {"channels": 1, "times": 5}],
    ids=["two channels", "gives other channels", "shrinks", "enlarges five times"],
)
def test_onnx_networks_that_do_not_fit_are_refused(tmp_path, options):
    with pytest.raises(
        UserError, match=r"bad\.onnx: not a super-resolution network: its input must be N×1×H×W or N×3×H×W"
    ):
        load_super_resolver(onnx_network(tmp_path / "bad.onnx", **options))


def test_what_is_no_onnx_network_is_refused(tmp_path):
    (tmp_path / "bad.onnx").write_bytes(b"hello")
    with pytest.raises(UserError, match=r"bad\.onnx: not an ONNX network that can be used here"):
        load_super_resolver(str(tmp_path / "bad.onnx"))
    with pytest.raises(UserError, match=r"gone\.onnx: not there"):
        load_super_resolver(str(tmp_path / "gone.onnx"))


# The command line


def test_the_job_lists_its_options(call):
    code, out, err = call("super_resolution --help")
    assert code == 0 and err == ""
    assert [text for text in ("IMAGES", "--test-images", "--factors", "--name", "--workers") if text not in out] == []


@pytest.mark.parametrize(
    ("line", "named"),
    [
        ("super_resolution", "IMAGES"),
        ("super_resolution {here} --bogus", "--bogus"),
        ("super_resolution {here}/gone", "gone: no images there"),
        ("super_resolution {here} --factors 7", "--factors 7"),
    ],
)
def test_bad_command_lines_exit_2(call, tmp_path, line, named):
    code, _, err = call(line.format(here=tmp_path))
    assert code == 2 and named in err and "Traceback" not in err
