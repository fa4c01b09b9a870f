"""The options of every training: where and how it runs."""

from dataclasses import dataclass

from dtn_ray.errors import UserError


@dataclass(frozen=True)
class Run:
    """Where and how a training runs; nothing here changes its result."""

    storage: str = "runs"
    """Folder or s3:// prefix that keeps the run: checkpoints, logs, result."""
    name: str | None = None
    """The run's name under --storage; by default made from the experiment, so that the same command resumes."""
    workers: int = 1
    """Data-parallel workers."""
    min_workers: int | None = None
    """Continue with as few as this many workers while nodes are missing, and with more when they arrive; by default
    the run waits for all workers."""
    gpu: bool = False
    """One GPU for each worker."""
    cpus_per_worker: float | None = None
    """CPUs that each worker reserves and computes with; by default an even share of the nodes' CPUs, or one with
    --gpu."""
    log_every: int = 50
    """Steps between progress lines, and between points of TensorBoard's curves."""
    checkpoint_every: int = 500
    """Steps between checkpoints; each is preceded by a validation."""
    max_failures: int = 3
    """How many times the run replaces lost workers before it fails."""
    max_bad_rows: int = 1000
    """Rows of face sets that hold no image (null or damaged) are skipped; more than this many end the run."""

    def check(self, batch_size: int) -> None:
        """Raises UserError if a batch cannot be divided evenly among any permitted number of workers."""
        if self.workers < 1 or batch_size < 1:
            raise UserError("--workers and --batch-size must be at least 1")
        if self.max_bad_rows < 0:
            raise UserError(f"--max-bad-rows {self.max_bad_rows} must be at least 0")
        if self.min_workers is not None and not 1 <= self.min_workers <= self.workers:
            raise UserError(f"--min-workers {self.min_workers} must be between 1 and --workers {self.workers}")
        for workers in range(self.min_workers or self.workers, self.workers + 1):
            if batch_size % workers:
                among = f"--workers {workers}" if self.min_workers is None else f"{workers} workers (--min-workers)"
                raise UserError(f"--batch-size {batch_size} cannot be divided evenly among {among}")
