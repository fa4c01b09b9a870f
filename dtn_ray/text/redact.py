"""Removes secrets from text before it is printed, stored or sent. display.py and errors.py pass all such text here.

Secrets are recognised by their form: passwords in URLs, queries of URLs (including signed URLs), webhooks, HTTP's
credential headers, S3's strings to sign and signatures, access keys. Others are recognised by their value: those in the
environment, and those passed to `remember`.
"""

import os
import re
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote, unquote, urlsplit

HIDDEN = "***"
SHORTEST = 6  # characters; replacing shorter values would hide parts of words
LIKE_A_TOKEN = 16  # characters; a part of a URL's path with at least so many may be a token
SECRETS = (
    "AWS_SECRET_ACCESS_KEY",
    "AWS_SESSION_TOKEN",
    "AWS_SECURITY_TOKEN",
    "AWS_CONTAINER_AUTHORIZATION_TOKEN",
    "RAY_AUTH_TOKEN",
)
"""Variables whose value is a secret."""
URLS = ("AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY")
"""Variables whose value is a URL that may hold a password; also in lower case, as for proxies."""

# Some texts come from an attacker, so a pattern reads a text at most once from each position where it may begin.
PATTERNS = [
    # An element of S3's XML errors that repeats the signed text, or the access key.
    (
        r"<((?:StringToSign|CanonicalRequest)(?:Bytes)?|SignatureProvided|AWSAccessKeyId)>.*?(?:</\1>|\Z)",
        rf"<\1>{HIDDEN}</\1>",
    ),
    # The same as plain text: a canonical request, and the string to sign.
    (
        r"\b(?:GET|HEAD|PUT|POST|DELETE)\s+/\S*\s(?:(?!\b(?:GET|HEAD|PUT|POST|DELETE)\s+/).){0,8000}?"
        r"\b(?:UNSIGNED-PAYLOAD|STREAMING-[\w-]+|[0-9a-f]{64})\b",
        HIDDEN,
    ),
    (r"\bAWS4-[\w-]+\s+\d{8}T\d{6}Z\s+\d{8}/\S+\s+[0-9a-f]{64}\b", HIDDEN),
    # user:password@ of a URL. A password may hold slashes that were not escaped as %2F, such as S3's secret keys.
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
# Texts without any of these contain no secrets; this check skips most texts quickly.
_suspect = re.compile(
    r"://|[=<]|AKIA|ASIA|(?i:aws4-|basic\s|bearer\s|authorization|cookie|token|accesskey|customer-key|\b[0-9a-f]{64}\b|"
    r"-payload)"
)
_remembered = dict[str, None]()
REMEMBERED = 100  # only the latest are kept, because credentials of roles are renewed as long as a job runs


def redact(text: str) -> str:
    """Replaces every secret in a text by ***. Redacting twice changes nothing."""
    for value in _values():
        text = text.replace(value, HIDDEN)
    if _suspect.search(text):
        for pattern, hidden in _compiled:
            text = pattern.sub(hidden, text)
    return text


def redact_all(value: Any) -> Any:
    """Redacts every text in dicts and lists, including the keys of dicts."""
    if isinstance(value, str):
        return redact(value)
    if isinstance(value, dict):
        return {redact_all(name): redact_all(each) for name, each in value.items()}
    if isinstance(value, list | tuple):
        return [redact_all(each) for each in value]
    return value


def remember(secret: str | None) -> None:
    """From now on, this process redacts this value, unless it is shorter than SHORTEST."""
    if secret and len(secret) >= SHORTEST:
        _remembered.pop(secret, None)
        _remembered[secret] = None
        for oldest in list(_remembered)[:-REMEMBERED]:
            _remembered.pop(oldest, None)


def remember_url(url: str) -> None:
    """Remembers a URL that is secret except for scheme and host: the whole URL, and the parts that look like secrets.

    Other parts, such as a path /photos, are not remembered, because they would also be hidden elsewhere.
    """
    parts = urlsplit(url)
    if parts.path.strip("/") or parts.query or "@" in parts.netloc:
        for each in (url, parts.query, *_passwords(url)):
            remember(each)
        for each in parts.path.split("/"):
            if len(each) >= LIKE_A_TOKEN:
                remember(each)


def _values() -> list[str]:
    """All secrets that are known by their value, longest first, because one may be a part of another."""
    found = {*_remembered, *map(os.environ.get, SECRETS)}
    for name in URLS:
        for each in (name, name.lower()):
            found.update(_passwords(os.environ.get(each, "")))
    found |= {quote(value, safe="", errors="replace") for value in found if value}
    return sorted((value for value in found if value and len(value) >= SHORTEST), key=len, reverse=True)


def _passwords(url: str) -> Iterator[str]:
    """The password of a URL, with or without a scheme, both as written and unquoted."""
    rest = url.partition("://")[2 if "://" in url else 0]
    userinfo, at, _ = rest.rpartition("@")
    password = (userinfo if at else rest).partition(":")[2]
    if at or not re.match(r"\d+(/|$)|.*\]", password):  # without an @ it should be a port, or of an IPv6 address
        yield from {password, unquote(password)}
