"""A small outside service that answers per session cookie or bearer key, as a bank's or a CRM's interface would.

It runs in a thread of the service's process on a port of its own, on the standard library alone, so that nothing of the
application's framework or event loop is part of it.
"""

from __future__ import annotations

import contextlib
import json
import secrets
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from tests.leaks.case import Shape, User, Users


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, *_: object) -> None:
        """Clients that end without a goodbye are no news."""


def upstream_key(user: User) -> str:
    """Return the key by which the application acts for its user at the outside service."""
    return user.value("upstream key", "token")


@contextlib.contextmanager
def upstream(users: Users, label: str, shape: Shape) -> Iterator[str]:
    """Serve until the block ends; gives the address.

    `POST /login` with `X-Key` opens a session (cookie `sid`); `GET /account` answers with the user's private value by
    `Authorization: Bearer <key>`, else by cookie, else 401; `GET /rates` is public.
    """
    by_key = {upstream_key(user): user for user in users}
    sessions: dict[str, User] = {}

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            user = by_key[self.headers["X-Key"]]
            sid = secrets.token_urlsafe(18)
            sessions[sid] = user
            self._answer(200, {"welcome": True}, ("Set-Cookie", f"sid={sid}; Path=/; HttpOnly"))

        def do_GET(self) -> None:
            if self.path == "/rates":
                return self._answer(200, {"eur": "1.0", "usd": "1.1"})
            user = self._user()
            if user is None:
                return self._answer(401, {"detail": "log in"})
            return self._answer(200, {"account": {"number": user.value(label, shape), "state": "open"}})

        def _user(self) -> User | None:
            scheme, _, key = self.headers.get("Authorization", "").partition(" ")
            if scheme == "Bearer":
                return by_key.get(key)
            for part in self.headers.get("Cookie", "").split(";"):
                name, _, value = part.strip().partition("=")
                if name == "sid":
                    return sessions.get(value)
            return None

        def _answer(self, status: int, content: object, *headers: tuple[str, str]) -> None:
            body = json.dumps(content).encode()
            self.send_response(status)
            for name, value in (("Content-Type", "application/json"), ("Content-Length", str(len(body))), *headers):
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    server = _Server(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        # By name: aiohttp's cookie jar refuses cookies of bare addresses unless told otherwise.
        yield f"http://localhost:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join(10)
