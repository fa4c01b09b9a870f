"""An S3 server in memory whose answers to conditional writes and whose clock a test can choose.

It knows single objects alone, and no signatures.
"""

import hashlib
import threading
import time
from collections import Counter
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Literal


class SmallStore:
    """The server, in its own thread for the duration of a `with`."""

    def __init__(
        self,
        conditions: Literal["honour", "ignore", "refuse", "501"] = "honour",
        etags: Literal["either", "bare", "quoted"] = "either",
        ahead: float = 0,
    ) -> None:
        """`refuse`: 412, whatever the condition; `etags`: how If-Match may write one; `ahead`: seconds of its clock."""
        self.conditions, self.etags, self.ahead = conditions, etags, ahead
        self.objects = dict[str, tuple[bytes, float]]()
        self.lost: Counter[str] = Counter()
        """How many of the next answers to a method get lost, after the store has processed the request."""
        self.lock = threading.Lock()

    def __enter__(self) -> "SmallStore":
        store = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *_: object) -> None:
                pass

            def date_time_string(self, timestamp: float | None = None) -> str:
                return formatdate(store.now(), usegmt=True)

            def do_GET(self) -> None:
                with store.lock:
                    found = store.objects.get(self.path)
                if not found:
                    return self.answer(404, b"<Error><Code>NoSuchKey</Code></Error>")
                headers = {"ETag": etag(found[0]), "Last-Modified": formatdate(found[1], usegmt=True)}
                return self.answer(200, found[0], **headers)

            def do_PUT(self) -> None:
                content = self.rfile.read(int(self.headers["Content-Length"]))
                with store.lock:
                    status = store.refusal(self.path, self.headers["If-Match"], self.headers["If-None-Match"])
                    if not status:
                        store.objects[self.path] = content, store.now()
                if status:
                    code = {412: "PreconditionFailed", 501: "NotImplemented"}[status]
                    return self.answer(status, f"<Error><Code>{code}</Code></Error>".encode())
                return self.answer(200, b"", ETag=etag(content))

            def answer(self, status: int, content: bytes, **headers: str) -> None:
                if store.lost[self.command]:
                    store.lost[self.command] -= 1
                    self.close_connection = True
                    return
                self.send_response(status)
                for name, value in {**headers, "Content-Length": str(len(content))}.items():
                    self.send_header(name.replace("_", "-"), value)
                self.end_headers()
                self.wfile.write(content)

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.endpoint = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    def now(self) -> float:
        return time.clock_gettime(time.CLOCK_REALTIME) + self.ahead

    def refusal(self, path: str, match: str | None, none_match: str | None) -> int:
        """The status with which the store refuses a write, or 0."""
        if not (match or none_match) or self.conditions == "ignore":
            return 0
        if self.conditions == "501":
            return 501
        found = self.objects.get(path)
        quoted = etag(found[0]) if found else ""
        taken = {"either": {quoted, quoted.strip('"')}, "bare": {quoted.strip('"')}, "quoted": {quoted}}[self.etags]
        holds = not found if none_match else bool(found) and match in taken
        return 0 if holds and self.conditions == "honour" else 412


def etag(content: bytes) -> str:
    return f'"{hashlib.md5(content).hexdigest()}"'
