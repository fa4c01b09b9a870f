"""An HTTP proxy in front of an S3 server that makes some requests fail, like networks and busy stores.

In a test: `with FaultProxy(endpoint) as proxy: proxy.plan = Plan(seed=1, slow_down=0.2)`. By itself, until it is
interrupted, with its counters at the end: `python tests/support/fault_proxy.py ENDPOINT --port 9000 --slow-down 0.05`.
"""

import argparse
import asyncio
import json
import random
import re
import socket
import struct
import threading
import time
from collections import Counter
from dataclasses import asdict, dataclass, fields
from ssl import SSLContext

from aiohttp import ClientSession, ClientTimeout, DummyCookieJar, TCPConnector, web
from yarl import URL

ERROR = (
    '<?xml version="1.0" encoding="UTF-8"?>\n<Error><Code>{code}</Code><Message>{message}</Message>{elements}</Error>'
)


@dataclass(frozen=True)
class Plan:
    """The probability of each fault for requests that match `methods` and `keys`; together at most 1."""

    slow_down: float = 0
    """503 SlowDown as from S3; the request does not reach the store."""
    internal_error: float = 0
    """500 InternalError; the request does not reach the store."""
    reset: float = 0
    """The connection is reset (RST) without an answer; half of these requests reach the store and take effect."""
    reset_in_body: float = 0
    """The connection is reset in the middle of the response body. Bodies of less than two bytes are sent completely,
    here and in the three faults below."""
    truncated: float = 0
    """The connection is closed in the middle of the body, before Content-Length bytes."""
    shortened: float = 0
    """A part of the body, with the Content-Length of that part: only the object's size reveals the fault."""
    stall: float = 0
    """No response for `stall_seconds`, then a reset; half of these requests reach the store."""
    stall_in_body: float = 0
    """The same in the middle of the answer's body."""
    stall_seconds: float = 60
    sent: float = 0.5
    """The fraction of a body that is sent before it breaks off."""
    denied_after: int | None = None
    """After so many matching requests under this plan, all get 403 ExpiredToken."""
    refused: float = 0
    """An error with `status` and `code`; by default access denied."""
    status: int = 403
    code: str = "AccessDenied"
    message: str = "Access Denied"
    elements: str = ""
    """Further elements of the error's XML."""
    storage_class: str = ""
    """The storage class in listings of objects whose path matches `keys`."""
    restored: str = ""
    """The time until which listings, if asked, report these objects as restored: 2030-01-01T00:00:00.000Z."""
    methods: str = ""
    """Only requests whose method matches this regular expression."""
    keys: str = ""
    """Only requests whose path matches; it is /bucket/key with %XX as sent, or /bucket for a listing."""
    seed: int = 0


IN_BODY = ("reset_in_body", "truncated", "shortened", "stall_in_body")
FAULTS = ("slow_down", "internal_error", "reset", "stall", "refused", *IN_BODY)
# What each of two connections has of its own.
HOP_BY_HOP = {"connection", "keep-alive", "transfer-encoding", "te", "trailer", "upgrade", "expect", "date", "server"}


class FaultProxy:
    """The proxy, in its own thread for the duration of a `with`; `plan` may be set at any time."""

    def __init__(self, upstream: str, port: int = 0, ssl: SSLContext | None = None) -> None:
        self.upstream = upstream.rstrip("/")
        self.ssl = ssl
        self.port = port
        self.requests: Counter[str] = Counter()
        """Number of requests by method."""
        self.faults: Counter[str] = Counter()
        """Number of failed requests by fault."""
        self._lock = threading.Lock()
        self.plan = Plan()

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def plan(self) -> Plan:
        return self._plan

    @plan.setter
    def plan(self, plan: Plan) -> None:
        """Resets counts and random draws; requests in progress end under the previous plan."""
        with self._lock:
            self._plan, self._random, self._matched = plan, random.Random(plan.seed), 0
            self.requests.clear()
            self.faults.clear()

    def __enter__(self) -> "FaultProxy":
        started = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve(started)), daemon=True)
        self._thread.start()
        if not started.wait(30):
            raise RuntimeError("the proxy did not start")
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._end.set)
        self._thread.join()

    async def _serve(self, started: threading.Event) -> None:
        self._loop, self._end = asyncio.get_running_loop(), asyncio.Event()
        app = web.Application(client_max_size=1 << 30)
        app.router.add_route("*", "/{path:.*}", self._answer)
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.2)
        await runner.setup()
        self._runner = runner
        await self._listen()
        self._session = ClientSession(
            auto_decompress=False,
            cookie_jar=DummyCookieJar(),
            connector=TCPConnector(limit=256, keepalive_timeout=10),
            timeout=ClientTimeout(total=120),
            skip_auto_headers=("User-Agent", "Accept", "Accept-Encoding", "Content-Type"),
        )
        started.set()
        try:
            await self._end.wait()
        finally:
            await self._session.close()
            await runner.cleanup()

    async def _listen(self) -> None:
        self._site = web.TCPSite(self._runner, "127.0.0.1", self.port, backlog=1024, ssl_context=self.ssl)
        await self._site.start()
        self.port = self._runner.addresses[0][1]

    def go_away(self, seconds: float) -> None:
        """Stops listening for so long, and cuts existing connections; returns at once."""

        async def go() -> None:
            await self._site.stop()
            for connection in list(self._runner.server.connections):
                if connection.transport is not None:
                    connection.transport.abort()
            await asyncio.sleep(seconds)
            await self._listen()

        asyncio.run_coroutine_threadsafe(go(), self._loop)

    def _draw(self, method: str, path: str) -> tuple[Plan, str | None, bool]:
        """Chooses the fault of a request, and whether the request reaches the store, if the fault allows both."""
        with self._lock:
            plan = self._plan
            self.requests[method] += 1
            if not re.search(plan.methods, method) or not re.search(plan.keys, path):
                return plan, None, True
            self._matched += 1
            # Two numbers for every request, so that one fault's rate does not shift the others' places.
            point, heard = self._random.random(), self._random.random() < 0.5
            if plan.denied_after is not None and self._matched > plan.denied_after:
                return plan, "denied_after", False
            for fault in FAULTS:
                point -= getattr(plan, fault)
                if point < 0:
                    return plan, fault, heard
        return plan, None, True

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        plan, fault, heard = self._draw(request.method, request.raw_path.partition("?")[0])
        body = await request.read()
        if fault in (None, *IN_BODY):
            status, headers, content = await self._forward(request, body)
            if plan.storage_class and request.method == "GET" and request.query.get("list-type") == "2":
                content = _reclassified(request, content, plan)
                headers["Content-Length"] = str(len(content))
            if fault is None or len(content) < 2:
                return web.Response(status=status, headers=headers, body=content)
            self.faults[fault] += 1
            if fault == "shortened":
                content = content[: int(len(content) * plan.sent)]
                return web.Response(
                    status=status, headers=headers | {"Content-Length": str(len(content))}, body=content
                )
            return await _break_off(request, status, headers, content, fault, plan)
        self.faults[fault] += 1
        if fault == "slow_down":
            return _error(503, "SlowDown", "Please reduce your request rate.")
        if fault == "internal_error":
            return _error(500, "InternalError", "We encountered an internal error. Please try again.")
        if fault == "refused":
            return _error(plan.status, plan.code, plan.message, plan.elements)
        if fault == "denied_after":
            return _error(403, "ExpiredToken", "The provided token has expired.")
        if heard:
            await self._forward(request, body)
        if fault == "stall":
            await asyncio.sleep(plan.stall_seconds)
        return _reset(request)

    async def _forward(self, request: web.Request, body: bytes) -> tuple[int, dict[str, str], bytes]:
        # Host, path and query go on as they came: the signature covers them.
        headers = {name: value for name, value in request.headers.items() if name.lower() not in HOP_BY_HOP}
        url = URL(self.upstream + request.raw_path, encoded=True)
        async with self._session.request(
            request.method, url, headers=headers, data=body or None, allow_redirects=False
        ) as answer:
            content = await answer.read()
            kept = {name: value for name, value in answer.headers.items() if name.lower() not in HOP_BY_HOP}
        if request.method != "HEAD":
            kept["Content-Length"] = str(len(content))
        return answer.status, kept, content


def _error(status: int, code: str, message: str, elements: str = "") -> web.Response:
    elements += f"<RequestId>{random.randrange(1 << 64):X}</RequestId><HostId>{random.randrange(1 << 64):x}=</HostId>"
    text = ERROR.format(code=code, message=message, elements=elements)
    return web.Response(status=status, content_type="application/xml", text=text)


def _reclassified(request: web.Request, listing: bytes, plan: Plan) -> bytes:
    """A listing in which some objects have another storage class and, if asked, are restored."""
    asked = request.headers.get("x-amz-optional-object-attributes") == "RestoreStatus"

    def entry(found: re.Match[str]) -> str:
        key = re.search("<Key>(.*?)</Key>", found[0])
        if key is None or not re.search(plan.keys, f"{request.path.rstrip('/')}/{key[1]}"):
            return found[0]
        text = re.sub("<StorageClass>.*?</StorageClass>", "", found[0])
        status = f"<RestoreExpiryDate>{plan.restored}</RestoreExpiryDate>" if plan.restored else ""
        status = f"<RestoreStatus><IsRestoreInProgress>false</IsRestoreInProgress>{status}</RestoreStatus>"
        added = f"<StorageClass>{plan.storage_class}</StorageClass>{status if asked and plan.restored else ''}"
        return text.replace("</Contents>", f"{added}</Contents>")

    return re.sub("<Contents>.*?</Contents>", entry, listing.decode(), flags=re.DOTALL).encode()


def _reset(request: web.Request) -> web.Response:
    """Ends the connection with RST; the returned response is only for the framework, and is never sent."""
    transport = request.transport
    if transport is not None:
        transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        transport.abort()
    return web.Response()


async def _break_off(
    request: web.Request, status: int, headers: dict[str, str], content: bytes, fault: str, plan: Plan
) -> web.StreamResponse:
    """Announces the whole content, sends a part of it and ends the connection."""
    transport = request.transport
    if transport is None:
        return web.Response()
    lines = [f"HTTP/1.1 {status} Broken off", *(f"{name}: {value}" for name, value in headers.items())]
    transport.write("\r\n".join([*lines, "", ""]).encode("latin-1") + content[: int(len(content) * plan.sent)])
    await asyncio.sleep(0.05)  # a reset takes along what has not left yet
    if fault == "stall_in_body":
        await asyncio.sleep(plan.stall_seconds)
    if fault == "truncated":
        transport.close()
        return web.Response()
    return _reset(request)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("upstream", metavar="ENDPOINT", help="of the S3 server, such as http://127.0.0.1:8333")
    parser.add_argument("--port", type=int, default=0)
    for field in fields(Plan):
        kind = str if field.type is str else int if field.name in ("seed", "denied_after", "status") else float
        parser.add_argument(f"--{field.name.replace('_', '-')}", type=kind, default=field.default)
    options = vars(parser.parse_args())
    with FaultProxy(options.pop("upstream"), options.pop("port")) as proxy:
        proxy.plan = Plan(**options)
        print(proxy.endpoint, json.dumps(asdict(proxy.plan)), flush=True)
        try:
            while True:
                time.sleep(3600)
        except KeyboardInterrupt:
            print(json.dumps({"requests": proxy.requests, "faults": proxy.faults}))


if __name__ == "__main__":
    main()
