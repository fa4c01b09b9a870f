"""TensorBoard's curves of a run, beside its checkpoints."""

import shutil
import tempfile
from collections.abc import Mapping
from functools import cached_property
from typing import TYPE_CHECKING

from dtn_ray import storage

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter


class Curves:
    """Curves and images, written locally and copied by `keep` to `<folder>/tensorboard`, which may be on S3.

    Nothing is opened before the first value, so workers that log nothing may also have a Curves.
    """

    def __init__(self, folder: str) -> None:
        self.folder = folder

    @cached_property
    def board(self) -> "SummaryWriter":
        from torch.utils.tensorboard import SummaryWriter  # takes half a second to import, and drivers do not need it

        return SummaryWriter(tempfile.mkdtemp(prefix="dtn-logs-"))

    def add(self, step: int, values: Mapping[str, float]) -> None:
        for name, value in values.items():
            self.board.add_scalar(name, value, step)

    def keep(self) -> None:
        self.board.flush()
        storage.copy_folder(self.board.log_dir, storage.join(self.folder, "tensorboard"), root=self.folder)

    def close(self) -> None:
        if "board" in self.__dict__:
            self.board.close()
            shutil.rmtree(self.board.log_dir)
