"""The face networks of Sec. 5.2: shapes and depths as the paper tells them, and f brought along as ONNX."""

import copy
import io
import pickle

import onnx
import pytest
import torch
import torch.nn.functional as F
from onnx import TensorProto, helper, numpy_helper
from torch import nn

from dtn_ray.dtn import FrozenF
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


def test_what_is_no_network_is_refused() -> None:
    with pytest.raises(ValueError, match="not an ONNX network"):
        ImportedF(b"hello", Eye(8))
    with pytest.raises(ValueError, match="does not take images 3×4×4"):
        ImportedF(network(), Eye(4))
