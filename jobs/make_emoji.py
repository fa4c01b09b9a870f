"""Draws a target set t of avatars with DiceBear's styles, and writes Parquet files for jobs/train.py faces.

python jobs/make_emoji.py OUT --count 10000 --style avataaars
"""

import tyro

from dtn_ray import cli
from dtn_ray.emoji.options import EmojiSet


def main(job: EmojiSet) -> dict:
    from dtn_ray.emoji.job import make_emoji  # imported here, because it takes seconds and --help does not need it

    return make_emoji(job)


if __name__ == "__main__":
    cli.run(lambda: main(tyro.cli(EmojiSet, description=__doc__)))
