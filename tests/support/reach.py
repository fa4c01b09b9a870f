"""Reads and writes a bucket by each of the clients that dtn_ray has; as a program, with the settings on its stdin.

[{"bucket": NAME, "variables": {NAME: VALUE}, "write": true}, …] → [{"keys": …} or {"error": …}, …]
"""

import json
import os
import sys
import uuid

import pyarrow as pa
import pyarrow.parquet as pq

from dtn_ray import storage


def read(bucket: str) -> list[str]:
    """The keys below public/ in a bucket, of which boto3, obstore and pyarrow read table.parquet."""
    uri = f"s3://{bucket}/public"
    keys = storage.list_keys(uri)
    assert storage.is_folder(uri) and storage.is_file(f"{uri}/table.parquet")
    one, two = storage.read_many([f"{uri}/table.parquet", f"{uri}/odd\tname"])
    assert isinstance(one, bytes) and isinstance(two, bytes), (one, two)
    filesystem, path = storage.resolve(f"{uri}/table.parquet")
    assert pq.read_table(path, filesystem=filesystem)["n"].to_pylist() == [1, 2, 3]
    return sorted(keys)


def write(bucket: str) -> list[str]:
    """What boto3, obstore and pyarrow wrote to a new prefix and read again; nothing of it stays."""
    uri = f"s3://{bucket}/{uuid.uuid4().hex}"
    storage.write_bytes(f"{uri}/plain", b"by obstore")
    storage.write_bytes(f"{uri}/odd\tname", b"by boto3")
    assert storage.compare_and_swap(f"{uri}/lease", None, b"once") and not storage.compare_and_swap(
        f"{uri}/lease", None, b"twice"
    )
    filesystem, path = storage.resolve(f"{uri}/table.parquet")
    pq.write_table(pa.table({"n": [1, 2, 3]}), path, filesystem=filesystem)
    assert pq.read_table(path, filesystem=filesystem)["n"].to_pylist() == [1, 2, 3]
    assert storage.read_many([f"{uri}/plain", f"{uri}/odd\tname"]) == [b"by obstore", b"by boto3"]
    keys = sorted(storage.list_keys(uri))
    for key in keys:
        storage.delete(f"{uri}/{key}")
    return keys


WRITTEN = ["lease", "odd\tname", "plain", "table.parquet"]


def main() -> None:
    own, answers = dict(os.environ), []
    for case in json.load(sys.stdin):
        os.environ.clear()
        os.environ.update(own | case["variables"])
        try:
            answers.append({"keys": (write if case["write"] else read)(case["bucket"])})
        except Exception as error:
            answers.append({"error": f"{type(error).__name__}: {error}"})
        print(case["bucket"], answers[-1], file=sys.stderr, flush=True)
    json.dump(answers, sys.stdout)


if __name__ == "__main__":
    main()
