"""The chat service: `uvicorn chat.app:app --app-dir examples`."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI
from fastapi.staticfiles import StaticFiles
from starlette.types import ASGIApp

from chat import life, routes, websocket
from chat.auth import HideTokens
from chat.monitoring import watch
from chat.parts import Kinds, Parts, build_parts
from chat.settings import Settings
from chat.store import ThreadNotFoundError
from isolation_monitor.telemetry import IsolationMonitor, clients


def create_app(settings: Settings, monitor: IsolationMonitor) -> ASGIApp:
    """Build one worker's application. No table is made and no connection opened before the server starts it."""
    if settings.faults:
        # Known to no other module: without CHAT_FAULTS=1 this file is never even imported.
        from chat import faults

        board = faults.Switchboard(settings.faults_file, settings.fault_log)
        parts = build_parts(settings, monitor, faults.defective_kinds(board, faults.release_of(monitor)))
        return faults.install(_assemble(parts, monitor), board)
    return _assemble(build_parts(settings, monitor, Kinds()), monitor)


def _assemble(parts: Parts, monitor: IsolationMonitor) -> FastAPI:
    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        async with monitor.lifecycle:
            yield
            # The server has closed the sockets and waited for the requests by now.
        await monitor.aclose()

    app = FastAPI(title="Chat", summary="A small multi-user agent chat.", lifespan=lifespan)
    app.state.parts = parts
    app.include_router(routes.router)
    app.include_router(websocket.router)
    # The page's side of the WebSocket; it comes with the package, so page and service always fit together.
    app.mount("/static/isolation", StaticFiles(directory=clients.JAVASCRIPT), name="isolation-client")
    app.add_exception_handler(ThreadNotFoundError, routes.thread_not_found)
    for name in ("uvicorn.access", "uvicorn.error"):
        logging.getLogger(name).addFilter(HideTokens())
    life.declare(monitor, parts)
    watch(app, monitor, parts.database, parts.tokens, parts.runner)
    return app


app = create_app(Settings.from_env(), IsolationMonitor.from_env(service="chat"))
