"""Where and how a training runs."""

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
    """Go on with fewer workers, down to so many, while nodes are missing, and with more once they come; by default a
    run waits for all."""
    gpu: bool = False
    """One GPU for each worker."""
    cpus_per_worker: float | None = None
    """CPUs that each worker takes and computes with; by default an even share of the nodes, or one beside a GPU."""
    log_every: int = 50
    """Steps between progress lines and points of the curves."""
    checkpoint_every: int = 500
    """Steps between checkpoints, each with a validation."""
    max_failures: int = 3
    """How many times a lost worker or node is replaced before the run gives up."""
    max_bad_rows: int = 1000
    """Rows of face sets that hold no image (null or damaged) are left out; more of them end the run."""

    def check(self, batch_size: int) -> None:
        """Raises UserError where a batch does not divide among the workers, or among as few as there may be."""
        if self.workers < 1 or batch_size < 1:
            raise UserError("--workers and --batch-size must be at least 1")
        if self.max_bad_rows < 0:
            raise UserError(f"--max-bad-rows {self.max_bad_rows} must be at least 0")
        if self.min_workers is not None and not 1 <= self.min_workers <= self.workers:
            raise UserError(f"--min-workers {self.min_workers} must lie between 1 and --workers {self.workers}")
        for workers in range(self.min_workers or self.workers, self.workers + 1):
            if batch_size % workers:
                among = f"--workers {workers}" if self.min_workers is None else f"{workers} workers (--min-workers)"
                raise UserError(f"--batch-size {batch_size} does not divide among {among}")
