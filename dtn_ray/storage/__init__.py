"""Files by URI: in a local folder, in `s3://bucket/prefix`, or at any S3-compatible endpoint.

uris            parses URIs
places          whether a URI names a file, a folder or nothing
listing         lists the files below a folder or prefix
objects         reads, writes, deletes and copies files
versions        compare-and-swap on a small file
local_files     lists and reads local files
local_writes    writes and deletes local files, never through links
s3, s3_files    clients of S3
refusals        classifies the errors of stores and file systems
ownership       which files in a folder dtn-ray wrote
json_files      reads JSON within bounds
"""

from dtn_ray.storage.listing import ARCHIVES, LISTING, Stretch, list_keys, list_pages, stretches
from dtn_ray.storage.objects import (
    NewFile,
    copy_folder,
    delete,
    read_bytes,
    read_many,
    remove_empty_folders,
    stat,
    write_bytes,
    write_many,
)
from dtn_ray.storage.places import exists, is_file, is_folder, require_no_link, resolve
from dtn_ray.storage.uris import absolute, bucket_and_key, child, is_s3, join, local_path
from dtn_ray.storage.versions import (
    NoConditionalWrites,
    Versioned,
    compare_and_swap,
    read_versioned,
    require_conditional_writes,
)

__all__ = [
    "ARCHIVES",
    "LISTING",
    "NewFile",
    "NoConditionalWrites",
    "Stretch",
    "Versioned",
    "absolute",
    "bucket_and_key",
    "child",
    "compare_and_swap",
    "copy_folder",
    "delete",
    "exists",
    "is_file",
    "is_folder",
    "is_s3",
    "join",
    "list_keys",
    "list_pages",
    "local_path",
    "read_bytes",
    "read_many",
    "read_versioned",
    "remove_empty_folders",
    "require_conditional_writes",
    "require_no_link",
    "resolve",
    "stat",
    "stretches",
    "write_bytes",
    "write_many",
]
