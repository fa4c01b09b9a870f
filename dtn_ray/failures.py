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
    """Columns of the listing. While they stay the same, no run tries the object again, except with --retry-failed.
    Empty: every run that lists the object tries it."""
    counted: bool = False
    """Whether --max-failure-rate counts it."""
    doubt: str = ""
    """What the user should check if every object fails for this cause. The store is then assumed to have failed
    (access.py), so that wrong credentials do not mark a whole bucket as denied. Empty: the cause is always accepted."""


CAUSES = {
    IMAGE: Cause("It cannot be decoded. Not tried again until the object changes.", ("version",)),
    ARCHIVED: Cause(
        "It is archived. Restore it, or copy it to another storage class. Not tried again until its storage class "
        "changes, the listing says that it is restored, or the object changes.",
        ("version", "storage_class"),
    ),
    DENIED: Cause(
        "The store or the file system denies this object, but not others. Grant access, then run with --retry-failed. "
        "Not tried again until the object changes.",
        ("version",),
        doubt="check the credentials and permissions",
    ),
    GONE: Cause(
        "It was deleted after it was listed. A run that lists it again tries it again.",
        doubt="check that the source is still there",
    ),
    NAME: Cause(
        "The store or the file system does not accept this name. Rename the object. Not tried again until it changes.",
        ("version",),
    ),
    STORE: Cause("The store failed. The next run tries again.", counted=True),
    MODEL: Cause("The networks failed. The next run tries again.", counted=True),
}
OTHER = Cause("Another version of dtn-ray wrote this cause. The next run tries again.")
COUNTED = tuple(name for name, cause in CAUSES.items() if cause.counted)


def cause_named(name: str | None) -> Cause:
    """The cause of this name in the ledger. A name that only another version knows counts as OTHER."""
    return CAUSES.get(name or "", OTHER)
