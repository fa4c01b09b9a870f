"""Three ways to convert a bucket without dtn-ray, for benchmarks/convert.py. None keeps a ledger or retries.

python benchmarks/peers.py boto3|obstore|daft CHECKPOINT s3://bucket/in s3://bucket/out

Each does what jobs/convert.py does to an image: decode, crop to the model's square, G, PNG under <key>.png.
"""

import asyncio
import io
import multiprocessing
import os
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageOps

from dtn_ray.images.decode import decode
from dtn_ray.images.encode import encode, to_image
from dtn_ray.method.pixels import to_float, to_uint8
from dtn_ray.train.trained import load_trained

BATCH = 64
THREADS = 16
CORES = len(os.sched_getaffinity(0))


class Model:
    """G and the score, with one thread: each core has a process."""

    def __init__(self, checkpoint: str) -> None:
        torch.set_num_threads(1)
        trained = load_trained(checkpoint)
        self.dtn = trained.dtn.to(memory_format=torch.channels_last)
        self.size = trained.manifest["preprocessing"]["size"]

    @torch.inference_mode()
    def __call__(self, images: list[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
        f_x = self.dtn.f(to_float(np.stack(images)).contiguous(memory_format=torch.channels_last))
        G_x = self.dtn.g(f_x)
        return to_uint8(G_x).numpy(), (f_x - self.dtn.f(G_x, True)).norm(dim=1).numpy()


def split(uri: str) -> tuple[str, str]:
    bucket, _, prefix = uri.removeprefix("s3://").partition("/")
    return bucket, prefix.rstrip("/") + "/"


def share(work: Any, checkpoint: str, source: str, out: str, keys: list[str]) -> None:
    """One process for each core, each with its part of the keys."""
    context = multiprocessing.get_context("spawn")
    processes = [context.Process(target=work, args=(checkpoint, source, out, keys[i::CORES])) for i in range(CORES)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    if any(process.exitcode for process in processes):
        sys.exit("a process failed")


# (a) What a good engineer writes first: boto3, a pool of threads, Pillow as it comes.


def by_boto3(checkpoint: str, source: str, out: str) -> None:
    import boto3

    bucket, prefix = split(source)
    pages = boto3.client("s3").get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix)
    share(boto3_process, checkpoint, source, out, [each["Key"] for page in pages for each in page.get("Contents", ())])


def boto3_process(checkpoint: str, source: str, out: str, keys: list[str]) -> None:
    import boto3
    from botocore.config import Config

    client = boto3.client("s3", config=Config(max_pool_connections=THREADS))
    model = Model(checkpoint)
    (bucket, prefix), (out_bucket, out_prefix) = split(source), split(out)

    def read(key: str) -> np.ndarray:
        image = Image.open(io.BytesIO(client.get_object(Bucket=bucket, Key=key)["Body"].read()))
        image = ImageOps.exif_transpose(image).convert("RGB")
        return np.asarray(ImageOps.fit(image, (model.size, model.size), Image.Resampling.BILINEAR)).transpose(2, 0, 1)

    def write(key: str, pixels: np.ndarray) -> None:
        buffer = io.BytesIO()
        to_image(pixels).save(buffer, format="png")
        name = f"{out_prefix}{key.removeprefix(prefix)}.png"
        client.put_object(Bucket=out_bucket, Key=name, Body=buffer.getvalue(), ContentType="image/png")

    with ThreadPoolExecutor(THREADS) as pool:
        for i in range(0, len(keys), BATCH):
            batch = keys[i : i + BATCH]
            pixels, _ = model(list(pool.map(read, batch)))
            list(pool.map(write, batch, pixels))


# (b) The best that a script can do: asynchronous obstore, JPEGs decoded small, light PNGs, all at once.


def by_obstore(checkpoint: str, source: str, out: str) -> None:
    import obstore

    bucket, prefix = split(source)
    keys = [each["path"] for page in obstore.list(obstore_of(bucket), prefix, chunk_size=1000) for each in page]
    share(obstore_process, checkpoint, source, out, keys)


def obstore_of(bucket: str) -> Any:
    from obstore.store import S3Store

    endpoint = os.environ.get("AWS_ENDPOINT_URL")
    return S3Store(bucket, endpoint=endpoint, client_options={"allow_http": True})


def obstore_process(checkpoint: str, source: str, out: str, keys: list[str]) -> None:
    asyncio.run(obstore_pipeline(Model(checkpoint), source, out, keys))


async def obstore_pipeline(model: Model, source: str, out: str, keys: list[str]) -> None:
    import obstore

    (bucket, prefix), (out_bucket, out_prefix) = split(source), split(out)
    inputs, outputs = obstore_of(bucket), obstore_of(out_bucket)
    reading, writing = asyncio.Semaphore(2 * BATCH), asyncio.Semaphore(2 * BATCH)

    async def read(key: str) -> np.ndarray:
        async with reading:
            content = await (await obstore.get_async(inputs, key)).bytes_async()
        return decode(content.to_bytes(), model.size, 1 << 30)

    async def write(key: str, pixels: np.ndarray) -> None:
        async with writing:
            name = f"{out_prefix}{key.removeprefix(prefix)}.png"
            await obstore.put_async(outputs, name, encode(pixels), attributes={"Content-Type": "image/png"})

    batches = [keys[i : i + BATCH] for i in range(0, len(keys), BATCH)]
    ahead = [asyncio.gather(*map(read, batch)) for batch in batches[:2]]
    written = list[asyncio.Future[Any]]()
    for i, batch in enumerate(batches):
        images = await ahead.pop(0)
        if i + 2 < len(batches):
            ahead.append(asyncio.gather(*map(read, batches[i + 2])))
        pixels, _ = await asyncio.to_thread(model, images)
        written.append(asyncio.gather(*map(write, batch, pixels)))
        if len(written) > 1:
            await written.pop(0)
    await asyncio.gather(*written)


# (c) Daft, with its own download and upload and a model in each of its processes.


def by_daft(checkpoint: str, source: str, out: str) -> None:
    import daft
    from daft.functions import download, upload
    from daft.io import IOConfig, S3Config

    io_config = IOConfig(
        s3=S3Config(
            endpoint_url=os.environ.get("AWS_ENDPOINT_URL"),
            region_name=os.environ.get("AWS_REGION"),
            key_id=os.environ["AWS_ACCESS_KEY_ID"],
            access_key=os.environ["AWS_SECRET_ACCESS_KEY"],
            use_ssl=False,
        )
    )

    @daft.cls(max_concurrency=CORES, use_process=True)
    class Transfer:
        def __init__(self) -> None:
            self.model = Model(checkpoint)

        @daft.method.batch(return_dtype=daft.DataType.binary(), batch_size=BATCH)
        def __call__(self, contents: daft.Series) -> Iterator[bytes]:
            images = [decode(content, self.model.size, 1 << 30) for content in contents]
            return [encode(pixels) for pixels in self.model(images)[0]]

    photos = daft.from_glob_path(f"{source}/**", io_config=io_config)
    # Not the same number for both: then they share one client and its connections, and wait for each other for ever.
    contents = photos.with_column("content", download(photos["path"], max_connections=64, io_config=io_config))
    images = contents.with_column("png", Transfer()(contents["content"]))
    names = images["path"].replace(source, out) + ".png"
    images = images.select(names.alias("name"), images["png"])
    done = images.select(upload(images["png"], images["name"], max_connections=48, io_config=io_config))
    for _ in done.iter_partitions():
        pass


PEERS = {"boto3": by_boto3, "obstore": by_obstore, "daft": by_daft}

if __name__ == "__main__":
    PEERS[sys.argv[1]](*sys.argv[2:])
