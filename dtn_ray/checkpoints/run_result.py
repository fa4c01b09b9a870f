"""result.json of a finished run: its outcome, and the checkpoint that represents it."""

import os
from dataclasses import dataclass
from typing import Any

from dtn_ray import storage
from dtn_ray.errors import UserError
from dtn_ray.storage import json_files

NAME = "result.json"
LONGEST = 1000  # characters of a checkpoint's name


@dataclass(frozen=True)
class Result:
    """The content of the file."""

    checkpoint: str
    """A folder inside the run's folder, as a relative path, so that a run can be moved or copied."""
    metrics: dict[str, Any]


def read(folder: str) -> tuple[str, dict[str, Any]]:
    """The URI of a run's checkpoint, and its metrics.

    Raises UserError if the file is missing or damaged, or names a checkpoint outside of the run's folder.
    """
    uri = storage.join(folder, NAME)
    result = json_files.read(uri, Result, finite=False)  # a training that diverged has metrics too
    if not _below(folder, result.checkpoint):
        shown = ascii(result.checkpoint[:200])
        raise UserError(f"{uri}: checkpoint: {shown} is not a folder inside the run's folder")
    return storage.join(folder, result.checkpoint), result.metrics


def _below(folder: str, name: str) -> bool:
    """Whether `name` is inside `folder`, without `..` and without a link that leads out."""
    if len(name) > LONGEST or not name.isprintable() or "\\" in name or {"", ".", ".."} & {*name.split("/")}:
        return False
    if storage.is_s3(folder):
        return True
    inside = storage.absolute(folder)
    return os.path.realpath(f"{inside}/{name}").startswith(f"{inside.rstrip('/')}/")
