"""The pages of people who are signed in, and the streams that keep them current."""

from __future__ import annotations

from typing import Final
from urllib.parse import urlencode

from fastapi import APIRouter, Request
from fastapi.responses import Response

from isolation_monitor.collector.problems import NotFound
from isolation_monitor.collector.web.ci_pages import CiPages
from isolation_monitor.collector.web.lifecycle_pages import LifecyclePages
from isolation_monitor.collector.web.live import LiveHub, View, views_by_name
from isolation_monitor.collector.web.reader import PageReader
from isolation_monitor.collector.web.rendering import PageRoute, page
from isolation_monitor.collector.web.signing_in import Visitor

router = APIRouter(tags=["pages"], route_class=PageRoute, include_in_schema=False)

_ASKED_LIMIT: Final = 10


def views_of(reader: PageReader, ci: CiPages, lifecycle: LifecyclePages) -> dict[str, View]:
    """Return every kind of page by its name."""
    return views_by_name(
        View("incidents", reader.incidents, ("incidents",)),
        View("incident", reader.incident, ("incident",)),
        View("overview", reader.overview, ("verdicts", "alerts", "defects", "live_rollouts")),
        View("violations", reader.violations, ("violations",)),
        View("violation", reader.violation, ("amendments",)),
        View("runs", reader.runs, ("stuck", "queues", "runs")),
        View("rollouts", reader.rollouts, ("rollouts",)),
        View("rollout", reader.rollout, ("rollout",)),
        View("detectors", reader.detectors, ("detectors",)),
        View("history", reader.history, ()),
        View("containers", reader.containers, ("engines", "containers", "container_events")),
        View("ci", ci.ci, ()),
        View("ci_suite", ci.ci_suite, ()),
        View("ci_run", ci.ci_run, ()),
        View("ci_test", ci.ci_test, ()),
        View("probes", reader.probes, ("probes",)),
        View("lifecycle", lifecycle.lifecycle, ("lifecycle_hangs", "lifecycle_records")),
        View("lifecycle_record", lifecycle.record, ()),
    )


@router.get("/")
async def overview(request: Request, _visitor: Visitor) -> Response:
    """Is anybody seeing another's data now, and how well can that be told?"""
    return await _shown(request, "overview")


@router.get("/incidents")
async def incidents(request: Request, _visitor: Visitor) -> Response:
    """What was wrong, since when, and whether it still is."""
    return await _shown(request, "incidents")


@router.get("/incidents/{incident_id:path}")
async def incident(request: Request, _visitor: Visitor, incident_id: str) -> Response:
    """One incident in the order of time."""
    return await _shown(request, "incident", here="incidents", id=incident_id)


@router.get("/violations")
async def violations(request: Request, _visitor: Visitor) -> Response:
    """What was found, newest first."""
    # Older pages do not change: only the first one is kept current.
    return await _shown(request, "violations", is_live="cursor" not in request.query_params)


@router.get("/violations/{violation_id}")
async def violation(request: Request, _visitor: Visitor, violation_id: str) -> Response:
    """The evidence of both sides."""
    return await _shown(request, "violation", here="violations", id=violation_id)


@router.get("/runs")
async def runs(request: Request, _visitor: Visitor) -> Response:
    """Runs that stand still or went wrong, and the deepest queues."""
    return await _shown(request, "runs", is_live="cursor" not in request.query_params)


@router.get("/rollouts")
async def rollouts(request: Request, _visitor: Visitor) -> Response:
    """Every rollout, and who gets what."""
    return await _shown(request, "rollouts")


@router.get("/rollouts/{name}")
async def rollout(request: Request, _visitor: Visitor, name: str) -> Response:
    """One rollout: stages, evidence, decisions."""
    return await _shown(request, "rollout", here="rollouts", name=name)


@router.get("/detectors")
async def detectors(request: Request, _visitor: Visitor) -> Response:
    """How well the detectors see what is planted for them."""
    return await _shown(request, "detectors")


@router.get("/containers")
async def containers(request: Request, _visitor: Visitor) -> Response:
    """What runs on the engines, and how what does not run any more has ended."""
    return await _shown(request, "containers", is_live="cursor" not in request.query_params)


@router.get("/history")
async def history(request: Request, _visitor: Visitor) -> Response:
    """The last 30 days."""
    return await _shown(request, "history", is_live=False)


@router.get("/ci")
async def ci(request: Request, _visitor: Visitor) -> Response:
    """How the test suites fare."""
    return await _shown(request, "ci", is_live=False)


@router.get("/ci/suites/{name:path}")
async def ci_suite(request: Request, _visitor: Visitor, name: str) -> Response:
    """One test suite."""
    return await _shown(request, "ci_suite", here="ci", is_live=False, name=name)


@router.get("/ci/runs/{run_id}")
async def ci_run(request: Request, _visitor: Visitor, run_id: str) -> Response:
    """One run of a test suite: what failed, and why."""
    return await _shown(request, "ci_run", here="ci", is_live=False, id=run_id)


@router.get("/ci/tests/{key}")
async def ci_test(request: Request, _visitor: Visitor, key: str) -> Response:
    """One test: its runs, why it failed, whether it is flaky, what it uses."""
    return await _shown(request, "ci_test", here="ci", is_live=False, key=key)


@router.get("/probes")
async def probes(request: Request, _visitor: Visitor) -> Response:
    """How the endpoints are that the operator's file names."""
    return await _shown(request, "probes")


@router.get("/lifecycle")
async def lifecycle(request: Request, _visitor: Visitor) -> Response:
    """How processes start and end: which phase hangs, what the clean-up left."""
    return await _shown(request, "lifecycle", is_live="cursor" not in request.query_params)


@router.get("/lifecycle/{record_id}")
async def lifecycle_record(request: Request, _visitor: Visitor, record_id: str) -> Response:
    """One start-up or clean-up, and the others of its process."""
    return await _shown(request, "lifecycle_record", here="lifecycle", is_live=False, id=record_id)


@router.get("/live/{view}")
async def live(request: Request, visitor: Visitor, view: str) -> Response:
    """Stream what changes on one page; its parameters are those of the page."""
    views: dict[str, View] = request.app.state.web_views
    hub: LiveHub = request.app.state.web_live
    if view not in views or not views[view].regions:
        raise NotFound(f"there is no live page {view[:100]!r}")
    params = _asked(request)
    # Asked once before the stream begins: what is not there, or cannot be used, is an answer and no stream.
    await views[view].build(params)
    return hub.response(views[view], params, visitor)


def _asked(request: Request, **params: str) -> dict[str, str]:
    """Return what is asked for: `params` of the path first, so that no number of others in the address pushes them out."""
    asked = params | {name: value for name, value in request.query_params.items() if name not in params}
    return dict(list(asked.items())[:_ASKED_LIMIT])


async def _shown(request: Request, view: str, *, here: str = "", is_live: bool = True, **params: str) -> Response:
    views: dict[str, View] = request.app.state.web_views
    asked = _asked(request, **params)
    values = await views[view].build(asked)
    stream = f"/live/{view}?{urlencode(asked)}" if is_live and views[view].regions else ""
    return page(view, **values, here=here or view, signed_in=True, live=stream)
