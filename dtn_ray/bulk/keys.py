"""The place of the result for a key: a pure function, so that every run writes the same object."""

import hashlib
import re

MAX_NAME = 230  # bytes of a file name; local filesystems end at 255, and a file being written has a longer one
MAX_KEY = 800  # bytes; S3 ends at 1024, of which OUT's own prefix takes some


def output_key(key: str, format: str = "png", number: int = 0) -> str:
    """`<key>.<format>`, made safe as a local path and as an S3 key; other keys have other outputs.

    Of several outputs for one key, those after the first (`number` 0) are `<key>%2.<format>`, `<key>%3.<format>`, …

    Any string in. Most come out as they are; %, backslashes and control characters become %XX. A folder called `.` or
    `..` is escaped too; one without a name, or with a name that ends in .<format> and might be another output's, has
    %2F after it. What is then too long becomes `%long/<SHA-256 of the key>.<format>`. No other % is ever written, so
    nothing collides.
    """
    *folders, name = (_escape(component) for component in key.split("/"))
    ending = f"%{number + 1}.{format}" if number else f".{format}"
    output = "/".join([*(_folder(each, format) for each in folders), f"{name}{ending}"])
    if len(output.encode()) > MAX_KEY or any(len(each.encode()) > MAX_NAME for each in output.split("/")):
        digest = hashlib.sha256(key.encode(errors="surrogatepass")).hexdigest()
        return f"%long/{digest}{ending}"
    return output


def _escape(component: str) -> str:
    """No /, % other than of %XX, control character or half of a surrogate pair is in what this returns."""
    return re.sub(r"[%\\\x00-\x1f\x7f-\x9f\ud800-\udfff]", _percent, component)


def _percent(match: re.Match[str]) -> str:
    return "".join(f"%{byte:02X}" for byte in match[0].encode(errors="surrogatepass"))


def _folder(name: str, format: str) -> str:
    if name in (".", ".."):
        return name.replace(".", "%2E")
    return f"{name}%2F" if not name or name.lower().endswith(f".{format}") else name
