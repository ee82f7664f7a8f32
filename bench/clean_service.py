"""A clean service with every kind of legitimate sharing that the chat service lacks, watched by the usual two lines.

An administrator's view of everybody, public articles, a cache for each user and one for all, direct messages, rooms over
WebSockets, one shared connection pool, stateless singletons, and a counter that everybody raises. Nothing here is a
leak, so whatever the monitor reports at `crossed` or `reachable` is a false alarm.
"""

from __future__ import annotations

import asyncio
import json
import secrets
from collections import OrderedDict
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Annotated, Any, Final

from fastapi import Depends, FastAPI, HTTPException, Request, WebSocket, WebSocketDisconnect
from sqlalchemy import ForeignKey, String, event, or_, select
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker, create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column
from sqlalchemy.pool import AsyncAdaptedQueuePool
from starlette.responses import StreamingResponse

from isolation_monitor.telemetry import IsolationMonitor
from isolation_monitor.telemetry.principals import Scope

ADMIN: Final = "admin-7c1f0e2b"
ARTICLES: Final = 40
CACHED_PROFILES: Final = 500
LAST_MESSAGES: Final = 10


class Base(DeclarativeBase):
    """Rows of this service."""


class Account(Base):
    """A user with what is only his and the administrators'."""

    __tablename__ = "accounts"
    id: Mapped[str] = mapped_column(String(40), primary_key=True)
    email: Mapped[str] = mapped_column(String(80))
    api_key: Mapped[str] = mapped_column(String(40))


class Article(Base):
    """What everybody may read."""

    __tablename__ = "articles"
    id: Mapped[int] = mapped_column(primary_key=True)
    slug: Mapped[str] = mapped_column(String(40))
    author: Mapped[str] = mapped_column(String(40))
    text: Mapped[str] = mapped_column(String(800))


class Order(Base):
    """What a user has ordered: his own, and the administrators' to see."""

    __tablename__ = "orders"
    id: Mapped[str] = mapped_column(String(40), primary_key=True)
    account_id: Mapped[str] = mapped_column(ForeignKey("accounts.id"), index=True)
    what: Mapped[str] = mapped_column(String(200))


class DirectMessage(Base):
    """Words of one user to another: both may read them."""

    __tablename__ = "direct_messages"
    id: Mapped[int] = mapped_column(primary_key=True)
    sender: Mapped[str] = mapped_column(String(40), index=True)
    recipient: Mapped[str] = mapped_column(String(40), index=True)
    text: Mapped[str] = mapped_column(String(400))


class Prices:
    """A stateless singleton: one object that serves everybody and keeps nothing of anybody."""

    def of(self, words: str) -> int:
        return 5 + len(words) % 90


class Caches:
    """One cache by user's id, with a limit, and one of what is the same for all."""

    def __init__(self) -> None:
        self.profiles: OrderedDict[str, dict[str, str]] = OrderedDict()
        self.feed: list[dict[str, Any]] | None = None
        self.hits = 0

    def keep_profile(self, user: str, profile: dict[str, str]) -> None:
        self.profiles[user] = profile
        if len(self.profiles) > CACHED_PROFILES:
            self.profiles.popitem(last=False)


class Rooms:
    """Who is in which room; what one says there goes to all."""

    def __init__(self) -> None:
        self.members: dict[str, set[WebSocket]] = {}

    async def say(self, room: str, frame: dict[str, Any]) -> None:
        text = json.dumps(frame)
        await asyncio.gather(*(member.send_text(text) for member in list(self.members.get(room, ()))), return_exceptions=True)


def user_of(scope: Scope) -> str | None:
    """Return the user whom the token names."""
    for name, value in scope["headers"]:
        if name == b"authorization":
            return str(value, "latin-1").removeprefix("Bearer ") or None
    return None


def signed_in(request: Request) -> str:
    if (user := user_of(request.scope)) is None:
        raise HTTPException(401)
    return user


User = Annotated[str, Depends(signed_in)]


def create_app(monitor: IsolationMonitor, file: Path, users: list[str]) -> FastAPI:
    """Build the service on a SQLite file, with accounts for these users, instrumented by the monitor."""
    engine = create_async_engine(f"sqlite+aiosqlite:///{file}", poolclass=AsyncAdaptedQueuePool, pool_size=10, max_overflow=10)
    event.listen(engine.sync_engine, "connect", _set_up_sqlite)
    sessions = async_sessionmaker(engine, expire_on_commit=False)
    caches, rooms, prices = Caches(), Rooms(), Prices()

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        async with engine.begin() as connection:
            await connection.run_sync(Base.metadata.create_all)
        async with sessions.begin() as session:
            session.add_all(_accounts(users))
            session.add_all(_articles(users))
        yield
        await engine.dispose()

    app = FastAPI(lifespan=lifespan)
    app.state.caches, app.state.rooms, app.state.prices = caches, rooms, prices
    _add_routes(app, sessions, caches, prices)
    _add_rooms(app, rooms)
    monitor.instrument(app, engine=engine)
    monitor.principal(user_of)
    monitor.identity_fields("user_id")
    monitor.owns(Order, by="account_id")
    _add_admin(app, sessions, monitor)
    return app


def _add_routes(app: FastAPI, sessions: async_sessionmaker[AsyncSession], caches: Caches, prices: Prices) -> None:
    @app.get("/me")
    async def me(user: User) -> dict[str, str]:
        """From the cache under the user's own id."""
        profile = caches.profiles.get(user)
        if profile is None:
            async with sessions() as session:
                account = await session.get_one(Account, user)
            profile = {"user_id": account.id, "email": account.email, "api_key": account.api_key}
            caches.keep_profile(user, profile)
        else:
            caches.hits += 1
        return profile

    @app.get("/articles")
    async def articles(user: User) -> list[dict[str, Any]]:
        """The same for all, from the cache for all."""
        if caches.feed is None:
            async with sessions() as session:
                rows = (await session.scalars(select(Article).order_by(Article.id))).all()
            caches.feed = [{"id": row.id, "slug": row.slug, "author": row.author} for row in rows]
        return caches.feed

    @app.get("/articles/{article_id}")
    async def article(article_id: int, user: User) -> dict[str, Any]:
        async with sessions() as session:
            row = await session.get_one(Article, article_id)
        return {"id": row.id, "slug": row.slug, "author": row.author, "text": row.text}

    @app.post("/orders")
    async def order(body: dict[str, str], user: User) -> dict[str, Any]:
        row = Order(id="o_" + secrets.token_hex(8), account_id=user, what=body["what"])
        async with sessions.begin() as session:
            session.add(row)
        return {"user_id": user, "id": row.id, "price": prices.of(row.what)}

    @app.get("/orders")
    async def orders(user: User) -> dict[str, Any]:
        async with sessions() as session:
            rows = (await session.scalars(select(Order).where(Order.account_id == user).order_by(Order.id).limit(20))).all()
        return {"user_id": user, "orders": [{"id": row.id, "what": row.what} for row in rows]}

    @app.get("/orders.ndjson")
    async def export(user: User) -> StreamingResponse:
        async def lines() -> AsyncIterator[str]:
            async with sessions() as session:
                for row in (await session.scalars(select(Order).where(Order.account_id == user).order_by(Order.id).limit(20))).all():
                    yield json.dumps({"id": row.id, "what": row.what}) + "\n"
                    await asyncio.sleep(0)

        return StreamingResponse(lines(), media_type="application/x-ndjson")

    @app.post("/messages")
    async def send(body: dict[str, str], user: User) -> dict[str, str]:
        async with sessions.begin() as session:
            session.add(DirectMessage(sender=user, recipient=body["to"], text=body["text"]))
        return {"user_id": user, "to": body["to"]}

    @app.get("/messages")
    async def messages(user: User) -> dict[str, Any]:
        mine = or_(DirectMessage.sender == user, DirectMessage.recipient == user)
        query = select(DirectMessage).where(mine).order_by(DirectMessage.id.desc()).limit(LAST_MESSAGES)
        async with sessions() as session:
            rows = (await session.scalars(query)).all()
        return {"user_id": user, "messages": [{"from": row.sender, "to": row.recipient, "text": row.text} for row in rows]}


def _add_admin(app: FastAPI, sessions: async_sessionmaker[AsyncSession], monitor: IsolationMonitor) -> None:
    @app.get("/admin/accounts")
    async def accounts(user: User) -> list[dict[str, str]]:
        """Everybody's, for the administrator alone."""
        if user != ADMIN:
            raise HTTPException(403)
        async with sessions() as session:
            rows = (await session.scalars(select(Account).order_by(Account.id).limit(50))).all()
        return [{"id": row.id, "email": row.email} for row in rows]

    @app.get("/admin/orders")
    async def latest_orders(user: User) -> list[dict[str, str]]:
        if user != ADMIN:
            raise HTTPException(403)
        with monitor.unscoped("the administrator sees what everybody ordered"):
            async with sessions() as session:
                rows = (await session.scalars(select(Order).order_by(Order.id).limit(50))).all()
        return [{"id": row.id, "what": row.what} for row in rows]


def _add_rooms(app: FastAPI, rooms: Rooms) -> None:
    @app.websocket("/rooms/{room}")
    async def in_room(socket: WebSocket, room: str) -> None:
        user = user_of(socket.scope)
        await socket.accept()
        rooms.members.setdefault(room, set()).add(socket)
        try:
            async for text in socket.iter_text():
                said = json.loads(text)
                await rooms.say(room, {"type": "said", "author": user, "id": said["id"], "text": said["text"]})
        except WebSocketDisconnect:
            pass
        finally:
            rooms.members[room].discard(socket)


def _accounts(users: list[str]) -> list[Account]:
    return [Account(id=user, email=f"{user}@example.org", api_key="key_" + secrets.token_hex(12)) for user in (*users, ADMIN)]


def _articles(users: list[str]) -> list[Article]:
    text = "Whoever plants a hedge in autumn has to water it until the ground freezes, and again as soon as it thaws. "
    return [
        Article(id=n + 1, slug=f"hedge-{secrets.token_hex(6)}", author=users[n % len(users)], text=f"Part {n}. " + text * 4)
        for n in range(ARTICLES)
    ]


def _set_up_sqlite(connection: Any, _record: Any) -> None:  # Any: the driver's own class
    cursor = connection.cursor()
    cursor.execute("PRAGMA journal_mode=WAL")
    cursor.execute("PRAGMA busy_timeout=60000")
    cursor.execute("PRAGMA synchronous=OFF")
    cursor.close()
