"""Small face networks with random weights, as exporters write ONNX; they take faces of 32 pixels."""

import io
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import onnx
from onnx import ModelProto, TensorProto, helper, numpy_helper

SIZE = 32
BATCH = ("N", 3, SIZE, SIZE)
Style = Callable[[], ModelProto]
STYLES: dict[str, Style] = {}


def style(function: Style) -> Style:
    STYLES[function.__name__] = function
    return function


def node(kind: str, inputs: str, outputs: str, **attributes: Any) -> onnx.NodeProto:
    """A node; names are separated by blanks, and `-` stands for an input left out."""
    names = ["" if name == "-" else name for name in inputs.split()]
    return helper.make_node(kind, names, outputs.split(), **attributes)


def model(
    nodes: Sequence[onnx.NodeProto],
    shape: Sequence[int | str] = BATCH,
    results: dict[str, Sequence[int | str] | None] | None = None,
    opset: int = 13,
    kind: int = TensorProto.FLOAT,
    kind_out: int = TensorProto.FLOAT,
    functions: Sequence[onnx.FunctionProto] = (),
    domains: Sequence[str] = (),
    **constants: np.ndarray | Sequence[float],
) -> ModelProto:
    """A network from x to y. Integers become int64, other numbers float32, unless they are arrays already."""
    tensors = []
    for name, value in constants.items():
        array = np.asarray(value)
        if not isinstance(value, np.ndarray | np.generic):
            array = array.astype(np.int64 if array.dtype.kind == "i" else np.float32)
        tensors.append(numpy_helper.from_array(array, name))
    outputs = results or {"y": None}
    graph = helper.make_graph(
        nodes,
        "network",
        [helper.make_tensor_value_info("x", kind, shape)],
        [helper.make_tensor_value_info(name, kind_out, sizes) for name, sizes in outputs.items()],
        tensors,
    )
    opsets = [helper.make_opsetid(domain, 1) for domain in domains]
    return helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", opset), *opsets], ir_version=10, functions=functions
    )


def content(network: ModelProto) -> bytes:
    buffer = io.BytesIO()
    onnx.save(network, buffer)
    return buffer.getvalue()


def drawn(*shape: int, scale: float = 0.2) -> np.ndarray:
    """Weights, the same for the same shape."""
    return (np.random.default_rng([len(shape), *shape]).standard_normal(shape) * scale).astype(np.float32)


W, B, L = drawn(16, 3, 3, 3), drawn(16), drawn(16, 8)
WEIGHTS = {"W": W, "B": B, "L": L}


def conv(x: str = "x", y: str = "c", **how: Any) -> onnx.NodeProto:
    return node("Conv", f"{x} W B", y, kernel_shape=[3, 3], strides=[2, 2], **(how or {"pads": [1] * 4}))


def head(c: str = "c", y: str = "y", flat: onnx.NodeProto | None = None) -> list[onnx.NodeProto]:
    """From N×16×H×W to N×8."""
    pool = node("GlobalAveragePool", "r", "p")
    return [node("Relu", c, "r"), pool, flat or node("Flatten", "p", "q"), node("MatMul", "q L", y)]


def batch_norm(name: str, channels: int) -> dict[str, np.ndarray]:
    values = drawn(4, channels)
    return {f"{name}{i}": value for i, value in enumerate([values[0] + 1, values[1], values[2], values[3] ** 2 + 1])}


# TensorFlow


@style
def tensorflow_padding() -> ModelProto:
    return model([conv(auto_pad="SAME_UPPER"), *head()], **WEIGHTS)


@style
def tensorflow_padding_below() -> ModelProto:
    pool = node("MaxPool", "c", "m", kernel_shape=[3, 3], strides=[2, 2], auto_pad="SAME_LOWER")
    return model([conv(auto_pad="SAME_LOWER"), pool, *head("m")], **WEIGHTS)


@style
def tensorflow_mean_pool() -> ModelProto:
    pool = node("AveragePool", "c", "m", kernel_shape=[3, 3], strides=[2, 2], auto_pad="SAME_UPPER")
    return model([conv(auto_pad="VALID"), pool, *head("m")], **WEIGHTS)


@style
def tensorflow_layout() -> ModelProto:
    nodes = [node("Transpose", "x", "n", perm=[0, 3, 1, 2]), conv("n"), *head()]
    return model(nodes, ("N", SIZE, SIZE, 3), **WEIGHTS)


@style
def tensorflow_layout_of_unknown_sizes() -> ModelProto:
    nodes = [node("Transpose", "x", "n", perm=[0, 3, 1, 2]), conv("n"), *head()]
    return model(nodes, ("N", "height", "width", "channels"), **WEIGHTS)


@style
def keras() -> ModelProto:
    """Layout, normalisation within, channels last between the convolutions, ReLU6, mean over axes, unit length."""
    nodes = [
        node("Sub", "x mean", "a"),
        node("Mul", "a scale", "b"),
        node("Transpose", "b", "n", perm=[0, 3, 1, 2]),
        node("Conv", "n W", "c", kernel_shape=[3, 3], strides=[2, 2], auto_pad="SAME_UPPER"),
        node("Transpose", "c", "d", perm=[0, 2, 3, 1]),
        node("Add", "d B", "e"),
        node("Clip", "e zero six", "f"),
        node("Transpose", "f", "g", perm=[0, 3, 1, 2]),
        node("Conv", "g D", "h", kernel_shape=[3, 3], strides=[1, 1], group=16, auto_pad="SAME_UPPER"),
        node("LeakyRelu", "h", "i", alpha=0.2),
        node("ReduceMean", "i", "j", axes=[2, 3], keepdims=0),
        node("MatMul", "j L", "k"),
        node("ReduceSumSquare", "k", "l", axes=[1], keepdims=1),
        node("Max", "l tiny", "m"),
        node("Sqrt", "m", "o"),
        node("Reciprocal", "o", "p"),
        node("Mul", "k p", "y"),
    ]
    numbers = {"mean": np.float32(0.1), "scale": np.float32(0.9), "zero": np.float32(0), "six": np.float32(6)}
    return model(nodes, ("N", SIZE, SIZE, 3), tiny=np.float32(1e-12), D=drawn(16, 1, 3, 3), **numbers, **WEIGHTS)


@style
def bytes_in() -> ModelProto:
    nodes = [node("Cast", "x", "n", to=TensorProto.FLOAT), node("Div", "n white", "m"), conv("m"), *head()]
    return model(nodes, kind=TensorProto.UINT8, white=np.float32(255), **WEIGHTS)


@style
def bytes_in_other_layout_and_order() -> ModelProto:
    nodes = [
        node("Gather", "x bgr", "b", axis=3),
        node("Transpose", "b", "t", perm=[0, 3, 1, 2]),
        node("Cast", "t", "n", to=TensorProto.FLOAT),
        node("Div", "n white", "m"),
        conv("m"),
        *head(),
    ]
    constants = WEIGHTS | {"white": np.float32(255), "bgr": np.array([2, 1, 0])}
    return model(nodes, ("N", SIZE, SIZE, 3), kind=TensorProto.UINT8, **constants)


# One image at a time


@style
def one_at_a_time() -> ModelProto:
    flat = node("Reshape", "p one", "q")
    return model([conv(), *head(flat=flat)], (1, 3, SIZE, SIZE), one=[1, 16], **WEIGHTS)


@style
def one_at_a_time_that_would_mix_a_batch() -> ModelProto:
    """A batch of any size passes, but each vector then depends on all images."""
    nodes = [conv(), *head(y="z"), node("ReduceMean", "z", "m", axes=[0], keepdims=1), node("Sub", "z m", "d")]
    nodes += [node("Add", "d z", "e"), node("Softmax", "e", "y", axis=0), node("Add", "y z", "w")]
    return model(nodes, (1, 3, SIZE, SIZE), {"w": None}, **WEIGHTS)


@style
def one_image_without_a_batch() -> ModelProto:
    nodes = [node("Unsqueeze", "x first", "n"), conv("n"), *head(y="z"), node("Squeeze", "z first", "y")]
    return model(nodes, (3, SIZE, SIZE), first=[0], **WEIGHTS)


@style
def one_image_of_bytes() -> ModelProto:
    """Input H×W×3, as from a camera."""
    nodes = [
        node("Cast", "x", "f", to=TensorProto.FLOAT),
        node("Div", "f white", "d"),
        node("Transpose", "d", "t", perm=[2, 0, 1]),
        node("Unsqueeze", "t first", "n"),
        conv("n"),
        *head(),
    ]
    constants = WEIGHTS | {"white": np.float32(255), "first": np.array([0])}
    return model(nodes, (SIZE, SIZE, 3), kind=TensorProto.UINT8, **constants)


@style
def grey() -> ModelProto:
    return model(
        [node("Conv", "x V B", "c", strides=[2, 2]), *head()], ("N", 1, SIZE, SIZE), V=drawn(16, 1, 3, 3), **WEIGHTS
    )


# Several outputs


@style
def two_outputs() -> ModelProto:
    return model([conv(), *head(), node("Softmax", "y", "z")], results={"y": ("N", 8), "z": ("N", 8)}, **WEIGHTS)


@style
def map_and_vector() -> ModelProto:
    return model([conv(), *head()], results={"c": None, "y": None}, **WEIGHTS)


@style
def channels_of_one_pixel() -> ModelProto:
    nodes = [conv(), node("Relu", "c", "r"), node("GlobalAveragePool", "r", "p"), node("Conv", "p K", "y")]
    return model(nodes, K=drawn(8, 16, 1, 1), **WEIGHTS)


@style
def outputs_of_a_split() -> ModelProto:
    nodes = [conv(), *head(y="z"), node("Split", "z", "y other", axis=1)]
    return model(nodes, results={"y": None, "other": None}, **WEIGHTS)


# Types


@style
def half_precision() -> ModelProto:
    half = {key: value.astype(np.float16) for key, value in WEIGHTS.items()}
    return model([conv(), *head()], kind=TensorProto.FLOAT16, kind_out=TensorProto.FLOAT16, **half)


@style
def half_precision_within() -> ModelProto:
    half = {key: value.astype(np.float16) for key, value in WEIGHTS.items()}
    nodes = [node("Cast", "x", "n", to=TensorProto.FLOAT16), conv("n"), *head(y="z")]
    tiny = helper.make_tensor("value", TensorProto.FLOAT16, [], [0.25])
    nodes += [node("Constant", "", "tiny", value=tiny), node("Mul", "z tiny", "w")]
    return model([*nodes, node("Cast", "w", "y", to=TensorProto.FLOAT)], **half)


@style
def double_precision() -> ModelProto:
    double = {key: value.astype(np.float64) for key, value in WEIGHTS.items()}
    return model([conv(), *head()], kind=TensorProto.DOUBLE, kind_out=TensorProto.DOUBLE, **double)


@style
def int8_weights() -> ModelProto:
    """Weights of eight bits, arithmetic in float: gradients pass."""
    quantized = np.clip(np.round(W / 0.01), -127, 127).astype(np.int8)
    nodes = [node("DequantizeLinear", "Q step zero", "W"), conv(), *head()]
    return model(nodes, Q=quantized, step=np.float32(0.01), zero=np.int8(0), B=B, L=L)


# Opsets


def _opset(version: int) -> None:
    def network() -> ModelProto:
        return model([conv(), *head()], opset=version, **WEIGHTS)

    STYLES[f"opset_{version}"] = network


for _version in (9, 11, *range(13, 25)):
    _opset(_version)


@style
def axes_as_inputs() -> ModelProto:
    """Squeeze and excitation of opset 18."""
    nodes = [
        conv(),
        node("ReduceMean", "c axes", "s", keepdims=1),
        node("Conv", "s K", "k"),
        node("Relu", "k", "l"),
        node("Conv", "l U", "m"),
        node("HardSigmoid", "m", "e", alpha=1 / 6, beta=0.5),
        node("Mul", "c e", "f"),
        node("HardSwish", "f", "g"),
        *head("g", "z"),
        node("ReduceL2", "z last", "n", keepdims=1),
        node("Div", "z n", "y"),
    ]
    constants = WEIGHTS | {"axes": np.array([2, 3]), "last": np.array([1])}
    return model(nodes, opset=18, K=drawn(4, 16, 1, 1), U=drawn(16, 4, 1, 1), **constants)


@style
def pad_and_split() -> ModelProto:
    nodes = [
        node("Pad", "x pads - axes", "o"),
        node("Conv", "o W B", "c", strides=[2, 2]),
        node("Split", "c", "a b", axis=1, num_outputs=2),
        node("Sigmoid", "b", "s"),
        node("Mul", "a s", "m"),
        node("Concat", "m b", "d", axis=1),
        *head("d"),
    ]
    return model(nodes, opset=18, pads=[1, 1, 1, 1], axes=[2, 3], **WEIGHTS)


@style
def uneven_split() -> ModelProto:
    nodes = [
        conv(),
        node("Split", "c", "a b d", axis=1, num_outputs=3),
        node("Concat", "d b a", "e", axis=1),
        *head("e"),
    ]
    return model(nodes, opset=18, **WEIGHTS)


@style
def dynamic_shapes() -> ModelProto:
    """The batch's size taken from the image's shape, as tracers write it."""
    nodes = [
        conv(),
        node("Relu", "c", "r"),
        node("GlobalAveragePool", "r", "p"),
        node("Shape", "p", "s"),
        node("Gather", "s zero", "n", axis=0),
        node("Unsqueeze", "n first", "m"),
        node("Concat", "m rest", "to", axis=0),
        node("Reshape", "p to", "q"),
        node("MatMul", "q L", "z"),
        node("ReduceL2", "z", "l", axes=[1], keepdims=1),
        node("Clip", "l tiny", "k"),
        node("Shape", "z", "t"),
        node("Expand", "k t", "e"),
        node("Div", "z e", "y"),
    ]
    numbers = {"zero": np.array(0), "first": np.array([0]), "rest": np.array([-1]), "tiny": np.float32(1e-12)}
    return model(nodes, **numbers, **WEIGHTS)


@style
def shape_from_an_index() -> ModelProto:
    """Shape with `start` and `end` (opset 15)."""
    nodes = [
        conv(),
        node("Relu", "c", "r"),
        node("GlobalAveragePool", "r", "p"),
        node("Shape", "p", "n", start=0, end=1),
    ]
    nodes += [node("Concat", "n rest", "to", axis=0), node("Reshape", "p to", "q"), node("MatMul", "q L", "y")]
    return model(nodes, opset=19, rest=[16], **WEIGHTS)


@style
def identities() -> ModelProto:
    """torch's tracer names a weight that is used twice by an Identity."""
    nodes = [
        node("Identity", "B", "bias"),
        node("Conv", "x W B", "a", pads=[1] * 4),
        node("Conv", "a V bias", "b", pads=[1] * 4, strides=[2, 2]),
        node("Dropout", "b", "c"),
        *head("c", "z"),
        node("Identity", "z", "y"),
    ]
    return model(nodes, V=drawn(16, 16, 3, 3), **WEIGHTS)


# Layers


@style
def insightface() -> ModelProto:
    """Normalisation within, PReLU, batch normalisation, a residual block, a linear layer, batch normalisation."""
    nodes = [
        node("Sub", "x mean", "a"),
        node("Mul", "a scale", "b"),
        conv("b", pads=[1] * 4),
        node("BatchNormalization", "c n0 n1 n2 n3", "d", epsilon=2e-5),
        node("PRelu", "d slope", "e"),
        node("BatchNormalization", "e m0 m1 m2 m3", "f", epsilon=2e-5),
        node("Conv", "f V", "g", pads=[1] * 4),
        node("Add", "g e", "h"),
        node("Conv", "h K", "i", strides=[4, 4]),
        node("BatchNormalization", "i o0 o1 o2 o3", "j", epsilon=2e-5),
        node("Dropout", "j", "k"),
        node("Flatten", "k", "l"),
        node("Gemm", "l F G", "m", transB=1),
        node("BatchNormalization", "m q0 q1 q2 q3", "y", epsilon=2e-5),
    ]
    norms = batch_norm("n", 16) | batch_norm("m", 16) | batch_norm("o", 16) | batch_norm("q", 8)
    constants = {"mean": np.float32(0.1), "scale": np.float32(1.1), "slope": np.abs(drawn(16, 1, 1))}
    more = {"V": drawn(16, 16, 3, 3), "K": drawn(16, 16, 3, 3), "F": drawn(8, 256), "G": drawn(8)}
    return model(nodes, **constants, **norms, **more, W=W, B=B)


@style
def unit_length() -> ModelProto:
    return model([conv(), *head(y="z"), node("LpNormalization", "z", "y", axis=1, p=2)], **WEIGHTS)


@style
def layer_normalization() -> ModelProto:
    nodes = [conv(), node("Transpose", "c", "d", perm=[0, 2, 3, 1]), node("LayerNormalization", "d G B", "e")]
    nodes += [node("Transpose", "e", "f", perm=[0, 3, 1, 2]), *head("f")]
    return model(nodes, opset=17, G=drawn(16) + 1, **WEIGHTS)


@style
def group_normalization() -> ModelProto:
    nodes = [
        conv(),
        node("GroupNormalization", "c G B", "d", num_groups=4),
        node("InstanceNormalization", "d G B", "e"),
    ]
    return model([*nodes, *head("e")], opset=21, G=drawn(16) + 1, **WEIGHTS)


@style
def activations() -> ModelProto:
    kinds = ["Gelu", "Mish", "Elu", "Selu", "Softplus", "Tanh", "HardSwish", "Celu", "Softsign", "Erf", "Sigmoid"]
    nodes = [node(kind, f"c{i or ''}", f"c{i + 1}") for i, kind in enumerate(kinds)]
    return model([conv(), *nodes, *head(f"c{len(kinds)}")], opset=20, **WEIGHTS)


@style
def gelu_of_tanh() -> ModelProto:
    return model([conv(), node("Gelu", "c", "d", approximate="tanh"), *head("d")], opset=20, **WEIGHTS)


@style
def enlarged() -> ModelProto:
    floor = {"mode": "nearest", "coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}
    nodes = [
        node("Resize", "x - scales", "a", **floor),
        node("Shape", "a", "s"),
        node("Slice", "s zero one", "n"),
        node("Concat", "n rest", "sizes", axis=0),
        node("Resize", "a - - sizes", "b", mode="linear", coordinate_transformation_mode="half_pixel"),
        conv("b"),
        *head(),
    ]
    return model(nodes, scales=np.float32([1, 1, 2, 2]), zero=[0], one=[1], rest=[3, 48, 48], **WEIGHTS)


@style
def enlarged_by_today() -> ModelProto:
    nodes = [
        node("Resize", "x - scales", "a", mode="linear", coordinate_transformation_mode="half_pixel", axes=[2, 3]),
        node(
            "Resize",
            "a - scales",
            "b",
            mode="nearest",
            coordinate_transformation_mode="asymmetric",
            nearest_mode="floor",
            axes=[2, 3],
        ),
        conv("b"),
        *head(),
    ]
    return model(nodes, opset=19, scales=np.float32([2, 2]), **WEIGHTS)


@style
def upsample() -> ModelProto:
    return model(
        [node("Upsample", "x scales", "a"), conv("a"), *head()], opset=9, scales=np.float32([1, 1, 2, 2]), **WEIGHTS
    )


@style
def pools() -> ModelProto:
    nodes = [
        node("MaxPool", "x", "a", kernel_shape=[3, 3], strides=[2, 2], pads=[1] * 4),
        node("AveragePool", "a", "b", kernel_shape=[3, 3], strides=[1, 1], pads=[1] * 4, count_include_pad=1),
        node("MaxPool", "b", "d", kernel_shape=[3, 3], strides=[2, 2], ceil_mode=1),
        node("AveragePool", "d", "e", kernel_shape=[2, 2], strides=[1, 1]),
        conv("e"),
        *head(),
    ]
    return model(nodes, **WEIGHTS)


@style
def attention() -> ModelProto:
    nodes = [
        conv(),
        node("Reshape", "c tokens", "a"),
        node("Transpose", "a", "t", perm=[0, 2, 1]),
        node("MatMul", "t Q", "q"),
        node("MatMul", "t K", "k"),
        node("Transpose", "k", "l", perm=[0, 2, 1]),
        node("MatMul", "q l", "m"),
        node("Mul", "m scale", "n"),
        node("Softmax", "n", "s", axis=-1),
        node("Einsum", "s t", "v", equation="bij,bjc->bic"),
        node("Slice", "v start stop axis", "f"),
        node("Gather", "f zero", "g", axis=1),
        node("MatMul", "g L", "y"),
    ]
    numbers = {"tokens": [0, 16, -1], "start": [3], "stop": [4], "axis": [1], "zero": np.array(0)}
    return model(nodes, scale=np.float32(0.25), Q=drawn(16, 16), K=drawn(16, 16) * 1.1, **numbers, **WEIGHTS)


@style
def attention_of_opset_23() -> ModelProto:
    nodes = [
        conv(),
        node("Reshape", "c tokens", "a"),
        node("Transpose", "a", "t", perm=[0, 2, 1]),
        node("RMSNormalization", "t G", "n", axis=-1),
        node("Attention", "n n t", "v", q_num_heads=2, kv_num_heads=2),
        node("ReduceMean", "v axis", "f", keepdims=0),
        node("MatMul", "f L", "y"),
    ]
    return model(nodes, opset=23, tokens=[0, 16, -1], axis=[1], G=drawn(16) + 1, **WEIGHTS)


@style
def other_layers() -> ModelProto:
    nodes = [
        node("SpaceToDepth", "x", "a", blocksize=2),
        node("DepthToSpace", "a", "b", blocksize=2, mode="CRD"),
        node("Conv", "b W B", "c", pads=[2, 1, 0, 1], dilations=[2, 2]),
        node("LRN", "c", "d", size=3),
        node("ConvTranspose", "d T", "e", strides=[2, 2], pads=[1] * 4, output_padding=[1, 1]),
        node("Where", "mask e d", "unused"),
        *head("e"),
    ]
    del nodes[-len(head()) - 1]
    return model(nodes, T=drawn(16, 16, 3, 3), **WEIGHTS)


@style
def maxout() -> ModelProto:
    """The max-feature-map of LightCNN, and a tensor's parts by Slice."""
    nodes = [
        conv(),
        node("Slice", "c zero half one", "a"),
        node("Slice", "c half all one", "b"),
        node("Max", "a b", "d"),
        node("GlobalMaxPool", "d", "p"),
        node("Flatten", "p", "q"),
        node("MatMul", "q M", "y"),
    ]
    return model(nodes, zero=[0], half=[8], all=[16], one=[1], M=drawn(8, 8), W=W, B=B)


@style
def mask_of_shapes() -> ModelProto:
    """Expand by a shape in which tracers look for -1."""
    nodes = [
        node("Shape", "x", "s"),
        node("ConstantOfShape", "four", "ones", value=helper.make_tensor("value", TensorProto.INT64, [1], [1])),
        node("Equal", "wanted minus", "is"),
        node("Where", "is ones wanted", "to"),
        node("Expand", "token to", "e"),
        node("Slice", "s zero one", "n"),
        node("Concat", "n rest", "batch", axis=0),
        node("Expand", "e batch", "f"),
        conv(),
        *head(y="z"),
        node("Concat", "f z", "g", axis=1),
        node("MatMul", "g M", "y"),
    ]
    numbers = {"four": [2], "wanted": [-1, 8], "minus": [-1, -1], "zero": [0], "one": [1], "rest": [8]}
    return model(nodes, token=drawn(1, 8), M=drawn(16, 8), **numbers, **WEIGHTS)


@style
def function_of_its_own() -> ModelProto:
    """A model-local function, as torch's exporter of 2023 writes each layer."""
    body = [node("Sigmoid", "a", "b"), node("Mul", "a b", "c")]
    swish = helper.make_function("own.layers", "swish", ["a"], ["c"], body, [helper.make_opsetid("", 18)])
    nodes = [conv(), helper.make_node("swish", ["c"], ["d"], domain="own.layers"), *head("d")]
    return model(nodes, opset=18, functions=[swish], domains=["own.layers"], **WEIGHTS)


@style
def branch_that_is_settled() -> ModelProto:
    """torch's tracer writes `squeeze` as an If on the shape."""

    def branch(name: str, kind: str) -> onnx.GraphProto:
        result = helper.make_tensor_value_info(name, TensorProto.FLOAT, None)
        return helper.make_graph([node(kind, "z", name)], name, [], [result])

    nodes = [
        conv(),
        *head(y="z"),
        node("Shape", "z", "s"),
        node("Gather", "s one", "n", axis=0),
        node("Equal", "n eight", "is"),
        node("If", "is", "y", then_branch=branch("same", "Tanh"), else_branch=branch("other", "Neg")),
    ]
    return model(nodes, one=np.array(1), eight=np.array(8), **WEIGHTS)


@style
def microsoft_operations() -> ModelProto:
    """Gelu as ONNX Runtime's optimiser writes it."""
    gelu = helper.make_node("Gelu", ["c"], ["d"], domain="com.microsoft")
    return model([conv(), gelu, *head("d")], domains=["com.microsoft"], **WEIGHTS)


@style
def names_that_are_code() -> ModelProto:
    """A name that ends a string in Python, one with dots and slashes, some that onnx2torch makes the same."""
    network = model([conv(), *head()], **WEIGHTS)
    names = ["a/b.c", 'r"), print("', "same.1", "same/1", "same/1_1"]
    for each, name in zip(network.graph.node, names, strict=True):
        each.name = name
    return network
