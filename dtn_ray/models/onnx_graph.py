"""Prepares ONNX graphs from various exporters for the readers (dtn_ray/models/onnx_reader.py).

One image in, in float32, one output, no functions, names that are safe. Nothing here changes what the network gives,
except that numbers of half precision become numbers of float32, so that gradients keep their digits.
"""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
import onnx.inliner
from onnx import AttributeProto, GraphProto, ModelProto, NodeProto, TensorProto, numpy_helper

HALVES = (TensorProto.FLOAT16, TensorProto.BFLOAT16)
INTEGERS = (TensorProto.UINT8, TensorProto.INT8, TensorProto.UINT16, TensorProto.INT16, TensorProto.INT32)
CONTROL_FLOW = ("If", "Loop", "Scan", "SequenceMap")


@dataclass(frozen=True)
class Declared:
    """The shapes that a graph declares for its input and outputs; None for an open length."""

    input: tuple[int | None, ...] | None
    """Lengths of the image's axes, including the batch's; None if the graph does not declare them."""
    outputs: tuple[str, ...]


def parse(content: bytes) -> ModelProto:
    """Parses an ONNX file's content. Raises ValueError if it is not ONNX, or its weights are in another file."""
    try:
        model = onnx.load_model_from_string(content)
    except Exception as error:  # protobuf's own
        raise ValueError(f"not an ONNX network that can be used here: {_line(error)}") from error
    if not model.graph.node:
        raise ValueError("not an ONNX network that can be used here: it has no operations")
    outside = next((each for each in tensors(model) if each.data_location == TensorProto.EXTERNAL), None)
    if outside is not None:
        raise ValueError(f"not whole: the weights {outside.name!r} are in another file")
    return model


def prepare(model: ModelProto) -> tuple[ModelProto, Declared]:
    """Changes the model so that it has one input of float32, and is ready for `only`.

    Raises ValueError, with the reason in one line, if it has inputs other than an image, or is quantised.
    """
    if model.functions:
        model = onnx.inliner.inline_local_functions(model)
    graph = model.graph
    _refuse_integers(graph)
    weights = {each.name for each in graph.initializer} | {each.values.name for each in graph.sparse_initializer}
    inputs = [each for each in graph.input if each.name not in weights]
    if len(inputs) != 1:
        names = ", ".join(each.name for each in inputs)
        raise ValueError(f"takes {len(inputs)} inputs ({names}), not one image alone; export it with these fixed")
    [image] = inputs
    kind = image.type.tensor_type.elem_type
    floats = {each.data_type for each in tensors(model)} | {kind}
    replaced: set[int] = {TensorProto.DOUBLE} if kind == TensorProto.DOUBLE else set()
    if floats & {*HALVES}:
        replaced |= {*HALVES}
    if replaced:
        _in_float(model, replaced)
    if kind in INTEGERS or kind in replaced:
        image.type.tensor_type.elem_type = TensorProto.FLOAT
        del graph.value_info[:]  # types that followed from the image's
    _safe_names(graph)
    declared = image.type.tensor_type
    shape = None
    if declared.HasField("shape"):
        shape = tuple(each.dim_value if each.dim_value > 0 else None for each in declared.shape.dim)
    return model, Declared(shape, tuple(each.name for each in graph.output))


def only(model: ModelProto, output: str) -> ModelProto:
    """A copy that computes only one of the outputs."""
    if [each.name for each in model.graph.output] == [output]:
        return model
    copy = ModelProto()
    copy.CopyFrom(model)
    graph, needed, kept = copy.graph, {output}, []
    for node in reversed(graph.node):
        if needed & {*node.output}:
            kept.append(node)
            needed |= _read_by(node)
    del graph.node[:]
    graph.node.extend(reversed(kept))
    outputs = [each for each in graph.output if each.name == output]
    del graph.output[:]
    graph.output.extend(outputs)
    return copy


def ranks(model: ModelProto) -> dict[str, int | None]:
    """The number of axes of each output; None if unknown."""
    try:
        graph = onnx.shape_inference.infer_shapes(model).graph
    except Exception:  # onnx's inference failed; use the graph's own declarations
        graph = model.graph
    types = {each.name: each.type.tensor_type for each in graph.output}
    return {name: len(kind.shape.dim) if kind.HasField("shape") else None for name, kind in types.items()}


def numbered(model: ModelProto) -> ModelProto:
    """A copy whose values and nodes have numbers as names; otherwise the readers may map two names to one."""
    copy = ModelProto()
    copy.CopyFrom(model)
    names: dict[str, str] = {"": ""}

    def name(former: str) -> str:
        return names.setdefault(former, f"v{len(names)}")

    for number, (graph, node) in enumerate(_nodes(copy.graph)):
        node.name = f"n{number}"
        for values in (node.input, node.output):
            values[:] = [name(each) for each in values]
        del graph.value_info[:]
    each: Any
    for graph in _graphs(copy.graph):
        for each in (*graph.input, *graph.output, *graph.initializer):
            each.name = name(each.name)
        for sparse in graph.sparse_initializer:
            sparse.values.name = name(sparse.values.name)
    return copy


def digest(model: ModelProto) -> bytes:
    """SHA-256 of the weights by their names."""
    sha = hashlib.sha256()
    for tensor in sorted(model.graph.initializer, key=lambda each: each.name):
        sha.update(tensor.name.encode() + numpy_helper.to_array(tensor).tobytes())
    return sha.digest()


def refuse_differences(model: ModelProto, fx: bool) -> None:
    """Raises ValueError for operations that a reader (onnx2fx, else onnx2torch) interprets differently from ONNX.

    Found by comparing both with ONNX Runtime, operation by operation (tests/models/test_imported_networks.py).
    """
    for graph, node in _nodes(model.graph):
        kind, how = node.op_type, {each.name: onnx.helper.get_attribute_value(each) for each in node.attribute}
        pads = list(how.get("pads", ()))
        uneven = fx and pads[: len(pads) // 2] != pads[len(pads) // 2 :]
        different = {
            "ConvTranspose": "output_shape" in how or uneven,
            "Pad": fx and how.get("mode") == b"wrap",
            "Swish": how.get("alpha", 1.0) != 1.0,
            "Resize": _other_pixels(node, how, graph, fx),
            "Upsample": _other_pixels(node, how, graph, fx),
        }
        if different.get(
            kind, fx and kind.startswith("Reduce") and how.get("noop_with_empty_axes") and len(node.input) < 2
        ):
            given = ", ".join(f"{name} {_plain(value)}" for name, value in how.items())
            raise ValueError(f"has a {kind} that cannot be followed here ({given}); export it without")


def _plain(value: Any) -> Any:
    return value.decode() if isinstance(value, bytes) else value


def _other_pixels(node: NodeProto, how: dict[str, Any], graph: GraphProto, fx: bool) -> bool:
    """Whether torch's `interpolate` would compute other pixels than a Resize specifies."""
    old = node.op_type == "Upsample"
    mode = how.get("mode", b"nearest")
    counted = how.get("coordinate_transformation_mode", b"asymmetric" if old else b"half_pixel")
    rounded = how.get("nearest_mode", b"floor" if old else b"round_prefer_floor")
    index = 1 if old else 2
    name = node.input[index] if len(node.input) > index else ""
    scales = [numpy_helper.to_array(each) for each in graph.initializer if name and each.name == name]
    times = bool(scales) and not (scales[0] % 1).any()
    if (
        how.get("antialias")
        or how.get("exclude_outside")
        or how.get("keep_aspect_ratio_policy", b"stretch") != b"stretch"
    ):
        return True
    if mode == b"nearest":
        by_half = counted == b"half_pixel" and rounded in (b"round_prefer_floor", b"round_prefer_ceil")
        below = (counted, rounded) == (b"asymmetric", b"floor")
        return not ((times and (by_half or below)) or (not name and below))
    if how.get("cubic_coeff_a", -0.75) != -0.75 or counted not in (
        b"half_pixel",
        b"pytorch_half_pixel",
        b"align_corners",
    ):
        return True
    return fx and bool(name) and not times  # onnx2fx uses the output's length


def full_resizes(model: ModelProto) -> None:
    """Gives a Resize lengths for all four axes if it has only some (opset 18), because onnx2fx reads the last two of
    four."""
    for graph in _graphs(model.graph):
        nodes: list[NodeProto] = []
        for number, node in enumerate(graph.node):
            axes = next((list(each.ints) for each in node.attribute if each.name == "axes"), None)
            if node.op_type == "Resize" and axes is not None:
                if [axis % 4 for axis in axes] != [2, 3]:
                    raise ValueError(f"has a Resize over the axes {axes}, which cannot be followed here")
                for index, kind in ((2, "float32"), (3, "int64")):
                    if len(node.input) > index and node.input[index]:
                        name = f"resized_{number}_{index}"
                        ones = numpy_helper.from_array(np.ones(2, kind), f"{name}_ones")
                        graph.initializer.append(ones)
                        nodes.append(onnx.helper.make_node("Concat", [ones.name, node.input[index]], [name], axis=0))
                        node.input[index] = name
                kept = [each for each in node.attribute if each.name != "axes"]
                del node.attribute[:]
                node.attribute.extend(kept)
            nodes.append(node)
        if len(nodes) > len(graph.node):
            nodes = [NodeProto.FromString(each.SerializeToString()) for each in nodes]
            del graph.node[:]
            graph.node.extend(nodes)


def operations(model: ModelProto) -> list[str]:
    """The names of a network's operations, each once; those of other domains as DOMAIN's NAME."""
    nodes = (node for _, node in _nodes(model.graph))
    return list(dict.fromkeys(f"{node.domain}'s {node.op_type}" if _foreign(node) else node.op_type for node in nodes))


def tensors(message: Any) -> Iterator[TensorProto]:
    """All tensors in an ONNX model, also in the graphs and functions within it."""
    for field, value in message.ListFields():
        if field.message_type is None:
            continue
        for each in [value] if hasattr(value, "ListFields") else value:
            if isinstance(each, TensorProto):
                yield each
            else:
                yield from tensors(each)


def _graphs(graph: GraphProto) -> Iterator[GraphProto]:
    """A graph, and those in its branches and loops."""
    yield graph
    for node in graph.node:
        for attribute in node.attribute:
            for each in [attribute.g] if attribute.type == AttributeProto.GRAPH else attribute.graphs:
                yield from _graphs(each)


def _nodes(graph: GraphProto) -> Iterator[tuple[GraphProto, NodeProto]]:
    for each in _graphs(graph):
        for node in each.node:
            yield each, node


def _read_by(node: NodeProto) -> set[str]:
    read = set(node.input)
    for attribute in node.attribute:
        for graph in [attribute.g] if attribute.type == AttributeProto.GRAPH else attribute.graphs:
            for _, inner in _nodes(graph):
                read |= {*inner.input}
            read |= {each.name for each in graph.output}
    return read


def _foreign(node: NodeProto) -> bool:
    return node.domain not in ("", "ai.onnx")


def _refuse_integers(graph: GraphProto) -> None:
    """Refuses quantised networks, as rounding has no gradient. Eight-bit weights alone are fine: DequantizeLinear is a
    multiplication."""
    for within, node in _nodes(graph):
        weights = {each.name for each in within.initializer}
        kind = node.op_type
        rounds = "Integer" in kind or kind.startswith(("QLinear", "QGemm", "QAttention", "DynamicQuantize"))
        if rounds or (kind == "QuantizeLinear" and node.input[0] not in weights):
            raise ValueError(
                f"is quantised ({kind}): no gradient passes through rounding to integers; export it in floating point"
            )


def _in_float(model: ModelProto, kinds: set[int]) -> None:
    """Converts numbers of these types to float32 everywhere in a graph."""
    for tensor in tensors(model):
        if tensor.data_type in kinds:
            name = tensor.name
            tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor).astype("float32"), name))
    for graph in _graphs(model.graph):
        del graph.value_info[:]
        for value in (*graph.input, *graph.output):
            if value.type.tensor_type.elem_type in kinds:
                value.type.tensor_type.elem_type = TensorProto.FLOAT
        for node in graph.node:
            for attribute in node.attribute:
                if attribute.name in ("to", "dtype") and attribute.i in kinds:
                    attribute.i = TensorProto.FLOAT


def _safe_names(graph: GraphProto) -> None:
    """Makes names of nodes safe: they become names of modules, which torch.fx writes into code, in quotation marks."""
    for _, node in _nodes(graph):
        if not node.name.isprintable() or {*node.name} & {*'"\\'}:
            node.name = ""
    names: dict[str, int] = {}
    given = []  # as onnx2torch makes them
    for node in graph.node:
        name = node.name.replace(".", "/") or node.op_type
        count = names[name] = names.get(name, -1) + 1
        given.append(f"{name}_{count}" if count else name)
    if len({*given}) < len(given):
        for number, node in enumerate(graph.node):
            node.name = f"{node.op_type}_of_{number}"


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:300] or type(error).__name__
