"""What `/metrics` shows of gates, and what rollout tools make of it on a real Prometheus: Argo's and Flagger's queries."""

from __future__ import annotations

import json
import threading
import urllib.parse
import urllib.request
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from prometheus_client import CollectorRegistry, generate_latest

from isolation_monitor.collector.gate_metrics import STALE_AFTER_S, GateMetrics, evidence_ratio
from tests.collector.conftest import Api
from tests.consumers import argo, flagger
from tests.consumers.files import argo_metric, load
from tests.real_parts.processes import eventually
from tests.real_parts.prometheus import Prometheus, prometheus

CODES = {"pass": 1, "inconclusive": 0, "fail": -1, "error": -2}


def answer(verdict: str, rollout: str = "r", **changes: object) -> dict[str, Any]:
    return {
        "schema": "gate/v1", "rollout": rollout, "service": "chat", "verdict": verdict, "verdict_code": CODES[verdict], "reasons": [],
        "metrics": {"requests": 10}, "thresholds": {"min_exposed_requests": 300},
        "started_at": "2026-01-01T12:00:00.000Z", "as_of": "2026-01-01T13:30:00.000Z",
    } | changes  # fmt: skip


class Shown:
    """The gauges as text, at a time that the test decides."""

    def __init__(self) -> None:
        self.now_s = 0.0
        self.metrics = GateMetrics(lambda: self.now_s)
        self._registry = CollectorRegistry()
        self._registry.register(self.metrics)

    def evaluate(self, of: dict[str, Any]) -> None:
        self.metrics.evaluated(of["rollout"], of["verdict"], 1767268800.0)
        self.metrics.answered(of)

    def samples(self) -> dict[str, float]:
        lines = generate_latest(self._registry).decode().splitlines()
        return {line.rsplit(" ", 1)[0]: float(line.rsplit(" ", 1)[1]) for line in lines if not line.startswith("#")}


@pytest.fixture
def shown() -> Shown:
    return Shown()


@pytest.mark.parametrize(("verdict", "code", "waiting"), [("pass", 1, 0), ("inconclusive", 0, 5400), ("fail", -1, 0), ("error", -2, 5400)])
def test_a_verdict_is_shown_as_a_label_and_as_a_number(shown: Shown, verdict: str, code: int, waiting: float) -> None:
    shown.evaluate(answer(verdict))

    found = shown.samples()
    assert [name for name in CODES if found[f'isolation_gate_verdict{{rollout="r",verdict="{name}"}}'] == 1] == [verdict]
    assert found['isolation_gate_verdict_code{rollout="r",service="chat"}'] == code
    assert found['isolation_gate_waiting_seconds{rollout="r",service="chat"}'] == waiting
    assert found['isolation_gate_value{name="requests",rollout="r",service="chat"}'] == 10
    assert found['isolation_gate_threshold{name="min_exposed_requests",rollout="r",service="chat"}'] == 300


def test_a_gate_that_nobody_evaluates_any_more_says_nothing(shown: Shown) -> None:
    """A frozen pass would promote a rollout whose gate has been dead for hours."""
    shown.evaluate(answer("pass"))
    shown.now_s = STALE_AFTER_S
    before = shown.samples()

    shown.now_s = STALE_AFTER_S + 1

    assert 'isolation_gate_verdict_code{rollout="r",service="chat"}' in before
    assert list(shown.samples()) == ['isolation_gate_last_evaluation_timestamp_seconds{rollout="r"}']


def test_the_longest_unseen_rollout_leaves_when_there_are_too_many(shown: Shown) -> None:
    for number in range(201):
        shown.evaluate(answer("pass", f"r{number}"))

    codes = [name for name in shown.samples() if name.startswith("isolation_gate_verdict_code")]
    assert len(codes) == 200
    assert not any('"r0"' in name for name in codes)


@pytest.mark.parametrize(
    ("verdict", "reasons", "expected"),
    [
        ("pass", [], 1.0),
        ("fail", [{"state": "fail", "have": 1, "need": 0}], 1.0),
        ("error", [{"state": "error"}], None),
        ("inconclusive", [{"state": "inconclusive", "have": 210, "need": 420}], 0.5),
        ("inconclusive", [{"state": "inconclusive", "have": 210, "need": 420}, {"state": "inconclusive", "have": 1, "need": 4}], 0.25),
        ("inconclusive", [{"state": "inconclusive"}], 0.0),
        ("inconclusive", [{"state": "inconclusive", "have": 9, "need": 3}], 1.0),
    ],
)
def test_the_evidence_is_that_of_the_trigger_that_lacks_most(verdict: str, reasons: list[dict[str, Any]], expected: float | None) -> None:
    assert evidence_ratio({"verdict": verdict, "reasons": reasons}) == expected


async def test_the_collector_shows_the_numbers_of_a_real_evaluation(api: Api) -> None:
    await api.start_rollout(min_exposed_requests=7)
    await api.gate()

    text = (await api.get("/metrics")).text

    assert 'isolation_gate_verdict_code{rollout="canary-1",service="chat"} -2.0' in text
    assert 'isolation_gate_threshold{name="min_exposed_requests",rollout="canary-1",service="chat"} 7.0' in text
    assert "isolation_gate_evaluation_duration_seconds_count 1.0" in text


# --- the queries of deploy/ on a real Prometheus ----------------------------------------------------------------------


class Target:
    """A metrics page that the test writes."""

    def __init__(self) -> None:
        self.text = ""
        self.version = 0
        target = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                body = f"{target.text}\ntest_version {target.version}\n".encode()
                self.send_response(200)
                self.send_header("Content-Type", "text/plain; version=0.0.4")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, format: str, *args: Any) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()


class Watched:
    """A real Prometheus that reads the test's page."""

    def __init__(self, prometheus: Prometheus, target: Target) -> None:
        self.prometheus = prometheus
        self._target = target

    def shows(self, text: str) -> None:
        """Wait until Prometheus has read this page twice: some queries need two samples."""
        self._target.text = text
        for _ in range(2):
            self._target.version += 1
            eventually(lambda: self.prometheus.value("test_version") == self._target.version, "the page is read")

    def answer(self, query: str) -> bytes:
        url = f"{self.prometheus.url}/api/v1/query?{urllib.parse.urlencode({'query': ' '.join(query.split())})}"
        with urllib.request.urlopen(url, timeout=20) as found:
            return bytes(found.read())

    def samples(self, query: str) -> list[float]:
        return [float(series["value"][1]) for series in json.loads(self.answer(query))["data"]["result"]]


@pytest.fixture(scope="module")
def watched(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Watched]:
    target = Target()
    config = f"""
global: {{scrape_interval: 250ms, scrape_timeout: 250ms}}
scrape_configs:
  - {{job_name: collector, static_configs: [{{targets: ["127.0.0.1:{target.server.server_port}"]}}]}}
"""
    try:
        with prometheus(tmp_path_factory.mktemp("prometheus"), config) as running:
            yield Watched(running, target)
    finally:
        target.server.shutdown()
        target.server.server_close()


def page(code: int, at: str) -> str:
    return (
        f'isolation_gate_verdict_code{{service="chat",rollout="checkout-v2"}} {code}\n'
        f'isolation_gate_verdict_code{{service="chat",rollout="other"}} -1\n'
        f'isolation_gate_last_evaluation_timestamp_seconds{{rollout="checkout-v2"}} {at}\n'
        f'isolation_gate_last_evaluation_timestamp_seconds{{rollout="other"}} {at}\n'
    )


def test_argo_reads_each_verdict_from_prometheus_and_never_a_stale_one(watched: Watched) -> None:
    metric = argo_metric("analysis-template-prometheus.yaml", rollout="checkout-v2")
    query = metric["provider"]["prometheus"]["query"]
    now = str(json.loads(watched.answer("time()"))["data"]["result"][1])

    phases = {}
    for verdict, code in CODES.items():
        watched.shows(page(code, now))
        phases[verdict] = argo.prometheus(metric, watched.samples(query))
    watched.shows(page(1, str(float(now) - 200)))
    stale = argo.prometheus(metric, watched.samples(query))
    watched.shows("")
    eventually(lambda: watched.samples(query) == [], "the series are gone")

    assert phases == {"pass": "Successful", "fail": "Failed", "inconclusive": "Inconclusive", "error": "Inconclusive"}
    assert stale == "Inconclusive"
    assert argo.prometheus(metric, watched.samples(query)) == "Inconclusive"


@pytest.mark.parametrize("samples", [[float("nan")], [1.0, 1.0], [], [float("inf")], [0.5]])
def test_argo_takes_nothing_but_one_whole_verdict(samples: list[float]) -> None:
    assert argo.prometheus(argo_metric("analysis-template-prometheus.yaml", rollout="r"), samples) == "Inconclusive"


def violations(**by_arm: int) -> str:
    series = [
        f'isolation_violations_total{{service="checkout",kind="{kind}",grade="{grade}",arm="{arm}",synthetic="{synthetic}"}}'
        for arm in ("on", "off")
        for kind, grade, synthetic in (("wrong_socket", "crossed", "false"), ("slow", "hygiene", "false"), ("drilled", "crossed", "true"))
    ]
    changed = {"on": 0, "off": 0, "hygiene": 0, "drill": 0} | by_arm
    values = [changed["on"], changed["hygiene"], changed["drill"], changed["off"], 0, 0]
    return "\n".join(f"{name} {value}" for name, value in zip(series, values, strict=True))


def test_flaggers_metric_sees_every_new_violation_of_its_arm_and_nothing_else(watched: Watched) -> None:
    canary = load("flagger/canary.yaml")
    (metric,) = canary["spec"]["analysis"]["metrics"]
    template = load("flagger/metric-template.yaml")["spec"]["query"]
    query = flagger.render(template, {"interval": "3s"}, metric["templateVariables"])
    checks = {}

    def check(name: str, text: str) -> None:
        watched.shows(text)
        found = watched.answer(query)
        # Flagger takes the last of several series and says nothing: there is exactly one.
        assert len(json.loads(found)["data"]["result"]) == 1, name
        checks[name] = flagger.metric_passes(metric, flagger.metric_value(found))

    check("no series at all", "")
    check("clean", violations())
    check("other arm, hygiene and drills", violations(off=3, hygiene=4, drill=5))
    check("one violation", violations(on=1))
    eventually(lambda: flagger.metric_value(watched.answer(query)) == 0, "what is older than the interval counts no more")
    watched.shows("")
    eventually(lambda: watched.samples('isolation_violations_total{arm="on"}') == [], "the worker died")
    born = violations(on=1).replace('kind="wrong_socket"', 'kind="born"')
    check("born with a violation", born)

    assert checks == {
        "no series at all": True,
        "clean": True,
        "other arm, hygiene and drills": True,
        "one violation": False,
        "born with a violation": False,
    }


def test_flagger_would_take_no_series_for_a_failed_check_without_the_default() -> None:
    with pytest.raises(flagger.NoValuesFound):
        flagger.metric_value(b'{"data":{"result":[]}}')
