"""A server that receives webhooks, and helpers that read a run's reported outcome."""

import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path


class Receiver(ThreadingHTTPServer):
    """Receives webhooks; answers with the `statuses` one after another, then with 200."""

    def __init__(self, *statuses: int, silent: bool = False) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.statuses, self.silent = list(statuses), silent
        self.requests = list[tuple[str, dict[str, str], dict]]()

    @property
    def url(self) -> str:
        return f"http://user:pass-word@127.0.0.1:{self.server_port}/services/T0KEN?key=s3cret"

    @property
    def bodies(self) -> list[dict]:
        return [body for _, _, body in self.requests]


class _Handler(BaseHTTPRequestHandler):
    server: Receiver

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.requests.append((self.path, dict(self.headers), json.loads(body)))
        if self.server.silent:
            time.sleep(30)
            return
        status = self.server.statuses.pop(0) if self.server.statuses else 200
        self.send_response(status)
        if status == 302:
            self.send_header("Location", "/elsewhere")
        self.send_header("Retry-After", "3600")
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_) -> None: ...


@contextmanager
def receiving(*statuses: int, silent: bool = False) -> Iterator[Receiver]:
    with Receiver(*statuses, silent=silent) as server:
        server.daemon_threads = True
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()


def last_run(out) -> dict:
    return json.loads(Path(out, "last-run.json").read_text())
