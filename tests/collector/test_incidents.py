"""Incidents: what lies together is told once and in order; what does not is told apart; what was only accepted or planted is none."""

from __future__ import annotations

from typing import Any

from tests.collector.conftest import READ, Api
from tests.collector.test_alerts import alert, delivery, post


async def listed(api: Api, query: str = "") -> list[dict[str, Any]]:
    answer = await api.get(f"/v1/incidents{query}")
    assert answer.status_code == 200, answer.text
    return list(answer.json()["items"])


async def told(api: Api, incident_id: str) -> dict[str, Any]:
    answer = await api.get(f"/v1/incidents/{incident_id}")
    assert answer.status_code == 200, answer.text
    return dict(answer.json())


async def test_alert_violations_and_rollback_are_one_incident_told_in_order(api: Api) -> None:
    await api.send(api.violation(id="v-1", grade="crossed", victim=api.side("a" * 16) | {"run_id": "run-1"}))
    api.clock.advance(0.5)
    assert (await api.apply()).status_code == 201
    await api.step("start")
    api.clock.advance(1.5)
    await post(api, delivery(alert(startsAt="2026-01-01T12:00:01Z")))
    await api.step("rollback")
    api.clock.advance(30)
    await api.send(api.violation(id="v-2", grade="crossed"))
    api.clock.advance(10)
    await post(api, delivery(alert(startsAt="2026-01-01T12:00:01Z", status="resolved", endsAt="2026-01-01T12:00:40Z")))

    (open_one,) = await listed(api, "?state=open")
    story = await told(api, open_one["id"])
    api.clock.advance(700)
    (ended,) = await listed(api)

    what = [step["what"] for step in story["story"]]
    assert what == ["first_violation", "rollout", "rollout", "alert_fired", "rollback", "last_violation", "alert_resolved"]
    assert story["affected"]["users"] == 3
    assert story["affected"]["runs"] == ["run-1"]
    assert (open_one["alerts"], open_one["violations"], open_one["rollbacks"]) == (["IsolationViolation"], 2, ["checkout"])
    assert (ended["state"], ended["started_at"], ended["ended_at"]) == ("ended", "2026-01-01T12:00:00.000Z", "2026-01-01T12:00:40.000Z")
    assert await listed(api, "?state=open") == []


async def test_another_service_and_a_later_time_are_other_incidents(api: Api) -> None:
    await api.send(api.violation(grade="crossed"))
    await api.send(api.violation(grade="crossed"), service="billing")
    api.clock.advance(7200)
    await api.send(api.violation(grade="crossed"))

    found = await listed(api)

    assert [(item["service"], item["started_at"][11:16]) for item in found] == [("chat", "14:00"), ("chat", "12:00"), ("billing", "12:00")]
    assert [item["service"] for item in await listed(api, "?service=billing")] == ["billing"]
    assert len(await listed(api, "?since=2026-01-01T13:00:00Z")) == 1


async def test_an_id_holds_although_an_older_record_comes_late(api: Api) -> None:
    await api.send(api.violation(grade="crossed"))
    (before,) = await listed(api)
    await api.send(api.violation(grade="crossed", time="2026-01-01T11:58:00.000Z"))

    after = await told(api, before["id"])

    assert after["started_at"] == "2026-01-01T11:58:00.000Z"
    assert after["id"] != before["id"]
    assert after["violations"] == 2


async def test_what_is_planted_accepted_retracted_or_mere_hygiene_is_no_incident(api: Api) -> None:
    await api.send(
        api.violation(synthetic=True, grade="crossed"),
        api.violation(grade="crossed", detail={"suppressed": {"reason": "known", "expires": "2026-02-01"}}),
        api.violation(id="r", grade="crossed"),
        api.retraction("r"),
        api.violation(grade="hygiene"),
    )
    await post(api, delivery(alert(labels={"alertname": "IsolationViolation", "service": "drill:1", "severity": "critical"})))
    await post(api, delivery(alert(fingerprint="p", labels={"alertname": "X", "service": "chat", "synthetic": "true"})))
    await post(api, delivery(alert(fingerprint="d", labels={"alertname": "DeadMansSwitch"})))

    assert await listed(api) == []


async def test_what_is_not_listed_is_not_told_either(api: Api) -> None:
    await api.send(api.violation(grade="crossed", detail={"suppressed": {"reason": "known", "expires": "2026-02-01"}}))

    answer = await api.get("/v1/incidents/20260101T120000.000Z~chat")

    assert (await listed(api), answer.status_code) == ([], 404)


async def test_an_alert_that_nobody_speaks_of_any_more_is_over_and_says_so(api: Api) -> None:
    """Alertmanager repeats itself at least daily; its end may have been lost on the way."""
    await post(api, delivery(alert()))
    api.clock.advance(27 * 3600)

    (item,) = await listed(api)
    story = await told(api, item["id"])

    assert item["state"] == "ended"
    assert "not delivered" in story["story"][-1]["text"]


async def test_one_alert_in_two_groups_is_told_once(api: Api) -> None:
    await post(api, delivery(alert()))
    await post(api, delivery(alert(), groupKey="another"))

    (item,) = await listed(api)

    assert [step["what"] for step in (await told(api, item["id"]))["story"]] == ["alert_fired"]


async def test_what_is_no_incident_is_404_and_needs_the_read_token(api: Api) -> None:
    for wrong in ("nonsense", "20260101T120000.000Z~chat", "99999999T000000.000Z~chat", "~"):
        assert (await api.get(f"/v1/incidents/{wrong}")).status_code == 404
    assert (await api.get("/v1/incidents", token=None)).status_code == 401
    assert READ
