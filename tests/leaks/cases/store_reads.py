"""Rows of a database that are cached under a key without the user, and rows that users read under their ids and share by right."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fastapi import FastAPI, Request
from sqlalchemy import ForeignKey, func, select
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from tests.leaks.case import Built, Case, User, Users, Variant, mint, shaped
from tests.leaks.service import Service

if TYPE_CHECKING:
    from isolation_monitor.telemetry import IsolationMonitor


class Base(DeclarativeBase):
    pass


class Policy(Base):
    __tablename__ = "policies"
    id: Mapped[int] = mapped_column(primary_key=True)
    holder: Mapped[str]
    number: Mapped[str]


class Team(Base):
    __tablename__ = "teams"
    id: Mapped[int] = mapped_column(primary_key=True)
    handbook: Mapped[str]


class Member(Base):
    __tablename__ = "members"
    user_id: Mapped[str] = mapped_column(primary_key=True)
    team_id: Mapped[int] = mapped_column(ForeignKey("teams.id"))
    door_code: Mapped[str]
    """The team's, written down for each member."""


class Post(Base):
    __tablename__ = "posts"
    id: Mapped[int] = mapped_column(primary_key=True)
    author: Mapped[str]
    link: Mapped[str]


def _built(make_app: Any, rows: list[Any]) -> Built:
    """Build an application on an SQLite file of its own that holds these rows: `make_app(engine, app)` adds the routes."""
    folder = tempfile.TemporaryDirectory(prefix="leaks-db-")
    engine = create_async_engine(f"sqlite+aiosqlite:///{Path(folder.name) / 'app.sqlite3'}")

    @contextlib.asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with engine.begin() as connection:
            await connection.run_sync(Base.metadata.create_all)
        async with AsyncSession(engine) as session:
            session.add_all(rows)
            await session.commit()
            # As a service does that is ready before its first user comes.
            app.state.featured = (await session.scalars(select(Post.link).limit(1))).first()
        yield
        await engine.dispose()
        folder.cleanup()

    app = FastAPI(lifespan=lifespan)
    make_app(engine, app)
    return Built(app, engine)


# --- a cache of rows by the path ----------------------------------------------------------------------------------------

POLICY_USERS = Users("rows-by-path", ids="uuid")


def build_by_path(variant: Variant) -> Built:
    """The first answers are read from the database under the user's id; from then on all get the one that was kept last."""

    def routes(engine: Any, app: FastAPI) -> None:
        kept: dict[Any, dict[str, str]] = {}

        @app.get("/policy")
        async def policy(request: Request) -> dict[str, str]:
            user = POLICY_USERS.of(request)
            key: Any = request.url.path if variant == "buggy" else (request.url.path, user.id)
            if key not in kept:
                async with AsyncSession(engine) as session:
                    number = (await session.scalars(select(Policy.number).where(Policy.holder == user.id))).one()
                kept[key] = {"kind": "household", "number": number}
            return kept[key]

    return _built(routes, [Policy(holder=user.id, number=user.value("policy", "token")) for user in POLICY_USERS])


def policies_are_owned(monitor: IsolationMonitor, built: Built) -> None:
    monitor.owns(Policy, by="holder")


async def drive_by_path(service: Service) -> list[str]:
    service.own_values("policy", "token")

    async def ask(user: User, round: int) -> None:
        service.look(user, await service.get(user, "/policy"))

    return await service.everybody(ask, rounds=5)


# --- what users read under their ids and share --------------------------------------------------------------------------

SHARING_USERS = Users("clean-shared-rows")
TEAMS = 3


def handbook(team: int) -> str:
    return shaped(f"the handbook of team {team} of this service".encode(), "token")


def door_code(team: int) -> str:
    return shaped(f"the door code of team {team} of this service".encode(), "hex")


def build_sharing(variant: Variant) -> Built:
    """A team's handbook found by its members' ids, its door code written beside each member, posts that their authors list."""

    def routes(engine: Any, app: FastAPI) -> None:
        handbooks: dict[int, str] = {}
        door_codes: dict[int, str] = {}
        latest: dict[str, str] = {}

        @app.get("/team")
        async def team(request: Request) -> dict[str, Any]:
            user = SHARING_USERS.of(request)
            async with AsyncSession(engine) as session:
                number = (await session.scalars(select(Member.team_id).where(Member.user_id == user.id))).one()
                if number not in handbooks:
                    found = select(Team.handbook).join(Member, Member.team_id == Team.id).where(Member.user_id == user.id)
                    book = (await session.scalars(found)).one()
                    door_codes[number] = (await session.scalars(select(Member.door_code).where(Member.user_id == user.id))).one()
                    handbooks[number] = book
            return {"team": number, "handbook": {"key": handbooks[number]}, "door": door_codes[number]}

        @app.post("/posts")
        async def write(request: Request) -> dict[str, Any]:
            async with AsyncSession(engine) as session:
                # The link is the service's: nobody has sent it. It is kept for the front page of everybody, without a name.
                latest["made"] = link = mint("token")
                session.add(Post(author=SHARING_USERS.of(request).id, link=link))
                await session.commit()
                latest["read"] = (await session.scalars(select(Post.link).order_by(Post.id.desc()).limit(1))).one()
            return {"posted": True}

        @app.get("/my/posts")
        async def own(request: Request) -> list[str]:
            async with AsyncSession(engine) as session:
                return list(await session.scalars(select(Post.link).where(Post.author == SHARING_USERS.of(request).id)))

        @app.get("/my/count")
        async def count(request: Request) -> dict[str, int]:
            async with AsyncSession(engine) as session:
                of_user = select(func.count()).select_from(Post).where(Post.author == SHARING_USERS.of(request).id)
                return {"posts": (await session.scalars(of_user)).one()}

        @app.get("/front")
        async def front(request: Request) -> dict[str, Any]:
            return {"latest": latest.get("read"), "featured": app.state.featured}

        @app.get("/banner")
        async def banner(request: Request) -> dict[str, Any]:
            return {"new": latest.get("made")}

    members = [Member(user_id=user.id, team_id=user.number % TEAMS + 1, door_code=door_code(user.number % TEAMS)) for user in SHARING_USERS]
    teams = [Team(id=number + 1, handbook=handbook(number)) for number in range(TEAMS)]
    return _built(routes, [*teams, *members, *(Post(author=user.id, link=user.value("post", "token")) for user in SHARING_USERS)])


async def drive_sharing(service: Service) -> list[str]:
    async def act(user: User, round: int) -> None:
        found = (await service.get(user, "/team")).json()
        if found["handbook"]["key"] != handbook(user.number % TEAMS) or found["door"] != door_code(user.number % TEAMS):
            service.harm("a team's handbook is another's")
        if round % 2:
            await service.post(user, "/posts")
        own = (await service.get(user, "/my/posts")).json()
        if user.value("post", "token") not in own or len(own) < (await service.get(user, "/my/count")).json()["posts"]:
            service.harm("a post is missing")
        await service.get(user, "/front")
        await service.get(user, "/banner")

    return await service.everybody(act, rounds=6)


CASES = [
    Case(
        "rows-cached-by-path",
        "state",
        "A row of the user is cached by the path: everybody gets the one that was read last.",
        POLICY_USERS,
        build_by_path,
        drive_by_path,
        annotate=policies_are_owned,
        needs=("sqlalchemy", "aiosqlite"),
    ),
    Case(
        "clean-shared-rows",
        "clean",
        "Handbooks, door codes and posts that several read from a database, under their own ids and otherwise.",
        SHARING_USERS,
        build_sharing,
        drive_sharing,
        needs=("sqlalchemy", "aiosqlite"),
    ),
]
