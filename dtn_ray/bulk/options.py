"""What jobs over a collection of photos have in common; imports little, because every task that lists imports it."""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from dtn_ray.images.names import SUFFIXES


@dataclass(frozen=True, kw_only=True)
class BulkJob:
    """The options that conversion and ingestion share. Each has IN and OUT too, at its own place in its command."""

    if TYPE_CHECKING:
        source: str
        out: str

    actors: int | None = None
    """Actors that share the work; by default one for each CPU, or GPU, of the cluster, and none for up to 64 images,
    which the driver does before an actor would be ready."""
    max_actors: int | None = None
    """Let Ray add actors up to so many while there is work, and the cluster nodes for them; by default --actors."""
    threads: int = 16
    """Threads of one actor that read, and as many that write; on S3 each has up to 64 objects under way. As many decode
    beside a GPU, one on a CPU."""
    max_pixels: int = 120_000_000
    """Images of which more pixels would have to be decoded are refused before. A baseline JPEG comes at up to an eighth
    of its sides, so that phones' photos of 200 megapixels are taken."""
    truncated: Literal["refuse", "accept"] = "refuse"
    """Images that are cut short, so that a part of the picture is missing: refuse them, or accept what is there, which
    their rows tell. A file that lacks nothing but its end marker is whole."""
    max_bytes: int = 500_000_000
    """Larger files are refused before they are read."""
    sheet: int = 64
    """Pairs on the contact sheet."""
    inventory: str = ""
    """Take the objects from this file instead of listing IN: manifest.json of S3 Inventory, .parquet or .csv with a
    column key, or .txt with a key or path a line, as `find` writes it."""
    suffixes: tuple[str, ...] = SUFFIXES
    """Only keys that end so, in small letters or large; '' takes all, whatever they are called, except what systems
    keep beside photos (._*, Thumbs.db, __MACOSX/, @eaDir/, …)."""
    match: str = ""
    """Only keys in which this regular expression (RE2's syntax) is found."""
    min_size: int = 0
    """Only objects of so many bytes or more."""
    modified_since: str = ""
    """Only objects changed at this time or later: 2026-01-31 or 2026-01-31T18:00+01:00; UTC where no zone is given."""
    limit: int | None = None
    """Do so many at most; the next run goes on."""
    retry_failed: bool = False
    """Also try objects again that failed by a cause that lasts, though they have not changed: images that cannot be
    decoded, archived and denied objects, names that cannot be stored."""
    max_failure_rate: float = 0.5
    """End early if more than this part of the latest outcomes (100 to 1,000 of them) failed for want of the store or
    the model. Images that cannot be decoded, archived, denied and deleted objects do not count, unless no object at
    all can be read."""
    lease_seconds: float = 60.0
    """A run that was killed keeps others from OUT for so long; one that lives renews its lease."""
    unconditional_lease: bool = False
    """For an OUT in a store without conditional writes, such as OpenStack Swift: take the lease by plain writes. You
    make sure that no two runs start on OUT at the same moment; one that starts later is still told that another
    works."""
    dry_run: bool = False
    """Count, and estimate the time from a few images; write nothing."""
    webhook: str = field(default="", repr=False)  # it may hold a token
    """URL that is told by a POST of JSON how the run ended, well or not: env:NAME or file:PATH, a variable or a file
    that holds it. A URL itself can be seen by others, in `ps` and in Ray's list of jobs."""

    @property
    def kind(self) -> str:
        """conversion or ingestion."""
        return type(self).__name__.lower()

    @property
    def gpus_per_actor(self) -> float:
        return 0.0
