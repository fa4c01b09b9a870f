"""The layouts of image sets: which files hold a set, and how their column `image` holds encoded images."""

import pyarrow as pa
import pyarrow.compute as pc

from dtn_ray.errors import UserError

IMAGES = pa.large_binary()
"""The type that `encoded` returns; an array of type `binary` could hold only 2 GB."""


def is_data(key: str) -> bool:
    """Whether a key may be part of a set: no component begins with a dot or an underscore.

    Spark and Hadoop write `_SUCCESS`, `_temporary/…` and `.part.crc` beside their Parquet files, a Mac's ZIP has
    `__MACOSX/…` and `._name`; none of these holds rows. `_column=value/`, a Hive partition, does.
    """
    return not any(name.startswith(".") or (name.startswith("_") and "=" not in name) for name in key.split("/"))


def check_images(type: pa.DataType, uri: str) -> None:
    """Raises UserError naming the file if a column `image` of this type cannot hold encoded images."""
    if _bytes_of(type) is not None:
        return
    what, how = f"values of type {type}", "bytes, or structs of `bytes` and `path` as Hugging Face writes them"
    if pa.types.is_list(type) or pa.types.is_large_list(type) or pa.types.is_fixed_size_list(type):
        what = f"lists ({type}), which are pixels rather than an encoded image"
    elif pa.types.is_string(type) or pa.types.is_large_string(type) or pa.types.is_string_view(type):
        what = "text: file names or base64 rather than bytes"
    elif pa.types.is_struct(type):
        what = f"structs without a field `bytes` ({', '.join(field.name for field in type)})"
    raise UserError(
        f"{uri}: its column `image` holds {what}. Write each image as the bytes of a PNG or JPEG file: {how}"
    )


def image_column(schema: pa.Schema) -> str:
    """The name under which Parquet stores the encoded images of a file that `check_images` accepted."""
    return "image.bytes" if pa.types.is_struct(schema.field("image").type) else "image"


def encoded(images: pa.ChunkedArray) -> pa.ChunkedArray:
    """A column `image` that `check_images` accepted, as `large_binary`; null for rows without an image."""
    if pa.types.is_struct(images.type):
        images = pc.call_function("struct_field", [images], pc.StructFieldOptions(["bytes"]))
    if pa.types.is_dictionary(images.type):
        images = images.cast(images.type.value_type)
    return images.cast(IMAGES)


def _bytes_of(type: pa.DataType) -> pa.DataType | None:
    if pa.types.is_struct(type):
        at = type.get_field_index("bytes")
        return _bytes_of(type.field(at).type) if at >= 0 else None
    if pa.types.is_dictionary(type):
        return _bytes_of(type.value_type)
    of_bytes = (pa.types.is_binary, pa.types.is_large_binary, pa.types.is_binary_view, pa.types.is_fixed_size_binary)
    return type if any(each(type) for each in of_bytes) else None
