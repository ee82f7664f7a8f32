"""Real servers for cases: `parts=redis_server` or `parts=postgres_database` in a `Case`.

Redis is started for each run. PostgreSQL takes seconds to make a cluster, so there is one for all runs of a process, and each
run has a database of its own in it. The service finds the addresses by `redis_url()` and `postgres_url()`.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import threading
import uuid
from collections.abc import Iterator, Mapping
from typing import Final

from tests.real_parts.postgres import Postgres, postgres
from tests.real_parts.redis import redis

APP_ROLE: Final = "leak_app"
"""The role that applications connect as: no superuser, so row-level security applies to it. It may become `leak_auditor`."""

_REDIS: Final = "LEAK_REDIS_URL"
_POSTGRES: Final = "LEAK_POSTGRES_URL"
_ADMIN: Final = "LEAK_POSTGRES_ADMIN_URL"

_cluster: Postgres | None = None
_cluster_lock = threading.Lock()


@contextlib.contextmanager
def redis_server() -> Iterator[Mapping[str, str]]:
    with redis() as server:
        yield {_REDIS: server.url}


@contextlib.contextmanager
def postgres_database() -> Iterator[Mapping[str, str]]:
    cluster, name = _running_cluster(), f"leak_{uuid.uuid4().hex[:12]}"
    admin = cluster.create(name).replace("postgresql+asyncpg", "postgresql")
    try:
        yield {_POSTGRES: admin.replace("isomon@", f"{APP_ROLE}@"), _ADMIN: admin}
    finally:
        cluster.drop(name)


def redis_url() -> str:
    return os.environ[_REDIS]


def postgres_url(driver: str = "") -> str:
    """Return the address for the application's role; `driver` as in SQLAlchemy's `postgresql+asyncpg`."""
    return os.environ[_POSTGRES].replace("postgresql://", f"postgresql{'+' if driver else ''}{driver}://")


def as_postgres_admin(*statements: str) -> None:
    """Prepare the database as its superuser, before the application opens its pool."""
    import psycopg

    with psycopg.connect(os.environ[_ADMIN], autocommit=True) as connection:
        for statement in statements:
            connection.execute(statement.encode())


def _running_cluster() -> Postgres:
    global _cluster
    with _cluster_lock:
        if _cluster is None:
            stack = contextlib.ExitStack()
            _cluster = stack.enter_context(postgres())
            atexit.register(stack.close)
            _make_roles(_cluster)
        return _cluster


def _make_roles(cluster: Postgres) -> None:
    import psycopg

    url = cluster.url("postgres").replace("postgresql+asyncpg", "postgresql")
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("CREATE ROLE leak_auditor BYPASSRLS")
        connection.execute("CREATE ROLE leak_app LOGIN IN ROLE leak_auditor NOINHERIT")
