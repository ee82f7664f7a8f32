"""The pages in real Chromium: a real collector with evidence of a real, leaking service, and the numbers of a real Prometheus."""

from __future__ import annotations

import asyncio
import json
import subprocess
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.remote.webdriver import WebDriver

from isolation_monitor.alerts import build, prometheus_config
from isolation_monitor.collector.clock import rfc3339, utc_now
from isolation_monitor.demo.binaries import NPM
from isolation_monitor.demo.users import Population
from tests.chat.conftest import chat_service
from tests.real_parts.browser import browser
from tests.real_parts.collector import Collector, collector
from tests.real_parts.installed import installed
from tests.real_parts.processes import eventually, free_port
from tests.real_parts.prometheus import prometheus
from tests.real_parts.rollouts import PERSON, ask
from tests.real_parts.starting import ran, starting, unlock

pytestmark = pytest.mark.slow

PAGES = (
    *(
        "/",
        "/incidents",
        "/violations",
        "/runs",
        "/rollouts",
        "/rollouts/checkout",
        "/detectors",
        "/containers",
        "/ci",
        "/probes",
        "/history",
        "/lifecycle",
    ),
    *("/runbooks", "/runbooks/SessionLeak"),
)
HOSTILE = '</code><img src=x onerror="window.pwned=1"><script>window.pwned=1</script>{{ 7*7 }}\'"&'
BUDGET_BYTES = 60_000
"""Everything that the first page loads, before compression; its data apart."""


@dataclass(frozen=True)
class World:
    """A collector, and the service that leaks into it."""

    collector: Collector
    chat_url: str

    def violations(self, query: str = "") -> list[dict[str, Any]]:
        return list(ask(self.collector, "GET", f"/v1/violations?synthetic=false&{query}")["items"])

    def incident(self) -> str:
        """Return the address of the page of the newest incident."""
        return f"/incidents/{ask(self.collector, 'GET', '/v1/incidents')['items'][0]['id']}"

    def clean_up(self, folder: Path) -> str:
        """Let a worker leave something behind, and return the address of the page of that."""
        ran("leaves", folder / "leaves", self.collector)
        found = "/v1/lifecycle?kind=left"
        told = eventually(lambda: ask(self.collector, "GET", found)["items"], "a clean-up is told")
        return f"/lifecycle/{told[0]['id']}"

    def leak(self, fault: str, kind: str) -> None:
        """Let users live with a defect until it was recorded."""
        asyncio.run(self._leak(fault, kind))

    async def _leak(self, fault: str, kind: str) -> None:
        async with Population(self.chat_url, users=6, requests_per_s=20, run_timeout_s=6):
            await asyncio.to_thread(self._switch, "POST", fault)
            await asyncio.to_thread(eventually, lambda: self.violations(f"kind={kind}"), f"{fault} is recorded")
            await asyncio.to_thread(self._switch, "DELETE", "")

    def _switch(self, method: str, fault: str) -> None:
        request = urllib.request.Request(f"{self.chat_url}/faults{'/' if fault else ''}{fault}", method=method)
        urllib.request.urlopen(request, timeout=30).close()

    def send(self, *records: dict[str, Any]) -> None:
        """Send records as a service does."""
        body = {"schema": "records/1", "service": "chat", "instance": "i", "sent_at": rfc3339(utc_now()), "records": list(records)}
        headers = self.collector.sending | {"Content-Type": "application/json"}
        request = urllib.request.Request(f"{self.collector.url}/v1/records", json.dumps(body).encode(), headers, method="POST")
        with urllib.request.urlopen(request, timeout=30) as answer:
            assert json.load(answer)["accepted"] == len(records)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """A chat service with one worker that shared its agent among its users, watched by the product's own rules."""
    folder: Path = tmp_path_factory.mktemp("world")
    numbers = free_port()
    with collector(folder / "collector", prometheus_url=f"http://127.0.0.1:{numbers}") as running:
        settings = {"CHAT_FAULTS": "1", "ISOLATION_COLLECTOR_URL": running.url, "ISOLATION_COLLECTOR_TOKEN": running.send_token}
        with chat_service(folder / "chat", workers=1, **settings) as chat:
            files = []
            for name, text in build.rules(running.url, None).items():
                (folder / name).write_text(text)
                files.append(str(folder / name))
            (folder / "token").write_text("none")
            config = prometheus_config.render(
                isolation_targets=[urlsplit(chat.base_url).netloc], main_interval="1s", collector_target=urlsplit(running.url).netloc,
                alertmanager=f"127.0.0.1:{free_port()}", rule_files=files, metrics_token_file=str(folder / "token"),
            )  # fmt: skip
            with prometheus(folder / "prometheus", config, port=numbers):
                found = World(running, chat.base_url)
                stages = [{"name": "canary", "percent": 10, "soak": "1h"}, {"name": "full", "percent": 100, "soak": "1h"}]
                ask(
                    running,
                    "PUT",
                    "/v1/rollouts/checkout",
                    {"spec": {"rollout": "checkout", "service": "chat", "stages": stages}, **PERSON},
                )
                ask(running, "POST", "/v1/rollouts/checkout/start", PERSON)
                found.leak("shared-agent", "instance_reuse")
                yield found


@pytest.fixture(scope="module")
def chromium() -> Iterator[WebDriver]:
    with browser() as driver:
        yield driver


@pytest.fixture
def page(chromium: WebDriver, world: World) -> Iterator[WebDriver]:
    """A browser that is signed in and shows the first page."""
    chromium.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
    chromium.execute_cdp_cmd("Network.clearBrowserCookies", {})
    sign_in(chromium, world)
    yield chromium
    chromium.get("about:blank")


def sign_in(driver: WebDriver, world: World, token: str | None = None) -> None:
    driver.get(f"{world.collector.url}/sign-in")
    driver.find_element(By.ID, "token").send_keys(token or world.collector.read_token, Keys.ENTER)


def heading(driver: WebDriver) -> str:
    return driver.find_element(By.TAG_NAME, "h1").text


def looks(driver: WebDriver, scheme: str) -> None:
    driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [{"name": "prefers-color-scheme", "value": scheme}]})


def pressed(driver: WebDriver, keys: str) -> Any:
    driver.switch_to.active_element.send_keys(keys)
    return driver.switch_to.active_element


def test_a_wrong_token_is_told_so_and_a_right_one_opens_the_page_one_wanted(chromium: WebDriver, world: World) -> None:
    chromium.execute_cdp_cmd("Network.clearBrowserCookies", {})
    chromium.get(f"{world.collector.url}/violations?last=24h")
    chromium.find_element(By.ID, "token").send_keys("wrong", Keys.ENTER)
    refused = chromium.find_element(By.CSS_SELECTOR, "[role=alert]").text

    chromium.find_element(By.ID, "token").send_keys(world.collector.read_token, Keys.ENTER)

    assert "not known here" in refused
    assert (heading(chromium), urlsplit(chromium.current_url).query) == ("Violations", "last=24h")
    cookie = chromium.get_cookie("isomon_session")
    assert cookie is not None
    assert (cookie["httpOnly"], cookie["sameSite"]) == (True, "Strict")
    assert world.collector.read_token not in cookie["value"]
    assert chromium.execute_script("return document.cookie") == ""


def test_signing_out_closes_every_page(page: WebDriver, world: World) -> None:
    page.find_element(By.CSS_SELECTOR, "header form button").click()
    page.get(f"{world.collector.url}/violations")

    assert heading(page) == "Sign in"


def test_the_first_page_says_which_service_leaks_and_how_well_that_was_seen(page: WebDriver) -> None:
    def card() -> str:
        # In one go: the card is replaced while it is read.
        return str(page.execute_script("return document.querySelector('.verdict')?.innerText ?? ''"))

    eventually(lambda: "Isolation is broken" in card(), "the page says it")
    # A record is there before Prometheus has read the service for the first time.
    told = eventually(lambda: text if "From Prometheus and records" in (text := card()) else None, "Prometheus has been asked")
    assert "chat" in told
    assert "of requests judged" in told
    assert "crossed" in told


def test_evidence_of_both_sides_stands_side_by_side_with_what_they_shared(page: WebDriver, world: World) -> None:
    two_sided = next(one for one in world.violations("kind=instance_reuse") if one["victim"] and one["offender"])

    page.get(f"{world.collector.url}/violations/{two_sided['id']}")

    victim, shared, offender = (page.find_element(By.CSS_SELECTOR, name) for name in (".side.victim", ".shared", ".side.offender"))
    assert two_sided["victim"]["principal"] in victim.text
    assert two_sided["offender"]["principal"] in offender.text
    assert two_sided["victim"]["stack"][-1].split(" ")[1] in victim.text
    assert two_sided["resource"]["name"] in shared.text
    assert victim.location["x"] < shared.location["x"] < offender.location["x"]
    assert "entered over" in page.find_element(By.CSS_SELECTOR, ".course").text
    assert two_sided["fingerprint"] in page.find_element(By.TAG_NAME, "details").get_attribute("textContent")


def test_a_new_violation_appears_by_itself_and_the_page_is_not_loaded_again(page: WebDriver, world: World) -> None:
    page.get(f"{world.collector.url}/violations?kind=wrong_socket")
    eventually(lambda: page.find_element(By.ID, "live-state").text == "live", "the stream is open")
    page.execute_script("window.marker = 1")
    before = page.find_elements(By.CSS_SELECTOR, "#violations [data-row]")

    world.leak("wrong-socket", "wrong_socket")

    eventually(lambda: page.find_elements(By.CSS_SELECTOR, "#violations [data-row]"), "the violation is on the page")
    assert before == []
    assert page.execute_script("return window.marker") == 1


def test_the_rollout_that_met_the_leak_shows_why_it_was_taken_back(page: WebDriver, world: World) -> None:
    page.get(f"{world.collector.url}/rollouts/checkout")
    eventually(lambda: "rolled back" in page.find_element(By.CSS_SELECTOR, "#rollout .title").text, "the page shows the rollback")

    text = page.find_element(By.ID, "rollout").text
    assert "isolation" in text
    assert "one is enough" in text
    assert "rollback" in text


def test_detectors_show_what_was_planted_for_them(page: WebDriver, world: World) -> None:
    page.get(f"{world.collector.url}/detectors")
    eventually(lambda: page.find_elements(By.CSS_SELECTOR, "#detectors .tag.good"), "a detector is proven")

    assert "instance reuse" in page.find_element(By.ID, "detectors").text


def test_a_phase_that_hangs_stands_there_with_its_stack_until_it_goes_on(page: WebDriver, world: World, tmp_path: Path) -> None:
    """As an alert opens it, told by a real worker that waits for a lock."""
    page.get(f"{world.collector.url}/lifecycle?service=checkout&kind=hanging")
    with starting("hangs", tmp_path / "hangs", world.collector) as worker:

        def hangs() -> str:
            return str(page.execute_script("return document.querySelector('#lifecycle_hangs')?.innerText ?? ''"))

        eventually(lambda: "take_lock" in hangs(), "the page says where it stands")
        unlock(tmp_path / "hangs")
        worker.wait(60)
        eventually(lambda: "No phase of a start-up" in hangs(), "the page says that it went on")
    page.find_element(By.CSS_SELECTOR, "#lifecycle_records [data-row]").click()
    assert heading(page) == "Start-up phase database hangs"
    page.find_element(By.CSS_SELECTOR, ".lead a").click()
    assert heading(page) == "Start-up done"
    assert [row.text.split()[0] for row in page.find_elements(By.CSS_SELECTOR, "[aria-labelledby=parts-title] tbody tr")] == [
        "settings",
        "database",
        "model",
    ]


def test_keys_move_between_rows_reach_the_filters_and_open_the_pages(page: WebDriver, world: World) -> None:
    page.get(f"{world.collector.url}/violations?kind=instance_reuse")
    eventually(lambda: page.find_element(By.ID, "live-state").text == "live", "the stream is open")
    rows = [row.get_attribute("href") for row in page.find_elements(By.CSS_SELECTOR, "[data-row]")]
    assert len(rows) > 1, "the service leaked once only"

    assert pressed(page, "j").get_attribute("href") == rows[0]
    assert pressed(page, "j").get_attribute("href") == rows[1]
    assert pressed(page, "k").get_attribute("href") == rows[0]
    assert pressed(page, "/").get_attribute("id") == "service"
    assert pressed(page, "j").get_attribute("value") == "j", "a key in a field is a letter"
    pressed(page, Keys.ESCAPE)
    pressed(page, "?")
    assert page.find_element(By.ID, "help").is_displayed()
    pressed(page, Keys.ESCAPE)
    assert not page.find_element(By.ID, "help").is_displayed()
    pressed(page, "6")
    eventually(lambda: page.title.startswith("Detectors"), "the sixth page is open")


def test_the_first_tab_leads_past_the_navigation_and_focus_can_be_seen(page: WebDriver) -> None:
    skip = pressed(page, Keys.TAB)

    assert (skip.text, skip.get_attribute("href").rpartition("#")[2]) == ("Skip to the content", "main")
    assert skip.value_of_css_property("outline-style") == "solid"
    assert skip.location["x"] >= 0
    skip.send_keys(Keys.ENTER)
    assert page.switch_to.active_element.get_attribute("id") == "main"


def test_pages_follow_the_scheme_of_the_system(page: WebDriver) -> None:
    grounds = {}
    for scheme in ("light", "dark"):
        looks(page, scheme)
        color = page.find_element(By.TAG_NAME, "body").value_of_css_property("background-color")
        grounds[scheme] = sum(int(part) for part in color.strip("rgba()").split(",")[:3]) / 3

    assert grounds["light"] > 200
    assert grounds["dark"] < 40


@pytest.mark.parametrize("width", [320, 768])
def test_no_page_scrolls_sideways_on_a_narrow_screen(page: WebDriver, world: World, width: int, tmp_path: Path) -> None:
    """320 pixels are what WCAG 1.4.10 asks for: a phone, or 400 % on a laptop."""
    metrics = {"width": width, "height": 700, "deviceScaleFactor": 1, "mobile": True}
    page.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    violation = world.violations("kind=instance_reuse")[0]["id"]

    widths = {}
    for path in (*PAGES, world.incident(), f"/violations/{violation}", world.clean_up(tmp_path), "/sign-in"):
        page.get(f"{world.collector.url}{path}")
        widths[path] = page.execute_script("return document.documentElement.scrollWidth")

    assert {path: found for path, found in widths.items() if found > width} == {}


def test_everything_but_the_live_part_works_without_javascript(chromium: WebDriver, world: World) -> None:
    chromium.get("about:blank")
    chromium.execute_cdp_cmd("Network.clearBrowserCookies", {})
    chromium.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": True})
    try:
        sign_in(chromium, world)
        eventually(lambda: chromium.title.startswith("Now"), "the first page is open")
        chromium.get(f"{world.collector.url}/violations")
        kind = chromium.find_element(By.ID, "kind")
        kind.find_element(By.CSS_SELECTOR, "option[value=instance_reuse]").click()
        chromium.find_element(By.CSS_SELECTOR, ".filters button").click()
        narrowed = urlsplit(chromium.current_url).query
        chromium.find_element(By.CSS_SELECTOR, "[data-row]").click()

        assert "kind=instance_reuse" in narrowed
        assert heading(chromium) == "instance reuse"
        assert chromium.find_element(By.CSS_SELECTOR, "time[data-ago], time").text.endswith("UTC")
        chromium.find_element(By.CSS_SELECTOR, "header form button").click()
        assert heading(chromium) == "Sign in"
    finally:
        chromium.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": False})


def test_pages_load_from_the_collector_alone_and_little(page: WebDriver, world: World) -> None:
    loaded = """return [...performance.getEntriesByType("resource"), ...performance.getEntriesByType("navigation")]
        .map((one) => [one.name, one.decodedBodySize])"""
    for path in PAGES:
        page.get(f"{world.collector.url}{path}")
        found = page.execute_script(loaded)
        assert [name for name, _ in found if not name.startswith(world.collector.url)] == []
        files = sum(size for name, size in found if "/static/" in name)
        assert 0 < files < BUDGET_BYTES
    problems = [entry["message"] for entry in page.get_log("browser") if "Content Security Policy" in entry["message"]]
    assert problems == []


def test_nothing_of_a_hostile_record_ever_runs(page: WebDriver, world: World) -> None:
    """A service that was taken over must not take over those who look at it."""
    side = {"principal": "a" * 16, "route": HOSTILE, "stack": [HOSTILE], "endpoint": HOSTILE, "events": [{"time": None, "what": HOSTILE}]}
    now = rfc3339(utc_now())
    world.send(
        {
            "type": "violation", "id": "hostile", "time": now, "kind": HOSTILE[:90], "grade": "reachable", "detector": HOSTILE[:90],
            "synthetic": True, "summary": HOSTILE, "fingerprint": "f" * 16,
            "resource": {"type": "instance", "name": HOSTILE, "detail": {HOSTILE: HOSTILE}},
            "victim": side, "offender": side | {"trace_id": HOSTILE},
            "detail": {"note": HOSTILE, "suppressed": {"reason": HOSTILE, "expires": HOSTILE}},
            "revision": HOSTILE, "configuration": {HOSTILE: HOSTILE}, "affected": {"principals": HOSTILE}, "rollouts": {HOSTILE: HOSTILE},
        },
        {"type": "escalation", "id": "hostile-2", "time": now, "violation_id": "hostile", "grade": "crossed", "reason": HOSTILE},
        {
            "type": "run", "id": "hostile-3", "time": now, "run_id": HOSTILE, "principal": "b" * 16, "outcome": HOSTILE[:90],
            "events": [{"event": HOSTILE, "emitted": HOSTILE}], "anomalies": {HOSTILE: 1}, "detail": {"error": HOSTILE},
        },
    )  # fmt: skip

    for path in ("/violations/hostile", "/violations?planted=only", "/runs", "/"):
        page.get(f"{world.collector.url}{path}")
        eventually(lambda: page.find_element(By.ID, "live-state").text == "live", "the stream is open")
        assert page.execute_script("return window.pwned") is None, path
        assert page.find_elements(By.CSS_SELECTOR, "main img, main script, main [onerror]") == [], path
    page.get(f"{world.collector.url}/violations/hostile")
    assert HOSTILE in page.find_element(By.CSS_SELECTOR, ".lead").text


@pytest.fixture(scope="module")
def axe(tmp_path_factory: pytest.TempPathFactory) -> str:
    """axe-core of npm: the rules of WCAG as a script."""
    folder = tmp_path_factory.mktemp("axe")
    options = ["--no-audit", "--no-fund", "--no-update-notifier", "--no-package-lock", "--ignore-scripts", "--prefix", str(folder)]
    command = [str(installed(NPM).path), "install", *options, "--cache", str(folder / "cache"), "axe-core@4.14.1"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    return (folder / "node_modules" / "axe-core" / "axe.min.js").read_text()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing_on_any_page(page: WebDriver, world: World, axe: str, scheme: str, tmp_path: Path) -> None:
    """Labels, landmarks, headings, contrast and the rest of WCAG 2.2 AA, as far as a program can tell."""
    looks(page, scheme)
    violation = world.violations("kind=instance_reuse")[0]["id"]
    found: dict[str, list[str]] = {}
    for path in (*PAGES, world.incident(), f"/violations/{violation}", world.clean_up(tmp_path), "/violations/none"):
        page.get(f"{world.collector.url}{path}")
        page.execute_script(axe)
        result = page.execute_async_script("axe.run(document).then(arguments[0], (error) => arguments[0]({error: String(error)}))")
        assert "error" not in result, result
        assert result["passes"], path
        if result["violations"]:
            found[path] = [
                f"{one['id']}: {one['nodes'][0]['html'][:160]} {one['nodes'][0]['failureSummary']}" for one in result["violations"]
            ]

    assert found == {}
