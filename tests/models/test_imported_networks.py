"""Face networks as others export them give what ONNX Runtime gives, and gradients of that."""

import json
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
import torchvision
from onnx import TensorProto, helper
from onnx_networks import SIZE, STYLES, WEIGHTS, B, W, content, conv, drawn, head, model, node
from torch import nn
from torchvision.models.resnet import BasicBlock, ResNet

from dtn_ray import storage
from dtn_ray.checkpoints import checkpoint
from dtn_ray.errors import UserError
from dtn_ray.method.features import FrozenF
from dtn_ray.models.imported import Eye, ImportedF
from dtn_ray.models.onnx_reader import GREY, Adapted, OneByOne
from dtn_ray.perceptual.load import build_imported, eye_of, load_imported
from dtn_ray.super_resolution.load import load_super_resolver
from dtn_ray.train.options import Experiment

UNREAD = ("microsoft_operations",)
KINDS = {"float": np.float32, "float16": np.float16, "uint8": np.uint8}


@pytest.fixture(autouse=True)
def no_fallback() -> Iterator[None]:
    """A network that could not be made fast fails its test."""
    with warnings.catch_warnings():
        warnings.filterwarnings("error", "f could not be made faster")
        yield


class Runtime:
    """ONNX Runtime's answer, for pictures N×3×H×W in the values that the network takes."""

    def __init__(self, file: bytes | str, output: str | None = None, size: int = SIZE) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads, options.log_severity_level = 1, 3
        self.session = onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
        [self.input], self.output = self.session.get_inputs(), output or self.session.get_outputs()[0].name
        self.kind = KINDS[self.input.type.removeprefix("tensor(").rstrip(")")]
        self.shape, self.size = self.input.shape, size

    def __call__(self, pictures: np.ndarray) -> np.ndarray:
        *_, first, _, last = self.shape
        if first == 1:
            pictures = (pictures * np.float32(GREY)[:, None, None]).sum(1, keepdims=True)
        if last in (3, "channels"):
            pictures = pictures.transpose(0, 2, 3, 1)
        pictures = pictures.astype(self.kind)
        if len(self.shape) == 3:
            found = [self._run(picture) for picture in pictures]
        elif self.shape[0] == 1:
            found = [self._run(picture[None]) for picture in pictures]
        else:
            found = [*self._run(pictures)]
        return np.stack([each.reshape(-1) for each in found]).astype(np.float64)

    def _run(self, pictures: np.ndarray) -> np.ndarray:
        return self.session.run([self.output], {self.input.name: pictures})[0]


def check(f: ImportedF, runtime: Runtime, tolerance: float = 1e-5) -> None:
    """Outputs, for one picture and for some; and what they change along a random direction."""
    eye, generator = f.eye, np.random.default_rng(0)
    levels = generator.integers(8, 248, (3, 3, eye.size, eye.size)).astype(np.float32)

    def values(levels: np.ndarray) -> np.ndarray:
        return levels / 255 * np.float32(eye.high - eye.low) + np.float32(eye.low)

    x = torch.from_numpy(levels / 127.5 - 1).requires_grad_()
    found, expected = f.represent(x), runtime(values(levels))
    size = np.abs(expected).max()
    assert found.shape == expected.shape == (3, f.features)
    assert np.abs(found.detach().numpy() - expected).max() < tolerance * size
    assert np.abs(f.represent(x[:1]).detach().numpy() - expected[:1]).max() < tolerance * size
    # Along a step the output changes by the gradient. Bytes and halves need one so large that it crosses corners.
    weights = generator.standard_normal(expected.shape)
    gradient = torch.autograd.grad((found * torch.from_numpy(weights).float()).sum(), x)[0].numpy() / 127.5
    length, error = 1.0, 0.2
    if runtime.kind is np.float32 and tolerance < 1e-3:
        length, error = min(0.1, 0.2 * size / np.abs(gradient).sum()), 0.05
    slopes, wanted = [], []
    for _ in range(5):
        step = np.sign(gradient) * generator.choice([-length, length, length], levels.shape).astype(np.float32)
        change = (runtime(values(levels + step)) - runtime(values(levels - step))) / 2
        slopes.append((gradient.astype(np.float64) * step).sum())
        wanted.append((change * weights).sum())
    assert np.isclose(slopes, wanted, rtol=error).sum() >= 4, (slopes, wanted)  # one may cross a corner all the same
    assert min(np.abs(wanted)) > 0


@pytest.mark.parametrize("name", [name for name in STYLES if name not in (*UNREAD, "double_precision")])
def test_outputs_and_gradients_are_those_of_onnx_runtime(name: str) -> None:
    file = content(STYLES[name]())
    outputs = {"one_at_a_time_that_would_mix_a_batch": "w", "map_and_vector": "y"}
    f = ImportedF(file, Eye(SIZE, low=0, high=255) if "bytes" in name else Eye(SIZE))
    check(f, Runtime(file, outputs.get(name)), 2e-3 if "half" in name else 1e-5)
    assert {buffer.dtype for buffer in f.network.buffers() if buffer.is_floating_point()} == {torch.float32}


# A branch waits, whichever it is; and a size that is computed from the batch's, though it does not depend on it.
WAITS = ("branch_that_is_settled", "enlarged")


@pytest.mark.parametrize("name", [name for name in STYLES if name not in (*UNREAD, *WAITS)])
def test_a_gpu_neither_waits_nor_meets_tensors_of_the_cpu(name: str) -> None:
    # On torch's meta device, whose tensors have no values: to read one fails, and so does to mix them with others.
    f = ImportedF(content(STYLES[name]()), Eye(SIZE)).to("meta")
    assert f.represent(torch.empty(2, 3, SIZE, SIZE, device="meta")).shape == (2, f.features)


def test_double_precision_is_taken_as_float32() -> None:
    f = ImportedF(content(STYLES["double_precision"]()), Eye(SIZE))
    x = torch.rand(2, 3, SIZE, SIZE)
    torch.testing.assert_close(f.represent(x), ImportedF(content(STYLES["opset_13"]()), Eye(SIZE)).represent(x))


def test_one_image_at_a_time_becomes_a_batch_where_it_can_be() -> None:
    flexible = model([conv(), *head()], (1, 3, SIZE, SIZE), **WEIGHTS)
    assert not isinstance(ImportedF(content(flexible), Eye(SIZE)).network, OneByOne)
    f = ImportedF(content(STYLES["one_at_a_time"]()), Eye(SIZE))
    assert isinstance(f.network, OneByOne) and f.network.at_once
    f.network.at_once = False
    check(f, Runtime(f.content))


@torch.no_grad()
def test_a_network_is_loaded_where_gradients_are_off() -> None:
    assert ImportedF(content(STYLES["opset_18"]()), Eye(SIZE)).features == 8


def test_a_grey_network_weighs_the_colours_in_its_order() -> None:
    file = content(STYLES["grey"]())
    rgb, bgr = ImportedF(file, Eye(SIZE)), ImportedF(file, Eye(SIZE, bgr=True))
    x = torch.rand(2, 3, SIZE, SIZE)
    torch.testing.assert_close(rgb.represent(x), bgr.represent(x))
    assert isinstance(rgb.network, Adapted)


# What torch exports


def traced(network: nn.Module, path: Path, size: int) -> None:
    example: Any = torch.rand(2, 3, size, size)
    names = {"input_names": ["x"], "output_names": ["y"], "dynamic_axes": {"x": {0: "N"}, "y": {0: "N"}}}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(network, (example,), path, dynamo=False, **names)


def exported(network: nn.Module, path: Path, size: int) -> None:
    example, sizes = torch.rand(2, 3, size, size), {0: torch.export.Dim("N", min=1, max=1024)}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(network, (example,), path, dynamo=True, dynamic_shapes=(sizes,), verbose=False)


def small_transformer(**how: Any) -> nn.Module:
    how = {"image_size": SIZE, "patch_size": 8, "num_layers": 2, "num_heads": 2, "hidden_dim": 32, "mlp_dim": 64} | how
    network = torchvision.models.VisionTransformer(num_classes=8, **how)
    nn.init.normal_(network.heads.head.weight, std=0.1)  # zero, where it begins
    return network


def small_convnext() -> nn.Module:
    block = torchvision.models.convnext.CNBlockConfig
    return torchvision.models.ConvNeXt([block(16, 32, 1), block(32, None, 1)], num_classes=8, layer_scale=0.5)


FAST: dict[str, tuple[Callable[[], nn.Module], int]] = {
    "vit": (small_transformer, SIZE),
    "resnet": (lambda: ResNet(BasicBlock, [1, 1, 1, 1], num_classes=8), SIZE),
}
SLOW: dict[str, tuple[Callable[[], nn.Module], int]] = {
    "resnet18": (lambda: torchvision.models.resnet18(num_classes=8), 64),
    "mobilenet_v3_small": (lambda: torchvision.models.mobilenet_v3_small(num_classes=8), 64),
    "efficientnet_b0": (lambda: torchvision.models.efficientnet_b0(num_classes=8), 64),
    "convnext": (small_convnext, 64),
    "shufflenet": (lambda: torchvision.models.shufflenet_v2_x0_5(num_classes=8), 64),
    "squeezenet": (lambda: torchvision.models.squeezenet1_1(num_classes=8), 64),
    "densenet": (lambda: torchvision.models.DenseNet(8, (2, 2), 16, num_classes=8), 64),
    "swin": (lambda: torchvision.models.SwinTransformer([4, 4], 16, [2, 2], [2, 2], [4, 4], num_classes=8), 64),
}


def drawn_network(make: Callable[[], nn.Module]) -> nn.Module:
    """With statistics in its batch norms that keep what passes apart, as training leaves them."""
    torch.manual_seed(0)
    network = make().train()
    norms = [each for each in network.modules() if isinstance(each, nn.BatchNorm2d)]
    for norm in norms:
        norm.momentum = None  # the average over all that was seen
    with torch.no_grad():
        for _ in range(3 if norms else 0):
            network(torch.rand(8, 3, 64, 64) * 2 - 1)
    return network.eval()


@pytest.mark.parametrize("exporter", [traced, exported])
@pytest.mark.parametrize("name", [*FAST, *(pytest.param(name, marks=pytest.mark.slow) for name in SLOW)])
def test_what_torch_exports(name: str, exporter: Callable[[nn.Module, Path, int], None], tmp_path: Path) -> None:
    make, size = (FAST | SLOW)[name]
    network, path = drawn_network(make), tmp_path / "network.onnx"
    exporter(network, path, size)
    (tmp_path / "network.json").write_text(json.dumps({"size": size}))
    f, facts = load_imported(str(path))
    check(f, Runtime(str(path), size=size), 1e-4)
    x = torch.rand(5, 3, size, size) * 2 - 1
    with torch.no_grad():
        expected = network(x)
    torch.testing.assert_close(f.represent(x), expected, rtol=1e-3, atol=1e-4 * float(expected.abs().max()))
    gradients = [torch.autograd.grad(g(x.requires_grad_()).square().sum(), x)[0] for g in (f.represent, network)]
    torch.testing.assert_close(*gradients, rtol=1e-2, atol=1e-3 * float(gradients[1].abs().max()))
    # The checkpoint's copy needs no file beside it.
    path.unlink()
    again = build_imported(f.content, f.eye, "f.onnx")
    torch.testing.assert_close(again.represent(x), f.represent(x))
    assert facts["name"] == "network.onnx"


# Weights in a file beside the network


def beside(folder: Path, location: str = "weights.bin") -> Path:
    """A network whose weights are in a file beside it."""
    network = model([conv(), *head()], opset=18, **WEIGHTS)
    onnx.save(network, folder / "f.onnx", save_as_external_data=True, location="weights.bin", size_threshold=0)
    if location != "weights.bin":
        network = onnx.load(folder / "f.onnx", load_external_data=False)
        for tensor in network.graph.initializer:
            for entry in tensor.external_data:
                entry.value = location if entry.key == "location" else entry.value
        (folder / "f.onnx").write_bytes(network.SerializeToString())
    (folder / "f.json").write_text(json.dumps({"size": SIZE}))
    return folder / "f.onnx"


def test_weights_beside_a_network_are_taken_into_its_checkpoint(tmp_path: Path) -> None:
    path = beside(tmp_path)
    f, facts = load_imported(str(path))
    whole = ImportedF(content(model([conv(), *head()], opset=18, **WEIGHTS)), Eye(SIZE))
    x = torch.rand(2, 3, 64, 64)
    torch.testing.assert_close(f.represent(x), whole.represent(x))
    assert facts == load_imported(str(path))[1]
    folder = tmp_path / "checkpoint"
    checkpoint.save(folder, "dtn", Experiment(), {"f": FrozenF(f)}, f=facts)
    kept = build_imported((folder / "f.onnx").read_bytes(), Eye(SIZE), "f.onnx")
    (tmp_path / "weights.bin").unlink()
    torch.testing.assert_close(kept.represent(x), whole.represent(x))
    with pytest.raises(UserError, match=r"its weights are in .*weights\.bin, which is missing; keep the two files"):
        load_imported(str(path))


def test_other_weights_beside_the_same_network_make_another_network(tmp_path: Path) -> None:
    path = beside(tmp_path)
    f, facts = load_imported(str(path))
    changed = bytearray((tmp_path / "weights.bin").read_bytes())
    changed[: 4 * W.size] = (2 * W).tobytes()
    (tmp_path / "weights.bin").write_bytes(changed)
    other, others = load_imported(str(path))
    assert facts["sha256"] != others["sha256"] and f.digest != other.digest


def test_weights_beside_a_network_on_S3_are_read_from_there(bucket: str, tmp_path: Path) -> None:
    path = beside(tmp_path)
    for file in ("f.onnx", "f.json", "weights.bin"):
        storage.write_bytes(f"{bucket}/networks/{file}", (tmp_path / file).read_bytes())
    f, facts = load_imported(f"{bucket}/networks/f.onnx")
    assert facts == load_imported(str(path))[1]
    assert f.content == load_imported(str(path))[0].content
    storage.delete(f"{bucket}/networks/weights.bin")
    with pytest.raises(UserError, match=r"weights\.bin, which is missing"):
        load_imported(f"{bucket}/networks/f.onnx")


@pytest.mark.parametrize(
    "location", ["../weights.bin", "/etc/hostname", "a/../../weights.bin", "s3://b/c", "", ".", "a//b", "C:\\a", "a\nb"]
)
def test_weights_are_read_from_the_networks_own_folder_alone(location: str, tmp_path: Path) -> None:
    (tmp_path / "inner").mkdir()
    path = beside(tmp_path / "inner", location)
    (tmp_path / "weights.bin").write_bytes((tmp_path / "inner/weights.bin").read_bytes())
    with pytest.raises(UserError, match=r"f\.onnx: its weights are in .*, which is not a file in its folder; export"):
        load_imported(str(path))


def test_weights_may_lie_in_a_folder_below(tmp_path: Path) -> None:
    path = beside(tmp_path, "parts/weights.bin")
    (tmp_path / "parts").mkdir()
    (tmp_path / "weights.bin").rename(tmp_path / "parts/weights.bin")
    assert load_imported(str(path))[0].features == 8


def test_weights_cut_short_or_too_large_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = beside(tmp_path)
    whole = (tmp_path / "weights.bin").read_bytes()
    (tmp_path / "weights.bin").write_bytes(whole[:-8])
    with pytest.raises(UserError, match=r"weights\.bin is too short"):
        load_imported(str(path))
    (tmp_path / "weights.bin").write_bytes(whole)
    monkeypatch.setattr("dtn_ray.checkpoints.onnx_files.LIMIT", len(whole) - 1)
    with pytest.raises(UserError, match="larger than 2 GiB"):
        load_imported(str(path))
    monkeypatch.setattr("dtn_ray.checkpoints.onnx_files.LIMIT", path.stat().st_size - 1)
    with pytest.raises(UserError, match=r"f\.onnx: larger than 2 GiB"):
        load_imported(str(path))


# Several outputs


def test_which_output_is_f_can_be_told(tmp_path: Path) -> None:
    file = content(STYLES["two_outputs"]())
    first, second = (ImportedF(file, Eye(SIZE, output=output)) for output in (0, "z"))
    x = torch.rand(2, 3, SIZE, SIZE)
    torch.testing.assert_close(first.represent(x), ImportedF(file, Eye(SIZE)).represent(x))
    torch.testing.assert_close(second.represent(x), first.represent(x).softmax(1))
    check(second, Runtime(file, "z"))
    for wrong in ("w", 2, -1):
        with pytest.raises(ValueError, match=r"has no output .*; it has y, z"):
            ImportedF(file, Eye(SIZE, output=wrong))
    (tmp_path / "f.onnx").write_bytes(file)
    (tmp_path / "f.json").write_text(json.dumps({"size": SIZE, "output": "z"}))
    f, facts = load_imported(str(tmp_path / "f.onnx"))
    torch.testing.assert_close(f.represent(x), second.represent(x))
    assert eye_of(facts["eye"], "") == f.eye


def test_outputs_that_are_no_vector_are_asked_about() -> None:
    file = content(model([conv(), node("Relu", "c", "r")], results={"c": None, "r": None}, W=W, B=B))
    with pytest.raises(ValueError, match='gives c, r, but none of them is one vector per image: name one as "output"'):
        ImportedF(file, Eye(SIZE))
    assert ImportedF(file, Eye(SIZE, output="r")).features == 16 * (SIZE // 2) ** 2


# What does not serve, with its reason in one line


def _integer(kind: str) -> onnx.ModelProto:
    zero, byte = np.uint8(128), drawn(16, 3, 3, 3).astype(np.int8)
    quantize = node("QuantizeLinear", "x step zero", "i")
    if kind == "QuantizeLinear":
        nodes = [quantize, node("DequantizeLinear", "i step zero", "d"), conv("d"), *head()]
        return model(nodes, step=np.float32(1 / 64), zero=zero, **WEIGHTS)
    if kind == "ConvInteger":
        nodes = [node("DynamicQuantizeLinear", "x", "i s z"), node("ConvInteger", "i Q z", "j", strides=[2, 2])]
        nodes += [node("Cast", "j", "c", to=TensorProto.FLOAT), *head()]
        return model(nodes, Q=byte, L=WEIGHTS["L"])
    nodes = [quantize, node("QLinearConv", "i step zero Q step nought step zero", "j", strides=[2, 2])]
    nodes += [node("DequantizeLinear", "j step zero", "c"), *head()]
    return model(nodes, step=np.float32(1 / 64), zero=zero, nought=np.int8(0), Q=byte, L=WEIGHTS["L"])


@pytest.mark.parametrize("kind", ["QuantizeLinear", "ConvInteger", "QLinearConv"])
def test_a_network_of_integers_is_refused_since_it_gives_no_gradient(kind: str) -> None:
    with pytest.raises(
        ValueError, match=r"is quantised \(\w+\): no gradient passes through rounding to integers; export"
    ):
        ImportedF(content(_integer(kind)), Eye(SIZE))


def _rounded() -> onnx.ModelProto:
    return model([node("Floor", "x", "n"), conv("n"), *head()], **WEIGHTS)


def _cast_to_bytes() -> onnx.ModelProto:
    nodes = [node("Cast", "x", "i", to=TensorProto.INT32), node("Cast", "i", "n", to=TensorProto.FLOAT)]
    return model([*nodes, conv("n"), *head()], **WEIGHTS)


def _infinite() -> onnx.ModelProto:
    return model([conv(), *head(y="z"), node("Sub", "z z", "n"), node("Div", "z n", "y")], **WEIGHTS)


def _looped() -> onnx.ModelProto:
    body = helper.make_graph(
        [node("Identity", "go", "again"), node("NotThere", "a", "b")],
        "body",
        [helper.make_tensor_value_info(name, kind, []) for name, kind in (("i", 7), ("go", 9), ("a", 1))],
        [helper.make_tensor_value_info(name, kind, []) for name, kind in (("again", 9), ("b", 1))],
    )
    return model([conv(), node("Loop", "count - c", "d", body=body), *head("d")], count=np.array(3), **WEIGHTS)


def _own_operation() -> onnx.ModelProto:
    fused = helper.make_node("FusedConv", ["x", "W", "B"], ["c"], domain="com.microsoft", activation="Relu")
    return model([fused, *head()], domains=["com.microsoft"], **WEIGHTS)


def _two_inputs() -> onnx.ModelProto:
    network = model([conv(), *head()], **WEIGHTS)
    network.graph.input.append(helper.make_tensor_value_info("phase_train", TensorProto.BOOL, []))
    return network


def _eight_at_a_time() -> onnx.ModelProto:
    flat = node("Reshape", "p eight", "q")
    return model([conv(), *head(flat=flat)], (8, 3, SIZE, SIZE), eight=[8, 16], **WEIGHTS)


def _antialiased() -> onnx.ModelProto:
    smaller = node("Resize", "x - scales", "n", mode="linear", antialias=1)
    return model([smaller, conv("n"), *head()], opset=18, scales=np.float32([1, 1, 0.5, 0.5]), **WEIGHTS)


def _resized(scale: float, opset: int, **how: Any) -> onnx.ModelProto:
    other = node("Resize", "x - scales", "n", **how)
    return model([other, conv("n"), *head()], opset=opset, scales=np.float32([1, 1, scale, scale]), **WEIGHTS)


def _transposed(**how: Any) -> onnx.ModelProto:
    return model(
        [conv(), node("ConvTranspose", "c T", "d", strides=[2, 2], **how), *head("d")], T=drawn(16, 16, 3, 3), **WEIGHTS
    )


# Each of these was read by one of the readers, and gave something else than ONNX Runtime's.
OTHERWISE = {
    "linear from corners": lambda: _resized(2, 13, mode="linear", coordinate_transformation_mode="asymmetric"),
    "nearest above": lambda: _resized(2, 13, mode="nearest", nearest_mode="ceil"),
    "nearest of parts": lambda: _resized(1.7, 13, mode="nearest"),
    "linear of parts": lambda: _resized(1.7, 21, mode="linear"),
    "another cubic": lambda: _resized(2, 13, mode="cubic", cubic_coeff_a=-0.5),
    "given shape": lambda: _transposed(output_shape=[32, 32]),
    "uneven": lambda: _transposed(pads=[0, 0, 1, 1]),
    "wrapped": lambda: model(
        [node("Pad", "x p", "n", mode="wrap"), conv("n"), *head()], opset=21, p=[0, 0, 1, 2, 0, 0, 0, 1], **WEIGHTS
    ),
    "steeper": lambda: model([conv(), node("Swish", "c", "d", alpha=0.7), *head("d")], opset=24, **WEIGHTS),
}


@pytest.mark.parametrize("name", OTHERWISE)
def test_what_the_readers_take_for_something_else_is_refused_unless_one_reads_it_right(name: str) -> None:
    file = content(OTHERWISE[name]())
    try:
        f = ImportedF(file, Eye(SIZE))
    except ValueError as error:
        assert "cannot be followed here" in str(error)
    else:
        check(f, Runtime(file))


REFUSED = {
    _rounded: "its gradient is zero or not finite",
    _cast_to_bytes: "no gradient passes through it",
    _infinite: "its output for noise is infinite or NaN",
    _looped: "has the operation Loop, which cannot be followed here",
    _own_operation: "has the operation com.microsoft's FusedConv, which is not ONNX's own .*without the optimisations",
    STYLES["microsoft_operations"]: "has the operation com.microsoft's Gelu",
    _two_inputs: r"takes 2 inputs \(x, phase_train\), not one image alone",
    _eight_at_a_time: r"does not take images 3×32×32: its input is 8×3×32×32",
    _antialiased: "has a Resize .*cannot be followed here",
    lambda: model([conv(), *head()], ("N", 5, SIZE, SIZE), **WEIGHTS): r"its input is \?×5×32×32",
    lambda: model([node("MatMul", "x L", "y")], ("N", 16), **WEIGHTS): "takes an input of 2 axes; an image has 3",
    lambda: model([node("NotThere", "x", "y")]): "not an ONNX network that can be used here: .*NotThere",
}


@pytest.mark.parametrize("make", REFUSED)
def test_what_does_not_serve_is_refused_with_its_reason(make: Callable[[], onnx.ModelProto]) -> None:
    with pytest.raises(ValueError, match=REFUSED[make]) as caught:
        ImportedF(content(make()), Eye(SIZE))
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 500


def test_names_in_a_file_are_never_run_as_code(tmp_path: Path) -> None:
    # torch.fx writes the names of modules into Python code.
    network = model([conv(), *head()], **WEIGHTS)
    mark = tmp_path / "ran"
    for each in network.graph.node:
        each.name = f'r"), open({str(mark)!r}, "w"), getattr(self, "{each.op_type}'.replace(".", "\\x2e")
    f = ImportedF(content(network), Eye(SIZE))
    assert f.represent(torch.rand(1, 3, SIZE, SIZE)).shape == (1, 8)
    assert not mark.exists()


def test_digests_in_former_checkpoints_stay() -> None:
    """As they were written when onnx2torch alone read networks."""
    network = model([conv(), *head()], **{key: np.full_like(value, 0.25) for key, value in WEIGHTS.items()})
    assert ImportedF(content(network), Eye(SIZE)).digest.hex() == FORMER


FORMER = "d6321c47ceb9d9b2c2d66c5e6febc00738992d257d66cd84eb927314807fd621"


# Super-resolution


def test_super_resolution_networks_come_from_todays_exporters_too(tmp_path: Path) -> None:
    nodes = [node("Conv", "x K", "a", pads=[1] * 4), node("DepthToSpace", "a", "y", blocksize=2)]
    shape = ("N", 3, "height", "width")
    network = model(nodes, shape, opset=21, K=drawn(12, 3, 3, 3))
    path = tmp_path / "sr.onnx"
    onnx.save(network, path, save_as_external_data=True, location="sr.onnx.data", size_threshold=0)
    resolver = load_super_resolver(str(path))
    assert (resolver.channels, resolver.enlarges) == (3, 2)
    x = torch.rand(1, 3, SIZE, SIZE)
    [expected] = onnxruntime.InferenceSession(str(path)).run(None, {"x": x.numpy()})
    torch.testing.assert_close(resolver.network(x), torch.from_numpy(expected), rtol=1e-4, atol=1e-5)
    (tmp_path / "sr.onnx.data").unlink()
    with pytest.raises(UserError, match=r"sr\.onnx\.data, which is missing"):
        load_super_resolver(str(path))
