"""The face networks of Sec. 5.2: shapes and depths as the paper tells them, and f brought along as ONNX."""

import copy
import io
import pickle

import onnx
import pytest
import torch
import torch.nn.functional as F
from onnx import TensorProto, helper, numpy_helper
from onnx2torch import convert
from torch import fx, nn

from dtn_ray.method.features import FrozenF
from dtn_ray.models.faces import DeepFace, FaceD, FaceG, LocallyConnected
from dtn_ray.models.imported import Eye, ImportedF


def test_a_locally_connected_layer_with_equal_filters_is_a_convolution() -> None:
    layer = LocallyConnected(2, 3, size=9, kernel=3, stride=2)
    weight, bias = torch.randn(3, 2, 3, 3), torch.randn(3)
    with torch.no_grad():
        layer.weight.copy_(weight.permute(2, 3, 1, 0).reshape(18, 3))
        layer.bias.copy_(bias[:, None, None])
    x = torch.randn(4, 2, 9, 9)
    torch.testing.assert_close(layer(x), F.conv2d(x, weight, bias, stride=2))


def test_deepface_has_the_published_layers() -> None:
    f = DeepFace(classes=7, width=0.125)
    sizes = []
    for layer in f.network:
        if isinstance(layer, nn.Conv2d | nn.MaxPool2d | LocallyConnected):
            layer.register_forward_hook(lambda _, __, y: sizes.append(y.shape[-1]))
    assert f(torch.zeros(2, 3, 152, 152)).shape == (2, 7)
    assert sizes == [142, 71, 63, 55, 25, 21]
    assert f.represent(torch.zeros(2, 3, 64, 64)).shape == (2, 256)


def test_deepface_tells_images_apart_before_it_has_learnt() -> None:
    torch.manual_seed(0)
    f = DeepFace(classes=7, width=0.125)
    assert f.represent(torch.rand(8, 3, 152, 152) * 2 - 1).std(0).mean() > 0.1  # 0.008 under torch's initialisation


@pytest.mark.parametrize("upscaling", ["transposed", "nearest"])
def test_g_has_five_blocks_and_nine_layers(upscaling: str) -> None:
    g = FaceG(256, width=0.125, upscaling=upscaling)
    image = g(torch.randn(2, 256))
    assert image.shape == (2, 3, 64, 64)
    assert image.abs().max() <= 1
    layers = [layer for layer in g.modules() if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d)]
    assert len(layers) == 9
    assert sum(layer.kernel_size == (1, 1) for layer in layers) == 4


def test_D_takes_what_g_draws_and_has_six_blocks_of_stride_two() -> None:
    D = FaceD(width=0.125)
    assert D(torch.zeros(2, 3, 64, 64)).shape == (2, 3)
    assert D(torch.zeros(2, 3, 152, 152)).shape == (2, 3)
    assert [layer.stride for layer in D.layers if isinstance(layer, nn.Conv2d)] == [(2, 2)] * 6
    with pytest.raises(ValueError, match="at least 64"):
        FaceD(size=32)


def test_only_without_batch_norm_D_sees_that_a_domain_has_less_contrast() -> None:
    x = torch.randn(8, 3, 64, 64)
    with_it, without = FaceD(width=0.125), FaceD(width=0.125, norm="none")
    torch.testing.assert_close(with_it(0.5 * x), with_it(x), atol=1e-3, rtol=0)
    assert not torch.allclose(without(0.5 * x), without(x), atol=1e-2)
    assert not any(isinstance(layer, nn.BatchNorm2d) for layer in without.modules())
    # What six blocks leave of their input is neither nothing nor too much.
    assert 0.1 < without.layers[:-1](x).std() < 10


def test_the_eye_crops_in_fractions_and_scales_values() -> None:
    x = torch.zeros(1, 3, 8, 8)
    x[:, 0, 2:6, 2:6] = 1.0  # red in the middle, on grey
    seen = Eye(size=4, crop=(0.25, 0.25, 0.5), low=0, high=255, bgr=True)(x)
    torch.testing.assert_close(seen[0, 2], torch.full((4, 4), 255.0))
    torch.testing.assert_close(seen[0, 0], torch.full((4, 4), 127.5))
    # The same place of a picture of another size; its edge pixels have a part of what is outside.
    large = Eye(4, (0.25, 0.25, 0.5), 0, 255, bgr=True)(F.interpolate(x, 32, mode="nearest"))
    torch.testing.assert_close(large[..., 1:3, 1:3], seen[..., 1:3, 1:3])
    torch.testing.assert_close(large, seen, atol=32, rtol=0)


def network() -> bytes:
    """An ONNX network that gives the mean of each channel, by a convolution over the whole 8×8 image."""
    weight = numpy_helper.from_array((torch.eye(3)[:, :, None, None].expand(3, 3, 8, 8) / 64).numpy(), "weight")
    graph = helper.make_graph(
        [helper.make_node("Conv", ["x", "weight"], ["y"], kernel_shape=[8, 8])],
        "means",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 3, 8, 8])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 3, 1, 1])],
        [weight],
    )
    buffer = io.BytesIO()
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8), buffer)
    return buffer.getvalue()


def test_an_imported_f_lets_gradients_through_and_keeps_its_weights() -> None:
    f = FrozenF(ImportedF(network(), Eye(8)), scale=0.5)
    x = torch.rand(2, 3, 8, 8, requires_grad=True)
    features = f(x)
    torch.testing.assert_close(features, x.mean((2, 3)) / 0.5)
    features.sum().backward()
    assert x.grad is not None and x.grad.abs().sum() > 0
    assert not any(parameter.requires_grad for parameter in f.parameters())


def test_a_copy_of_an_imported_f_keeps_its_weights_too() -> None:
    # Or each step would compute their gradients, and hold what that needs.
    f = FrozenF(ImportedF(network(), Eye(8)))
    for copied in (copy.deepcopy(f), pickle.loads(pickle.dumps(f))):
        assert not any(weight.requires_grad for weight in copied.parameters())
        assert not copied(torch.rand(1, 3, 8, 8)).requires_grad


def exported() -> bytes:
    """A network as exporters write them: padding from the image's shape, NHWC in between, ReLU6 of three parts."""
    numbers = {
        "two": [2],
        "nine": [9],
        "channels": [1],
        "from": [-1],
        "to": [-4],
        "back": [-1],
        "before": [0, 0, 0, 0],
        "none": [0, 0],
        "around": [0, 0, 1, 1, 0, 0, 1, 1],
        "flat": [0, -1],
    }
    generator = torch.Generator().manual_seed(0)
    floats = {
        "weight": torch.randn(4, 3, 3, 3, generator=generator),
        "scale": torch.rand(1, 1, 1, 4, generator=generator) + 0.5,
        "shift": torch.randn(4, generator=generator),
        "depthwise": torch.randn(4, 1, 3, 3, generator=generator),
        "six": torch.tensor(0.6),
        "zero": torch.tensor(0.0),
        "half": torch.full((1, 4, 1, 1), 0.5),
        "half_of_8": torch.full((1, 8, 1, 1), 0.5),
    }
    node = helper.make_node
    nodes = [
        node("Slice", ["x", "from", "to", "channels", "back"], ["bgr"]),
        node("Shape", ["bgr"], ["shape"]),
        node("Gather", ["shape", "two"], ["height"], axis=0),
        node("Sub", ["nine", "height"], ["missing"]),  # 1: below and right alone, which is no convolution's padding
        node("Concat", ["before", "none", "missing", "missing"], ["pads"], axis=0),
        node("Pad", ["bgr", "pads"], ["padded"]),
        node("Conv", ["padded", "weight"], ["a"], kernel_shape=[3, 3], strides=[2, 2]),
        node("Transpose", ["a"], ["b"], perm=[0, 2, 3, 1]),
        node("Mul", ["scale", "b"], ["c"]),
        node("Add", ["c", "shift"], ["d"]),
        node("Relu", ["d"], ["e"]),
        node("Min", ["e", "six"], ["f"]),
        node("Max", ["f", "zero"], ["g"]),
        node("Transpose", ["g"], ["h"], perm=[0, 3, 1, 2]),
        node("Pad", ["h", "around"], ["i"]),
        node("Conv", ["i", "depthwise"], ["j"], kernel_shape=[3, 3], group=4),
        node("Div", ["j", "half"], ["k"]),
        node("Sub", ["k", "half"], ["l"]),
        node("Shape", ["j"], ["like"]),
        node("ConstantOfShape", ["like"], ["zeros"]),
        node("Concat", ["l", "zeros"], ["m"], axis=1),
        node("Sub", ["half_of_8", "m"], ["n"]),
        node("GlobalAveragePool", ["n"], ["pooled"]),
        node("Reshape", ["pooled", "flat"], ["y"]),
    ]
    tensors = [numpy_helper.from_array(torch.tensor(value).numpy(), name) for name, value in numbers.items()]
    tensors += [numpy_helper.from_array(value.numpy(), name) for name, value in floats.items()]
    graph = helper.make_graph(
        nodes,
        "exported",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 3, 8, 8])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 8])],
        tensors,
    )
    buffer = io.BytesIO()
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8), buffer)
    return buffer.getvalue()


def test_an_imported_f_is_made_fast_and_gives_what_its_file_gives() -> None:
    as_file = convert(onnx.load(io.BytesIO(exported()))).eval().double()
    f = ImportedF(exported(), Eye(8)).double()
    for count in (1, 5):
        x = torch.rand(count, 3, 8, 8, dtype=torch.double).mul(2).sub(1).requires_grad_()
        y, expected = f.represent(x), as_file(x)
        torch.testing.assert_close(y, expected)
        weights = torch.randn_like(y)
        [gradient], [wanted] = (torch.autograd.grad((z * weights).sum(), x) for z in (y, expected))
        torch.testing.assert_close(gradient, wanted)
        assert gradient.abs().sum() > 0

    kinds = [type(module).__name__ for module in f.network.modules()]
    assert not {"OnnxShape", "OnnxGather", "OnnxPadDynamic", "OnnxConstantOfShape", "OnnxMinMax", "ReLU"} & {*kinds}
    assert kinds.count("Hardtanh") == 1
    assert kinds.count("OnnxPadStatic") == 1  # the uneven one
    assert kinds.count("OnnxBinaryMathOperation") == 1  # what is taken off after two tensors were joined
    assert [m.padding for m in f.network.modules() if isinstance(m, nn.Conv2d)] == [(0, 0), (1, 1)]


def test_where_making_it_fast_fails_an_imported_f_is_used_as_its_file_has_it(monkeypatch: pytest.MonkeyPatch) -> None:
    def worse(network: fx.GraphModule, size: int) -> fx.GraphModule:
        for module in network.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.zeros_(module.weight)
        return network

    monkeypatch.setattr("dtn_ray.models.onnx_simplify.simplify", worse)
    with pytest.warns(UserWarning, match="could not be made faster"):
        f = ImportedF(network(), Eye(8))
    x = torch.rand(2, 3, 8, 8)
    torch.testing.assert_close(f.represent(x), x.mean((2, 3)))


def test_the_state_of_an_imported_f_is_its_file() -> None:
    f, other = ImportedF(network(), Eye(8)), ImportedF(exported(), Eye(8))
    assert [*f.state_dict()] == ["_extra_state"]
    f.load_state_dict(ImportedF(network(), Eye(8)).state_dict())
    with pytest.raises(RuntimeError, match="another ONNX network"):
        other.load_state_dict(f.state_dict())
    # Former checkpoints had the weights, under the file's names.
    FrozenF(f).load_state_dict({"scale": torch.tensor(1.0), "network.network.initializers.weight": torch.zeros(3)})
    x = torch.rand(2, 3, 8, 8)
    torch.testing.assert_close(f.represent(x), x.mean((2, 3)))


def test_what_is_no_network_is_refused() -> None:
    with pytest.raises(ValueError, match="not an ONNX network"):
        ImportedF(b"hello", Eye(8))
    with pytest.raises(ValueError, match="does not take images 3×4×4"):
        ImportedF(network(), Eye(4))
