"""One Docker engine, asked by `aiodocker`. Reads only: every request is a GET.

What goes wrong comes out as `EngineAway`, with a text that says what; times are turned into moments to the microsecond.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Final, TypeVar

import aiodocker
import aiohttp

from isolation_monitor.collector.containers.domain import SIGTERM, EngineEvent, Seen, Volume, VolumeEvent, signal_number
from isolation_monitor.collector.docker_addresses import DockerAddress

Json = dict[str, Any]  # Any: what the engine answers
T = TypeVar("T")

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_CPU_PERIOD_US: Final = 100_000
"""The kernel's own, where none was set."""
_ACTIONS: Final = ("create", "start", "die", "kill", "stop", "oom", "destroy", "pause", "unpause", "rename", "health_status")
_VOLUME_ACTIONS: Final = ("create", "mount", "unmount", "destroy")
_FILTERS: Final = json.dumps({"type": ["container", "volume"], "event": sorted({*_ACTIONS, *_VOLUME_ACTIONS})})
_AT_A_TIME: Final = 8
"""Requests of a kind that one engine gets at a time."""
_NEVER: Final = "0001-01-01"


class EngineAway(Exception):
    """The engine does not answer, or not as an engine does."""


@dataclass(frozen=True, slots=True)
class EngineInfo:
    id: str
    version: str
    now: datetime


@dataclass(frozen=True, slots=True)
class Usage:
    """What a container uses: bytes without the cache that can be given back, and CPU seconds since its start."""

    memory_bytes: int | None
    cpu_seconds: float | None


class Engine:
    """A connection to one engine; close it."""

    def __init__(self, address: DockerAddress, timeout_s: float = 10.0) -> None:
        self.name = address.name
        self._timeout_s = timeout_s
        timeout = aiohttp.ClientTimeout(total=timeout_s)
        tls = address.tls()
        self._docker = aiodocker.Docker(address.url, timeout=timeout, ssl_context=tls)
        # A client follows one stream of events at a time, and its idle connections die with the engine.
        self._events = aiodocker.Docker(address.url, timeout=timeout, ssl_context=tls)
        self._looking = asyncio.Semaphore(_AT_A_TIME)
        # The engine takes a second or two to measure: nobody who looks waits behind that.
        self._measuring = asyncio.Semaphore(_AT_A_TIME)

    async def close(self) -> None:
        for client in (self._events, self._docker):
            await client.close()

    async def info(self) -> EngineInfo:
        """Return who the engine is and what time it has."""
        told = await self._asked(self._docker.system.info())
        now = _moment(told.get("SystemTime"))
        if now is None:
            raise EngineAway("the engine tells no time")
        return EngineInfo(str(told.get("ID", "")), str(told.get("ServerVersion", "")), now)

    async def events(self, since: datetime, until: datetime) -> list[EngineEvent | VolumeEvent]:
        """Return what the engine remembers of this time: 256 events at most, none from before its own start."""
        return [event async for event in self._told(since=_stamp(since), until=_stamp(until))]

    async def stream(self, since: datetime) -> AsyncIterator[EngineEvent | VolumeEvent]:
        """Yield events as they come.

        Raises:
            EngineAway: the stream ended; events may have been missed.
        """
        async for event in self._told(since=_stamp(since)):
            yield event
        raise EngineAway("the stream of events ended")

    async def _told(self, **params: Any) -> AsyncIterator[EngineEvent | VolumeEvent]:
        events = self._events.events
        subscriber = events.subscribe(create_task=False)  # type: ignore[no-untyped-call]  # the library's has no types
        task = asyncio.create_task(events.run(filters=_FILTERS, **params))
        try:
            while (told := await subscriber.get()) is not None:
                if (event := event_of(told)) is not None:
                    yield event
            await self._asked(task)
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    async def containers(self) -> list[Seen]:
        """Return every container, also the stopped ones. One that goes meanwhile is left out."""
        listed = await self._asked(self._docker.containers.list(all=True))
        return await self._each(self.look(one.id) for one in listed)

    async def look(self, container_id: str) -> Seen | None:
        """Return one container; None when it is gone."""
        told = await self._unless_gone(self._docker.containers.container(container_id).show())
        return None if told is None else seen_of(told)

    async def usage(self, container_id: str) -> Usage | None:
        """Return what a running container uses; None when it is gone or says nothing."""
        told = await self._unless_gone(self._docker.containers.container(container_id).stats(stream=False), self._measuring)
        return usage_of(told[0]) if told else None

    async def image_created(self, image_id: str) -> datetime | None:
        """Return when an image was made; None for one that is gone."""
        told = await self._unless_gone(self._docker.images.inspect(image_id))
        return None if told is None else _moment(told.get("Created"))

    async def dangling_volumes(self) -> list[Volume]:
        """Return the volumes that no container uses."""
        told = await self._asked(self._docker.volumes.list(filters={"dangling": ["true"]}))  # type: ignore[no-untyped-call]  # as above
        return [Volume(str(one["Name"]), one.get("Labels") or {}) for one in told.get("Volumes") or ()]

    async def _each(self, asked: Iterable[Awaitable[T | None]]) -> list[T]:
        return [one for one in await asyncio.gather(*asked) if one is not None]

    async def _unless_gone(self, asked: Awaitable[T], gate: asyncio.Semaphore | None = None) -> T | None:
        async with gate or self._looking:
            try:
                return await self._asked(asked)
            except EngineAway as error:
                cause = error.__cause__
                # 409: it is being removed, or stopped between the two questions.
                if isinstance(cause, aiodocker.DockerError) and cause.status in (404, 409):
                    return None
                raise

    async def _asked(self, asked: Awaitable[T]) -> T:
        try:
            async with asyncio.timeout(self._timeout_s):
                return await asked
        except aiodocker.DockerError as error:
            # The status 900 is the library's own, for a connection that failed.
            raise EngineAway(str(error.message) if error.status >= 900 else f"{error.status}: {error.message}") from error
        except TimeoutError as error:
            raise EngineAway(f"no answer within {self._timeout_s:g} s") from error
        except (aiohttp.ClientError, OSError, ValueError, KeyError) as error:
            raise EngineAway(f"{type(error).__name__}: {error}") from error


def event_of(told: Json) -> EngineEvent | VolumeEvent | None:
    """Return an event of the stream; None for one that is not of our kinds.

    >>> actor = {"ID": "c1", "Attributes": {"name": "web", "signal": "9"}}
    >>> event_of({"Type": "container", "Action": "kill", "timeNano": 1_000, "Actor": actor}).signal
    9
    >>> event_of({"Type": "volume", "Action": "unmount", "timeNano": 1_000, "Actor": {"ID": "data"}}).name
    'data'
    """
    actor, action = told.get("Actor") or {}, str(told.get("Action", ""))
    action, _, more = action.partition(":")
    if not actor.get("ID") or "timeNano" not in told:
        return None
    at = _EPOCH + timedelta(microseconds=int(told["timeNano"]) // 1000)
    if told.get("Type") == "volume" and action in _VOLUME_ACTIONS:
        return VolumeEvent(at, action, str(actor["ID"]))
    if told.get("Type") != "container" or action not in _ACTIONS:
        return None
    attributes = {str(key): str(value) for key, value in (actor.get("Attributes") or {}).items()}
    code = attributes.get("exitCode", "")
    return EngineEvent(
        at, action, str(actor["ID"]), attributes.get("name", ""),
        attributes.get("image", ""), attributes, int(code) if code.lstrip("-").isdigit() else None,
        signal_number(attributes.get("signal")), more.strip() or None,
    )  # fmt: skip


def seen_of(told: Json) -> Seen:
    """Return a container as the engine inspects it."""
    state, config, host = told.get("State") or {}, told.get("Config") or {}, told.get("HostConfig") or {}
    started, finished = _moment(state.get("StartedAt")), _moment(state.get("FinishedAt"))
    status = str(state.get("Status", "created"))
    return Seen(
        id=str(told["Id"]),
        name=str(told.get("Name", "")).lstrip("/"),
        image=str(config.get("Image", "")),
        image_id=str(told.get("Image", "")),
        labels={str(key): str(value) for key, value in (config.get("Labels") or {}).items()},
        # `removing` lasts a moment, and nothing can be done with it any more.
        status="dead" if status == "removing" else status,
        health=str((state.get("Health") or {}).get("Status") or "none"),
        created_at=_moment(told.get("Created")) or _EPOCH,
        started_at=started,
        finished_at=finished,
        exit_code=None if state.get("Running") else state.get("ExitCode"),
        oom_killed=bool(state.get("OOMKilled")),
        restart_count=int(told.get("RestartCount") or 0),
        restarts_by_policy=(host.get("RestartPolicy") or {}).get("Name") not in (None, "", "no"),
        auto_remove=bool(host.get("AutoRemove")),
        stop_signal=signal_number(config.get("StopSignal")) or SIGTERM,
        memory_limit=int(host.get("Memory") or 0) or None,
        cpu_limit=cpu_limit_of(host),
    )


def cpu_limit_of(host: Json) -> float | None:
    """Return how many processors a container may keep busy; None without a limit. Both ways to set one are known to the engine.

    >>> cpu_limit_of({"NanoCpus": 1_500_000_000}), cpu_limit_of({"CpuQuota": 25_000, "CpuPeriod": 0}), cpu_limit_of({"CpuQuota": -1})
    (1.5, 0.25, None)
    """
    nano, quota = int(host.get("NanoCpus") or 0), int(host.get("CpuQuota") or 0)
    if nano > 0:
        return nano / 1e9
    return quota / (int(host.get("CpuPeriod") or 0) or _CPU_PERIOD_US) if quota > 0 else None


def usage_of(told: Json) -> Usage:
    """Return what a container uses by its statistics, as `docker stats` reckons it.

    >>> memory = {"usage": 100, "stats": {"inactive_file": 30}}
    >>> usage_of({"memory_stats": memory, "cpu_stats": {"cpu_usage": {"total_usage": 2_000_000_000}}})
    Usage(memory_bytes=70, cpu_seconds=2.0)
    """
    memory = told.get("memory_stats") or {}
    used, stats = memory.get("usage"), memory.get("stats") or {}
    cache = stats.get("total_inactive_file", stats.get("inactive_file", 0))
    cpu = ((told.get("cpu_stats") or {}).get("cpu_usage") or {}).get("total_usage")
    return Usage(None if used is None else max(0, int(used) - int(cache)), None if cpu is None else int(cpu) / 1e9)


def _moment(text: object) -> datetime | None:
    """Return a moment as Go writes it, with nanoseconds; None for its zero time and for what is none."""
    if not isinstance(text, str) or not text or text.startswith(_NEVER):
        return None
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        return None
    return moment.astimezone(UTC) if moment.tzinfo is not None else moment.replace(tzinfo=UTC)


def _stamp(moment: datetime) -> str:
    """Return a moment as the engine takes it: seconds, and nanoseconds behind the point."""
    since = moment - _EPOCH
    return f"{since.days * 86400 + since.seconds}.{since.microseconds * 1000:09d}"
