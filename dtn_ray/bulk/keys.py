"""The name of the result for a key: a pure function, so that every run writes the same file."""

import hashlib
import re

MAX_NAME = 230  # bytes of a file name; local filesystems allow 255, and temporary names are longer
MAX_KEY = 800  # bytes; S3 allows 1024, including the prefix of OUT


def output_key(key: str, format: str = "png", number: int = 0) -> str:
    """`<key>.<format>`, made safe as a local path and as an S3 key. Different keys have different outputs.

    If a key has several outputs, those after the first (`number` 0) are `<key>%2.<format>`, `<key>%3.<format>`, …

    Accepts any string. Most keys stay unchanged; %, backslashes and control characters become %XX. A folder named `.`
    or `..` is escaped too. A folder with an empty name, or with a name that ends in .<format> and could be that of
    another output, gets the suffix %2F. A result that is too long becomes `%long/<SHA-256 of the key>.<format>`. No
    other % is ever written, so outputs cannot collide.
    """
    *folders, name = (_escape(component) for component in key.split("/"))
    ending = f"%{number + 1}.{format}" if number else f".{format}"
    output = "/".join([*(_folder(each, format) for each in folders), f"{name}{ending}"])
    if len(output.encode()) > MAX_KEY or any(len(each.encode()) > MAX_NAME for each in output.split("/")):
        digest = hashlib.sha256(key.encode(errors="surrogatepass")).hexdigest()
        return f"%long/{digest}{ending}"
    return output


def _escape(component: str) -> str:
    """Escapes a component: the result has no control characters or surrogates, and each % begins a %XX."""
    return re.sub(r"[%\\\x00-\x1f\x7f-\x9f\ud800-\udfff]", _percent, component)


def _percent(match: re.Match[str]) -> str:
    return "".join(f"%{byte:02X}" for byte in match[0].encode(errors="surrogatepass"))


def _folder(name: str, format: str) -> str:
    if name in (".", ".."):
        return name.replace(".", "%2E")
    return f"{name}%2F" if not name or name.lower().endswith(f".{format}") else name
