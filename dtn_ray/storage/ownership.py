"""Recognises the files that dtn-ray wrote: only these may be overwritten or deleted in a folder that the user named.

OUT/.dtn-ray/mark.json            the mark: OUT was empty, or a bulk job's, when the first run began. Never deleted
OUT/.dtn-ray/<32 hex digits>/     scratch files of the current run: its work list (….parquet) and, for a local OUT,
                                  temporary files (….partial). Deleted at the end of the run, or by the next one
"""

import json
import re
import uuid
from collections.abc import Collection, Iterable
from concurrent.futures import ThreadPoolExecutor

from dtn_ray import storage
from dtn_ray.errors import UserError
from dtn_ray.failures import GONE
from dtn_ray.storage import json_files, local_writes
from dtn_ray.storage.refusals import Refused
from dtn_ray.storage.s3 import advice

FOLDER = ".dtn-ray"
MARK = f"{FOLDER}/mark.json"
MARKED = {"dtn_ray": "Conversions or ingestions of dtn-ray write here; this folder holds their scratch files."}
RUN = re.compile("[0-9a-f]{32}")  # the folder of a run
SCRATCH = re.compile(rf"{RUN.pattern}/([0-9a-f]+(-\d+)?-[0-9a-f]{{16}}\.parquet|[0-9a-f]{{32}}\.partial)")
LARGEST_RECORD = 1 << 26  # bytes; larger JSON is not ours

LEASE, LAST_RUN = "lease.json", "last-run.json"
FIELDS = {LEASE: ("holder",), LAST_RUN: ("job", "outcome")}
"""Files of a bulk job directly in OUT, and the JSON fields by which each is recognised."""
LEDGER_PART = re.compile(r"[0-9a-f]{12}/(part|set)-[^/]*\.parquet")


def check_out(out: str, folder: str) -> None:
    """Raises UserError if a bulk job with results in OUT/`folder` would overwrite files that dtn-ray did not write.

    An OUT belongs to dtn-ray if it has the mark, or the lease or the ledger of an older version.
    """
    storage.require_no_link(storage.join(out, FOLDER))
    if is_marked(out):
        return
    if storage.is_file(storage.join(out, FOLDER)) and not storage.is_s3(out):
        raise _foreign(out, FOLDER)
    if holds_files(storage.join(out, FOLDER)):
        raise UserError(
            f"{out}/{FOLDER}: this folder lacks dtn-ray's mark ({MARK}), so something else wrote it: move it, or "
            "choose another OUT"
        )
    ledger = storage.join(out, "ledger")
    if is_record(storage.join(out, LEASE), FIELDS[LEASE]) or any(map(LEDGER_PART.fullmatch, storage.list_keys(ledger))):
        return
    for name, fields in FIELDS.items():
        if is_foreign(storage.join(out, name), fields):
            raise _foreign(out, name)
    for name in ("ledger", folder):
        if storage.is_file(storage.join(out, name)) or holds_files(storage.join(out, name)):
            raise _foreign(out, name)


def _foreign(out: str, name: str) -> UserError:
    return UserError(
        f"{storage.join(out, name)}: this exists, and dtn-ray did not write it: nothing is overwritten. "
        "Choose another OUT, or move it elsewhere"
    )


def is_marked(out: str) -> bool:
    """Whether OUT has the mark. Raises UserError if the store refuses."""
    uri = storage.join(out, MARK)
    return not _is_link(uri) and is_record(uri, MARKED)


def mark(out: str) -> None:
    """Marks an OUT that `check_out` passed; the run must hold its lease."""
    if not is_marked(out):
        storage.write_bytes(storage.join(out, MARK), json.dumps(MARKED).encode(), "application/json", root=out)


def scratch_folder(out: str) -> str:
    """The URI of a folder for the scratch files of one run."""
    return storage.join(out, FOLDER, uuid.uuid4().hex)


def sweep(out: str) -> None:
    """Deletes the scratch files of all runs in OUT; the run must hold its lease. Files with other names stay."""
    place = storage.join(out, FOLDER)
    with ThreadPoolExecutor(16) as pool:
        keys = filter(SCRATCH.fullmatch, storage.list_keys(place))
        list(pool.map(lambda key: storage.delete(storage.join(place, key), root=out), keys))
    storage.remove_empty_folders(place, RUN, root=out)


def refuse_foreign(out: str, record: str, fields: Collection[str], others: Iterable[str] = ()) -> None:
    """Raises UserError if OUT holds files that a job would overwrite although it did not write them.

    The job recognises its own OUT by the JSON file `record` with these fields; `others`: its other files in OUT.
    """
    uri = storage.join(out, record)
    if is_foreign(uri, fields):
        raise _foreign(out, record)
    if not is_record(uri, fields):
        for name in others:
            if storage.is_file(storage.join(out, name)):
                raise _foreign(out, name)


def is_foreign(uri: str, fields: Collection[str]) -> bool:
    """Whether a file exists at `uri` that is not our JSON file. A link does not count, because writing replaces it."""
    return not _is_link(uri) and storage.exists(uri) and not is_record(uri, fields)


def _is_link(uri: str) -> bool:
    return not storage.is_s3(uri) and local_writes.is_link(storage.local_path(uri))


def is_record(uri: str, fields: Collection[str]) -> bool:
    """Whether a file is a JSON object with these fields. Raises UserError if the store refuses."""
    try:
        if storage.stat(uri)[1] > LARGEST_RECORD:
            return False
        record = json_files.parse(storage.read_bytes(uri), uri)
    except Refused as error:
        if error.cause == GONE:
            return False
        raise UserError(f"cannot be read: {error}. {advice()}") from error
    except (OSError, UserError):
        return False
    return isinstance(record, dict) and record.keys() >= set(fields)


def holds_files(uri: str) -> bool:
    """Whether any file lies below a folder or prefix."""
    return any(len(page) for page in storage.list_pages(uri))
