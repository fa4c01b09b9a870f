"""Converts a folder or bucket of images with a trained DTN. A later run converts only new and changed images.

python jobs/convert.py CHECKPOINT IN OUT
"""

from dtn_ray import cli
from dtn_ray.convert.options import Conversion
from dtn_ray.errors import UserError
from dtn_ray.option_groups import parse


def main(job: Conversion) -> dict:
    from dtn_ray.bulk import outcome  # imported here, because it takes seconds and --help does not need it

    return outcome.tell(run, job)


def run(job: Conversion) -> dict:
    from dtn_ray.convert.job import convert

    summary = convert(job)
    if summary["failures"] and summary["failed"] == summary["images"]:
        causes = ", ".join(f"{count} {cause}" for cause, count in summary["causes"].items())
        key, reason = next(iter(summary["failures"].items()))
        raise UserError(f"none of {summary['images']} images could be converted ({causes}), such as {key}: {reason}")
    return summary


if __name__ == "__main__":
    cli.run(lambda: main(parse(Conversion, __doc__, Conversion.FIRST)))
