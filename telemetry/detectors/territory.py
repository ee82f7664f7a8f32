"""Territory: whose code a module is. The application's own state is looked at; that of libraries only as far as the application holds it.

Three kinds of module: `application` (outside of the standard library and of installed packages, or the package that an
endpoint comes from), `infrastructure` (frameworks, drivers, the standard library, the monitor: their insides are their own
business) and `library` (every other installed package).
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from types import ModuleType
from typing import Final, Literal, TypeGuard

from isolation_monitor.telemetry.code_files import owner_of

Family = Literal["application", "library", "infrastructure"]

_INFRASTRUCTURE: Final = frozenset(
    # One text rather than eighty strings: it is read, and added to, by people.
    """aiohttp aiosqlite amqp anyio asyncpg blacksheep boto3 botocore celery certifi django engineio falcon fastapi flask greenlet
    grpc gunicorn h11 h2 httpcore httpcore2 httptools httpx httpx2 hypercorn isolation_monitor jinja2 litestar loguru mako motor
    multidict mypy numpy opentelemetry orjson pandas prometheus_client psycopg psycopg2 psycopg_pool pydantic pydantic_core
    pydantic_settings pymongo pytest quart redis requests sanic sentry_sdk sniffio socketio sqlalchemy sqlmodel ssl starlette
    structlog torch tornado typing_extensions urllib3 uvicorn uvloop watchfiles websockets werkzeug yarl""".split()  # noqa: SIM905
)
"""Top-level packages whose objects keep books for all users on purpose: connections, routes, metrics, log records, pools."""
_PLAIN_STANDARD: Final = frozenset({"builtins", "collections", "types", "functools", "dataclasses", "cachetools"})
"""Modules of containers and plain records: their instances hold what the application put there."""
_NAMES_LIMIT: Final = 10_000
_namespace: Final[Callable[[ModuleType], object]] = vars(ModuleType)["__dict__"].__get__


class Territory:
    """Tells the family of a module by its name. An endpoint's package can be made the application's (`adopt`)."""

    def __init__(self) -> None:
        self._families: dict[str, Family] = {}
        self._adopted: set[str] = set()

    def family(self, module: str) -> Family:
        found = self._families.get(module)
        if found is None:
            if len(self._families) >= _NAMES_LIMIT:
                self._families.clear()
            found = self._families[module] = self._judge(module)
        return found

    def adopt(self, module: str) -> None:
        """Treat the package of a module that serves requests as the application, wherever it is installed."""
        top = module.partition(".")[0]
        if top not in self._adopted and self.family(module) == "library":
            self._adopted.add(top)
            self._families.clear()

    def _judge(self, module: str) -> Family:
        top = module.partition(".")[0]
        if top in _PLAIN_STANDARD:
            return "library"
        if top in _INFRASTRUCTURE:
            return "infrastructure"
        if module == "__main__" or top in self._adopted:
            return "application"
        loaded = sys.modules.get(module)
        # A module's attributes are read from its dictionary: its class may have properties of the host.
        file = namespace_of(loaded).get("__file__") if is_module(loaded) else None
        if type(file) is not str:
            # Made at run time, like a class built by a factory: the application's, unless the interpreter brought it.
            return "infrastructure" if top in sys.stdlib_module_names else "application"
        owner = owner_of(file)
        if owner == "installed":
            return "library"
        return "infrastructure" if owner in ("interpreter", "monitor") or top in sys.stdlib_module_names else "application"


def is_module(thing: object) -> TypeGuard[ModuleType]:
    """Whether something is a module. Not by `isinstance`, which asks the host's objects for their `__class__`."""
    return issubclass(type(thing), ModuleType)


def namespace_of(module: ModuleType) -> dict[str, object]:
    """Return a module's own dictionary without asking its class, which may be the host's."""
    namespace: object = _namespace(module)
    return namespace if type(namespace) is dict else {}
