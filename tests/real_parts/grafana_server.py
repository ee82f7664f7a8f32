"""Grafana's annotation API as a process: `python grafana_server.py PORT TOKEN`.

Grafana itself is in no package registry, so its HTTP contract stands here (developers/http_api/annotations): bearer tokens,
the shapes of answers, the types that it refuses, all tags of a query together, times in milliseconds.
"""

from __future__ import annotations

import json
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

FIELDS = {"dashboardUID": str, "dashboardId": int, "panelId": int, "time": int, "timeEnd": int, "tags": list, "text": str}


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    token = ""
    kept: list[dict[str, Any]] = []  # noqa: RUF012  # one server a process

    def do_GET(self) -> None:
        address = urlsplit(self.path)
        if address.path == "/api/health":
            return self._answer(200, {"database": "ok", "version": "12.3.3", "commit": "0"})
        if not self._is_allowed():
            return None
        if address.path != "/api/annotations":
            return self._answer(404, {"message": "Not found"})
        asked = parse_qs(address.query)
        found = [item for item in reversed(self.kept) if set(asked.get("tags", ())) <= set(item["tags"])]
        return self._answer(200, found[: int(asked.get("limit", ["100"])[0])])

    def do_POST(self) -> None:
        body = self._body()
        if not self._is_allowed():
            return None
        if urlsplit(self.path).path != "/api/annotations":
            return self._answer(404, {"message": "Not found"})
        if (problem := self._problem(body)) is not None:
            return self._answer(400, {"message": problem})
        if not body.get("text"):
            return self._answer(400, {"message": "Failed to save annotation: text field should not be empty"})
        time = body.get("time") or 0
        kept = {
            "id": len(self.kept) + 1,
            "alertId": 0,
            "dashboardId": 0,
            "panelId": 0,
            "text": body["text"],
            "tags": body.get("tags") or [],
        }
        self.kept.append(kept | {"time": time, "timeEnd": body.get("timeEnd") or time})
        return self._answer(200, {"message": "Annotation added", "id": kept["id"]})

    def do_PATCH(self) -> None:
        body = self._body()
        if not self._is_allowed():
            return None
        number = self.path.rsplit("/", 1)[-1]
        if not number.isdigit() or not 1 <= int(number) <= len(self.kept):
            return self._answer(404, {"message": "Annotation not found"})
        if (problem := self._problem(body)) is not None:
            return self._answer(400, {"message": problem})
        self.kept[int(number) - 1].update({key: value for key, value in body.items() if value is not None})
        return self._answer(200, {"message": "Annotation patched"})

    def _problem(self, body: Any) -> str | None:
        if not isinstance(body, dict):
            return "bad request data"
        for key, value in body.items():
            if value is not None and (key in FIELDS and not isinstance(value, FIELDS[key])):
                return "bad request data"
        if not all(isinstance(tag, str) for tag in body.get("tags") or ()):
            return "bad request data"
        return None

    def _body(self) -> Any:
        return json.loads(self.rfile.read(int(self.headers.get("Content-Length") or 0)) or b"null")

    def _is_allowed(self) -> bool:
        if self.headers.get("Authorization") == f"Bearer {self.token}":
            return True
        self._answer(401, {"message": "Unauthorized"})
        return False

    def _answer(self, status: int, value: Any) -> None:
        body = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        pass


if __name__ == "__main__":
    Handler.token = sys.argv[2]
    ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
