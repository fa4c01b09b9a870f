"""Classifies the errors of stores and file systems by the causes in failures.py.

Objects that are refused in the same way get the same reason. A reason contains no keys, request ids, addresses or
times, so that a report can count by reason. S3's error codes (from any library) and `errno` are classified.
"""

import errno
import os
import re
from collections.abc import Mapping
from http import HTTPStatus

from botocore import exceptions as boto
from obstore.exceptions import InvalidPathError

from dtn_ray.failures import ARCHIVED, DENIED, GONE, NAME, STORE
from dtn_ray.storage.local_writes import Linked
from dtn_ray.text.redact import redact

# Error codes of Amazon's S3 and compatible stores. All other codes count as failures of the store: problems with the
# credentials or the clock (ExpiredToken, InvalidAccessKeyId, SignatureDoesNotMatch, RequestTimeTooSkewed, …) never
# concern a single key.
CODES = {
    "InvalidObjectState": ARCHIVED,
    "NotRestored": ARCHIVED,  # Oracle's
    "AccessDenied": DENIED,
    "AllAccessDisabled": DENIED,
    "Forbidden": DENIED,
    "403": DENIED,  # from boto3, if the answer has no body
    "ResourceIsEncryptedWithCustomerEncryptionKey": DENIED,  # Google's
    "NoSuchKey": GONE,
    "NoSuchVersion": GONE,
    "NotFound": GONE,
    "404": GONE,
    "KeyTooLongError": NAME,
    "KeyTooLong": NAME,
    "InvalidURI": NAME,
    "InvalidObjectName": NAME,
    "XMinioInvalidObjectName": NAME,
}
KMS_MAY_RECOVER = re.compile("Throttl|Internal|Dependency|Limit|Unavailable|Timeout", re.IGNORECASE)
ERRNOS = {
    errno.EACCES: DENIED,
    errno.EPERM: DENIED,
    errno.ENOKEY: DENIED,  # an encrypted folder that is locked
    errno.EKEYEXPIRED: DENIED,
    errno.ENOENT: GONE,
    errno.ENOTDIR: GONE,
    errno.EISDIR: GONE,  # a folder now
    errno.ELOOP: GONE,
    errno.ENAMETOOLONG: NAME,
    errno.EILSEQ: NAME,
}
REASONS = {
    ARCHIVED: "archived{}: restore it first",
    DENIED: "access denied{}",
    GONE: "gone since it was listed{}",
    NAME: "the store does not accept this name{}",
    STORE: "the store failed{}",
}


class Refused(OSError):
    """A file that could not be read or written. As text it is one line that begins with the URI."""

    cause: str = STORE
    """One of failures.CAUSES."""
    reason: str = ""
    """In words; the same for all files that are refused in the same way."""


class Absent(Refused, FileNotFoundError):
    """There is no such file."""


def refused(uri: str, error: Exception, *, writing: bool = False) -> Refused:
    """Classifies an error that a library raised while it read or wrote one file."""
    if isinstance(error, Refused):
        return error
    cause, reason, detail = _explained(error)
    reason, detail = redact(reason), redact(detail)
    if writing and cause != NAME:
        # OUT is the user's own, so a denied write concerns all objects, and the user can permit it.
        cause, reason = STORE, "there is no such folder" if cause == GONE else reason
    refusal = (Absent if cause == GONE else Refused)(f"{uri}: {detail or reason}")
    refusal.cause, refusal.reason = cause, reason
    refusal.__cause__ = error
    return refusal


def _explained(error: Exception) -> tuple[str, str, str]:
    """Cause, reason and, if the library's message has more detail, that message on one line."""
    if isinstance(error, boto.ClientError):
        found = error.response.get("Error", {})
        status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
        return _answered(status, {name: str(value) for name, value in found.items()})
    text = str(error).partition("\n\nDebug source")[0]
    if answer := re.search(r"status code: (\d{3})", text):
        return _answered(int(answer[1]), dict(re.findall(r"<(Code|Message|StorageClass|AccessTier)>([^<]*)</", text)))
    if isinstance(error, InvalidPathError | boto.ParamValidationError):
        return NAME, REASONS[NAME].format(""), _line(text)
    if isinstance(error, UnicodeEncodeError):
        return NAME, REASONS[NAME].format(" (not Unicode)"), ""
    if isinstance(error, ValueError) and "null " in text:  # Python's words for a NUL in a path
        return NAME, REASONS[NAME].format(" (a NUL in it)"), ""
    if isinstance(error, RuntimeError) and "loop" in text:  # pathlib's for a link that leads to itself
        return GONE, REASONS[GONE].format(f" ({os.strerror(errno.ELOOP)})"), ""
    if isinstance(error, Linked):
        return STORE, "a folder of OUT is a link", f"{error.filename}: {error.strerror}"
    if isinstance(error, boto.ConnectionError | boto.HTTPClientError):
        return STORE, REASONS[STORE].format(f" ({type(error).__name__})"), _line(text)
    number = error.errno if isinstance(error, OSError) else None
    if number is None and text.endswith(" is a directory"):  # pyarrow's
        number = errno.EISDIR
    if number is not None:
        cause = ERRNOS.get(number, STORE)
        inside = "" if number == errno.ENOENT else f" ({os.strerror(number)})"
        return cause, os.strerror(number) if cause == STORE else REASONS[cause].format(inside), os.strerror(number)
    return STORE, _line(_without_request(text)), _line(text)


def _answered(status: int, error: Mapping[str, str]) -> tuple[str, str, str]:
    """As `_explained`, for a store's answer; `error`: the fields of its element Error, empty if it has no body."""
    code, message = error.get("Code", ""), _line(error.get("Message", ""))
    cause = CODES.get(code or str(status), STORE)
    named = code if code.strip("0123456789") else _phrase(status)
    if code.startswith("KMS.") and not KMS_MAY_RECOVER.search(code):
        cause = DENIED
    if code == "InvalidRequest" and "ncrypt" in message:
        cause, named = DENIED, "encrypted with a key of the customer's own, SSE-C"
    if cause == DENIED and (action := re.search(r"\bkms:\w+", message)):
        named += f", {action[0]}"
    if cause == ARCHIVED:
        where = [f" in {error['StorageClass']}"] if "StorageClass" in error else []
        where += [f" ({error['AccessTier']})"] if "AccessTier" in error else []
        reason = REASONS[cause].format("".join(where))
    elif cause == GONE:
        reason = REASONS[cause].format("")
    else:
        reason = f"the store answered {named}" if cause == STORE else REASONS[cause].format(f" ({named})")
    return cause, reason, f"{reason}: {message}" if message else ""


def _phrase(status: int) -> str:
    try:
        return HTTPStatus(status).phrase
    except ValueError:
        return f"HTTP status {status}"


def _without_request(text: str) -> str:
    """A library's message without method, address, times, number of retries and names."""
    return re.sub(r"Error performing \w+ \S+ in \S+(, after [^-]*)? +- |for path \S+|'[^']*'", "", text)


def _line(text: str) -> str:
    return " ".join(text.split())
