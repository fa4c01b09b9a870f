"""Which files are photos, by their names. Imports nothing, because command lines import it."""

import re

# Those that Pillow and libheif give these formats, and others that JPEG files are found under.
SUFFIXES = (
    *(".png", ".apng", ".jpg", ".jpeg", ".jpe", ".jfif", ".jif", ".jfi", ".pjpeg", ".pjp", ".mpo", ".webp"),
    *(".bmp", ".dib", ".gif", ".tif", ".tiff", ".heic", ".heics", ".heif", ".heifs", ".hif", ".avif", ".avifs"),
)
# What macOS, Windows, NAS systems and git keep in folders of photos: thumbnails and deleted files among it, with the
# suffixes of photos. In small letters or large, since ZIP files and other systems change that.
_FOLDERS = (
    *("__MACOSX", r"\.AppleDouble", r"\.Trashes", r"\.Trash", r"\.Trash-\d+", r"\.Spotlight-V100", r"\.fseventsd"),
    *("@eaDir", "#recycle", "@Recycle", r"\.@__thumb", r"\$RECYCLE\.BIN", "System Volume Information"),
    *(r"\.thumbnails", r"\.git", r"\.dtn-ray"),
)
_FILES = (r"\._[^/]*", r"\.DS_Store", r"(eh)?thumbs(_\w+)?\.db", r"desktop\.ini", r"\.directory", r"icon\r")
LITTER_NAMES = rf"(?i)(^|/)(({'|'.join(_FOLDERS)})/|({'|'.join(_FILES)})$)"
CONTENT_TYPES = {"png": "image/png", "webp": "image/webp", "jpeg": "image/jpeg"}


def is_photo_name(key: str) -> bool:
    """Whether a key is called as a photo is: by its suffix, and not as what systems keep beside photos."""
    return key.lower().endswith(SUFFIXES) and re.search(LITTER_NAMES, key) is None
