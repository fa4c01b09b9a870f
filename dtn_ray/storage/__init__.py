"""One URI, one file system: a local folder, `s3://bucket/prefix`, or any S3-compatible endpoint.

uris            what a URI means
places          what is there
listing         … and below it
objects         read, write, delete, copy
versions        a small file that several processes change
local_files     local files read …
local_writes    … and written, never through links
s3, s3_files    how S3 is reached
refusals        what stores and file systems raise
ownership       what of a folder is the program's own
json_files      JSON within bounds
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
