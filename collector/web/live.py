"""Keeps open pages current by server-sent events: the parts of a page that changed, and nothing else.

Everybody who looks at the same page shares one look at the store and at Prometheus each second, made only while somebody
looks. The number of streams is bounded; a page beyond it is shown all the same and says that it is not live. Streams end
with the collector, with the session, and when the browser has gone; a browser that reads nothing is let go.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping
from dataclasses import dataclass
from typing import Any, Final

from sse_starlette import EventSourceResponse, ServerSentEvent

from isolation_monitor.collector.background import whole
from isolation_monitor.collector.problems import Problem, Unavailable
from isolation_monitor.collector.storage.database import StoreUnavailable
from isolation_monitor.collector.web.reader import Params, Values
from isolation_monitor.collector.web.rendering import HEADERS, fragment
from isolation_monitor.collector.web.sessions import Session, SessionService

logger = logging.getLogger("isolation_monitor.collector")

LOOK_EVERY_S: Final = 1.0
HEARTBEAT_S: Final = 15
"""A comment so often keeps proxies from closing a stream, and finds browsers that have gone."""
SESSION_EVERY_S: Final = 5.0
"""How often the store is asked whether somebody is still signed in."""
_SEND_TIMEOUT_S: Final = 20.0
_RETRY_MS: Final = 3000

Build = Callable[[Params], Coroutine[Any, Any, Values]]


@dataclass(frozen=True, slots=True)
class View:
    """One kind of page: how its values are read, and which parts of it change while it is open."""

    name: str
    build: Build
    regions: tuple[str, ...]


class LiveHub:
    """The streams of this process."""

    def __init__(self, sessions: SessionService, limit: int) -> None:
        self._sessions = sessions
        self._limit = limit
        self._watches: dict[tuple[str, tuple[tuple[str, str], ...]], _Watch] = {}
        self.streams = 0
        """How many are open now."""

    def response(self, view: View, params: Mapping[str, str], session: Session) -> EventSourceResponse:
        """Return the stream of a page.

        Raises:
            Unavailable: as many streams as may be are open.
        """
        if self.streams >= self._limit:
            raise Unavailable(f"{self._limit} pages are kept live already: this one is not", retry_after_s=30)
        headers = {name: value for name, value in HEADERS.items() if name != "Content-Security-Policy"} | {"X-Accel-Buffering": "no"}
        return EventSourceResponse(
            self._stream(view, params, session), headers=headers, ping=HEARTBEAT_S, send_timeout=_SEND_TIMEOUT_S, sep="\n"
        )

    async def _stream(self, view: View, params: Mapping[str, str], session: Session) -> AsyncIterator[ServerSentEvent]:
        if self.streams >= self._limit:
            # Others came first, between the answer's start and its first event.
            yield ServerSentEvent(event="full", data="{}", retry=30_000)
            return
        self.streams += 1
        key = (view.name, tuple(sorted(params.items())))
        watch = self._watches.get(key)
        if watch is None:
            watch = self._watches[key] = _Watch(view, dict(params))
        watch.enter()
        try:
            yield ServerSentEvent(event="hello", data="{}", retry=_RETRY_MS)
            async for event in self._events(watch, session):
                yield event
        finally:
            self.streams -= 1
            if watch.leave():
                self._watches.pop(key, None)

    async def _events(self, watch: _Watch, session: Session) -> AsyncIterator[ServerSentEvent]:
        loop = asyncio.get_running_loop()
        sent: dict[str, str] = {}
        asked_at, told = loop.time(), ""
        while True:
            for region, html in watch.regions.items():
                if sent.get(region) != html:
                    sent[region] = html
                    yield ServerSentEvent(event="region", data=json.dumps({"region": region, "html": html}))
            if watch.trouble != told:
                told = watch.trouble
                yield ServerSentEvent(event="trouble", data=json.dumps({"text": told}))
            if watch.is_over:
                yield ServerSentEvent(event="over", data="{}")
                return
            await watch.changed(LOOK_EVERY_S)
            if not self._sessions.holds(session) or (loop.time() - asked_at >= SESSION_EVERY_S and not await self._is_open(session)):
                yield ServerSentEvent(event="signed-out", data="{}")
                return
            if loop.time() - asked_at >= SESSION_EVERY_S:
                asked_at = loop.time()

    async def _is_open(self, session: Session) -> bool:
        try:
            return await whole(self._sessions.is_open(session))
        except StoreUnavailable:
            # Nothing new can be shown either while the store is away.
            return True


class _Watch:
    """One page, kept current while somebody looks at it. `regions` is the last HTML of each part."""

    def __init__(self, view: View, params: dict[str, str]) -> None:
        self._view = view
        self._params = params
        self._lookers = 0
        self._task: asyncio.Task[None] | None = None
        self._news = asyncio.Event()
        self.regions: dict[str, str] = {}
        self.trouble = ""
        self.is_over = False

    def enter(self) -> None:
        self._lookers += 1
        if self._task is None:
            self._task = asyncio.create_task(self._look())

    def leave(self) -> bool:
        """Return whether nobody looks any more; the looking then ends."""
        self._lookers -= 1
        if self._lookers or self._task is None:
            return False
        self._task.cancel()
        self._task = None
        return True

    async def changed(self, wait_s: float) -> None:
        """Return when something changed, or after `wait_s`."""
        news = self._news
        try:
            async with asyncio.timeout(wait_s):
                await news.wait()
        except TimeoutError:
            pass

    async def _look(self) -> None:
        while not self.is_over:
            before = (dict(self.regions), self.trouble)
            try:
                # Whole, also when the last looker leaves: a driver cut off in the middle of a statement loses its connection.
                values = await whole(self._view.build(self._params))
                self.regions = {name: fragment(f"regions/{name}", **values) for name in self._view.regions}
                self.trouble = ""
            except StoreUnavailable as error:
                self.trouble = f"{error}; what is shown may be old"
            except Problem as problem:
                self.trouble, self.is_over = problem.detail, True
            except Exception:
                logger.exception("a page could not be kept current")
                self.trouble, self.is_over = "a defect of the collector; its log has the details", True
            if (self.regions, self.trouble) != before or self.is_over:
                self._news.set()
                self._news = asyncio.Event()
            if not self.is_over:
                await asyncio.sleep(LOOK_EVERY_S)


def views_by_name(*views: View) -> dict[str, View]:
    """Return views by their names."""
    return {view.name: view for view in views}
