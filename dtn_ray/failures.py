"""Why an object fails, and what each cause means for later runs: the table CAUSES."""

from dataclasses import dataclass

IMAGE, ARCHIVED, DENIED, GONE, NAME = "image", "archived", "denied", "gone", "name"
STORE, MODEL = "store", "model"


@dataclass(frozen=True)
class Cause:
    """One cause of failures."""

    meaning: str
    """What happened and what to do, for the report."""
    while_same: tuple[str, ...] = ()
    """Columns of the listing: as long as they stay the same, no run tries the object again, unless by --retry-failed.
    None: every run that lists the object tries it."""
    counted: bool = False
    """Whether --max-failure-rate counts it."""
    doubt: str = ""
    """What to check where every object that is tried fails by this cause. Then it is the store's failure (access.py):
    wrong credentials must not settle a whole bucket. Empty: it is always believed."""


CAUSES = {
    IMAGE: Cause("It cannot be decoded. Left until the object changes.", ("version",)),
    ARCHIVED: Cause(
        "It lies in an archive. Restore it, or copy it to another storage class. Left until its storage class changes, "
        "the listing says that it is restored, or the object changes.",
        ("version", "storage_class"),
    ),
    DENIED: Cause(
        "The store or the file system lets other objects be read, but not this one. Permit it, then run with "
        "--retry-failed. Left until the object changes.",
        ("version",),
        doubt="check the credentials and permissions",
    ),
    GONE: Cause(
        "It was deleted after it was listed. A run that lists it again tries it again.",
        doubt="check that the source is still there",
    ),
    NAME: Cause(
        "The store or the file system takes no such name. Rename the object. Left until it changes.", ("version",)
    ),
    STORE: Cause("The store failed. The next run tries again.", counted=True),
    MODEL: Cause("The networks failed. The next run tries again.", counted=True),
}
OTHER = Cause("Named by another version of dtn-ray. The next run tries again.")
COUNTED = tuple(name for name, cause in CAUSES.items() if cause.counted)


def cause_named(name: str | None) -> Cause:
    """A cause of the ledger, which another version may have written: unknown ones are tried again."""
    return CAUSES.get(name or "", OTHER)
