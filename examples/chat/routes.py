"""The HTTP side: logging in, the note, threads, messages, and the page. `life.py` has the answers about health.

A signed-in request's answer carries `user_id`: the user it is for.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Final

from fastapi import APIRouter, Depends, HTTPException, Request
from fastapi.responses import FileResponse, JSONResponse
from pydantic import BaseModel, Field, StringConstraints

from chat import store
from chat.auth import NotSignedInError
from chat.parts import PartsDependency
from chat.store import ThreadNotFoundError, User
from isolation_monitor.telemetry import ForeignIdError, InvalidIdError, UnresolvedIdError

router = APIRouter()

PAGE: Final = Path(__file__).with_name("static") / "index.html"

Name = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=60)]


class LoginBody(BaseModel):
    name: Name


class NoteBody(BaseModel):
    text: str = Field(max_length=4_000)


class ThreadBody(BaseModel):
    title: Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=120)]


class MessageBody(BaseModel):
    text: Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=4_000)]


async def signed_in_user(request: Request, parts: PartsDependency) -> User:
    # Async on purpose: FastAPI runs plain functions in a thread with a copied context, where the log's user would be lost.
    try:
        return await parts.tokens.user_of_request(request.scope)
    except NotSignedInError as error:
        raise HTTPException(401, str(error), headers={"WWW-Authenticate": "Bearer"}) from None


SignedIn = Annotated[User, Depends(signed_in_user)]


@router.post("/api/login")
async def log_in(body: LoginBody, parts: PartsDependency) -> dict[str, str]:
    """Development login: the name alone makes you that user. Put your identity provider here."""
    async with parts.database.session() as session:
        user = await store.user_named(session, body.name)
    return {"token": parts.tokens.issue(user), "user_id": user.id, "name": user.name}


@router.get("/api/me")
async def me(user: SignedIn, parts: PartsDependency) -> dict[str, str]:
    async with parts.database.session() as session:
        if not await store.user_exists(session, user.id):
            raise HTTPException(401, "this user is no longer known: log in again")
    return {"user_id": user.id, "name": user.name}


@router.get("/api/note")
async def read_note(user: SignedIn, parts: PartsDependency) -> dict[str, str]:
    async with parts.database.session() as session:
        return {"user_id": user.id, "text": await store.note_of(session, user.id)}


@router.put("/api/note")
async def write_note(body: NoteBody, user: SignedIn, parts: PartsDependency) -> dict[str, str]:
    async with parts.database.session() as session:
        await store.set_note(session, user.id, body.text)
    return {"user_id": user.id, "text": body.text}


@router.get("/api/threads")
async def list_threads(user: SignedIn, parts: PartsDependency) -> dict[str, Any]:
    async with parts.database.session() as session:
        return {"user_id": user.id, "threads": await store.threads_of(session, user.id)}


@router.post("/api/threads", status_code=201)
async def make_thread(body: ThreadBody, user: SignedIn, parts: PartsDependency) -> dict[str, str]:
    async with parts.database.session() as session:
        thread_id = await store.make_thread(session, user.id, body.title)
    return {"user_id": user.id, "id": thread_id, "title": body.title}


@router.get("/api/threads/{thread_id}/messages")
async def read_messages(thread_id: str, user: SignedIn, parts: PartsDependency) -> dict[str, Any]:
    """Return the last 50 messages, oldest first. `main` names the user's first thread."""
    async with parts.database.session() as session:
        own_id = await store.thread_of(session, user.id, thread_id)
        lines = await store.history_of(session, own_id, limit=50)
    return {"user_id": user.id, "thread_id": own_id, "messages": [{"author": line.author, "text": line.text} for line in lines]}


@router.post("/api/threads/{thread_id}/messages")
async def send_message(thread_id: str, body: MessageBody, user: SignedIn, parts: PartsDependency) -> dict[str, Any]:
    """Ask the agent and wait for its answer. `main` names the user's first thread."""
    return await parts.runner.run_once(user, body.text, thread_id)


@router.get("/api/runs/{run_id}")
async def find_run(run_id: str, user: SignedIn, parts: PartsDependency) -> dict[str, str]:
    """Return the thread of one of the user's runs, from whichever worker is asked."""
    try:
        run = await parts.ids.resolve(run_id, asker=user.id)
    except (InvalidIdError, UnresolvedIdError, ForeignIdError):
        # One answer for all three: whether a run of somebody else exists is nobody's business.
        raise HTTPException(404, "no such run of yours") from None
    return {"user_id": user.id, "run_id": run.run_id, "thread_id": run.thread_id}


@router.get("/", include_in_schema=False)
async def page() -> FileResponse:
    return FileResponse(PAGE, headers={"Cache-Control": "no-cache"})


async def thread_not_found(_: Request, error: Exception) -> JSONResponse:
    """Answer `ThreadNotFoundError` wherever it comes from."""
    if not isinstance(error, ThreadNotFoundError):
        raise error
    return JSONResponse({"detail": str(error)}, 404)
