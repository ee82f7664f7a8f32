"""Every operation of the OpenAPI document, asked by schemathesis on a real collector: no input of any shape is a defect of ours.

The same requests each time, of every shape that the document allows and of many that it does not. Its own sender is not used: it looks
into urllib3, in whose place grafana-client's client puts another.
"""

from __future__ import annotations

import json
import urllib.request
from contextlib import suppress
from pathlib import Path

import pytest
import requests
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis.errors import Unsatisfiable
from hypothesis.strategies import SearchStrategy
from schemathesis import Case, GenerationMode

from tests.real_parts.collector import Collector, collector

OPERATIONS = 28
"""There are so many; fewer would mean that the document lost some."""
SENDING = {"POST /v1/records", "POST /v1/logs", "POST /v1/alerts", "POST /v1/ci/runs", "POST /v1/container-actions"}
EXAMPLES = 25


def test_bodies_stand_in_the_document_whole(tmp_path: Path) -> None:
    with collector(tmp_path) as running, urllib.request.urlopen(f"{running.url}/openapi.json", timeout=30) as answer:
        document = json.load(answer)

    bodies = {
        f"{method} {path}"
        for path, operations in document["paths"].items()
        for method, operation in operations.items()
        if operation.get("requestBody")
    }
    assert bodies >= {"post /v1/records", "post /v1/alerts", "put /v1/rollouts/{name}", "post /flagger/check"}
    records = document["paths"]["/v1/records"]["post"]["requestBody"]["content"]["application/json"]["schema"]
    assert {"schema", "service", "instance", "sent_at", "records"} <= set(records["required"])
    assert "$defs" not in json.dumps(document)


@pytest.mark.slow
@pytest.mark.parametrize("mode", [GenerationMode.POSITIVE, GenerationMode.NEGATIVE], ids=lambda mode: str(mode.value))
def test_no_request_of_any_shape_is_a_defect(tmp_path: Path, mode: GenerationMode) -> None:
    with collector(tmp_path) as running:
        with urllib.request.urlopen(f"{running.url}/openapi.json", timeout=30) as answer:
            schema = schemathesis.openapi.from_dict(json.load(answer))
        operations = [found.ok() for found in schema.get_all_operations()]
        with requests.Session() as session:
            # Nothing of the environment: no proxy stands between, and no netrc has other tokens.
            session.trust_env = False
            statuses = {one.label: statuses_of(session, running, one.as_strategy(generation_mode=mode)) for one in operations}
        log = (tmp_path / "collector.log").read_text()

    assert len(operations) >= OPERATIONS
    assert {label: found for label, found in statuses.items() if any(status >= 500 for status in found)} == {}, log[-4000:]
    assert "defect while answering" not in log
    turned_away = {label for label, found in statuses.items() if found and found <= {401, 403}}
    assert turned_away == set(), "the token was not one for these: nothing of them was tried"
    # They were asked, and not all were turned away at the door.
    assert sum(bool(found) for found in statuses.values()) >= (OPERATIONS if mode is GenerationMode.POSITIVE else OPERATIONS // 2)
    assert mode is GenerationMode.NEGATIVE or sum(200 in found for found in statuses.values()) >= 5


def statuses_of(session: requests.Session, running: Collector, cases: SearchStrategy[Case]) -> set[int]:
    """Send so many cases, the same each time, and return the statuses of the answers."""
    found = set[int]()

    @settings(
        max_examples=EXAMPLES, derandomize=True, database=None, deadline=None, phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )  # fmt: skip
    @given(case=cases)
    def ask(case: Case) -> None:
        found.add(status_of(session, running, case))

    # Where there is nothing to get wrong, as for /healthz, no case of the negative kind exists.
    with suppress(Unsatisfiable):
        ask()
    return found


def status_of(session: requests.Session, running: Collector, case: Case) -> int:
    """Send a case with the token that its route asks for, and return the status of the answer, which is a problem or a success."""
    sending = case.operation.label in SENDING
    asked = case.as_transport_kwargs(base_url=running.url)
    asked["headers"] = {name: value for name, value in dict(asked.get("headers") or {}).items() if name.lower() != "authorization"}
    asked["headers"] |= running.sending if sending else running.reading
    answer = session.request(**asked, timeout=60, allow_redirects=False)
    assert not 300 <= answer.status_code < 400 or answer.status_code == 304, f"{case.operation.label} redirects"
    if answer.status_code >= 400 and not case.operation.path.startswith("/ofrep"):
        assert answer.headers["content-type"] == "application/problem+json", case.operation.label
    return answer.status_code
