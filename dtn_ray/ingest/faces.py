"""The columns of faces in the ledger and in shards, for ingestion and for conversion by a DTN of faces."""

from collections.abc import Sequence

import pyarrow as pa

from dtn_ray.bulk.ledger import Row, make_row
from dtn_ray.bulk.pipeline import Picture, Pipeline
from dtn_ray.ingest.options import NO_FACE

FACE = pa.struct(
    {
        "output": pa.string(),
        "score": pa.float32(),
        "detection": pa.float32(),  # the detector's score, in [0, 1]
        "box": pa.list_(pa.float32()),  # left, top, width, height in pixels of the upright photo
        "landmarks": pa.list_(pa.float32()),  # x, y of each of faces.LANDMARKS
    }
)
COLUMNS = pa.schema({"faces": pa.list_(FACE)})
"""The ledger's column: the faces of a photo, largest first; null if none were searched for or found."""

IN_SHARDS = pa.schema(
    [
        pa.field("face", pa.int32()),  # its number in the photo, from 0, the largest first
        *(pa.field(name, FACE.field(name).type) for name in ("detection", "box", "landmarks")),
    ]
)

WITHOUT_FACE = make_row(NO_FACE.name, reason="no face was found")
"""The outcome of a photo in which no face was found."""


class FacePipeline(Pipeline):
    """A pipeline whose pictures may be faces of a photo; their `details` are then detection, box and landmarks."""

    columns = COLUMNS

    def own_columns(self, pictures: list[Picture], outputs: Sequence[str | None]) -> Row:
        faces = [
            {**picture.details, "score": picture.score, "output": output}
            for picture, output in zip(pictures, outputs, strict=True)
            if picture.details
        ]
        return {"faces": faces or None}

    def shard_row(self, file: Row, number: int, picture: Picture, content: bytes) -> Row:
        row = super().shard_row(file, number, picture, content)
        return row | {"face": number, **picture.details} if picture.details else row
