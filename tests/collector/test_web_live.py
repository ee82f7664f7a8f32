"""Streams that keep pages current: bounded in number, over with the session, and never in the way of the collector's end."""

from __future__ import annotations

import contextlib
import json
import time
import urllib.parse
from collections.abc import Iterator
from pathlib import Path

import httpx2
import pytest

from tests.real_parts.collector import Collector, collector
from tests.real_parts.processes import PATIENCE_S, eventually

STREAM = {"Accept": "text/event-stream"}


@pytest.fixture
def running(tmp_path: Path) -> Iterator[Collector]:
    with collector(tmp_path, settings={"COLLECTOR_WEB_STREAMS": "3"}) as found:
        yield found


@contextlib.contextmanager
def visitor(running: Collector) -> Iterator[httpx2.Client]:
    """Somebody who is signed in."""
    with httpx2.Client(base_url=running.url, timeout=PATIENCE_S, trust_env=False) as client:
        answer = client.post("/sign-in", data={"token": running.read_token})
        assert answer.status_code == 303
        yield client


def events(answer: httpx2.Response) -> Iterator[tuple[str, dict[str, str]]]:
    """Yield name and content of each event of a stream."""
    name = ""
    for line in answer.iter_lines():
        if line.startswith("event: "):
            name = line.removeprefix("event: ")
        elif line.startswith("data: "):
            yield name, json.loads(line.removeprefix("data: "))


def send(running: Collector, record_id: str, now: str) -> None:
    record = {
        "type": "violation", "id": record_id, "time": now, "kind": "wrong_socket", "grade": "crossed", "detector": "wrong_socket",
        "synthetic": False, "summary": f"seen as {record_id}",
    }  # fmt: skip
    batch = {"schema": "records/1", "service": "chat", "instance": "i", "sent_at": now, "records": [record]}
    httpx2.post(f"{running.url}/v1/records", json=batch, headers=running.sending, trust_env=False).raise_for_status()


def test_a_stream_tells_the_parts_of_a_page_and_then_only_what_changed(running: Collector) -> None:
    with visitor(running) as client, client.stream("GET", "/live/overview", headers=STREAM) as answer:
        told = events(answer)
        first = [next(told) for _ in range(5)]
        send(running, "v-1", "2026-01-01T12:00:00Z")
        # An old one is no defect of the last 24 hours: nothing changes, and nothing is sent. This one does change something:
        send(running, "v-2", time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()))
        name, content = next(told)

    assert answer.headers["content-type"].startswith("text/event-stream")
    assert answer.headers["cache-control"] == "no-store"
    assert [one for one, _ in first] == ["hello", "region", "region", "region", "region"]
    assert [one["region"] for _, one in first[1:]] == ["verdicts", "alerts", "defects", "live_rollouts"]
    assert (name, content["region"]) == ("region", "verdicts")
    assert "1 crossed" in content["html"]


def test_an_incident_that_begins_comes_to_the_list_and_goes_on_in_its_own_story(running: Collector) -> None:
    now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    with visitor(running) as client:
        with client.stream("GET", "/live/incidents?state=open", headers=STREAM) as answer:
            told = events(answer)
            empty = [next(told) for _ in range(2)][1][1]["html"]
            send(running, "v-1", now)
            listed = next(told)[1]["html"]
        incident = listed.partition('href="/incidents/')[2].partition('"')[0]
        with client.stream("GET", "/live/incident", params={"id": urllib.parse.unquote(incident)}, headers=STREAM) as answer:
            told = events(answer)
            begun = [next(told) for _ in range(2)][1][1]
            send(running, "v-2", now)
            grown = next(told)[1]["html"]

    assert "No incident is like that" in empty
    assert "chat" in listed
    assert begun["region"] == "incident"
    assert ("<dt>Violations</dt><dd>1</dd>" in begun["html"], "<dt>Violations</dt><dd>2</dd>" in grown) == (True, True)


def test_no_more_streams_than_the_setting_allows_and_a_place_is_free_again(running: Collector) -> None:
    with visitor(running) as client:
        with contextlib.ExitStack() as streams:
            # Kept: a response whose lines nobody holds any more is closed by its client.
            told = [events(streams.enter_context(client.stream("GET", "/live/runs", headers=STREAM))) for _ in range(3)]
            assert [next(one)[0] for one in told] == ["hello"] * 3
            refused = client.get("/live/runs", headers=STREAM)
            page = client.get("/runs")

        def free() -> bool:
            with client.stream("GET", "/live/runs", headers=STREAM) as answer:
                return answer.status_code == 200 and next(events(answer))[0] == "hello"

        eventually(free, "a place is free after the others left")
    assert (refused.status_code, refused.headers["retry-after"]) == (503, "30")
    assert "3 pages are kept live already" in refused.json()["detail"]
    assert page.status_code == 200


def test_open_streams_do_not_keep_the_collector_from_ending(running: Collector) -> None:
    """uvicorn waits for its connections to end, and a stream has no end of its own."""
    with visitor(running) as client, contextlib.ExitStack() as streams:
        paths = ("/live/overview", "/live/violations", "/live/rollouts")
        told = [events(streams.enter_context(client.stream("GET", path, headers=STREAM))) for path in paths]
        assert [next(one)[0] for one in told] == ["hello"] * 3

        running.process.terminate()

        assert running.process.wait(PATIENCE_S) in (0, -15)


def test_signing_out_ends_the_streams_of_the_session(running: Collector) -> None:
    with visitor(running) as client, client.stream("GET", "/live/detectors", headers=STREAM) as answer:
        told = events(answer)
        assert next(told)[0] == "hello"
        client.post("/sign-out")

        assert [name for name, _ in told][-1] == "signed-out"


@pytest.mark.parametrize(
    ("path", "status"),
    [("/live/nothing", 404), ("/live/history", 404), ("/live/violation?id=none", 404), ("/live/violations?grade=worst", 422)],
)
def test_what_is_no_page_has_no_stream(running: Collector, path: str, status: int) -> None:
    with visitor(running) as client:
        assert client.get(path, headers=STREAM).status_code == status


def test_nobody_hears_a_stream_without_a_session(running: Collector) -> None:
    answer = httpx2.get(f"{running.url}/live/overview", headers=STREAM | running.reading, trust_env=False)

    assert answer.status_code == 401
