"""Removes secrets from text before it is printed, stored or sent. All such text passes here (display.py, errors.py).

Secrets are recognised by their form: passwords in URLs, queries of URLs (signed URLs among them), webhooks, HTTP's
credential headers, S3's strings to sign and signatures, access keys. Others are recognised by their value: those in the
environment, and those that `remember` was given.
"""

import os
import re
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote, unquote, urlsplit

HIDDEN = "***"
SHORTEST = 6  # characters of a value: to hide shorter ones would hide parts of words
LIKE_A_TOKEN = 16  # characters of a part of a URL's path
SECRETS = (
    "AWS_SECRET_ACCESS_KEY",
    "AWS_SESSION_TOKEN",
    "AWS_SECURITY_TOKEN",
    "AWS_CONTAINER_AUTHORIZATION_TOKEN",
    "RAY_AUTH_TOKEN",
)
"""Variables whose value is a secret."""
URLS = ("AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY")
"""Variables whose value is a URL that may hold a password; those of proxies in small letters too."""

# No pattern reads a text more than once from each place where it may begin: some texts are an attacker's.
PATTERNS = [
    # An element of S3's XML errors that repeats what was signed, and by whom.
    (
        r"<((?:StringToSign|CanonicalRequest)(?:Bytes)?|SignatureProvided|AWSAccessKeyId)>.*?(?:</\1>|\Z)",
        rf"<\1>{HIDDEN}</\1>",
    ),
    # The same in words: a canonical request, and the string that is signed.
    (
        r"\b(?:GET|HEAD|PUT|POST|DELETE)\s+/\S*\s(?:(?!\b(?:GET|HEAD|PUT|POST|DELETE)\s+/).){0,8000}?"
        r"\b(?:UNSIGNED-PAYLOAD|STREAMING-[\w-]+|[0-9a-f]{64})\b",
        HIDDEN,
    ),
    (r"\bAWS4-[\w-]+\s+\d{8}T\d{6}Z\s+\d{8}/\S+\s+[0-9a-f]{64}\b", HIDDEN),
    # user:password@ of a URL. A password may hold slashes where somebody forgot to write them as %2F; S3's keys do.
    (r"(s3[an]?://)(?!arn:)[^\s/@:]++:[^\s@]*+@", rf"\1{HIDDEN}@"),
    (r"(s3[an]?://)(?!arn:)[^\s/@:]++:[^\s:]\S*", rf"\1{HIDDEN}"),
    (
        r"(://)(?:(?:[^\s/?#@]*+@)+|(?!arn:|\[)[^\s/@:]++:(?!\d{1,5}(?:[/?#\s]|\Z))[^\s@]*+@(?:[^\s/?#@]*+@)*)",
        rf"\1{HIDDEN}@",
    ),
    # A webhook's path is its secret.
    (r"(https?://)(?=[^\s\"'<>]{0,2000}hook)([^\s/?#\"'<>]*+)[/?#][^\s\"'<>\\]*+", rf"\1\2/{HIDDEN}"),
    # The query of a URL.
    (r"(https?://[^\s?#\"'<>\\]*+)[?#][^\s\"'<>\\]*?(?=[:;,.)\]]*+(?:[\s\"'<>\\]|\Z))", rf"\1?{HIDDEN}"),
    (r"([?&](?:sig|signature|token|access_token|api_?key|key|password|secret)=)[^&\s\"'<>\\]+", rf"\1{HIDDEN}"),
    # Parameters and headers, as in `name=value`, `name: value`, `"name": "value"`.
    (
        r"\b(X-(?:Amz|Goog)-(?:Signature|Credential|Security-Token)|AWSAccessKeyId|GoogleAccessId|SecretAccessKey|"
        r"SessionToken|aws_(?:secret_access_key|session_token)|x-amz-[\w-]*customer-key)"
        r"([\"']?\s*(?:[=:]|%3D)\s*(?:b?[\"'])?)[^\s&\"'<>,;\\]+",
        rf"\1\2{HIDDEN}",
    ),
    (r"\b(Credential|Signature)=[^\s&\"'<>,;\\]+", rf"\1={HIDDEN}"),
    (
        r"\b((?:x-ray-|proxy-)?authorization|(?:set-)?cookie)([\"']?\s*[=:]\s*(?:b?[\"'])?)"
        r"(?:(?:Basic|Bearer|Digest|Negotiate|Token|AWS|AWS4-[\w-]+)\s+)?[^\s\"',;}\\]+",
        rf"\1\2{HIDDEN}",
    ),
    (r"\b(Basic|Bearer)\s+(?=[^\s\"']*\d)[A-Za-z0-9+/_.~=-]{8,}", rf"\1 {HIDDEN}"),
    (r"(?-i:\b(AKIA|ASIA)[A-Z0-9]{16}\b)", rf"\1{HIDDEN}"),
]
_compiled = [(re.compile(pattern, re.IGNORECASE | re.DOTALL), hidden) for pattern, hidden in PATTERNS]
# Most texts hold none of these, and need no closer look.
_suspect = re.compile(
    r"://|[=<]|AKIA|ASIA|(?i:aws4-|basic\s|bearer\s|authorization|cookie|token|accesskey|customer-key|\b[0-9a-f]{64}\b|"
    r"-payload)"
)
_remembered = dict[str, None]()
REMEMBERED = 100  # the latest: credentials of roles are renewed for as long as a job runs


def redact(text: str) -> str:
    """A text with *** in the place of every secret that is found in it. To redact twice changes nothing."""
    for value in _values():
        text = text.replace(value, HIDDEN)
    if _suspect.search(text):
        for pattern, hidden in _compiled:
            text = pattern.sub(hidden, text)
    return text


def redact_all(value: Any) -> Any:
    """The same for every text in dicts and lists, names of the dicts included."""
    if isinstance(value, str):
        return redact(value)
    if isinstance(value, dict):
        return {redact_all(name): redact_all(each) for name, each in value.items()}
    if isinstance(value, list | tuple):
        return [redact_all(each) for each in value]
    return value


def remember(secret: str | None) -> None:
    """From now on, this process hides a value, unless it is shorter than SHORTEST."""
    if secret and len(secret) >= SHORTEST:
        _remembered.pop(secret, None)
        _remembered[secret] = None
        for oldest in list(_remembered)[:-REMEMBERED]:
            _remembered.pop(oldest, None)


def remember_url(url: str) -> None:
    """The same for a URL of which only scheme and host are no secret: whole, and the parts that look like secrets.

    Others, such as a path /photos, would be hidden where they mean something else.
    """
    parts = urlsplit(url)
    if parts.path.strip("/") or parts.query or "@" in parts.netloc:
        for each in (url, parts.query, *_passwords(url)):
            remember(each)
        for each in parts.path.split("/"):
            if len(each) >= LIKE_A_TOKEN:
                remember(each)


def _values() -> list[str]:
    """All secrets that are known by their value, the longest first, since one may be a part of another."""
    found = {*_remembered, *map(os.environ.get, SECRETS)}
    for name in URLS:
        for each in (name, name.lower()):
            found.update(_passwords(os.environ.get(each, "")))
    found |= {quote(value, safe="", errors="replace") for value in found if value}
    return sorted((value for value in found if value and len(value) >= SHORTEST), key=len, reverse=True)


def _passwords(url: str) -> Iterator[str]:
    """The password of a URL, with or without a scheme, as it stands there and as it is meant."""
    rest = url.partition("://")[2 if "://" in url else 0]
    userinfo, at, _ = rest.rpartition("@")
    password = (userinfo if at else rest).partition(":")[2]
    if at or not re.match(r"\d+(/|$)|.*\]", password):  # without an @ it should be a port, or of an IPv6 address
        yield from {password, unquote(password)}
