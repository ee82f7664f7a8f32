"""Starts and ends of processes: what their records tell, on either database, over HTTP and as pages."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from isolation_monitor.collector.clock import rfc3339
from isolation_monitor.collector.lifecycle.domain import read_record
from isolation_monitor.collector.web.lifecycle_pages import LOOKS
from isolation_monitor.telemetry import names
from tests.collector.conftest import START, Api
from tests.collector.test_web_ci import api as signed_in
from tests.collector.test_web_ci import shown

__all__ = ["signed_in"]

STACK = ["shop/app.py:12 connect", "shop/database.py:40 open_pool"]
PHASES = [
    {"phase": "settings", "state": "done", "duration_s": 0.2, "error": None},
    {"phase": "database", "state": "done", "duration_s": 42.0, "error": None},
]


def hanging(api: Api, seconds: float, **changes: object) -> dict[str, Any]:
    about = {"state": "hanging", "phase": "database", "duration_s": 12.0, "waits_for": "a lock of migrations", "stack": STACK}
    return {"type": "startup", "id": f"hang-{seconds:g}", "time": rfc3339(START + timedelta(seconds=seconds))} | about | changes


def started(api: Api, seconds: float, state: str = "ready", **changes: object) -> dict[str, Any]:
    about = {"state": state, "duration_s": 42.5, "phases": PHASES}
    return {"type": "startup", "id": f"{state}-{seconds:g}", "time": rfc3339(START + timedelta(seconds=seconds))} | about | changes


def cleaned(api: Api, seconds: float, left: dict[str, int], outcome: str = "done", **changes: object) -> dict[str, Any]:
    step = {"name": "pool", "outcome": outcome, "duration_s": 1.5, "forced": outcome != "done", "error": None}
    detail = {"tasks": ["shop/feed.py:7 follow"]} if "tasks" in left else {}
    about = {"reason": "signal", "duration_s": 1.6, "steps": [step], "left": left, "detail": detail}
    return {"type": "cleanup", "id": f"cleanup-{seconds:g}", "time": rfc3339(START + timedelta(seconds=seconds))} | about | changes


async def test_each_kind_is_found_newest_first_and_by_service(api: Api) -> None:
    failed = [{"phase": "database", "state": "failed", "duration_s": 1.0, "error": "ConnectionRefusedError"}]
    await api.send(
        hanging(api, 1), started(api, 2), started(api, 3, "failed", phases=failed), cleaned(api, 4, {}), cleaned(api, 5, {"tasks": 2})
    )
    await api.send(hanging(api, 6), service="payments")
    await api.send({"type": "newer", "id": "newer-1", "time": rfc3339(START), "state": "hanging"})

    async def ids(question: str) -> list[str]:
        return [one["id"] for one in (await api.get(f"/v1/lifecycle?{question}")).json()["items"]]

    assert await ids("") == ["hang-6", "cleanup-5", "cleanup-4", "failed-3", "ready-2", "hang-1"]
    assert await ids("service=chat&kind=hanging") == ["hang-1"]
    assert await ids("kind=failed") == ["failed-3"]
    assert await ids("kind=startup&service=chat") == ["failed-3", "ready-2", "hang-1"]
    assert await ids("kind=left") == ["cleanup-5"]
    assert await ids("kind=cleanup") == ["cleanup-5", "cleanup-4"]
    assert await ids(f"since={rfc3339(START + timedelta(seconds=5))}&kind=cleanup") == ["cleanup-5"]
    first = (await api.get("/v1/lifecycle?limit=4&service=chat")).json()
    assert [one["id"] for one in (await api.get(first["next"])).json()["items"]] == ["hang-1"]
    assert (await api.get("/v1/lifecycle/failed-3")).json()["phases"][0]["error"] == "ConnectionRefusedError"
    assert (await api.get("/v1/lifecycle/newer-1")).status_code == 404


async def test_one_of_them_stands_with_what_else_its_process_told(api: Api) -> None:
    await api.send(hanging(api, 1), started(api, 30), cleaned(api, 90, {"tasks": 1, "files": 3}, "timed_out"))
    await api.send(started(api, 31, id="another-process"), instance="host:2:1")

    told = (await api.get("/v1/lifecycle/cleanup-90")).json()

    assert (told["state"], told["reason"], told["left"]) == ("left", "signal", {"tasks": 1, "files": 3})
    assert told["detail"] == {"tasks": ["shop/feed.py:7 follow"]}
    assert told["steps"] == [{"name": "pool", "outcome": "timed_out", "duration_s": 1.5, "forced": True, "error": None}]
    assert [one["id"] for one in told["others"]] == ["hang-1", "ready-30"]
    assert told["others"][0]["stack"] == STACK


async def test_a_container_that_is_started_again_under_the_same_name_is_another_process(api: Api) -> None:
    """Its host's name and its process number, which is 1, are those of before."""
    await api.send(hanging(api, 1), hanging(api, 13, duration_s=24), hanging(api, 60), started(api, 80), cleaned(api, 900, {}))
    await api.send(hanging(api, 910), started(api, 990), started(api, 1000, "failed"), cleaned(api, 1001, {}))

    async def others(record_id: str) -> list[str]:
        return [one["id"] for one in (await api.get(f"/v1/lifecycle/{record_id}")).json()["others"]]

    assert await others("hang-1") == ["hang-13"], "killed while it hung"
    assert await others("cleanup-900") == ["hang-60", "ready-80"]
    assert await others("hang-910") == ["ready-990"]
    assert await others("cleanup-1001") == ["failed-1000"]


@pytest.mark.parametrize(
    "body",
    [
        {"state": 7, "duration_s": "long", "phases": {"a": 1}, "stack": "here", "waits_for": None},
        {"state": "hanging", "duration_s": -1, "phases": [None, 3, {"state": "done"}, {"phase": "x" * 5000}], "stack": [1, "a b"]},
        {"steps": "none", "left": [1], "detail": {"tasks": "one"}, "reason": {}},
        {"left": {"tasks": True, "files": "3", "sockets": 2}, "detail": {"sockets": [{}, "s"]}, "steps": [{"name": "a", "outcome": None}]},
        {},
    ],
)
@pytest.mark.parametrize("type", ["startup", "cleanup"])
def test_a_record_of_any_shape_is_read_as_far_as_it_can_be(type: str, body: dict[str, Any]) -> None:
    """They are kept as they came: what one service sends must not close the page of all others."""
    read = read_record("i", "chat", "host:1:1", START, START, type, body)

    assert all(isinstance(one.name, str) and len(one.name) <= 1000 for one in read.parts)
    assert all(isinstance(line, str) for line in read.stack)
    assert set(read.left) <= {"sockets"}
    assert read.duration_s is None or read.duration_s >= 0


class TestPages:
    async def test_a_phase_that_hangs_stands_first_with_its_stack_until_the_start_is_over(self, signed_in: Api) -> None:
        api = signed_in
        await api.send(hanging(api, -100, duration_s=12), hanging(api, -80, duration_s=24))
        await api.send(hanging(api, -9000, id="long-ago"), instance="host:9:1")

        page = await shown(api, "/lifecycle?service=chat&kind=hanging")

        card = page[: page.index("What processes told")]
        assert card.count("phase database</a>") == 1, "the newest word of each phase"
        assert all(text in card for text in ("24 s so far", "open_pool", "shop/database.py:40", "a lock of migrations"))
        assert "host:9:1" not in card, "one that was killed tells nothing any more"

        await api.send(started(api, -10))
        page = await shown(api, "/lifecycle?service=chat")
        assert "No phase of a start-up was told to hang" in page
        story = await shown(api, "/lifecycle/hang--80")
        assert 'It went on: <a href="/lifecycle/ready--10">the start-up was done</a>' in story

    async def test_a_start_that_hangs_is_not_over_with_that_of_a_neighbour(self, signed_in: Api) -> None:
        """Containers of one pod have its host's name, and each of them a process 1."""
        api = signed_in
        await api.send(hanging(api, -100))
        await api.send(hanging(api, -90), service="payments")
        await api.send(started(api, -80), service="worker")

        page = await shown(api, "/lifecycle")
        card = page[: page.index("What processes told")]
        assert card.count("phase database</a>") == 2

        await api.send(started(api, -70), service="payments")
        page = await shown(api, "/lifecycle")
        card = page[: page.index("What processes told")]
        assert "/lifecycle/hang--100" in card
        assert "/lifecycle/hang--90" not in card

    async def test_phases_have_their_durations_and_clean_ups_what_they_left(self, signed_in: Api) -> None:
        api = signed_in
        await api.send(started(api, 1), cleaned(api, 2, {"tasks": 1, "files": 3}, "timed_out"))

        start, end = await shown(api, "/lifecycle/ready-1"), await shown(api, "/lifecycle/cleanup-2")
        listed = await shown(api, "/lifecycle?kind=left")

        assert "<h1>Start-up done</h1>" in start
        assert '<rect class="fill live" width="100.0"' in start
        assert "42 s" in start
        assert "shop/feed.py:7 follow" in end
        assert "in the log of the process" in end
        assert '<span class="tag warn">forced</span>' in end
        assert '<span class="tag bad">files: 3</span>' in listed

    async def test_nothing_of_a_hostile_record_becomes_markup(self, signed_in: Api) -> None:
        evil = '"><script>window.pwned=1</script>'
        api = signed_in
        await api.send(
            hanging(api, -1, phase=evil, waits_for=evil, stack=[evil, f"{evil} {evil}"]),
            started(api, 0, evil, id="evil-1", phases=[{"phase": evil, "state": evil, "duration_s": 1, "error": evil}]),
            cleaned(api, 0, {evil: 1}, id="evil-2", detail={evil: [evil]}, reason=evil),
        )

        for path in ("/lifecycle", "/lifecycle/hang--1", "/lifecycle/evil-1", "/lifecycle/evil-2"):
            assert "<script>window" not in await shown(api, path)

    async def test_what_cannot_be_asked_is_said(self, signed_in: Api) -> None:
        assert "kind is one of" in await shown(signed_in, "/lifecycle?kind=slow", 422)
        assert "cursor is not one of ours" in await shown(signed_in, "/lifecycle?cursor=x", 422)
        await shown(signed_in, "/lifecycle/none", 404)
        assert "No process has told" in await shown(signed_in, "/lifecycle")


def test_every_outcome_that_telemetry_tells_has_a_look_or_is_grey_on_purpose() -> None:
    from typing import get_args

    from isolation_monitor.telemetry.lifecycle.cleanup import Outcome

    assert set(get_args(Outcome)) - set(LOOKS) == {"not_needed"}
    assert names.LEFT_RESOURCES
