"""The engine as the guard asks it, by `aiodocker`: found as Docker's own command finds it (context, DOCKER_HOST, socket)."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Awaitable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Final, TypeVar

import aiodocker
import aiohttp

T = TypeVar("T")

_TIMEOUT_S: Final = 30.0
_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")
_OVER: Final = ("exited", "dead", "created", "removing")


class EngineError(Exception):
    """The engine is away or refuses; `status` is its answer's, None where there is none."""

    def __init__(self, text: str, status: int | None = None) -> None:
        super().__init__(text)
        self.status = status


@dataclass(frozen=True, slots=True)
class Container:
    """A container as the engine has it now. `finished_at` is None before its first end."""

    id: str
    name: str
    image: str
    status: str
    stop_signal: str
    exit_code: int | None
    labels: Mapping[str, str] = field(default_factory=dict)
    created_at: datetime | None = None
    finished_at: datetime | None = None

    @property
    def is_over(self) -> bool:
        """Whether no process of it runs or will run again by itself."""
        return self.status in _OVER


class Engine:
    """A connection to one engine, made in a running loop; close it."""

    def __init__(self, url: str | None = None) -> None:
        """Raises EngineError where no engine can be found."""
        try:
            self._docker = aiodocker.Docker(url, timeout=aiohttp.ClientTimeout(total=_TIMEOUT_S))
        except (ValueError, AssertionError, aiodocker.DockerError, OSError) as error:
            raise EngineError(
                f"no engine was found ({error or 'no socket'}): set DOCKER_HOST, or pass --host unix:///PATH/TO/docker.sock"
            ) from None
        self.url = self._docker.docker_host if url is None else url

    async def close(self) -> None:
        await self._docker.close()

    async def identity(self) -> str:
        """Return what this engine is called by everybody: its id, or its address where it has none (Podman)."""
        told = await self._asked(self._docker.system.info())
        return str(told.get("ID") or self.url)

    async def look(self, name: str) -> Container:
        """Return a container by its name or id; a name may begin with a slash, as the engine itself writes it.

        Raises:
            EngineError: with status 404, there is none.
        """
        bare = name.removeprefix("/")
        if not _NAME.fullmatch(bare):
            # Asked for nonetheless, it would be part of an address that means something else.
            raise EngineError(f"{name!r} is no name of a container", 404)
        return _container(await self._asked(self._docker.containers.container(bare).show()))

    async def containers(self, label: str) -> list[Container]:
        """Return all containers with a label, `KEY` or `KEY=VALUE`."""
        listed = await self._asked(self._docker.containers.list(all=True, filters=json.dumps({"label": [label]})))
        found = []
        for one in listed:
            try:
                found.append(await self.look(one.id))
            except EngineError as error:
                if error.status != 404:  # 404: it went meanwhile
                    raise
        return found

    async def signal(self, container: Container, signal: str) -> None:
        """Send a signal, and nothing after it: `docker stop` would send SIGKILL by itself."""
        await self._asked(self._docker.containers.container(container.id).kill(signal=signal))

    async def start(self, container: Container) -> None:
        await self._asked(self._docker.containers.container(container.id).start())

    async def remove(self, container: Container, *, volumes: bool = False) -> None:
        """Remove a container that is over, never by force; `volumes`: its anonymous ones, too."""
        await self._asked(self._docker.containers.container(container.id).delete(v=volumes))

    async def ends(self, container: Container, within_s: float) -> Container | None:
        """Wait until it has ended, and return it as it is then; None when it still runs. One that is gone has ended, too."""
        waiting = self._docker.containers.container(container.id).wait(condition="not-running", timeout=None)
        try:
            async with asyncio.timeout(within_s):
                await self._asked(waiting, None)
        except TimeoutError:
            pass
        except EngineError as error:
            if error.status != 404:
                raise
        try:
            now = await self.look(container.id)
        except EngineError as error:
            if error.status == 404:
                return container
            raise
        return now if now.is_over else None

    async def _asked(self, asked: Awaitable[T], timeout_s: float | None = _TIMEOUT_S) -> T:
        try:
            async with asyncio.timeout(timeout_s):
                return await asked
        except aiodocker.DockerError as error:
            # The status 900 is the library's own, for a connection that failed.
            if error.status >= 900:
                raise EngineError(f"the engine at {self.url} does not answer: {error.message}") from None
            raise EngineError(str(error.message), error.status) from None
        except TimeoutError:
            if timeout_s is None:
                raise
            raise EngineError(f"the engine at {self.url} gave no answer within {timeout_s:.0f} s") from None
        except (aiohttp.ClientError, OSError, ValueError) as error:
            raise EngineError(f"the engine at {self.url} does not answer ({type(error).__name__}: {error})") from None


def _container(told: Mapping[str, Any]) -> Container:  # Any: what the engine answers
    state, config = told.get("State") or {}, told.get("Config") or {}
    return Container(
        id=str(told["Id"]),
        name=str(told.get("Name", "")).lstrip("/"),
        image=str(config.get("Image") or told.get("Image", "")),
        status=str(state.get("Status", "")),
        stop_signal=str(config.get("StopSignal") or "SIGTERM"),
        exit_code=state.get("ExitCode"),
        labels={str(key): str(value) for key, value in (config.get("Labels") or {}).items()},
        created_at=_moment(told.get("Created")),
        finished_at=_moment(state.get("FinishedAt")),
    )


def _moment(text: object) -> datetime | None:
    """Return the engine's moment, which has nanoseconds; its year 1 means never."""
    if not isinstance(text, str) or text.startswith("0001-"):
        return None
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        return None
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)
