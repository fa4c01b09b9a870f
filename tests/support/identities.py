"""Simulated sources of AWS credentials: STS, SSO's portal, a container's and an instance's endpoint.

All give user `tester` of the test server, for as long as `lifetime` says, and count who asked.
"""

import json
import threading
from collections import Counter
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs

STS = """<{action}Response xmlns="https://sts.amazonaws.com/doc/2011-06-15/"><{action}Result>
<AssumedRoleUser><AssumedRoleId>A:dtn</AssumedRoleId><Arn>arn:aws:sts::1:assumed-role/r/dtn</Arn></AssumedRoleUser>
<Credentials><AccessKeyId>{key}</AccessKeyId><SecretAccessKey>not-a-secret</SecretAccessKey>
<SessionToken></SessionToken><Expiration>{until}</Expiration></Credentials></{action}Result></{action}Response>"""


class Identities:
    """The server, for the duration of a `with`."""

    def __init__(self, port: int = 0) -> None:
        self.asked: Counter[str] = Counter()
        self.user = "tester"
        self.lifetime = timedelta(hours=1)
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def log_message(self, *_: object) -> None:
                pass

            def answer(self, content: str, kind: str = "application/json") -> None:
                self.send_response(200)
                self.send_header("Content-Type", kind)
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content.encode())

            def do_POST(self) -> None:
                form = parse_qs(self.rfile.read(int(self.headers["Content-Length"])).decode())
                action = form["Action"][0]
                outer.asked[action] += 1
                self.answer(STS.format(action=action, key=outer.user, until=outer.until), "text/xml")

            def do_PUT(self) -> None:  # an instance's first question
                self.answer("token")

            def do_GET(self) -> None:
                if self.path.startswith("/federation/credentials"):
                    outer.asked["sso"] += 1
                    ends = int((datetime.now(UTC) + outer.lifetime).timestamp() * 1000)
                    role = {"accessKeyId": outer.user, "secretAccessKey": "not-a-secret", "sessionToken": ""}
                    self.answer(json.dumps({"roleCredentials": role | {"expiration": ends}}))
                elif self.path.endswith("/security-credentials/"):
                    self.answer("role", "text/plain")
                else:
                    outer.asked["instance" if "security-credentials" in self.path else "container"] += 1
                    self.answer(json.dumps(outer.document()))

        self.server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
        self.endpoint = f"http://127.0.0.1:{self.server.server_port}"

    @property
    def until(self) -> str:
        return (datetime.now(UTC) + self.lifetime).strftime("%Y-%m-%dT%H:%M:%SZ")

    def document(self) -> dict[str, object]:
        return {
            "Code": "Success",
            "Version": 1,
            "AccessKeyId": self.user,
            "SecretAccessKey": "not-a-secret",
            "Token": "",
            "Expiration": self.until,
        }

    def __enter__(self) -> "Identities":
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.server.shutdown()
        self.server.server_close()
