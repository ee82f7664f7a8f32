"""The tables. Every row that belongs to somebody names its owner in `user_id`."""

from __future__ import annotations

from datetime import UTC, datetime

from sqlalchemy import DateTime, ForeignKey, Index, String, Text
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column


def _now() -> datetime:
    return datetime.now(UTC)


class Base(DeclarativeBase):
    """Base of all tables."""


class UserRow(Base):
    __tablename__ = "chat_user"

    id: Mapped[str] = mapped_column(String(40), primary_key=True)
    name: Mapped[str] = mapped_column(String(60), unique=True)
    created_at: Mapped[datetime] = mapped_column(DateTime(timezone=True), default=_now)


class NoteRow(Base):
    """The one private note of a user. The agent answers from it."""

    __tablename__ = "chat_note"

    user_id: Mapped[str] = mapped_column(ForeignKey("chat_user.id", ondelete="CASCADE"), primary_key=True)
    text: Mapped[str] = mapped_column(Text)


class ThreadRow(Base):
    __tablename__ = "chat_thread"

    id: Mapped[str] = mapped_column(String(40), primary_key=True)
    user_id: Mapped[str] = mapped_column(ForeignKey("chat_user.id", ondelete="CASCADE"), index=True)
    title: Mapped[str] = mapped_column(String(120))
    created_at: Mapped[datetime] = mapped_column(DateTime(timezone=True), default=_now)


class MessageRow(Base):
    __tablename__ = "chat_message"
    __table_args__ = (Index("chat_message_of_thread", "thread_id", "id"),)

    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=True)
    thread_id: Mapped[str] = mapped_column(ForeignKey("chat_thread.id", ondelete="CASCADE"))
    run_id: Mapped[str] = mapped_column(String(99), index=True)
    author: Mapped[str] = mapped_column(String(8))
    """`user` or `agent`."""
    text: Mapped[str] = mapped_column(Text)
    created_at: Mapped[datetime] = mapped_column(DateTime(timezone=True), default=_now)
