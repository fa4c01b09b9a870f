"""Two scripts that do by hand what jobs/ingest.py does, and one for jobs/convert.py, for benchmarks/faces.py.

python benchmarks/face_peers.py plain|ours YUNET s3://bucket/in s3://bucket/out               faces into Parquet shards
python benchmarks/face_peers.py convert YUNET s3://bucket/in s3://bucket/out CHECKPOINT       an emoji a face

Each has a process for each core, and asynchronous obstore. `plain` is what a good engineer writes first: OpenCV decodes
the photo, YuNet sees it at 640 pixels, OpenCV warps it. `ours` and `convert` find and align faces by dtn_ray.faces,
which decodes large JPEGs small and looks twice, and leave out all else: ledger, lease, retries, report.
"""

import asyncio
import io
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import obstore
import pyarrow as pa
import pyarrow.parquet as pq
from peers import Model, obstore_of, share, split

from dtn_ray.faces.align import SIZE, TEMPLATE
from dtn_ray.faces.detect import LONGEST_SIDE
from dtn_ray.faces.find import FaceFinder
from dtn_ray.images.encode import encode

AT_ONCE = 64
PER_SHARD = 1000

Finder = Callable[[bytes], list[np.ndarray]]


def plain_finder(yunet: bytes) -> Finder:
    """Faces 152×152×3 RGB of an encoded photo."""
    cv2.setNumThreads(1)
    detector = cv2.FaceDetectorYN.create("onnx", np.frombuffer(yunet, np.uint8), np.empty(0, np.uint8), (320, 320), 0.7)

    def find(content: bytes) -> list[np.ndarray]:
        photo = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_COLOR)
        scale = min(1.0, LONGEST_SIDE / max(photo.shape[:2]))
        small = cv2.resize(photo, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA) if scale < 1 else photo
        detector.setInputSize((small.shape[1], small.shape[0]))
        _, rows = detector.detect(small)
        faces = []
        for row in rows if rows is not None else ():
            landmarks = row[4:14].reshape(5, 2) / scale
            matrix, _ = cv2.estimateAffinePartial2D(landmarks, TEMPLATE * SIZE)
            faces.append(cv2.cvtColor(cv2.warpAffine(photo, matrix, (SIZE, SIZE)), cv2.COLOR_BGR2RGB))
        return faces

    return find


def our_finder(yunet: bytes) -> Finder:
    finder = FaceFinder(yunet, 1 << 30)
    return lambda content: [pixels for _, pixels in finder(content)]


FINDERS = {"plain": plain_finder, "ours": our_finder}


async def contents(bucket: str, keys: list[str]) -> list[bytes]:
    store = obstore_of(bucket)

    async def read(key: str) -> bytes:
        return (await (await obstore.get_async(store, key)).bytes_async()).to_bytes()

    return await asyncio.gather(*map(read, keys))


async def ingest(kind: str, yunet: str, source: str, out: str, keys: list[str]) -> None:
    find = FINDERS[kind](Path(yunet).read_bytes())
    (bucket, _), (out_bucket, prefix) = split(source), split(out)
    batches = [keys[i : i + AT_ONCE] for i in range(0, len(keys), AT_ONCE)]
    ahead = asyncio.create_task(contents(bucket, batches[0]))
    rows: list[dict[str, Any]] = []
    for i, batch in enumerate(batches):
        photos = await ahead
        if i + 1 < len(batches):
            ahead = asyncio.create_task(contents(bucket, batches[i + 1]))
        found = await asyncio.to_thread(lambda photos: [*map(find, photos)], photos)
        for key, faces in zip(batch, found, strict=True):
            rows += [{"key": key, "image": encode(face.transpose(2, 0, 1), "jpeg")} for face in faces]
        while len(rows) >= PER_SHARD or (rows and i + 1 == len(batches)):
            some, rows = rows[:PER_SHARD], rows[PER_SHARD:]
            buffer = io.BytesIO()
            pq.write_table(pa.Table.from_pylist(some), buffer, compression="none")
            await obstore.put_async(
                obstore_of(out_bucket), f"{prefix}{os.getpid()}-{i}-{len(rows)}.parquet", buffer.getvalue()
            )


def ingest_process(kind_and_yunet: str, source: str, out: str, keys: list[str]) -> None:
    kind, yunet = kind_and_yunet.split(":", 1)
    asyncio.run(ingest(kind, yunet, source, out, keys))


async def convert(yunet: str, checkpoint: str, source: str, out: str, keys: list[str]) -> None:
    find, model = our_finder(Path(yunet).read_bytes()), Model(checkpoint)
    (bucket, prefix), (out_bucket, out_prefix) = split(source), split(out)
    outputs = obstore_of(out_bucket)
    batches = [keys[i : i + AT_ONCE] for i in range(0, len(keys), AT_ONCE)]
    ahead = asyncio.create_task(contents(bucket, batches[0]))
    written: list[Any] = []

    def transfer(photos: list[bytes], batch: list[str]) -> list[tuple[str, bytes]]:
        faces = [
            (key, number, face.transpose(2, 0, 1))
            for key, photo in zip(batch, photos, strict=True)
            for number, face in enumerate(find(photo))
        ]
        made = []
        for i in range(0, len(faces), AT_ONCE):
            some = faces[i : i + AT_ONCE]
            pixels, _ = model([face for _, _, face in some])
            made += [
                (f"{key}{f'%{number + 1}' * (number > 0)}.png", encode(x))
                for (key, number, _), x in zip(some, pixels, strict=True)
            ]
        return made

    for i, batch in enumerate(batches):
        photos = await ahead
        if i + 1 < len(batches):
            ahead = asyncio.create_task(contents(bucket, batches[i + 1]))
        made = await asyncio.to_thread(transfer, photos, batch)
        puts = (obstore.put_async(outputs, f"{out_prefix}{key.removeprefix(prefix)}", content) for key, content in made)
        written.append(asyncio.gather(*puts))
        if len(written) > 1:
            await written.pop(0)
    await asyncio.gather(*written)


def convert_process(checkpoint_and_yunet: str, source: str, out: str, keys: list[str]) -> None:
    checkpoint, yunet = checkpoint_and_yunet.split(":", 1)
    asyncio.run(convert(yunet, checkpoint, source, out, keys))


if __name__ == "__main__":
    kind, yunet, source, out, *rest = sys.argv[1:]
    bucket, prefix = split(source)
    keys = [each["path"] for page in obstore.list(obstore_of(bucket), prefix, chunk_size=1000) for each in page]
    if kind == "convert":
        share(convert_process, f"{rest[0]}:{yunet}", source, out, keys)
    else:
        share(ingest_process, f"{kind}:{yunet}", source, out, keys)
