"""Finds the faces in a folder or bucket of photos and aligns them, into Parquet files that jobs/train.py faces reads.

python jobs/ingest.py PHOTOS OUT
"""

import tyro

from dtn_ray import cli
from dtn_ray.bulk import outcome
from dtn_ray.ingest.job import ingest
from dtn_ray.ingest.options import Ingestion

if __name__ == "__main__":
    cli.run(lambda: outcome.tell(ingest, tyro.cli(Ingestion, description=__doc__)))
