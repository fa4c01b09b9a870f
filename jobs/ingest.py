"""Finds the faces in a folder or bucket of photos and aligns them, into Parquet files that jobs/train.py faces reads.

python jobs/ingest.py PHOTOS OUT
"""

import tyro

from dtn_ray import cli
from dtn_ray.ingest.options import Ingestion


def main(job: Ingestion) -> dict:
    from dtn_ray.bulk import outcome  # seconds to import, for which --help need not wait
    from dtn_ray.ingest.job import ingest

    return outcome.tell(ingest, job)


if __name__ == "__main__":
    cli.run(lambda: main(tyro.cli(Ingestion, description=__doc__)))
