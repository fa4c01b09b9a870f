"""Writes and reads objects on the tests' S3 server directly, without the code under test and the fault proxy."""

import io
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pyarrow.parquet as pq
from botocore.exceptions import BotoCoreError, ClientError
from seaweedfs import client


class Objects:
    """A user's view of the server; folders are s3://bucket/prefix."""

    def __init__(self, environment: dict[str, str]) -> None:
        self.client = client(environment, max_pool_connections=16)
        # Swift refuses writes for a while on a busy machine.
        retries = {"mode": "standard", "total_max_attempts": 10}
        self.writer = client(environment, max_pool_connections=16, retries=retries)

    def answers(self, uri: str) -> bool:
        """Whether an object exists on the server."""
        bucket, _, key = uri.removeprefix("s3://").partition("/")
        try:
            self.client.get_object(Bucket=bucket, Key=key)["Body"].read()
            return True
        except (BotoCoreError, ClientError):
            return False

    def put(self, folder: str, contents: dict[str, bytes]) -> None:
        bucket, prefix = _split(folder)
        with ThreadPoolExecutor(8) as pool:
            list(
                pool.map(
                    lambda key: self.writer.put_object(Bucket=bucket, Key=prefix + key, Body=contents[key]), contents
                )
            )

    def keys(self, folder: str) -> list[str]:
        bucket, prefix = _split(folder)
        pages = self.client.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix)
        keys = [each["Key"].removeprefix(prefix) for page in pages for each in page.get("Contents", ())]
        return [key for key in keys if key and not key.endswith("/")]  # no markers of folders

    def read(self, folder: str, suffix: str = "") -> dict[str, bytes]:
        """All objects below a folder whose names have this ending."""
        bucket, prefix = _split(folder)
        keys = [key for key in self.keys(folder) if key.endswith(suffix)]

        def get(key: str) -> bytes:
            return self.client.get_object(Bucket=bucket, Key=prefix + key)["Body"].read()

        with ThreadPoolExecutor(8) as pool:
            return dict(zip(keys, pool.map(get, keys), strict=True))

    def images(self, out: str) -> dict[str, bytes]:
        """All objects below OUT's images/, by name relative to OUT, independent of the ledger."""
        return {key: content for key, content in self.read(out).items() if "/images/" in key}

    def ledger(self, out: str) -> list[dict[str, Any]]:
        """Every row of every part, superseded ones too."""
        parts = self.read(f"{out}/ledger", ".parquet").values()
        return [row for part in parts for row in pq.read_table(io.BytesIO(part)).to_pylist()]

    def newest(self, out: str) -> dict[str, dict[str, Any]]:
        """The newest row of each key, if only one model was used."""
        rows = sorted(self.ledger(out), key=lambda row: (row["attempts"], row["time"]))
        assert len({row["model"] for row in rows}) <= 1
        return {row["key"]: row for row in rows}


def _split(folder: str) -> tuple[str, str]:
    bucket, _, prefix = folder.removeprefix("s3://").partition("/")
    return bucket, f"{prefix.rstrip('/')}/" if prefix else ""
