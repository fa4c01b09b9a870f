"""Which files are photos, by their names. Imports nothing, because command lines import it."""

import re

# The suffixes that Pillow and libheif use for these formats, and others that JPEG files have in practice.
SUFFIXES = (
    *(".png", ".apng", ".jpg", ".jpeg", ".jpe", ".jfif", ".jif", ".jfi", ".pjpeg", ".pjp", ".mpo", ".webp"),
    *(".bmp", ".dib", ".gif", ".tif", ".tiff", ".heic", ".heics", ".heif", ".heifs", ".hif", ".avif", ".avifs"),
)
# Folders and files that macOS, Windows, NAS systems and git create in folders of photos. Some hold thumbnails or
# deleted files, with the suffixes of photos. Case is ignored, because ZIP files and other systems change it.
_FOLDERS = (
    *("__MACOSX", r"\.AppleDouble", r"\.Trashes", r"\.Trash", r"\.Trash-\d+", r"\.Spotlight-V100", r"\.fseventsd"),
    *("@eaDir", "#recycle", "@Recycle", r"\.@__thumb", r"\$RECYCLE\.BIN", "System Volume Information"),
    *(r"\.thumbnails", r"\.git", r"\.dtn-ray"),
)
_FILES = (r"\._[^/]*", r"\.DS_Store", r"(eh)?thumbs(_\w+)?\.db", r"desktop\.ini", r"\.directory", r"icon\r")
LITTER_NAMES = rf"(?i)(^|/)(({'|'.join(_FOLDERS)})/|({'|'.join(_FILES)})$)"
CONTENT_TYPES = {"png": "image/png", "webp": "image/webp", "jpeg": "image/jpeg"}


def is_photo_name(key: str) -> bool:
    """Whether a key has the suffix of a photo, and is not a file that operating systems create beside photos."""
    return key.lower().endswith(SUFFIXES) and re.search(LITTER_NAMES, key) is None
