"""Clients of S3: boto3 resolves endpoint, region and credentials, and obstore receives the result.

The rules of boto3 therefore apply everywhere: variables, profiles, `services` sections, roles, web identity, SSO,
processes, containers, instances, private certificates. Two variables of other tools are supported as well:

AWS_REQUEST_PAYER=requester   pay for requests to requester-pays buckets
AWS_NO_SIGN_REQUEST=true      send no credentials to public buckets; or the names of such buckets, separated by commas
"""

import os
import random
import re
import threading
import time
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import Any
from urllib.parse import urlsplit

import boto3
import botocore.session
import botocore.utils
from botocore import UNSIGNED
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError, ConnectionError, HTTPClientError, SSLError
from botocore.httpsession import get_cert_path
from obstore.store import S3Store

from dtn_ray.errors import UserError
from dtn_ray.text.redact import remember

OPTIONS = ("AWS_REQUEST_PAYER", "AWS_NO_SIGN_REQUEST")
VARIABLES = (
    *OPTIONS,
    *("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", "AWS_REGION", "AWS_DEFAULT_REGION"),
    *("AWS_PROFILE", "AWS_CONFIG_FILE", "AWS_CA_BUNDLE"),
    *("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"),
    *("AWS_CONNECT_TIMEOUT", "AWS_READ_TIMEOUT", "AWS_TIMEOUT"),
)
NAMES = tuple(map(os.fsencode, VARIABLES))
CHECKSUMS = "request_checksum_calculation"

PATIENCE = 20.0  # a failing request is repeated for at least this many seconds
LONGEST_PAUSE = 3.0
ASKED_AGAIN = 10.0  # seconds after which the region of a bucket that did not answer is looked up again
# obstore asks for new credentials when the old ones are valid for less than this.
MARGIN = timedelta(minutes=5)


class Access:
    """boto3's session and client, and obstore's clients of buckets. Both are slow to create and safe to share."""

    def __init__(self) -> None:
        """Raises BotoCoreError for a profile that is absent or invalid."""
        session = botocore.session.get_session()
        # The default parser accepts every date format, and takes a third of the time of a listing.
        session.get_component("response_parser_factory").set_parser_defaults(timestamp_parser=_timestamp)
        if region := os.environ.get("AWS_REGION"):
            session.set_config_variable("region", region)  # boto3 itself only reads AWS_DEFAULT_REGION
        options: dict[str, Any] = {}
        if not (os.environ.get(f"AWS_{CHECKSUMS.upper()}") or session.get_scoped_config().get(CHECKSUMS)):
            options[CHECKSUMS] = "when_required"  # stores other than Amazon's may not support the newer checksums
        config = Config(
            retries={"mode": "standard", "total_max_attempts": 1},  # self._pause repeats
            connect_timeout=5,
            read_timeout=20,
            max_pool_connections=64,
            **options,
        )
        self.client: Any = boto3.Session(botocore_session=session).client("s3", config=config)
        self.credentials: Any = session.get_credentials()
        self.profile = session.profile
        bundle = session.get_config_variable("ca_bundle") or os.environ.get("REQUESTS_CA_BUNDLE")
        self.bundle = str(bundle) if bundle else None
        self._lock = threading.Lock()
        self._stores = dict[str, tuple[S3Store, float]]()
        self._silent = False
        self._signed = list[tuple[str, str, str]]()
        events = self.client.meta.events
        events.register("needs-retry.s3", self._pause)
        events.register("choose-signer.s3", _unsigned)
        events.register("before-call.s3", _pay)
        events.register("before-sign.s3.HeadBucket", self._note)

    def store(self, bucket: str) -> S3Store:
        """obstore's client of a bucket. Raises OSError if boto3 finds no credentials, or cannot reach the bucket."""
        store, until = self._stores.get(bucket, (None, 0.0))
        if store and time.monotonic() < until:
            return store
        with self._lock:  # otherwise all threads would look up the region at the same time
            store, until = self._stores.get(bucket, (None, 0.0))
            if store is None or time.monotonic() >= until:
                store, until = self._make(bucket)
                self._stores[bucket] = store, until
        return store

    def _make(self, bucket: str) -> tuple[S3Store, float]:
        anonymous = is_anonymous(bucket)
        if self.credentials is None and not anonymous:
            raise OSError(
                "no AWS credentials: set AWS_PROFILE, AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or a role; for "
                f"public buckets AWS_NO_SIGN_REQUEST={bucket}"
            )
        url, region, until = self._locate(bucket)
        parts = urlsplit(url)
        path = parts.path.rstrip("/")
        in_path = path == f"/{bucket}" or path.endswith(f"/{bucket}")
        endpoint = f"{parts.scheme}://{parts.netloc}{path.removesuffix(f'/{bucket}') if in_path else path}"
        secure = parts.scheme == "https"
        options: Any = {"root_certificate": _certificates(self.bundle)} if secure else {}
        provider: Any = {} if anonymous else {"credential_provider": Renewed(self.credentials)}
        store = S3Store(
            bucket,
            region=region,
            endpoint=endpoint,
            aws_endpoint_url_s3=endpoint,  # otherwise the variable of this name would override the argument above
            virtual_hosted_style_request=not in_path,
            skip_signature=anonymous,
            request_payer=_pays(),
            client_options=_timeouts() | options,
            retry_config=_retries(),
            **provider,
        )
        return store, until

    def _locate(self, bucket: str) -> tuple[str, str, float]:
        """URL of a bucket, the region that requests are signed for, and the time until which this may be cached."""
        self._signed.clear()
        until = float("inf")
        try:
            self.client.head_bucket(Bucket=bucket)  # boto3 follows to another region
        except ClientError:
            pass  # objects may still be readable; if not, their own errors say why
        except BotoCoreError as error:
            if not self._signed or is_certificate(error):
                raise OSError(f"s3://{bucket}: {error}. {advice()}") from error
            until = time.monotonic() + ASKED_AGAIN
        _, url, region = next(each for each in reversed(self._signed) if each[0] == bucket)
        return url, region, until

    def _note(self, request: Any, region_name: str, **_: Any) -> None:
        bucket = request.context.get("s3_redirect", {}).get("bucket")
        region = request.context.get("signing", {}).get("region") or region_name
        self._signed.append((bucket, request.url, region))

    def _pause(
        self, attempts: int, response: Any, caught_exception: Any, operation: Any, request_dict: Any, **_: Any
    ) -> float | None:
        """Seconds until boto3 repeats a request, or None. boto3's own rules give up after a second or two."""
        if response is not None:
            self._silent = False
        if operation.name == "HeadBucket" or self._silent or not _may_pass(response, caught_exception):
            return None
        since = request_dict["context"].setdefault("failing_since", time.monotonic())
        left = PATIENCE - (time.monotonic() - since)
        if left <= 0:
            self._silent = response is None  # then the next request fails without repeating
            return None
        return min(left, random.uniform(0.5, 1) * min(0.2 * 2**attempts, LONGEST_PAUSE))


class Renewed:
    """Passes boto3's credentials to obstore; boto3 renews them before they expire."""

    def __init__(self, credentials: Any) -> None:
        self.credentials = credentials

    def __call__(self) -> Any:
        frozen = self.credentials.get_frozen_credentials()
        remember(frozen.secret_key)
        remember(frozen.token)
        now, ends = datetime.now(UTC), getattr(self.credentials, "_expiry_time", None)
        # obstore asks again after five minutes, or after half of the remaining validity.
        hold = MARGIN if ends is None else min(MARGIN, max(ends - now, timedelta()) / 2)
        return {
            "access_key_id": frozen.access_key,
            "secret_access_key": frozen.secret_key,
            "token": frozen.token or None,
            "expires_at": now + MARGIN + hold,
        }


def client() -> Any:
    """boto3's client, for listings, ETags, conditional writes and keys that obstore does not accept.

    Raises BotoCoreError for a profile that is absent or invalid.
    """
    return _reached().client


def store(bucket: str) -> S3Store:
    """obstore's client, with retries: it takes a quarter of boto3's CPU time per object, and releases the GIL.

    Raises OSError if the bucket cannot be reached.
    """
    try:
        return _reached().store(bucket)
    except BotoCoreError as error:
        raise OSError(str(error)) from error


def advice() -> str:
    """What the user should check after a refusal, with the resolved settings, which libraries' errors often omit."""
    try:
        access = _reached()
    except BotoCoreError:
        return "Check AWS_PROFILE and the files that AWS_CONFIG_FILE and AWS_SHARED_CREDENTIALS_FILE name."
    endpoint = access.client.meta.endpoint_url
    profile = f"the profile {access.profile or 'default'}"
    ignored = os.environ.get("AWS_IGNORE_CONFIGURED_ENDPOINT_URLS", "").lower() == "true"
    named = [name for name in ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL") if os.environ.get(name) and not ignored]
    if named:
        whose = f"from {named[0]}"
    elif re.search(r"\.amazonaws\.com(\.cn)?$", urlsplit(endpoint).hostname or ""):
        whose = "Amazon's; AWS_ENDPOINT_URL is not set"
    else:
        whose = f"from {profile}"
    found = access.credentials
    credentials = "none were found" if found is None else f"by {found.method}, {profile}"
    certificates = f" Certificates are those of {access.bundle}." if access.bundle else ""
    return (
        f"Check that the bucket is there, the endpoint ({endpoint}, {whose}), the region "
        f"({access.client.meta.region_name}) and the credentials ({credentials}).{certificates}"
    )


def _reached() -> Access:
    return _access(tuple(map(os.environb.get, NAMES)))


_making = threading.Lock()


@lru_cache
def _access(variables: tuple[bytes | None, ...]) -> Access:
    """One Access for each combination of values of VARIABLES, which are quicker to compare than the environment."""
    with _making:  # boto3 cannot create two sessions at the same time safely
        try:
            return Access()
        except ValueError as error:  # an endpoint without http://, or an invalid number
            raise UserError(f"S3 cannot be reached with the settings in AWS variables and files: {error}") from error


def plain(key: str) -> bool:
    """Whether obstore accepts a key: no control characters, and no components that are empty, `.` or `..`."""
    return not {"", ".", ".."} & set(key.split("/")) and not re.search(r"[\x00-\x1f\x7f]", key)


def is_anonymous(bucket: str) -> bool:
    """Whether AWS_NO_SIGN_REQUEST applies to this bucket."""
    value = os.environ.get("AWS_NO_SIGN_REQUEST", "").strip()
    if value.lower() in ("", "false", "no", "off", "0"):
        return False
    return value.lower() in ("true", "yes", "on", "1") or bucket in re.split(r"[\s,]+", value)


def _pays() -> bool:
    value = os.environ.get("AWS_REQUEST_PAYER", "").strip().lower()
    if value not in ("", "requester", "true", "yes", "1", "false", "no", "0"):
        raise UserError(f"AWS_REQUEST_PAYER={value}: set it to requester, or unset it")
    return value in ("requester", "true", "yes", "1")


def _unsigned(context: dict[str, Any], **_: Any) -> Any:
    return UNSIGNED if is_anonymous(context.get("s3_redirect", {}).get("bucket") or "") else None


def _pay(params: dict[str, Any], **_: Any) -> None:
    if _pays():
        params["headers"]["x-amz-request-payer"] = "requester"


def _may_pass(response: Any, error: Exception | None) -> bool:
    if response is None:
        return isinstance(error, ConnectionError | HTTPClientError) and not is_certificate(error)
    code = response[1].get("Error", {}).get("Code")
    return response[0].status_code in (429, 500, 502, 503, 504) or code in ("SlowDown", "RequestTimeout")


def is_certificate(error: Exception | None) -> bool:
    """Whether the error is an untrusted certificate, for which repeating does not help."""
    return isinstance(error, SSLError) and "CERTIFICATE_VERIFY_FAILED" in str(error)


def _timestamp(text: str) -> datetime | None:
    """None if the text is not a date or is beyond Python's range, because one such object must not end a listing."""
    for parse in (datetime.fromisoformat, botocore.utils.parse_timestamp):
        with suppress(ValueError, OverflowError):
            return parse(text)
    return None


def _retries() -> Any:
    """obstore chooses each pause at random between the first pause and `base` times the previous one."""
    return {
        "max_retries": 1000,
        # Counts from the start of the request, so that one which timed out after 20 s is repeated too.
        "retry_timeout": timedelta(seconds=PATIENCE + 5),
        "backoff": {
            "init_backoff": timedelta(seconds=0.2),
            "max_backoff": timedelta(seconds=LONGEST_PAUSE),
            "base": 3,
        },
    }


def _timeouts() -> dict[str, Any]:
    """In seconds, in obstore's notation; obstore's own variables override them."""
    return {
        "connect_timeout": os.environ.get("AWS_CONNECT_TIMEOUT", "5s"),
        "read_timeout": os.environ.get("AWS_READ_TIMEOUT", "20s"),  # between two bytes, and before the first
        "timeout": os.environ.get("AWS_TIMEOUT", "120s"),  # of a whole request
        "allow_http": True,
    }


def _certificates(bundle: str | None) -> bytes:
    """The certificates that boto3 trusts: a configured bundle, or its own. obstore by default uses the system's."""
    try:
        with open(bundle or get_cert_path(True), "rb") as file:
            return file.read()
    except OSError as error:
        raise OSError(f"the certificates that AWS_CA_BUNDLE or ca_bundle names cannot be read: {error}") from error
