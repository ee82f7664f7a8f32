"""What the pages say: nothing flatters, nothing from evidence is markup, and an empty page tells what to do."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import quote

import pytest
from sqlalchemy import event

from isolation_monitor.collector.evidence.service import EvidenceService
from isolation_monitor.collector.gates.service import GateService
from isolation_monitor.collector.web import charts, rendering
from isolation_monitor.collector.web.numbers import SLOT_S, Slot
from isolation_monitor.collector.web.one_violation import arranged
from isolation_monitor.collector.web.signing_in import local
from isolation_monitor.collector.web.verdict import Reading, Recorded, verdict_of
from tests.collector.conftest import READ, START, Api

NOW = datetime(2026, 1, 1, 12, 0, tzinfo=UTC)
SEEN = Reading(score=100.0, state="measured", age_s=1.0, coverage=1.0, requests=100.0, exposed=80.0, detectors_grey=0.0)


def judged(reading: Reading | None, recorded: Recorded | None = None) -> Any:
    return verdict_of("chat", reading, recorded or Recorded(), NOW, stale_after_s=30, trouble="no numbers")


def changed(**values: Any) -> Reading:
    return Reading(**{name: getattr(SEEN, name) for name in SEEN.__slots__} | values)


@pytest.mark.parametrize(
    ("reading", "word", "score"),
    [
        (SEEN, "isolated", 100.0),
        (changed(score=99.999), "violated", 99.999),
        (changed(detectors_grey=1.0), "doubtful", 100.0),
        (changed(coverage=0.4), "doubtful", 100.0),
        (changed(state="not_measurable", score=None), "not_measurable", None),
        (changed(state="blind", targets_down=1.0), "blind", None),
        (changed(state="blind", score=None, unchecked=3.0), "blind", None),
        (changed(age_s=31.0), "blind", None),
        (changed(state=None, age_s=None), "unknown", None),
        (None, "unknown", None),
    ],
)
def test_only_what_was_seen_by_proven_detectors_is_green(reading: Reading | None, word: str, score: float | None) -> None:
    found = judged(reading)

    assert (found.word, found.score) == (word, score)
    assert all(sentence.endswith((".", "?", "numbers")) for sentence in found.why)


def test_a_record_of_the_last_minute_is_believed_before_the_score_has_heard_of_it() -> None:
    fresh, old = (Recorded({"crossed": 1}, NOW - timedelta(seconds=age)) for age in (30, 61))

    assert (judged(SEEN, fresh).word, judged(SEEN, fresh).score) == ("violated", None)
    assert judged(SEEN, old).word == "isolated"
    assert judged(None, fresh).word == "violated"


@pytest.mark.parametrize(
    ("value", "text"), [(100.0, "100"), (99.9999, "99.99"), (97.5, "97.5"), (0.0, "0"), (29.29, "29.29"), (99.994999, "99.99"), (None, "–")]
)
def test_percentages_are_rounded_down(value: float | None, text: str) -> None:
    assert rendering.percent(value) == text


def test_a_share_that_is_not_whole_never_reads_100() -> None:
    assert [rendering.share(value, 0) for value in (1.0, 0.9999, 0.83)] == ["100", "99", "83"]


def test_history_draws_no_line_and_no_ground_where_nothing_was_measured() -> None:
    slots = [
        Slot(SLOT_S, 100.0, 1.0, 0.0, 0),
        Slot(2 * SLOT_S, 99.999, 0.5, 0.0, 2),
        Slot(3 * SLOT_S, None, None, None, 0),
        Slot(4 * SLOT_S, 100.0, 1.0, 0.0, 0),
    ]

    drawn = charts.history("chat", slots)

    assert [column.look for column in drawn.columns] == ["good", "bad", "unseen", "good"]
    assert len(drawn.lines) == 2
    assert drawn.measured == pytest.approx((1 + 0.5 + 0 + 1) / 4), "what has no sample counts as not measured"
    assert "lowest score 99.99," in drawn.columns[1].says
    assert "not measured" in drawn.columns[2].says


def test_a_bar_is_full_only_when_all_the_evidence_is_there() -> None:
    answer = {
        "metrics": {
            "exposed_isolated_requests": 299.9,
            "owed_events": 100,
            "error_diff_pp": 0.2,
            "error_diff_pp_low": -0.5,
            "error_diff_pp_high": 0.9,
        },
        "thresholds": {"min_exposed_requests": 300, "min_owed_events": 100},
        "reasons": [],
    }

    progress, (errors,) = charts.evidence_bars(answer, {})

    assert [(one.look, one.width) for one in progress] == [("waiting", 99.0), ("good", 100.0)]
    assert errors.look == "good"
    assert 0 < errors.at(-0.5) < errors.at(0.2) < errors.at(0.9) < errors.at(1.0) < 100


def test_a_failed_trigger_is_red_whatever_its_numbers_say() -> None:
    answer = {"metrics": {"slow_share": 0.02}, "thresholds": {}, "reasons": [{"trigger": "latency", "state": "fail"}]}

    assert [one.look for one in charts.evidence_bars(answer, {})[1]] == ["bad"]


@pytest.mark.parametrize(
    ("high", "slow_low", "reasons", "looks"),
    [
        (-0.01, 0.0, [], ["good", "good"]),
        # 0.9 points above the promise would be within a control's margin: it is no limit here.
        (0.9, 0.0, [{"trigger": "latency", "state": "inconclusive"}], ["waiting", "waiting"]),
        (None, None, [], ["waiting", "waiting"]),
        (0.9, 0.1, [{"trigger": "error_rate", "state": "fail"}, {"trigger": "latency", "state": "fail"}], ["bad", "bad"]),
    ],
)
def test_without_a_control_promises_are_the_limits_and_green_needs_a_bound(
    high: float | None, slow_low: float | None, reasons: list[Any], looks: list[str]
) -> None:
    metrics: dict[str, Any] = {"error_diff_pp": -0.2, "slow_share": 0.02} | ({"error_diff_pp_high": high} if high is not None else {})
    metrics |= {"slow_share_low": slow_low} if slow_low is not None else {}
    comparison = {"percent": 100.0, "error_margin_pp": 1.0, "slo_error_percent": 0.5, "slo_p95_s": 0.8}

    errors, slow = charts.evidence_bars({"metrics": metrics, "thresholds": {}, "reasons": reasons}, comparison)[1]

    assert [errors.look, slow.look] == looks
    assert errors.limit == 0
    assert "less the 0.5 % that are promised" in errors.says
    assert "slower than the promised 0.8 s" in slow.says


@pytest.fixture
async def api(make_api: Callable[..., Any], database_url: str) -> AsyncIterator[Api]:
    """A collector on either database, with somebody signed in."""
    async with make_api(database_url) as running:
        form = {"content-type": "application/x-www-form-urlencoded", "accept": "text/html"}
        assert (await running.client.post("/sign-in", content=f"token={READ}", headers=form)).status_code == 303
        yield running


async def shown(api: Api, path: str, status: int = 200) -> str:
    answer = await api.client.get(path, headers={"accept": "text/html"})
    assert answer.status_code == status, answer.text
    return str(answer.text)


@pytest.mark.parametrize(
    ("path", "says"),
    [
        ("/", "Two lines instrument a service"),
        ("/violations", "No violation was recorded"),
        ("/violations?kind=wrong_socket", "No violation is like that"),
        ("/incidents", "There was no incident"),
        ("/runs", "No run went wrong"),
        ("/rollouts", "isomon rollout apply FILE"),
        ("/detectors", "COLLECTOR_PROMETHEUS_URL"),
        ("/probes", "Name endpoints in a file"),
        ("/history", "Days without a bar may be days on which nobody looked"),
    ],
)
async def test_an_empty_page_tells_what_to_do(api: Api, path: str, says: str) -> None:
    assert says in await shown(api, path)


async def test_without_prometheus_no_score_is_shown_and_the_page_says_why(api: Api) -> None:
    await api.send(api.violation(grade="crossed"))
    api.clock.advance(120)

    page = await shown(api, "/")

    assert "From records alone" in page
    assert "set COLLECTOR_PROMETHEUS_URL" in page
    assert '<span class="number">–</span>' in page
    assert "1 crossed, 0 reachable" in page


@pytest.mark.parametrize(
    "path", ["/", "/violations?x=<script>alert(1)</script>", "/runbooks", "/runbooks/LoopStall", "/sign-in", "/violations/none"]
)
async def test_every_page_allows_scripts_of_its_own_alone_and_no_frame(api: Api, path: str) -> None:
    answer = await api.client.get(path, headers={"accept": "text/html"})

    policy = dict(part.strip().partition(" ")[::2] for part in answer.headers["content-security-policy"].split(";"))
    assert (policy["default-src"], policy["script-src"], policy["style-src"]) == ("'none'", "'self'", "'self'")
    assert (policy["frame-ancestors"], policy["base-uri"], policy["form-action"]) == ("'none'", "'none'", "'self'")
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.headers["cache-control"] == "no-store"
    assert not re.search(r"<script(?! src=)|style=|\son\w+=|<style", answer.text), "something inline, which the policy would stop"


async def test_nothing_of_a_record_or_an_address_is_markup(api: Api) -> None:
    hostile = "</td><img src=x onerror=alert(1)>"
    await api.send(
        api.violation(id="v", summary=hostile, kind="<b>kind", detail={hostile: hostile}, resource={"type": "instance", "name": hostile}),
        api.escalation("v", reason=hostile),
    )

    for path in ("/", "/violations", "/violations/v", f"/violations?service={quote(hostile)}", "/violations/%3Cimg%3E"):
        page = (await api.client.get(path, headers={"accept": "text/html"})).text
        assert "<img" not in page, path
        assert "<b>kind" not in page, path


async def test_violations_are_narrowed_and_turned_page_by_page(api: Api) -> None:
    await api.send(*(api.violation(id=f"v-{n:03}", kind="wrong_socket" if n % 2 else "instance_reuse") for n in range(120)))

    first = await shown(api, "/violations?kind=wrong_socket&last=1h")
    following = re.search(r'rel="next" href="([^"]+)"', first)
    assert following is not None
    second = await shown(api, following[1].replace("&amp;", "&"))

    found = [re.findall(r'data-row href="/violations/(v-\d+)"', page) for page in (first, second)]
    assert [len(ids) for ids in found] == [50, 10]
    assert sorted(found[0] + found[1]) == [f"v-{n:03}" for n in range(1, 120, 2)]
    assert "data-live" in first
    assert "data-live" not in second, "older pages do not change"


@pytest.mark.parametrize(
    ("query", "says"),
    [
        ("grade=worst", "grade is one of"),
        ("last=1y", "last is one of"),
        ("cursor=zz", "cursor is not"),
        ("service=" + "a" * 201, "at most 200"),
    ],
)
async def test_a_filter_that_cannot_be_used_says_why_on_a_page(api: Api, query: str, says: str) -> None:
    page = await shown(api, f"/violations?{query}", status=422)

    assert says in page
    assert "<h1>Invalid request</h1>" in page


async def test_what_became_of_a_violation_is_told(api: Api) -> None:
    await api.send(api.violation(id="v"), api.escalation("v", reason="the answer left"), api.retraction("v"))

    page = await shown(api, "/violations/v")

    assert "the answer left" in page
    assert "the connection came back after 2.1 s" in page
    assert page.count('class="tag dim">retracted') == 2


async def test_a_violation_of_any_shape_has_a_page(api: Api) -> None:
    """A newer telemetry may send other fields: what cannot be read is left to the JSON below."""
    strange = {"affected": ["x"], "configuration": 7, "rollouts": "y", "revision": {"a": [1, 2.5, None, True]}}
    side = {"stack": [], "events": {"not": "a list"}, "time": "yesterday", "route": ["r"], "unknown": {"deep": [1]}}
    await api.send(
        api.violation(id="v", victim=side, offender=None, resource=None, **strange), api.violation(id="w", victim=None, offender=None)
    )

    page, bare = await shown(api, "/violations/v"), await shown(api, "/violations/w")

    assert "No offender" in page
    assert "names no resource" in page
    assert "unknown" in page
    assert "No victim" in bare


async def test_events_of_both_requests_stand_on_one_line_of_time(api: Api) -> None:
    victim = api.side("a") | {"events": [{"time": "2026-01-01T11:59:58Z", "what": "one"}, {"time": None, "what": "after one"}]}
    offender = api.side("b") | {"events": [{"time": "2026-01-01T11:59:59Z", "what": "two"}]}
    await api.send(api.violation(id="v", victim=victim, offender=offender))
    violation, _ = await api.app.state.web_views["violation"].build.__self__._features.evidence.violation("v")

    steps = arranged(violation).steps

    assert [(step.side, step.what, step.offset_s) for step in steps] == [
        ("victim", "one", -2.0),
        ("victim", "after one", None),
        ("offender", "two", -1.0),
        ("found", "the violation was found", 0.0),
    ]


async def test_runs_and_queues_say_who_waits_for_what(api: Api) -> None:
    now = "2026-01-01T12:00:00Z"
    run = {
        "type": "run", "id": "r", "time": now, "run_id": "run-1", "principal": "a" * 16, "outcome": "incomplete", "duration_s": 1.25,
        "events": [{"event": "agent_completed", "emitted": 1, "sent": 0}], "anomalies": {"missing": 1}, "detail": {},
    }  # fmt: skip
    queues = {
        "type": "queues", "id": "q", "time": now, "sequence": 1, "waiting": {"users": 1, "events": 40, "bytes": 2048},
        "users": [{"principal": "b" * 16, "events": 40, "bytes": 2048, "oldest": now, "connections": 0}],
    }  # fmt: skip
    await api.send(run, queues)

    page = await shown(api, "/runs?outcome=incomplete")

    assert "agent completed 1/0" in page
    assert "missing 1" in page
    assert "2 KiB" in page
    assert "40 events wait for 1 users" in page
    assert "run-1" not in await shown(api, "/runs?outcome=failed")


async def test_a_run_that_was_complete_says_why_it_is_listed(api: Api) -> None:
    """Its user got every event, and one of them twice: under a heading on its end nobody would know what it does there."""
    run = {
        "type": "run", "time": "2026-01-01T12:00:00Z", "run_id": "run-1", "principal": None, "outcome": "complete", "duration_s": 1.0,
        "events": [{"event": "agent_completed", "emitted": 1, "sent": 2}], "anomalies": {},
    }  # fmt: skip
    verdicts = ("duplicate", "disorder", "wrong_owner", "of a newer telemetry", ["no text"])
    await api.send(*(run | {"id": f"r-{n}", "detail": {"verdict": verdict}} for n, verdict in enumerate(verdicts)))

    page = await shown(api, "/runs")

    assert "Runs in which something went wrong" in page
    assert [page.count(words) for words in ("events came twice<", "events came out of order<", "an event went to another user<")] == [1] * 3
    assert page.count("complete</span>") == len(verdicts)


async def test_a_rollout_shows_its_stages_decisions_and_who_gets_what(api: Api) -> None:
    await api.apply(internal_users=["carol"])
    await api.step("start")
    await api.gate("checkout")

    page, listed = await shown(api, "/rollouts/checkout"), await shown(api, "/rollouts")

    assert re.search(r'class="now" aria-current="step">\s*<span class="stage">internal', page)
    assert "no Prometheus is configured" in page
    assert "one user" in listed
    assert "carol" not in listed, "who is internal is counted, not named"


async def test_looking_at_a_rollout_makes_no_decision(api: Api) -> None:
    """A page that judges would fill the store, and close a latch, by being open."""
    await api.start_rollout("watched")
    for _ in range(3):
        page = await shown(api, "/rollouts/watched")

    assert "The gate was never asked" in page


async def test_a_drill_leaves_nothing_on_the_pages(api: Api) -> None:
    """Its rollout stays for ever, and nobody's isolation is its business."""
    assert (await api.apply("drill-chat", service="drill:chat:RolloutRolledBack")).status_code == 201
    await api.step("start", "drill-chat")

    for path in ("/", "/rollouts"):
        assert "drill" not in await shown(api, path), path


async def test_a_complete_rollout_is_under_way_for_as_long_as_it_is_watched(api: Api) -> None:
    stages = [{"name": "full", "percent": 100, "soak": "1m"}]
    assert (await api.apply(stages=stages, watch_after_completion="1h")).status_code == 201
    for step in ("start", "advance"):
        assert (await api.step(step, force=True)).status_code == 200
    assert (await api.state())["status"] == "complete"

    during = [await shown(api, path) for path in ("/", "/rollouts", "/rollouts/checkout")]
    api.clock.advance(3600)
    after = await shown(api, "/")

    assert all("watched until" in page for page in during)
    assert "Nothing is being rolled out" not in during[0]
    assert "Nothing is being rolled out" in after


async def test_the_list_of_rollouts_has_the_newest_verdict_of_each_in_one_look(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("one", "two", "never"):
        await api.start_rollout(name)
    for name, number in (("one", 3), ("two", 1)):
        for _ in range(number):
            # Answers are given again for a few seconds.
            api.clock.advance(60)
            last = await api.gate(name)
    monkeypatch.delattr(GateService, "latest")

    newest = await api.app.state.gates.newest()
    page = await shown(api, "/rollouts")

    assert {name: (one.verdict, one.as_of - START) for name, one in newest.items()} == {
        "one": (last["verdict"], timedelta(minutes=3)),
        "two": (last["verdict"], timedelta(minutes=4)),
    }
    assert page.count("never asked") == 1


@pytest.mark.parametrize("path", ["/live/violation", "/live/rollout", "/live/rollout?" + "&".join(f"x{n}=1" for n in range(12))])
async def test_a_stream_that_lacks_what_it_is_of_is_refused(api: Api, path: str) -> None:
    assert (await api.client.get(path)).status_code == 422


async def test_no_number_of_other_parameters_hides_what_a_page_is_of(api: Api) -> None:
    await api.apply()
    page = await shown(api, "/rollouts/checkout?name=other&" + "&".join(f"x{n}=1" for n in range(12)))

    assert 'data-live="/live/rollout?name=checkout&amp;x0=1' in page


async def test_an_error_page_knows_who_is_signed_in(api: Api) -> None:
    page = await shown(api, "/rollouts/none", 404)

    assert "Sign out" in page
    assert 'href="/sign-in"' not in page


async def test_an_incident_is_told_in_order_with_whom_it_touched(api: Api) -> None:
    hostile = "<script>alert(1)</script>"
    await api.send(api.violation(grade="crossed", victim=api.side("a" * 16) | {"run_id": hostile}), service=f"chat{hostile}/x")
    await api.apply(service=f"chat{hostile}/x")
    api.clock.advance(5)
    for step in ("start", "rollback"):
        await api.step(step)
    api.clock.advance(1)

    listed = await shown(api, "/incidents?state=open")
    link = re.search(r'data-row href="(/incidents/[^"]+)"', listed)
    assert link
    page = await shown(api, link[1])

    assert "/incidents?state=open" in await shown(api, "/")
    assert "checkout" in listed
    assert page.index("first violation") < page.index("rollback</span>")
    assert "a" * 16 in page
    assert "18070f6e5d4c3b2a" in page
    assert "&lt;script&gt;alert(1)" in page
    assert not any(hostile in text for text in (listed, page))
    assert "No incident is like that" in await shown(api, "/incidents?state=ended")
    await shown(api, "/incidents/20260101T120000.000Z~nobody", 404)
    await shown(api, "/incidents?state=some", 422)


async def test_alerts_are_open_until_they_are_told_to_have_ended_and_link_to_their_runbook_here(api: Api) -> None:
    def webhook(status: str, name: str, **labels: str) -> dict[str, Any]:
        alert = {
            "status": status, "labels": {"alertname": name, "service": "chat", "severity": "critical", "action": "page"} | labels,
            "annotations": {"summary": f"about {name}", "runbook_url": f"https://evil.example/runbooks/{name}"},
            "startsAt": "2026-01-01T11:59:00Z", "endsAt": "2026-01-01T12:00:00Z", "fingerprint": name,
        }  # fmt: skip
        return {"version": "4", "groupKey": "g", "receiver": "page", "alerts": [alert]}

    for body in (
        webhook("firing", "SessionLeak"), webhook("firing", "LoopStall"), webhook("resolved", "LoopStall"),
        webhook("firing", "Cascade", synthetic="true"), webhook("firing", "DeadMansSwitch"),
    ):  # fmt: skip
        assert (
            await api.client.post(
                "/v1/alerts",
                content=json.dumps(body),
                headers={"Authorization": "Bearer token-that-sends", "content-type": "application/json"},
            )
        ).status_code == 200

    page = await shown(api, "/")

    assert "about SessionLeak" in page
    assert 'href="/runbooks/SessionLeak"' in page
    assert "about LoopStall" not in page
    assert "about Cascade" not in page
    assert "evil.example" not in page
    assert "Alerting is alive" in page


async def test_history_without_prometheus_counts_what_was_recorded_by_day(api: Api) -> None:
    yesterday = "2025-12-31T23:59:59Z"
    await api.send(
        api.violation(count=3, time=yesterday),
        api.violation(grade="hygiene", time=yesterday),
        api.violation(synthetic=True, time=yesterday),
        api.violation(time="2026-01-01T00:00:00Z"),
    )

    page = await shown(api, "/history")

    assert "2025-12-31: 3 violations recorded" in page
    assert "2026-01-01: 1 violations recorded" in page
    assert ">4 in 30 days" in page


async def test_sums_of_thirty_days_are_read_from_the_counts(api: Api) -> None:
    """Read from the records, they took longer than a page may with some millions of these."""
    asked: list[str] = []
    database = api.app.state.runtime.database
    ours = asyncio.current_task()

    def note(*about: Any) -> None:
        if asyncio.current_task() is ours:  # the collector's own looks go on meanwhile, and are others
            asked.append(about[2])

    event.listen(database._reader.sync_engine, "before_cursor_execute", note)
    await api.send(api.violation(count=3), api.violation(grade="hygiene"), api.violation(synthetic=True))
    await api.send(api.violation(), service="billing")
    asked.clear()

    found = await EvidenceService(database, api.clock).days(START - timedelta(hours=12), "chat")

    assert [(one.day, one.grade, one.number) for one in found] == [(START.date(), "hygiene", 1), (START.date(), "reachable", 3)]
    assert asked
    assert not any("FROM violations " in statement for statement in asked)


async def test_an_unmigrated_store_is_a_page_that_says_what_to_do_later(make_api: Callable[..., Any], empty_sqlite_url: str) -> None:
    async with make_api(empty_sqlite_url) as api:
        answer = await api.client.get("/", headers={"accept": "text/html", "cookie": "isomon_session=x"})

    assert answer.status_code == 503
    assert answer.headers["content-type"].startswith("text/html")
    assert "the store is not available" in answer.text


async def test_static_files_are_kept_by_browsers_until_they_change(api: Api) -> None:
    page = await shown(api, "/")
    for address in re.findall(r'"(/static/[^"]+)"', page):
        answer = await api.client.get(address)
        assert (answer.status_code, answer.headers["x-content-type-options"]) == (200, "nosniff")
        assert "immutable" in answer.headers["cache-control"]
    assert (await api.client.get("/static/..%2f..%2fapp.py")).status_code == 404


def test_addresses_within_this_site_stay_as_they_are() -> None:
    assert [local(target) for target in ("/violations?kind=x&last=1h", "//evil.example", "/\\evil.example", "https://x", "x")] == [
        "/violations?kind=x&last=1h", "/", "/", "/", "/",
    ]  # fmt: skip
