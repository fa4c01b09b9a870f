"""Options that all bulk jobs share.

Keep the imports light: every listing task imports this module.
"""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from dtn_ray.bulk.kinds import Kind
from dtn_ray.images.names import SUFFIXES
from dtn_ray.option_groups import Group

SELECTION, IMAGES, OUTPUT = Group("selection"), Group("image"), Group("output")
RESOURCES, RUN = Group("resource"), Group("run")


@dataclass(frozen=True, kw_only=True)
class BulkJob:
    """The options that bulk jobs share. Each job also has IN and OUT, as positional arguments of its own."""

    kind: ClassVar[Kind]
    """What the job calls its results, and counts of them."""
    AT_LEAST_ONE: ClassVar[tuple[str, ...]] = ("threads", "actors", "max_actors", "max_pixels", "max_bytes")
    """Options that may be neither 0 nor negative."""
    FIRST: ClassVar[tuple[str, ...]] = ()
    """Options that most people need: help lists them first."""

    if TYPE_CHECKING:
        source: str
        out: str

    inventory: Annotated[str, SELECTION] = ""
    """Take the objects from this file instead of listing IN: manifest.json of S3 Inventory, a .parquet or .csv file
    with a column key, or a .txt file with one key or path per line, as `find` writes it."""
    match: Annotated[str, SELECTION] = ""
    """Only keys in which this regular expression (RE2's syntax) is found."""
    min_size: Annotated[int, SELECTION] = 0
    """Only objects of at least this many bytes."""
    modified_since: Annotated[str, SELECTION] = ""
    """Only objects changed at this time or later: 2026-01-31 or 2026-01-31T18:00+01:00; without a time zone, UTC."""
    limit: Annotated[int | None, SELECTION] = None
    """Process at most this many objects; the next run continues."""
    retry_failed: Annotated[bool, SELECTION] = False
    """Also retry unchanged objects whose failure is permanent: images that cannot be decoded, archived and denied
    objects, names that cannot be stored."""
    suffixes: Annotated[tuple[str, ...], SELECTION] = SUFFIXES
    """Only keys with these suffixes, in lower or upper case; '' takes all names, except files that operating systems
    and NAS devices create beside photos (._*, Thumbs.db, __MACOSX/, @eaDir/, …)."""
    max_pixels: Annotated[int, IMAGES] = 120_000_000
    """Images that must be decoded at more pixels than this are refused. Baseline JPEGs can be decoded at down to an
    eighth of their width and height, so phone photos of 200 megapixels are accepted."""
    max_bytes: Annotated[int, IMAGES] = 500_000_000
    """Larger files are refused before they are read."""
    truncated: Annotated[Literal["refuse", "accept"], IMAGES] = "refuse"
    """What to do with truncated images, in which a part of the picture is missing: refuse them, or accept the part that
    is present and note it in their rows. A file that lacks only its end marker counts as complete."""
    actors: Annotated[int | None, RESOURCES] = None
    """Number of actors. By default one for each CPU of the cluster (each GPU with --gpu), and none for up to 64 images,
    which the driver finishes before an actor could start."""
    max_actors: Annotated[int | None, RESOURCES] = None
    """Let Ray add actors up to this number while there is work, and let the cluster add nodes for them; by default
    --actors, so that none are added."""
    threads: Annotated[int, RESOURCES] = 16
    """Threads of one actor that read, and as many again that write; on S3 each has up to 64 requests in flight. With a
    GPU as many threads decode; on a CPU one thread does."""
    sheet: Annotated[int, RUN] = 64
    """Pairs on the contact sheet."""
    max_failure_rate: Annotated[float, RUN] = 0.5
    """End early if more than this share of the latest outcomes (100 to 1,000 of them) failed because of the store or
    the model. Images that cannot be decoded, and archived, denied and deleted objects, do not count, unless no object
    at all can be read."""
    lease_seconds: Annotated[float, RUN] = 60.0
    """After a run was killed, other runs must wait this many seconds before they can use OUT. A live run renews its
    lease before it expires."""
    unconditional_lease: Annotated[bool, RUN] = False
    """For an OUT in a store without conditional writes, such as OpenStack Swift: take the lease by plain writes. You
    must make sure that no two runs start on OUT at the same moment; a run that starts later still detects the other."""
    dry_run: Annotated[bool, RUN] = False
    """Count the images and estimate the time from a few of them; write nothing."""
    webhook: Annotated[str, RUN] = field(default="", repr=False)  # it may hold a token
    """URL to which the outcome of the run is posted as JSON. Pass env:NAME or file:PATH, a variable or a file that
    holds the URL: other users can see a URL on the command line, in `ps` and in Ray's list of jobs."""

    @property
    def gpus_per_actor(self) -> float:
        return 0.0
