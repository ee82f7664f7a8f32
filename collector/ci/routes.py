"""Reports of CI runs in, and what they came to out."""

from __future__ import annotations

import asyncio
from typing import Annotated

from fastapi import APIRouter, Depends, Query, Request

from isolation_monitor.collector.body import read_json_body
from isolation_monitor.collector.ci import answers
from isolation_monitor.collector.ci.failures import CATEGORIES
from isolation_monitor.collector.ci.schemas import RunIn, parse_run
from isolation_monitor.collector.ci.service import CiService
from isolation_monitor.collector.documented import body_of
from isolation_monitor.collector.paging import Moment, following, make_cursor, read_cursor
from isolation_monitor.collector.problems import Invalid, JsonResponse
from isolation_monitor.collector.runtime import Runtime, RuntimeDep, require_room
from isolation_monitor.collector.security import requires

router = APIRouter(prefix="/v1/ci", tags=["ci"])

Name = Annotated[str | None, Query(max_length=200)]
Limit = Annotated[int, Query(ge=1, le=500)]


def _service(runtime: Runtime) -> CiService:
    return CiService(runtime.database, runtime.clock)


@router.post("/runs", dependencies=[Depends(requires("ingest"))], openapi_extra=body_of(RunIn))
async def post_run(request: Request, runtime: RuntimeDep) -> JsonResponse:
    """Keep the report of one run and answer what it means. Sent again, by its id, it changes nothing and is answered alike."""
    require_room(runtime)
    body = await read_json_body(request, runtime.body_limits)
    # Tens of thousands of tests take a second to read: others are served meanwhile.
    run = await asyncio.to_thread(parse_run, body, runtime.clock())
    service = _service(runtime)
    is_new = await service.store(run)
    story = await service.run(run.id)
    return JsonResponse({"stored": is_new} | answers.run_story(story, runtime.settings.base_url))


@router.get("/runs", dependencies=[Depends(requires("read"))])
async def list_runs(
    request: Request,
    runtime: RuntimeDep,
    suite: Name = None,
    branch: Name = None,
    commit: Annotated[str | None, Query(min_length=4, max_length=64)] = None,
    limit: Limit = 50,
    cursor: Annotated[str | None, Query(max_length=300)] = None,
) -> JsonResponse:
    """List runs, the one that began last first. `commit` may be the beginning of a hash."""
    found = await _service(runtime).runs(suite, branch, commit, read_cursor(cursor), limit + 1)
    page = found[:limit]
    last = make_cursor(page[-1].started_at, page[-1].id) if page else None
    items = [answers.run(one, runtime.settings.base_url) for one in page]
    return JsonResponse({"schema": "ci-runs/1", "items": items} | following(request, last, has_more=len(found) > limit))


@router.get("/runs/{run_id}", dependencies=[Depends(requires("read"))])
async def get_run(runtime: RuntimeDep, run_id: str) -> JsonResponse:
    """Tell one run: what failed and why, when that was seen before, what is flaky and what is slow."""
    return JsonResponse(answers.run_story(await _service(runtime).run(run_id), runtime.settings.base_url))


@router.get("/suites", dependencies=[Depends(requires("read"))])
async def list_suites(runtime: RuntimeDep) -> JsonResponse:
    """List every suite with its numbers now."""
    found = await _service(runtime).suites()
    return JsonResponse({"schema": "ci-suites/1", "items": [answers.suite(one, runtime.settings.base_url) for one in found]})


@router.get("/suites/{suite:path}", dependencies=[Depends(requires("read"))])
async def get_suite(runtime: RuntimeDep, suite: str) -> JsonResponse:
    """Tell one suite: its days, what is flaky, what fails, what is slow."""
    return JsonResponse(answers.suite_story(await _service(runtime).suite(suite), runtime.settings.base_url))


@router.get("/flaky", dependencies=[Depends(requires("read"))])
async def list_flaky(runtime: RuntimeDep, suite: Name = None, limit: Limit = 50) -> JsonResponse:
    """List the tests that are flaky now, each with the evidence."""
    found = await _service(runtime).flaky(suite, limit)
    return JsonResponse({"schema": "ci-flaky/1", "items": [answers.test(one, runtime.settings.base_url) for one in found]})


@router.get("/failures", dependencies=[Depends(requires("read"))])
async def list_failures(
    runtime: RuntimeDep, suite: Name = None, category: Name = None, since: Moment | None = None, limit: Limit = 50
) -> JsonResponse:
    """List kinds of failures, the one that was seen last first; without `since` those of two weeks."""
    if category is not None and category not in CATEGORIES:
        raise Invalid(f"category is one of {', '.join(CATEGORIES)}")
    found = await _service(runtime).failures(suite, category, since, limit)
    return JsonResponse({"schema": "ci-failures/1", "items": [answers.failure_kind(one) for one in found]})


@router.get("/tests/{key}", dependencies=[Depends(requires("read"))])
async def get_test(
    runtime: RuntimeDep,
    request: Request,
    key: str,
    suite: Annotated[str | None, Query(min_length=1, max_length=100)] = None,
    branch: Name = None,
    commit: Annotated[str | None, Query(min_length=4, max_length=64)] = None,
    limit: Annotated[int, Query(ge=1, le=200)] = 50,
    cursor: Annotated[str | None, Query(max_length=300)] = None,
) -> JsonResponse:
    """Tell one test over its newest runs, on one branch or commit if asked for: results, failures, whether it is flaky, what it uses.

    Without `suite` it is told of the suite that ran it last; `other_suites` are those that have it, too.
    """
    story = await _service(runtime).test(suite, key, branch, commit, read_cursor(cursor), limit)
    older = make_cursor(*story.older) if story.older is not None else None
    more = following(request, older, has_more=older is not None)
    return JsonResponse(answers.test_story(story, runtime.settings.base_url) | more)
