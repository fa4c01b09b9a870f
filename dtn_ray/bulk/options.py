"""Options that all bulk jobs share.

Keep the imports light: every listing task imports this module.
"""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar, Literal

from dtn_ray.bulk.kinds import Kind
from dtn_ray.images.names import SUFFIXES


@dataclass(frozen=True, kw_only=True)
class BulkJob:
    """The options that bulk jobs share. Each job has IN and OUT too, at its own place in its command."""

    kind: ClassVar[Kind]
    """What the job calls its results, and counts of them."""
    AT_LEAST_ONE: ClassVar[tuple[str, ...]] = ("threads", "actors", "max_actors", "max_pixels", "max_bytes")
    """Options that may be neither 0 nor negative."""

    if TYPE_CHECKING:
        source: str
        out: str

    actors: int | None = None
    """Actors that share the work. By default one for each CPU, or GPU, of the cluster, and none for up to 64 images,
    which the driver finishes before an actor could start."""
    max_actors: int | None = None
    """Let Ray add actors up to this number while there is work, and the cluster add nodes for them; by default
    --actors."""
    threads: int = 16
    """Threads of one actor that read, and as many that write; on S3 each has up to 64 requests in flight. With a GPU
    as many threads decode, on a CPU one."""
    max_pixels: int = 120_000_000
    """Images that need more pixels to be decoded are refused before decoding. A baseline JPEG is decoded at down to an
    eighth of its sides, so photos of 200 megapixels from phones are accepted."""
    truncated: Literal["refuse", "accept"] = "refuse"
    """Truncated images, in which a part of the picture is missing: refuse them, or accept the part that is present and
    say so in their rows. A file that lacks only its end marker is whole."""
    max_bytes: int = 500_000_000
    """Larger files are refused before they are read."""
    sheet: int = 64
    """Pairs on the contact sheet."""
    inventory: str = ""
    """Take the objects from this file instead of listing IN: manifest.json of S3 Inventory, .parquet or .csv with a
    column key, or .txt with one key or path per line, as `find` writes it."""
    suffixes: tuple[str, ...] = SUFFIXES
    """Only keys with these suffixes, in lower or upper case; '' takes all names, except files that systems keep beside
    photos (._*, Thumbs.db, __MACOSX/, @eaDir/, …)."""
    match: str = ""
    """Only keys in which this regular expression (RE2's syntax) is found."""
    min_size: int = 0
    """Only objects of at least this many bytes."""
    modified_since: str = ""
    """Only objects changed at this time or later: 2026-01-31 or 2026-01-31T18:00+01:00; UTC where no zone is given."""
    limit: int | None = None
    """Process at most this many; the next run continues."""
    retry_failed: bool = False
    """Also try unchanged objects again that failed for a lasting cause: images that cannot be decoded, archived and
    denied objects, names that cannot be stored."""
    max_failure_rate: float = 0.5
    """End early if more than this share of the latest outcomes (100 to 1,000 of them) failed because of the store or
    the model. Images that cannot be decoded, and archived, denied and deleted objects, do not count, unless no object
    at all can be read."""
    lease_seconds: float = 60.0
    """Seconds for which a killed run keeps others out of OUT; a live run renews its lease."""
    unconditional_lease: bool = False
    """For an OUT in a store without conditional writes, such as OpenStack Swift: take the lease by plain writes. You
    must make sure that no two runs start on OUT at the same moment; one that starts later still sees that another
    works."""
    dry_run: bool = False
    """Count the images and estimate the time from a few of them; write nothing."""
    webhook: str = field(default="", repr=False)  # it may hold a token
    """URL that receives, by a POST of JSON, how the run ended: env:NAME or file:PATH, a variable or a file that holds
    the URL. Others can see a URL given here itself, in `ps` and in Ray's list of jobs."""

    @property
    def gpus_per_actor(self) -> float:
        return 0.0
