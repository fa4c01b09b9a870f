"""Makes networks from ONNX fast: folds constants, and fuses other operations into the convolutions.

Constants are all values that do not depend on pixels. In networks that onnx2fx reads, whose operations are functions
and not modules, only constants are folded.

Exported networks compute their padding from their input's shape in hundreds of small operations, for which a GPU waits,
and have separate operations after convolutions that the convolutions could do themselves. Tools that simplify ONNX
files cannot be used: onnxslim and onnxsim 0.8 change the output of HSE's network, the latter in ONNX Runtime too.
"""

import math
from typing import Any

import torch
from onnx2torch.node_converters.binary_math_operations import OnnxBinaryMathOperation
from onnx2torch.node_converters.expand import OnnxExpand
from onnx2torch.node_converters.gather import OnnxGather
from onnx2torch.node_converters.min_max import OnnxMinMax
from onnx2torch.node_converters.pad import OnnxPadDynamic, OnnxPadStatic
from onnx2torch.node_converters.reshape import OnnxReshape
from onnx2torch.node_converters.resize import OnnxResize
from onnx2torch.node_converters.shape import OnnxShape
from onnx2torch.node_converters.slice import OnnxSlice
from onnx2torch.node_converters.squeeze import OnnxSqueezeDynamicAxes
from onnx2torch.node_converters.transpose import OnnxTranspose
from onnx2torch.node_converters.unsqueeze import OnnxUnsqueezeDynamicAxes
from torch import Tensor, fx, nn
from torch.nn.utils.fusion import fuse_conv_bn_weights

OF_NUMBERS = (OnnxReshape, OnnxSlice, OnnxResize, OnnxExpand, OnnxSqueezeDynamicAxes, OnnxUnsqueezeDynamicAxes)
"""Modules that read all inputs except the first as numbers."""
NUMBERS = {
    "Reshape",
    "Slice",
    "Expand",
    "Pad",
    "Resize",
    "Upsample",
    "Unsqueeze",
    "Squeeze",
    "Split",
    "Tile",
    "ReduceMean",
    "ReduceSum",
    "ReduceL2",
    "ReduceMax",
    "ReduceMin",
    "ReduceSumSquare",
    "ReduceL1",
    "TopK",
}
"""Functions that do the same."""
Range = tuple[float, float]
Node = Any  # fx.Node, whose arguments fx types as everything that they may be


@torch.no_grad()
def simplify(network: fx.GraphModule, *shapes: tuple[int, ...]) -> fx.GraphModule:
    """Simplifies a network in place; its output stays the same, up to rounding.

    `shapes`: the shapes of two inputs that differ in their first length, the batch size, and the result works for any
    batch size; or the shape of the only input that it will get. For a network with unknown operations this may raise
    any exception; read the network from its file again then.
    """
    of_shape = _fold(network, *shapes)
    network.graph.eliminate_dead_code()  # otherwise folded nodes still count as users of their inputs
    node: Node
    for node in network.graph.nodes:
        module = _module(network, node)
        if isinstance(module, OnnxPadDynamic):
            _fix_padding(network, node)
        elif isinstance(module, OnnxBinaryMathOperation):
            _into_convolution(network, node, module)
        elif isinstance(module, OF_NUMBERS) or (isinstance(module, OnnxGather) and _is_number(network, node.args[1])):
            _keep_numbers(network, node, module)
        elif (limits := _limits(network, node)) is not None:
            _clamp_once(network, node, limits)
    for node in network.graph.nodes:
        if isinstance(_module(network, node), OnnxPadStatic):
            _pad_in_convolution(network, node)
    network.graph.eliminate_dead_code()
    _keep_integers(network, of_shape)
    network.graph.eliminate_dead_code()
    network.delete_all_unused_submodules()
    network.recompile()
    return network


def _fold(network: fx.GraphModule, *shapes: tuple[int, ...]) -> set[fx.Node]:
    """Replaces values that depend only on the input's shape by constants, per batch or per image.

    Returns all such values, replaced or not.
    """
    batches = [shape[0] for shape in (shapes[0], shapes[-1])]
    runs = [_Shaped(network) for _ in batches]
    small, large = (run.values_of(torch.zeros(shape)) for run, shape in zip(runs, (shapes[0], shapes[-1]), strict=True))
    [images] = [node for node in network.graph.nodes if node.op == "placeholder"]
    node: Node
    for number, node in enumerate(network.graph.nodes):
        if _kind(network, node) in ("Reshape", "Expand") and node not in small and node.args[1] in small:
            _shape_by_numbers(network, node, runs, batches)
        if node not in small or all(user in small for user in node.users):
            continue
        value, other = small[node], large[node]
        per_image = value.shape != other.shape
        if per_image and [len(value), len(other)] == batches:
            value, other = value[:1].expand_as(other), other
        if not torch.equal(value, other):
            continue
        network.register_buffer(f"constant_{number}", value[:1].clone() if per_image else value)
        with network.graph.inserting_after(node if per_image else images):
            constant = network.graph.get_attr(f"constant_{number}")
        if per_image:
            with network.graph.inserting_after(constant):
                count = network.graph.call_method("size", (images, 0))
            with network.graph.inserting_after(count):
                constant = network.graph.call_method("expand", (constant, count, *(-1 for _ in value.shape[1:])))
        node.replace_all_uses_with(constant)
    return set(small)


class _Shaped(fx.Interpreter):
    """Finds the values that depend on no pixel: those reached from the images through their shape alone."""

    def values_of(self, images: Tensor) -> dict[fx.Node, Tensor]:
        self.values: dict[fx.Node, Tensor] = {}
        self.lengths: dict[fx.Node, tuple[int, ...]] = {}
        self.run(images)
        return self.values

    def run_node(self, node: Node) -> Any:
        value = super().run_node(node)
        of_others = node.op.startswith("call") and self.values.keys() >= set(node.all_input_nodes)
        if isinstance(value, Tensor):
            self.lengths[node] = tuple(value.shape)
            if node.op == "get_attr" or of_others or _kind(self.module, node) in ("Shape", "Size"):
                self.values[node] = value
        return value


def _kind(network: nn.Module, node: Node) -> str:
    """The ONNX operation from which a node was read, if this module needs it."""
    module = _module(network, node)
    if isinstance(module, OnnxShape | OnnxReshape | OnnxExpand):
        return type(module).__name__.removeprefix("Onnx")
    return str(node.meta.get("onnx_op_type", "")) if node.op == "call_function" else ""


def _shape_by_numbers(network: fx.GraphModule, node: Node, runs: list["_Shaped"], batches: list[int]) -> None:
    """Replaces the batch's size by -1 in a shape that is computed from it."""
    (first, *rest), (other, *same) = (run.lengths[node] for run in runs)
    if [first, other] != batches or rest != same or 0 in rest:
        return
    image, kind = node.args[0], _kind(network, node)
    if kind == "Expand" and [(run.lengths[image][0], len(run.lengths[image])) for run in runs] != [
        (count, 1 + len(rest)) for count in batches
    ]:
        return
    with network.graph.inserting_before(node):
        shaped = network.graph.call_method(kind.lower(), (image, (-1, *rest)))
    node.replace_all_uses_with(shaped)


def _fix_padding(network: fx.GraphModule, node: Node) -> None:
    """Replaces padding by a tensor, which is read from the device each time, by padding with numbers."""
    padded, pads, *filling = node.args
    amounts, *values = (_constant(network, each) for each in (pads, *filling))
    fixed = [float(value) for value in values if value is not None]
    if amounts is None or len(fixed) < len(values) or network.get_submodule(node.target).mode != "constant":
        return
    value = fixed[0] if fixed else 0.0
    _replace(network, node, OnnxPadStatic.create_from_onnx_params(amounts.tolist(), "constant", value), padded)


class _WithNumbers(nn.Module):
    """A module with tensors that it reads as numbers. They stay on the CPU, so that it does not wait for a GPU."""

    def __init__(self, module: nn.Module, numbers: tuple[Tensor, ...]) -> None:
        super().__init__()
        self.module, self.numbers = module, numbers

    def forward(self, images: Tensor) -> Tensor:
        return self.module(images, *self.numbers)  # type: ignore[no-any-return]


def _keep_numbers(network: fx.GraphModule, node: Node, module: nn.Module) -> None:
    image, *rest = node.args
    numbers = [value for each in rest if (value := _constant(network, each)) is not None]
    if not node.kwargs and len(numbers) == len(rest):
        _replace(network, node, _WithNumbers(module, tuple(value.clone() for value in numbers)), image)


def _keep_integers(network: fx.GraphModule, of_shape: set[fx.Node]) -> None:
    """The same for functions: lengths, axes and positions stay on the CPU, where onnx2fx computes with shapes."""

    def read(user: Node, number: Node) -> bool:
        return user.op == "call_function" and (
            user in of_shape or (_kind(network, user) in NUMBERS and user.args[0] is not number)
        )

    node: Node
    for node in network.graph.nodes:
        value = _constant(network, node)
        if value is not None and node.users and all(read(user, node) for user in node.users):
            owner, _, name = str(node.target).rpartition(".")
            module = network.get_submodule(owner)
            delattr(module, name)
            setattr(module, name, value.clone())  # not a buffer, so that it is not moved to a GPU


def _pad_in_convolution(network: fx.GraphModule, node: Node) -> None:
    pad: Any = network.get_submodule(node.target)
    [user, *others] = node.users
    convolution = _module(network, user)
    left, right, top, bottom, *rest = (*pad.pads, 0, 0, 0, 0)[:8]
    even = (left, top) == (right, bottom) and min(left, top) >= 0 and not any(rest) and not pad.constant_value
    if not isinstance(convolution, nn.Conv2d) or others or not even or isinstance(convolution.padding, str):
        return
    convolution.padding = (convolution.padding[0] + top, convolution.padding[1] + left)
    node.replace_all_uses_with(node.args[0])


def _into_convolution(network: fx.GraphModule, node: Node, operation: OnnxBinaryMathOperation) -> None:
    """Moves factors and summands of a convolution's output channels into its filters and bias."""
    name = operation.math_op_function.__name__.strip("_").removeprefix("onnx_")
    values = [_constant(network, each) for each in node.args]
    if values[1] is None and name in ("add", "mul"):
        node.args, values = node.args[::-1], values[::-1]
    if values[0] is not None or values[1] is None or operation.axis is not None:
        return
    [image, _], value = node.args, values[1]
    axes, source = [0, 1, 2, 3], image
    while isinstance(transpose := _module(network, source), OnnxTranspose) and len(source.users) == 1:
        assert transpose.perm is not None  # set by its first call
        axes = [transpose.perm[axis] for axis in axes]
        source = source.args[0]
    convolution = _module(network, source)
    if not isinstance(convolution, nn.Conv2d) or len(source.users) != 1 or value.dim() > 4:
        return
    channels = axes.index(1)  # the axis of the convolution's channels after the transposes
    shape = [1] * (4 - value.dim()) + list(value.shape)
    if any(length != 1 for axis, length in enumerate(shape) if axis != channels):
        return
    value = value.flatten().expand(convolution.out_channels).to(convolution.weight)
    one, zero = torch.ones_like(value), torch.zeros_like(value)
    scale, shift = {"add": (one, value), "sub": (one, -value), "mul": (value, zero), "div": (1 / value, zero)}[name]
    bias = zero if convolution.bias is None else convolution.bias
    convolution.weight, convolution.bias = fuse_conv_bn_weights(convolution.weight, bias, zero, one, 0.0, scale, shift)
    node.replace_all_uses_with(image)
    network.graph.erase_node(node)


def _limits(network: fx.GraphModule, node: Node) -> Range | None:
    """The limits of a clamp; None if the node is not a clamp."""
    module = _module(network, node)
    if isinstance(module, nn.ReLU):
        return 0.0, math.inf
    if isinstance(module, nn.Hardtanh):  # ReLU6 too
        return module.min_val, module.max_val
    if not isinstance(module, OnnxMinMax) or len(node.args) != 2:
        return None
    numbers = [
        value.item() for each in node.args if (value := _constant(network, each)) is not None and value.numel() == 1
    ]
    if len(numbers) != 1:
        return None
    return (-math.inf, numbers[0]) if module._operator is torch.amin else (numbers[0], math.inf)


def _clamp_once(network: fx.GraphModule, node: Node, limits: Range) -> None:
    """Merges consecutive clamps: exporters write a ReLU6 as up to three, and each takes a pass."""
    [image] = [each for each in node.all_input_nodes if _constant(network, each) is None]
    low, high = limits
    before = _limits(network, image)
    if before is not None and len(image.users) == 1:
        low, high = (min(max(limit, low), high) for limit in before)
        image = image.args[0]
    elif isinstance(_module(network, node), nn.ReLU | nn.Hardtanh):
        return
    _replace(network, node, nn.ReLU() if (low, high) == (0, math.inf) else nn.Hardtanh(low, high), image)


def _module(network: nn.Module, node: Node) -> nn.Module | None:
    called = isinstance(node, fx.Node) and node.op == "call_module"
    return network.get_submodule(str(node.target)) if called else None


def _is_number(network: fx.GraphModule, node: Node) -> bool:
    value = _constant(network, node)
    return value is not None and value.dim() == 0


def _constant(network: fx.GraphModule, node: Node) -> Tensor | None:
    if not isinstance(node, fx.Node) or node.op != "get_attr":
        return None
    owner, _, name = str(node.target).rpartition(".")
    return getattr(network.get_submodule(owner), name)  # type: ignore[no-any-return]


def _replace(network: fx.GraphModule, node: Node, module: nn.Module, image: Node) -> None:
    network.set_submodule(node.target, module)
    node.args = (image,)
