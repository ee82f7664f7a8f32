"""Talks to the API of a forge (GitHub, GitLab): token, pages, rate limits, downloads that redirect, errors in plain words.

The token goes to the address of the API and nowhere else: a redirect to another place is followed without it, and of a link to the
next page only the query is used. Certificates are verified; proxies of the environment are used, as forges often lie behind one.
Sources: GitHub "Best practices for using the REST API" and "Rate limits for the REST API"; GitLab "REST API" (pagination, throttling).
"""

from __future__ import annotations

import json
import re
import ssl
import time
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import IO, Any, Final, TypeVar
from urllib.parse import urljoin, urlsplit

import httpx2

from isolation_monitor.cli.collector_client import NoAnswer, UsageError
from isolation_monitor.cli.printable import one_line
from isolation_monitor.collector.outbound import why_unreachable

Params = Mapping[str, str | int]
T = TypeVar("T")

JSON_BYTES: Final = 256 * 1024 * 1024
PAGE: Final = 100
"""Items of a page; both forges give no more."""
PAGES: Final = 10_000
"""Pages of one list: a million runs are more than anybody imports at once."""
_TIMEOUT_S: Final = 60.0
_PAUSES_S: Final = (1.0, 4.0)
_REDIRECTS: Final = 5
_WAITS: Final = 10
"""Rate limits that are waited for within one request."""
_SECONDARY_S: Final = 60.0
"""GitHub's advice where a limit does not say how long to wait."""
_NEVER_S: Final = 1_000 * 365 * 86_400.0
_REASON_CHARS: Final = 200


class NotThere(UsageError):
    """The forge has no such thing, or hides it from this token; `is_gone` where it had one."""

    def __init__(self, text: str, *, is_gone: bool = False) -> None:
        super().__init__(text)
        self.is_gone = is_gone


class TooLarge(Exception):
    """More bytes came than are taken; the rest was not read."""


class _Trouble(Exception):
    """The forge is in trouble; asking again may help."""


class ForgeClient:
    """A connection to one forge's API; use it as a context manager.

    Args:
        api: address of the API, such as `https://api.github.com`.
        headers: sent to the API only, the token among them.
        named: the forge's name for people.
        say: told what is waited for.
        hint: said beside a refusal: what a better token would be.
        max_wait_s: the longest wait for a rate limit.
    """

    def __init__(
        self,
        api: str,
        headers: Mapping[str, str],
        named: str,
        say: Callable[[str], None],
        *,
        hint: str = "",
        tls: ssl.SSLContext | None = None,
        max_wait_s: float = 120.0,
        pauses_s: tuple[float, ...] = _PAUSES_S,
    ) -> None:
        self._api = api.rstrip("/")
        self._host = urlsplit(api).netloc.rpartition("@")[2]
        self._named, self._say, self._hint = named, say, hint
        self._max_wait_s, self._pauses_s = max_wait_s, pauses_s
        # Any: arguments of several types.
        common: dict[str, Any] = {"timeout": _TIMEOUT_S, "verify": tls or httpx2.create_ssl_context(), "follow_redirects": False}
        self._with_token = httpx2.Client(headers={"User-Agent": "isomon", **headers}, **common)
        self._without_token = httpx2.Client(headers={"User-Agent": "isomon", "Accept-Encoding": "identity"}, **common)

    def __enter__(self) -> ForgeClient:
        return self

    def __exit__(self, *_error: object) -> None:
        self._with_token.close()
        self._without_token.close()

    def get(self, path: str, params: Params | None = None) -> Any:  # Any: JSON
        """Return the JSON of an answer.

        Raises:
            NotThere: 404 or 410.
            UsageError: the token or the request is at fault.
            NoAnswer: the forge is away, in trouble, or allows no more requests for longer than may be waited.
        """
        return self._json(path, params)[0]

    def pages(self, path: str, params: Params, key: str = "") -> Iterator[dict[str, Any]]:  # Any: JSON
        """Yield the items of a list, page by page as they are asked for; `key` names the list where an object holds it.

        Raises:
            NoAnswer: the forge leads in a circle, or to ever more pages; and what `get` raises.
        """
        asked: Params = {**params, "per_page": PAGE}
        known: set[frozenset[tuple[str, str]]] = set()
        while True:
            known.add(_page_of(asked))
            value, following = self._json(path, asked)
            items = value.get(key) if key and isinstance(value, dict) else value
            if not isinstance(items, list):
                raise NoAnswer(f"{self._host} answers, but not as {self._named}: a list was expected from {path}")
            yield from (one for one in items if isinstance(one, dict))
            # Of the link only the query: behind a proxy GitLab links to an address that the token must not go to.
            if not following or not items:
                return
            asked = following
            if _page_of(asked) in known:
                raise NoAnswer(
                    f"{self._named} ({self._host}) leads in a circle: page {len(known)} of {path} names one as the next that was read "
                    "before. A proxy that changes the query, or a fault of the forge's: nothing more can be read; --limit asks for less"
                )
            if len(known) >= PAGES:
                raise NoAnswer(
                    f"{self._named} ({self._host}) names yet another page of {path} after {PAGES} of them: ask for less with --since or "
                    "--limit"
                )

    def download(self, path: str, target: IO[bytes], limit_bytes: int) -> None:
        """Write what is at `path` to `target`. The storage that it redirects to is asked without the token.

        Raises:
            TooLarge: it has more than `limit_bytes`.
            NotThere, UsageError, NoAnswer: as `get`.
        """

        def read(answer: httpx2.Response) -> None:
            target.seek(0)
            target.truncate()
            for part in answer.iter_bytes():
                if target.tell() + len(part) > limit_bytes:
                    raise TooLarge
                target.write(part)

        self._asked(f"{self._api}{path}", None, read)

    def _json(self, path: str, params: Params | None) -> tuple[Any, dict[str, str]]:  # Any: JSON
        def read(answer: httpx2.Response) -> tuple[bytes, str]:
            parts, left = [], JSON_BYTES
            for part in answer.iter_bytes():
                left -= len(part)
                if left < 0:
                    raise NoAnswer(f"{self._named} sends more than {JSON_BYTES} bytes from {path}")
                parts.append(part)
            following = answer.links.get("next", {}).get("url", "")
            return b"".join(parts), following

        body, following = self._asked(f"{self._api}{path}", params, read)
        try:
            value = json.loads(body)
        except (ValueError, RecursionError):
            raise NoAnswer(f"{self._host} answers, but not as {self._named}: no JSON from {path}; is --url right?") from None
        return value, dict(httpx2.URL(following).params) if following else {}

    def _asked(self, url: str, params: Params | None, read: Callable[[httpx2.Response], T]) -> T:
        waits, pauses = 0, list(self._pauses_s)
        while True:
            try:
                found = self._once(url, params, read)
            except (httpx2.RequestError, httpx2.InvalidURL, _Trouble) as error:
                if not pauses:
                    why = str(error) if isinstance(error, _Trouble) else f"cannot be reached ({why_unreachable(error, url)})"
                    raise NoAnswer(f"{self._named} ({self._host}) {why}") from None
                time.sleep(pauses.pop(0))
                continue
            if not isinstance(found, _Wait):
                return found
            waits += 1
            if found.seconds > self._max_wait_s or waits > _WAITS:
                # What no calendar holds is as good as never.
                again = datetime.fromtimestamp(time.time() + min(found.seconds, _NEVER_S), UTC)
                raise NoAnswer(
                    f"{self._named} takes no more requests until {again:%Y-%m-%d %H:%M:%S} UTC (rate limit): run it again then, what was "
                    "stored stays and is known; or wait for it with --max-wait"
                )
            self._say(f"{self._named} takes no more requests now (rate limit): waiting {found.seconds:.0f} s")
            time.sleep(found.seconds)

    def _once(self, url: str, params: Params | None, read: Callable[[httpx2.Response], T]) -> T | _Wait:
        """Ask once, over all redirects."""
        for _ in range(_REDIRECTS + 1):
            client = self._with_token if self._is_api(url) else self._without_token
            with client.stream("GET", url, params=dict(params) if params else None) as answer:
                if answer.status_code in (301, 302, 303, 307, 308):
                    try:
                        following = urljoin(url, answer.headers.get("location", ""))
                    except ValueError:
                        raise NoAnswer(f"{self._named} redirects to what is no address from {urlsplit(url).path}") from None
                    if urlsplit(url).scheme == "https" and urlsplit(following).scheme != "https":
                        raise UsageError(f"{self._named} redirects from https to {urlsplit(following).scheme or 'nowhere'}: not followed")
                    url, params = following, None
                    continue
                if answer.is_success:
                    return read(answer)
                answer_headers, status = answer.headers, answer.status_code
                reason = self._reason(answer)
            wait_s = _wait_of(status, answer_headers, reason, time.time())
            if wait_s is not None:
                return _Wait(wait_s)
            raise self._refusal(status, url, reason)
        raise NoAnswer(f"{self._named} redirects more than {_REDIRECTS} times from {urlsplit(url).path}")

    def _is_api(self, url: str) -> bool:
        return url.startswith(f"{self._api}/")

    def _reason(self, answer: httpx2.Response) -> str:
        """Return what the forge says, in one short line; nothing where it is a page or what a storage says."""
        if not self._is_api(str(answer.url)):
            return ""
        body = b""
        for part in answer.iter_bytes():
            body += part
            if len(body) > 65_536:
                return ""
        try:
            value = json.loads(body)
        except (ValueError, RecursionError):
            return ""
        told = (value.get("message") or value.get("error_description") or value.get("error")) if isinstance(value, dict) else None
        text = told if isinstance(told, str) else json.dumps(told) if told else ""
        return one_line(text)[:_REASON_CHARS]

    def _refusal(self, status: int, url: str, reason: str) -> Exception:
        # Not the query: of a storage's address it is the permission to read.
        said = f"{status}{f' ({reason})' if reason else ''} from {urlsplit(url).netloc.rpartition('@')[2]}{urlsplit(url).path}"
        if not self._is_api(url) and 400 <= status < 500 and status != 408:
            return NotThere(f"the storage that {self._named} redirects to does not give it: {said}", is_gone=status == 410)
        hint = f"; {self._hint}" if self._hint else ""
        if status in (404, 410):
            return NotThere(f"{self._named} has no such thing, or this token may not see it: {said}{hint}", is_gone=status == 410)
        if status in (401, 403):
            return UsageError(f"{self._named} refuses the token: {said}{hint}")
        if status == 408 or status >= 500:
            return _Trouble(f"answers {said}")
        return UsageError(f"{self._named} refuses the request: {said}")


def _page_of(asked: Params) -> frozenset[tuple[str, str]]:
    """Return what is the same for one page, in whatever order and type it is asked for. The first one has no number."""
    return frozenset({"page": "1", **{name: str(value) for name, value in asked.items()}}.items())


class _Wait:
    """The forge asks to wait so long."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds


def _wait_of(status: int, headers: Mapping[str, str], reason: str, now_s: float) -> float | None:
    """Return how long a rate limit asks to wait, in seconds; None where the answer is none."""
    if status not in (403, 429):
        return None
    after, left = headers.get("retry-after", ""), headers.get("x-ratelimit-remaining", headers.get("ratelimit-remaining", ""))
    if status == 403 and not after and left != "0" and "rate limit" not in reason.lower():
        return None
    if after:
        wait_s = _retry_after(after, now_s)
        if wait_s is not None:
            return wait_s
    reset = headers.get("x-ratelimit-reset", headers.get("ratelimit-reset", ""))
    if left == "0" and re.fullmatch(r"\d{1,12}", reset):
        # One second more: clocks differ, and the limit counts in whole seconds.
        return max(0.0, int(reset) - now_s) + 1.0
    return _SECONDARY_S


def _retry_after(text: str, now_s: float) -> float | None:
    """Return the seconds of a `Retry-After`, which is a number or a date (RFC 9110)."""
    if re.fullmatch(r"\d{1,9}", text.strip()):
        return float(text)
    try:
        return max(0.0, parsedate_to_datetime(text).timestamp() - now_s)
    except ValueError:
        return None
