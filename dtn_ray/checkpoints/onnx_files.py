"""Reads NETWORK.onnx from a folder or S3 as one piece: weights in files beside it are merged into it."""

import os

from dtn_ray import storage
from dtn_ray.errors import UserError

LONGEST = 250
"""Characters of the name of a file with weights."""
SHARED = 64 << 20
"""Tensors may share bytes of a file. Together they may take twice the size of the files plus this many bytes, so that a
small file cannot expand to a huge network."""
LIMIT = 2**31 - 1
"""Largest size of a network with its weights, in bytes: the limit of protobuf, and so of a self-contained ONNX file."""


def read(uri: str) -> bytes:
    """The content of an ONNX file, with all weights in it; content that is not ONNX is returned unchanged.

    torch.onnx.export writes weights into NETWORK.onnx.data by default. The returned content needs no other file, so
    a checkpoint can store it. Raises UserError if a file is missing, cannot be read, is too large, or lies outside
    the network's folder, by its name or by a link.
    """
    content = read_alone(uri)
    if b"location" not in content:  # the key that names a tensor's file
        return content
    import onnx  # takes seconds to import

    from dtn_ray.models.onnx_graph import tensors

    try:
        model = onnx.load_model_from_string(content)
    except Exception:  # protobuf's own error; converting the network will fail with a message
        return content
    outside = [each for each in tensors(model) if each.data_location == onnx.TensorProto.EXTERNAL]
    if not outside:
        return content
    folder = uri.rpartition("/")[0]
    files: dict[str, bytes] = {}
    taken = 0
    for tensor in outside:
        facts = {entry.key: entry.value for entry in tensor.external_data}
        location = _checked(facts.get("location", ""), uri)
        if location not in files:
            files[location] = _beside(f"{folder}/{location}" if "/" in uri else location, uri)
        data = files[location]
        try:
            first = int(facts.get("offset", 0))
            length = int(facts.get("length", len(data) - first))
        except ValueError as error:
            raise UserError(f"{uri}: gives no valid position in {location} for {tensor.name!r} ({error})") from error
        if first < 0 or length < 0 or first + length > len(data):
            raise UserError(
                f"{uri}: {location} is too short for it; copy both files again from where they were exported"
            )
        taken += length
        if taken > 2 * sum(map(len, files.values())) + SHARED:
            raise UserError(f"{uri}: its tensors use the same bytes of {location} several times; export it again")
        if taken + len(content) > LIMIT:
            raise UserError(f"{uri}: larger than 2 GiB with its weights; an ONNX file can hold no more")
        tensor.raw_data = data[first : first + length]
        del tensor.external_data[:]
        tensor.data_location = onnx.TensorProto.DEFAULT
    return model.SerializeToString(deterministic=True)


def read_alone(uri: str) -> bytes:
    """The content of one file of at most LIMIT bytes. Raises UserError if it cannot be read, or is larger."""
    try:
        if storage.stat(uri)[1] > LIMIT:
            raise UserError(f"{uri}: larger than 2 GiB; an ONNX file can hold no more")
        return storage.read_bytes(uri)
    except OSError as error:
        raise UserError(f"{uri}: cannot be read: {str(error).removeprefix(f'{uri}: ')}") from error


def _checked(location: str, uri: str) -> str:
    """Checks the file name of weights in a network. Only files in its own folder, or below, are read."""
    parts = location.split("/")
    if (
        len(location) > LONGEST
        or not location.isprintable()
        or "\\" in location
        or ":" in location
        or {"", "..", "."} & {*parts[1:], parts[0]}
    ):
        raise UserError(
            f"{uri}: its weights are in {location[:LONGEST]!r}, which is not a file in its folder; export it again"
        )
    return location


def _beside(file: str, uri: str) -> bytes:
    if not storage.exists(file):
        raise UserError(f"{uri}: its weights are in {file}, which is missing; keep the two files together")
    if not storage.is_s3(file):
        # A model cache may link both files from another folder; that folder then counts as the network's own, too.
        network, own = storage.local_path(uri), os.path.realpath(storage.local_path(file))
        folders = {os.path.realpath(os.path.dirname(network) or "."), os.path.dirname(os.path.realpath(network))}
        if not any(own.startswith(f"{each.rstrip('/')}/") for each in folders):
            raise UserError(
                f"{uri}: its weights are in {file}, a link that leads out of its folder; copy the file there"
            )
    return read_alone(file)
