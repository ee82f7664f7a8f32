"""Every consumer's own rule on the collector's own answers: what Argo Rollouts and Flagger do for each verdict."""

from __future__ import annotations

import base64
import json
from collections.abc import AsyncIterator, Callable
from typing import Any
from urllib.parse import urlsplit

import httpx2
import pytest

from isolation_monitor.collector.gates.domain import VERDICT_CODES
from isolation_monitor.collector.storage.database import StoreUnavailable
from tests.collector.conftest import READ, SEND, Api, bearer
from tests.consumers import argo, flagger
from tests.consumers.files import argo_metric, load

VERDICTS = ("pass", "fail", "inconclusive", "error")
GATES = "token-of-rollout-tools"
LOGIN_PAGE = b"<html><body>Please log in</body></html>"


class Gates:
    """Answers as the real service did, with the verdict that a test asks for."""

    def __init__(self, answer: dict[str, Any], verdict: str) -> None:
        self._answer = answer | {
            "verdict": verdict,
            "verdict_code": VERDICT_CODES[verdict],  # type: ignore[index]  # one of VERDICTS
            "ok": verdict == "pass",
            "rollback": verdict == "fail",
            "hold": verdict in ("inconclusive", "error"),
        }

    async def evaluate(self, name: str, stage: str = "") -> dict[str, Any]:
        if self._answer["verdict"] == "pass":
            self._answer["reasons"] = []
        return self._answer | {"rollout": name, "stage": stage}


@pytest.fixture
async def lean(make_api: Callable[..., Any], sqlite_url: str) -> AsyncIterator[Api]:
    """A collector on SQLite with a token for rollout tools; one database is enough for what is not stored."""
    async with make_api(sqlite_url, gates_token=GATES) as api:
        yield api


async def says(api: Api, verdict: str) -> None:
    """Let the gate of a rollout answer with `verdict`; two of the four are the real service's own."""
    await api.start_rollout("checkout-v2", service="checkout")
    if verdict == "fail":
        await api.send(api.violation(), service="checkout")
    answer = await api.gate("checkout-v2")
    if answer["verdict"] != verdict:
        api.app.state.gates = Gates(answer, verdict)


# --- Argo Rollouts ----------------------------------------------------------------------------------------------------

WEB = argo_metric("analysis-template-web.yaml", rollout="checkout-v2", stage="canary10", token=GATES)
PHASES = {"pass": "Successful", "fail": "Failed", "inconclusive": "Inconclusive", "error": "Inconclusive"}


async def ask_as_argo(api: Api, metric: dict[str, Any]) -> httpx2.Response:
    web = metric["provider"]["web"]
    address = urlsplit(web["url"])
    headers = {header["key"]: header["value"] for header in web["headers"]}
    return await api.client.get(f"{address.path}?{address.query}", headers=headers)


@pytest.mark.parametrize("version", ["1.9.1", "main"])
@pytest.mark.parametrize("verdict", VERDICTS)
async def test_argo_reads_each_verdict_from_the_web_template(lean: Api, verdict: str, version: argo.Version) -> None:
    await says(lean, verdict)

    answer = await ask_as_argo(lean, WEB)

    assert answer.status_code == 200
    assert argo.web(WEB, answer.status_code, answer.content, version) == PHASES[verdict]


async def test_argo_marks_an_unknown_rollout_and_a_wrong_token_as_errors(lean: Api) -> None:
    unknown = await ask_as_argo(lean, WEB)
    stranger = await ask_as_argo(lean, argo_metric("analysis-template-web.yaml", rollout="checkout-v2", stage="x", token="wrong"))

    assert [(answer.status_code, argo.web(WEB, answer.status_code, answer.content)) for answer in (unknown, stranger)] == [
        (404, "Error"),
        (401, "Error"),
    ]


def test_a_login_page_promotes_in_old_argo_and_that_is_why_the_template_points_into_the_cluster() -> None:
    """The trap that no condition can close: it stands here so that nobody routes the template through an ingress."""
    assert argo.web(WEB, 200, LOGIN_PAGE, "1.9.1") == "Successful"
    assert argo.web(WEB, 200, LOGIN_PAGE, "main") == "Error"
    assert urlsplit(WEB["provider"]["web"]["url"]).hostname.endswith(".svc")


@pytest.mark.parametrize("body", [b'{"schema":"other","verdict":"pass"}', b'{"verdict":"pass"}', b"{}", b'{"schema":"gate/v1"}'])
def test_argo_promotes_on_no_json_that_is_not_a_gates(body: bytes) -> None:
    assert argo.web(WEB, 200, body) == "Inconclusive"


@pytest.mark.parametrize("body", [b"[]", b'"pass"', b"1", b"null"])
def test_argo_takes_json_that_is_no_object_for_an_error(body: bytes) -> None:
    assert argo.web(WEB, 200, body) == "Error"


@pytest.mark.parametrize(
    ("phases", "expected"),
    [
        (["Successful"] * 3, ("Successful", 3)),
        (["Successful", "Inconclusive", "Successful", "Successful", "Successful"], ("Successful", 5)),
        (["Successful", "Successful", "Failed"], ("Failed", 3)),
        (["Inconclusive"] * 90, ("Inconclusive", 90)),
        (["Error"] * 12 + ["Successful"] * 3, ("Successful", 15)),
        (["Error"] * 31, ("Error", 31)),
        (["Inconclusive"] * 40 + ["Failed"], ("Failed", 41)),
    ],
    ids=["passes", "interrupted", "one fail aborts", "never enough", "gate away for two minutes", "gate away for ever", "late fail"],
)
@pytest.mark.parametrize("metric", [WEB, argo_metric("analysis-template-prometheus.yaml", rollout="r")], ids=["web", "prometheus"])
def test_what_a_run_of_argo_comes_to(metric: dict[str, Any], phases: list[argo.Phase], expected: tuple[argo.Phase, int]) -> None:
    """Twelve errors ten seconds apart are two minutes of a gate that is away: the rollout goes on waiting."""
    assert argo.analysis(metric, phases) == expected


def test_with_argos_defaults_a_minute_without_the_gate_would_abort_the_rollout() -> None:
    careless = {key: value for key, value in WEB.items() if key != "consecutiveErrorLimit"}

    assert argo.analysis(careless, ["Error"] * 5) == ("Error", 5)


# --- Flagger ----------------------------------------------------------------------------------------------------------

CANARY = load("flagger/canary.yaml")
HOOKS = {hook["type"]: hook for hook in CANARY["spec"]["analysis"]["webhooks"]}


async def ask_as_flagger(api: Api, hook: dict[str, Any], token: str = GATES) -> flagger.Called:
    """Post as Flagger does: the token is the password in the address, which Go sends as Basic authentication."""
    address = urlsplit(hook["url"].replace("GATES_TOKEN", token))
    credentials = base64.b64encode(f"{address.username}:{address.password}".encode()).decode()
    headers = {"Authorization": f"Basic {credentials}", "Content-Type": "application/json"}
    body = json.dumps(flagger.payload(hook, "checkout", "shop"))
    answer = await api.client.post(address.path, content=body, headers=headers)
    assert json.loads(answer.content) is not None
    return flagger.webhook(answer.status_code, answer.content)


@pytest.mark.parametrize(
    ("verdict", "expected"),
    [("pass", "advances"), ("fail", "rolled back"), ("inconclusive", "waits"), ("error", "waits")],
)
async def test_flagger_does_the_right_thing_for_each_verdict(lean: Api, verdict: str, expected: flagger.Step) -> None:
    await says(lean, verdict)

    answers = {kind: await ask_as_flagger(lean, hook) for kind, hook in HOOKS.items()}

    assert flagger.interval(CANARY, answers, metrics=[True]) == expected
    for called in answers.values():
        assert called.ok or verdict in called.message, "the reason reaches the canary's events"


@pytest.mark.parametrize(("verdict", "starts"), [("pass", True), ("inconclusive", True), ("fail", False), ("error", False)])
async def test_flagger_starts_unless_the_gate_has_failed_or_cannot_look(lean: Api, verdict: str, starts: bool) -> None:
    await says(lean, verdict)

    assert (await ask_as_flagger(lean, HOOKS["confirm-rollout"])).ok is starts


@pytest.mark.parametrize("verdict", VERDICTS)
async def test_only_a_fail_counts_as_a_failed_check(lean: Api, verdict: str) -> None:
    hook = HOOKS["rollback"] | {"url": HOOKS["rollback"]["url"].replace("/rollback", "/check")}
    await says(lean, verdict)

    assert (await ask_as_flagger(lean, hook)).ok is (verdict != "fail")


async def test_an_unknown_rollout_never_rolls_back_and_never_advances(lean: Api) -> None:
    answers = {kind: await ask_as_flagger(lean, hook) for kind, hook in HOOKS.items()}

    assert not any(called.ok for called in answers.values())
    assert all("there is no rollout" in called.message for called in answers.values())


async def test_a_wrong_token_never_rolls_back_and_never_advances(lean: Api) -> None:
    await says(lean, "fail")

    assert not (await ask_as_flagger(lean, HOOKS["rollback"], token="wrong")).ok


async def test_without_its_store_flagger_waits_and_is_told_why(lean: Api) -> None:
    """503 would be tried again, and its body dropped."""

    class Away:
        async def evaluate(self, name: str, stage: str = "") -> dict[str, Any]:
            raise StoreUnavailable("the database does not answer")

    await lean.start_rollout("checkout-v2", service="checkout")
    lean.app.state.gates = Away()

    answers = {kind: await ask_as_flagger(lean, hook) for kind, hook in HOOKS.items()}

    assert flagger.interval(CANARY, answers, metrics=[True]) == "waits"
    assert "the database does not answer" in answers["confirm-promotion"].message
    check = HOOKS["rollback"] | {"url": HOOKS["rollback"]["url"].replace("/rollback", "/check")}
    assert (await ask_as_flagger(lean, check)).ok


def test_a_gate_that_is_away_holds_in_flagger_and_violations_still_roll_back() -> None:
    away = dict.fromkeys(HOOKS, flagger.webhook(503, b""))

    assert flagger.interval(CANARY, away, metrics=[True]) == "waits"
    assert flagger.interval(CANARY, away, metrics=[False]) == "failed check"
    assert flagger.interval(CANARY, away, metrics=[True], failed_checks=1) == "rolled back"


@pytest.mark.parametrize(
    "body",
    [b"", b"[]", b"{}", b'{"metadata":{}}', b'{"metadata":{"rollout":""}}', b'{"metadata":{"rollout":7}}', b'{"metadata":{"rollout":NaN}}'],
)
@pytest.mark.parametrize("path", ["rollback", "confirm", "open", "check"])
async def test_a_hook_that_names_no_rollout_is_refused(lean: Api, path: str, body: bytes) -> None:
    answer = await lean.client.post(f"/flagger/{path}", content=body, headers=bearer(GATES) | {"Content-Type": "application/json"})

    assert answer.status_code in (400, 422)
    assert answer.headers["content-type"] == "application/problem+json"


# --- tokens -----------------------------------------------------------------------------------------------------------


async def test_a_token_of_rollout_tools_asks_gates_and_reads_nothing_else(lean: Api) -> None:
    """It stands in manifests that many may read; the evidence behind the read token is not for all of them."""
    await lean.start_rollout("r")
    gate = (await lean.get("/v1/gates/r", GATES)).json()

    assert gate["verdict"] == "error"
    for path in ("/v1/violations", "/v1/alerts", "/metrics", "/v1/rollouts/r", f"/v1/gates/r/decisions/{gate['decision_id']}"):
        assert (await lean.get(path, GATES)).status_code == 403, path


@pytest.mark.parametrize(("token", "status"), [(READ, 404), (GATES, 404), (SEND, 403), ("unknown", 401)])
async def test_who_may_call_a_hook(lean: Api, token: str, status: int) -> None:
    answer = await lean.post("/flagger/rollback", {"metadata": {"rollout": "nothing"}}, token)

    assert answer.status_code == status


@pytest.mark.parametrize("credentials", ["", "Basic", "Basic !!!", "Basic " + base64.b64encode(b"no colon").decode(), "Basic /w=="])
async def test_broken_credentials_are_unknown(lean: Api, credentials: str) -> None:
    answer = await lean.client.post("/flagger/rollback", json={}, headers={"Authorization": credentials} if credentials else {})

    assert answer.status_code == 401


async def test_a_password_opens_the_hooks_alone(lean: Api) -> None:
    basic = {"Authorization": "Basic " + base64.b64encode(f"x:{READ}".encode()).decode()}

    assert (await lean.client.get("/v1/violations", headers=basic)).status_code == 401
