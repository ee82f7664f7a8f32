"""The page in real Chromium, over a network that breaks: the user sees each event once, in order, and what became of the connection."""

from __future__ import annotations

import os
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from selenium.webdriver.common.by import By
from selenium.webdriver.remote.webdriver import WebDriver

from tests.chat.conftest import Service, acknowledged, chat_service
from tests.real_parts.browser import browser
from tests.real_parts.processes import eventually
from tests.real_parts.proxy import Proxy, cutting_proxy

pytestmark = pytest.mark.slow

STEPS = ["started", "thinking", "using a tool", "tool done"]

RUNS_ON_THE_PAGE = """
  return [...document.querySelectorAll(".line.agent")].map((box) => ({
    steps: [...box.querySelectorAll(".steps li")].map((step) => step.firstChild.textContent.trim()),
    answers: [...box.querySelectorAll(".answer")].map((answer) => answer.textContent),
    isBad: box.classList.contains("bad"),
  }));
"""


class Page:
    """The page as its user sees it."""

    def __init__(self, driver: WebDriver, proxy: Proxy, service: Service) -> None:
        self.driver = driver
        self.proxy = proxy
        self.service = service
        self.base_url = f"http://127.0.0.1:{proxy.port}"

    def sign_in(self, name: str) -> None:
        self.driver.get(self.base_url)
        eventually(lambda: self.driver.find_element(By.ID, "name").is_displayed(), "the login is shown")
        self.driver.find_element(By.ID, "name").send_keys(name)
        self.driver.find_element(By.CSS_SELECTOR, "#login button").click()
        self.until_state("open")

    def until_state(self, wanted: str) -> str:
        """Wait for the connection's state (open, wait, closed), and return the words that the user reads."""
        state = self.driver.find_element(By.ID, "state")
        eventually(lambda: state.get_attribute("data-is") == wanted, f"the connection is {wanted}")
        return state.text

    def ask(self, question: str) -> None:
        # Clicked until it is taken: without a connection the page keeps the question in its field.
        field = self.driver.find_element(By.ID, "question")
        field.send_keys(question)

        def is_taken() -> bool:
            self.driver.find_element(By.CSS_SELECTOR, "#ask button").click()
            return field.get_attribute("value") == ""

        eventually(is_taken, "the question is sent")

    @property
    def runs(self) -> list[dict[str, Any]]:
        found = self.driver.execute_script(RUNS_ON_THE_PAGE)
        assert isinstance(found, list)
        return found

    def until_answered(self, number: int) -> None:
        eventually(lambda: sum(len(run["answers"]) for run in self.runs) >= number, f"answer {number} on the page; it has {self.runs[-2:]}")

    @property
    def delivery(self) -> str:
        """What the page says about delivery, such as `events: 6 · reconnects: 1`."""
        return self.driver.find_element(By.ID, "delivery").text

    def picture(self, name: str) -> None:
        """Keep what the user sees, for people to look at, where ISOMON_PICTURES names a folder."""
        if folder := os.environ.get("ISOMON_PICTURES"):
            Path(folder).mkdir(parents=True, exist_ok=True)
            self.driver.save_screenshot(str(Path(folder) / f"{name}.png"))


@pytest.fixture
def settings() -> dict[str, str]:
    """Of the service; the agent writes slowly, so that there is time to cut in the middle of a run."""
    return {"CHAT_WORD_PAUSE_S": "0.4"}


@pytest.fixture
def page(tmp_path: Path, settings: dict[str, str]) -> Iterator[Page]:
    with (
        chat_service(tmp_path, workers=1, **settings) as service,
        cutting_proxy(int(urlsplit(service.base_url).port or 0)) as proxy,
        browser() as driver,
    ):
        yield Page(driver, proxy, service)


def test_a_connection_cut_and_restored_in_the_middle_of_a_run_shows_each_event_once_and_in_order(page: Page) -> None:
    page.sign_in("ann")
    page.ask("what is 2 * (3 + 4)?")
    eventually(lambda: page.runs and "tool done" in page.runs[-1]["steps"], "the run is under way")
    during = page.runs[-1]

    page.proxy.cut()
    words = page.until_state("closed")
    page.picture("cut")
    page.proxy.restore()
    page.until_state("open")
    page.until_answered(1)
    page.picture("restored")

    assert during["answers"] == [], "the run was over before the cut"
    assert words.startswith("connecting again in ")
    assert page.runs == [{"steps": STEPS, "answers": ["2 * (3 + 4) is 14"], "isBad": False}]
    assert "reconnects: 1" in page.delivery
    assert "lost" not in page.delivery


def test_a_connection_that_breaks_at_any_byte_shows_each_event_of_each_run_once_and_in_order(page: Page) -> None:
    chance = random.Random(9)
    page.sign_in("bob")
    asked = 0
    while page.proxy.cuts < 8 and asked < 40:
        page.proxy.cut_after(to_client=chance.randrange(1, 700))
        page.ask(f"{asked} + 1")
        asked += 1
        page.until_answered(asked)
    page.picture("many-cuts")

    assert page.proxy.cuts >= 8
    assert page.runs == [{"steps": STEPS, "answers": [f"{n} + 1 is {n + 1}"], "isBad": False} for n in range(asked)]
    assert "lost" not in page.delivery


def test_events_that_are_lost_are_said_to_the_user(page: Page) -> None:
    """The service is killed in the middle of a run: nobody will ever send the rest, and the page must not wait in silence."""
    page.sign_in("eve")
    page.ask("1 + 1")
    eventually(lambda: page.runs and "tool done" in page.runs[-1]["steps"], "the run is under way")

    page.service.process.kill()
    page.service.process.wait()
    page.until_state("closed")
    with chat_service(page.service.folder, workers=1, port=int(urlsplit(page.service.base_url).port or 0)):
        page.until_state("open")
        eventually(lambda: any("may be missing" in step for step in page.runs[-1]["steps"]), "the page says that events are missing")
        assert "lost: unknown" in page.delivery
        page.picture("lost")


@pytest.mark.parametrize("settings", [{"CHAT_WORD_PAUSE_S": "0", "ISOLATION_DELIVERY_ACK_MS": "3600000"}])
def test_a_page_that_is_left_acknowledges_what_it_has(page: Page) -> None:
    """Otherwise the last events of every visit would be unknown for ever. The service asks for an acknowledgement once an hour."""
    page.sign_in("zoe")
    page.ask("1 + 1")
    page.until_answered(1)
    eventually(lambda: acknowledged(page.service.base_url) >= 6, "greeting and run are acknowledged at the run's end")
    page.driver.find_element(By.ID, "join").click()
    eventually(lambda: "events: 7" in page.delivery, "the room's event is there")
    before = acknowledged(page.service.base_url)

    page.driver.get("about:blank")

    eventually(lambda: acknowledged(page.service.base_url) == 7, "it is acknowledged on leaving")
    assert before == 6


def test_the_page_loads_nothing_from_elsewhere_and_leaves_no_error(page: Page) -> None:
    page.sign_in("dan")
    page.ask("what is my note?")
    page.until_answered(1)

    loaded = page.driver.execute_script("return performance.getEntriesByType('resource').map((entry) => entry.name)")
    assert {urlsplit(url).netloc for url in loaded} == {urlsplit(page.base_url).netloc}
    assert any(url.endswith("isolation-socket.js") for url in loaded)
    assert [entry["message"] for entry in page.driver.get_log("browser")] == []
