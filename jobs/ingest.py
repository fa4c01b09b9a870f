"""Finds and aligns the faces in a folder or bucket of photos, and writes Parquet files for jobs/train.py faces.

python jobs/ingest.py PHOTOS OUT
"""

from dtn_ray import cli
from dtn_ray.ingest.options import Ingestion
from dtn_ray.option_groups import parse


def main(job: Ingestion) -> dict:
    from dtn_ray.bulk import outcome  # imported here, because it takes seconds and --help does not need it
    from dtn_ray.ingest.job import ingest

    return outcome.tell(ingest, job)


if __name__ == "__main__":
    cli.run(lambda: main(parse(Ingestion, __doc__, Ingestion.FIRST)))
