"""Every query of the service. Each one that reads or writes something of a user takes the user's id and filters by it."""

from __future__ import annotations

import secrets
from dataclasses import dataclass
from typing import Final

from sqlalchemy import func, select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncSession

from chat.models import MessageRow, NoteRow, ThreadRow, UserRow

MAIN_THREAD: Final = "main"
"""Stands for the user's first thread wherever a thread id is asked for."""
HISTORY_LENGTH: Final = 6


class ThreadNotFoundError(LookupError):
    """The thread does not exist, or is somebody else's: the caller cannot tell which."""


@dataclass(frozen=True, slots=True)
class User:
    id: str
    name: str


@dataclass(frozen=True, slots=True)
class Line:
    """One message of a thread; `author` is `user` or `agent`."""

    author: str
    text: str


async def user_named(session: AsyncSession, name: str) -> User:
    """Return the user with this name; made with a first thread on the first call."""
    row = await session.scalar(select(UserRow).where(UserRow.name == name))
    if row is None:
        row = UserRow(id="u_" + secrets.token_hex(8), name=name)
        try:
            async with session.begin_nested():
                session.add(row)
                await session.flush()
                session.add(ThreadRow(id="t_" + secrets.token_hex(8), user_id=row.id, title="First thread"))
        except IntegrityError:
            # Another worker made the same user in this moment.
            row = (await session.scalars(select(UserRow).where(UserRow.name == name))).one()
    return User(row.id, row.name)


async def user_exists(session: AsyncSession, user_id: str) -> bool:
    return await session.get(UserRow, user_id) is not None


async def note_of(session: AsyncSession, user_id: str) -> str:
    """Return the user's note; empty when there is none."""
    return await session.scalar(select(NoteRow.text).where(NoteRow.user_id == user_id)) or ""


async def set_note(session: AsyncSession, user_id: str, text: str) -> None:
    await session.merge(NoteRow(user_id=user_id, text=text))


async def thread_of(session: AsyncSession, user_id: str, thread_id: str) -> str:
    """Return the id of a thread that is the user's own.

    Raises:
        ThreadNotFoundError: there is no such thread among the user's.
    """
    query = select(ThreadRow.id).where(ThreadRow.user_id == user_id)
    if thread_id == MAIN_THREAD:
        query = query.order_by(ThreadRow.created_at, ThreadRow.id).limit(1)
    else:
        query = query.where(ThreadRow.id == thread_id)
    found = await session.scalar(query)
    if found is None:
        raise ThreadNotFoundError(f"no thread {thread_id!r} of yours")
    return found


async def thread_of_run(session: AsyncSession, run_id: str) -> tuple[str, str] | None:
    """Return the thread of a stored run and that thread's owner; None when there is no such run. Whoever asks compares the owner."""
    query = (
        select(ThreadRow.id, ThreadRow.user_id).join(MessageRow, MessageRow.thread_id == ThreadRow.id).where(MessageRow.run_id == run_id)
    )
    row = (await session.execute(query.limit(1))).first()
    return None if row is None else (row.id, row.user_id)


async def threads_of(session: AsyncSession, user_id: str) -> list[dict[str, str | int]]:
    """Return the user's threads, oldest first, each as `{"id", "title", "messages"}`."""
    count = func.count(MessageRow.id)
    query = (
        select(ThreadRow.id, ThreadRow.title, count)
        .outerjoin(MessageRow, MessageRow.thread_id == ThreadRow.id)
        .where(ThreadRow.user_id == user_id)
        .group_by(ThreadRow.id, ThreadRow.title, ThreadRow.created_at)
        .order_by(ThreadRow.created_at, ThreadRow.id)
    )
    return [{"id": id, "title": title, "messages": messages} for id, title, messages in await session.execute(query)]


async def make_thread(session: AsyncSession, user_id: str, title: str) -> str:
    row = ThreadRow(id="t_" + secrets.token_hex(8), user_id=user_id, title=title)
    session.add(row)
    return row.id


async def history_of(session: AsyncSession, thread_id: str, limit: int = HISTORY_LENGTH) -> list[Line]:
    """Return the last lines of a thread, oldest first. The caller has made sure that the thread is the user's."""
    query = select(MessageRow.author, MessageRow.text).where(MessageRow.thread_id == thread_id).order_by(MessageRow.id.desc()).limit(limit)
    return [Line(author, text) for author, text in reversed((await session.execute(query)).all())]


async def add_exchange(session: AsyncSession, thread_id: str, run_id: str, question: str, answer: str) -> None:
    session.add(MessageRow(thread_id=thread_id, run_id=run_id, author="user", text=question))
    await session.flush()
    session.add(MessageRow(thread_id=thread_id, run_id=run_id, author="agent", text=answer))
