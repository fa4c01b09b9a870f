"""How S3 is reached: boto3 resolves endpoint, region and credentials, and obstore is given the result.

So the rules of one client hold everywhere: variables, profiles, `services` sections, roles, web identity, SSO,
processes, containers, instances, private certificates. Two variables that other tools know are supported as well:

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

PATIENCE = 20.0  # seconds for which a failing request is repeated at least
LONGEST_PAUSE = 3.0
ASKED_AGAIN = 10.0  # seconds after which a bucket is asked again for its region, if it did not answer
# obstore asks for credentials anew when they have less left.
MARGIN = timedelta(minutes=5)


class Access:
    """boto3's session and client, and obstore's clients of buckets; both are slow to make and safe to share."""

    def __init__(self) -> None:
        """Raises BotoCoreError for a profile that is absent or cannot be meant."""
        session = botocore.session.get_session()
        # A third of the time of a listing goes into its default, which knows every way to write a date.
        session.get_component("response_parser_factory").set_parser_defaults(timestamp_parser=_timestamp)
        if region := os.environ.get("AWS_REGION"):
            session.set_config_variable("region", region)  # all other tools know it; boto3 AWS_DEFAULT_REGION alone
        options: dict[str, Any] = {}
        if not (os.environ.get(f"AWS_{CHECKSUMS.upper()}") or session.get_scoped_config().get(CHECKSUMS)):
            options[CHECKSUMS] = "when_required"  # other stores than Amazon's need not know the newer ones
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
        """obstore's client of a bucket. Raises OSError where boto3 finds no credentials, or no such bucket can be."""
        store, until = self._stores.get(bucket, (None, 0.0))
        if store and time.monotonic() < until:
            return store
        with self._lock:  # or all threads would ask at once
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
            aws_endpoint_url_s3=endpoint,  # the variable of this name would come before the argument above
            virtual_hosted_style_request=not in_path,
            skip_signature=anonymous,
            request_payer=_pays(),
            client_options=_timeouts() | options,
            retry_config=_retries(),
            **provider,
        )
        return store, until

    def _locate(self, bucket: str) -> tuple[str, str, float]:
        """URL of a bucket, the region that requests are signed for, and until when to believe so."""
        self._signed.clear()
        until = float("inf")
        try:
            self.client.head_bucket(Bucket=bucket)  # boto3 follows to another region
        except ClientError:
            pass  # it may be asked for objects all the same, and says itself why not
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
        """Seconds until boto3 repeats a request, or None. By its own rules it gives up within a second or two."""
        if response is not None:
            self._silent = False
        if operation.name == "HeadBucket" or self._silent or not _may_pass(response, caught_exception):
            return None
        since = request_dict["context"].setdefault("failing_since", time.monotonic())
        left = PATIENCE - (time.monotonic() - since)
        if left <= 0:
            self._silent = response is None  # the next request need not find that out again
            return None
        return min(left, random.uniform(0.5, 1) * min(0.2 * 2**attempts, LONGEST_PAUSE))


class Renewed:
    """Gives obstore boto3's credentials, which boto3 renews before they end."""

    def __init__(self, credentials: Any) -> None:
        self.credentials = credentials

    def __call__(self) -> Any:
        frozen = self.credentials.get_frozen_credentials()
        remember(frozen.secret_key)
        remember(frozen.token)
        now, ends = datetime.now(UTC), getattr(self.credentials, "_expiry_time", None)
        # Asked for again after five minutes, or half of the time that they have left.
        hold = MARGIN if ends is None else min(MARGIN, max(ends - now, timedelta()) / 2)
        return {
            "access_key_id": frozen.access_key,
            "secret_access_key": frozen.secret_key,
            "token": frozen.token or None,
            "expires_at": now + MARGIN + hold,
        }


def client() -> Any:
    """boto3's client, for listings, ETags, conditional writes and keys that obstore does not take.

    Raises BotoCoreError for a profile that is absent or cannot be meant.
    """
    return _reached().client


def store(bucket: str) -> S3Store:
    """obstore's client, with retries: a fourth of boto3's work for each object, and free of Python's lock.

    Raises OSError where there is no way to the bucket.
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
    """One for each setting of these variables; to look through all of a process's would take longer."""
    with _making:  # boto3 does not make two at the same time safely
        try:
            return Access()
        except ValueError as error:  # an endpoint without http://, a number that is none
            raise UserError(f"S3 cannot be reached with the settings in AWS variables and files: {error}") from error


def plain(key: str) -> bool:
    """Whether obstore takes a key as it is: without control characters and components that are empty, `.` or `..`."""
    return not {"", ".", ".."} & set(key.split("/")) and not re.search(r"[\x00-\x1f\x7f]", key)


def is_anonymous(bucket: str) -> bool:
    """Whether AWS_NO_SIGN_REQUEST names this bucket, or all."""
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
    """Whether a server's certificate is not trusted, which does not pass."""
    return isinstance(error, SSLError) and "CERTIFICATE_VERIFY_FAILED" in str(error)


def _timestamp(text: str) -> datetime | None:
    """None for what is no date, or lies beyond Python's: one such object must not end a listing."""
    for parse in (datetime.fromisoformat, botocore.utils.parse_timestamp):
        with suppress(ValueError, OverflowError):
            return parse(text)
    return None


def _retries() -> Any:
    """obstore draws each pause between the first and `base` times the one before."""
    return {
        "max_retries": 1000,
        # Since the request began: one that timed out after 20 s of silence is repeated too.
        "retry_timeout": timedelta(seconds=PATIENCE + 5),
        "backoff": {
            "init_backoff": timedelta(seconds=0.2),
            "max_backoff": timedelta(seconds=LONGEST_PAUSE),
            "base": 3,
        },
    }


def _timeouts() -> dict[str, Any]:
    """In seconds as obstore writes them; its own variables change them."""
    return {
        "connect_timeout": os.environ.get("AWS_CONNECT_TIMEOUT", "5s"),
        "read_timeout": os.environ.get("AWS_READ_TIMEOUT", "20s"),  # between two bytes, and before the first
        "timeout": os.environ.get("AWS_TIMEOUT", "120s"),  # of a whole request
        "allow_http": True,
    }


def _certificates(bundle: str | None) -> bytes:
    """Those that boto3 trusts: a bundle that was named, or its own; obstore would trust the system's alone."""
    try:
        with open(bundle or get_cert_path(True), "rb") as file:
            return file.read()
    except OSError as error:
        raise OSError(f"the certificates that AWS_CA_BUNDLE or ca_bundle names cannot be read: {error}") from error
