"""Pictures of the pages for docs/images: the whole stack with real users and real defects, looked at with Chromium.

    .venv/bin/python scripts/web_pictures.py [--out docs/images] [--seconds 25]

Takes some two minutes. The history is of a second Prometheus with a past of 30 days, because the stack is minutes old.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import sys
import tempfile
import time
from contextlib import AsyncExitStack, ExitStack
from pathlib import Path
from typing import Any

CHECKOUT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(CHECKOUT))

from selenium.webdriver.common.by import By  # noqa: E402 - the checkout's own tests have to be found first
from selenium.webdriver.remote.webdriver import WebDriver  # noqa: E402

from isolation_monitor.demo.stack import Stack  # noqa: E402
from isolation_monitor.demo.users import Population  # noqa: E402
from tests.real_parts.browser import browser  # noqa: E402
from tests.real_parts.collector import collector  # noqa: E402
from tests.real_parts.month import KEPT, month_of_history  # noqa: E402
from tests.real_parts.past import prometheus_with  # noqa: E402
from tests.real_parts.starting import ran, starting  # noqa: E402

FAULTS = ("shared-agent", "wrong-socket", "lost-event")
STAGES = [
    {"name": "internal", "kind": "internal", "soak": "10m", "minimum": {"exposed_requests": 20, "owed_events": 0}},
    {"name": "canary", "percent": 10, "soak": "30m"},
    {"name": "half", "percent": 50, "soak": "30m", "advance": "manual"},
    {"name": "full", "percent": 100, "soak": "30m"},
]


def sign_in(page: WebDriver, url: str, token: str) -> None:
    """Sign in as a person does."""
    page.get(f"{url}/sign-in")
    page.find_element(By.ID, "token").send_keys(token)
    page.find_element(By.CSS_SELECTOR, "main form button").click()


def picture(page: WebDriver, file: Path, *, dark: bool = False, width: int = 1240, longest: int = 1500) -> None:
    """Save what the page shows, in its whole length up to `longest` pixels."""
    page.execute_cdp_cmd(
        "Emulation.setEmulatedMedia", {"features": [{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}]}
    )
    for _ in range(50):
        state = page.find_elements(By.CSS_SELECTOR, "#live-state[data-is=off]")
        if not state:
            break
        time.sleep(0.1)
    metrics = {"width": width, "height": 800, "deviceScaleFactor": 1, "mobile": width < 600}
    page.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    height = min(longest, int(page.execute_script("return document.documentElement.scrollHeight")))
    clip = {"x": 0, "y": 0, "width": width, "height": height, "scale": 1}
    shot: dict[str, Any] = page.execute_cdp_cmd("Page.captureScreenshot", {"clip": clip, "captureBeyondViewport": True})
    file.write_bytes(base64.b64decode(shot["data"]))
    print(file)


def pictures_of_stack(url: str, token: str, out: Path) -> None:
    with browser() as page:
        sign_in(page, url, token)
        time.sleep(2)
        picture(page, out / "web-overview.png")
        picture(page, out / "web-overview-dark.png", dark=True)
        picture(page, out / "web-overview-narrow.png", width=390, longest=1700)
        page.get(f"{url}/violations?last=24h")
        picture(page, out / "web-violations.png", longest=900)
        page.get(f"{url}/violations?kind=instance_reuse")
        rows = page.find_elements(By.CSS_SELECTOR, "[data-row]") or [None]
        if rows[0] is not None:
            rows[0].click()
        picture(page, out / "web-violation.png", longest=1700)
        for name, path in (("rollouts", "/rollouts"), ("rollout", "/rollouts/checkout-v2"), ("runs", "/runs"), ("detectors", "/detectors")):
            page.get(f"{url}{path}")
            picture(page, out / f"web-{name}.png")


def pictures_of_history(out: Path) -> None:
    with ExitStack() as parts:
        folder = Path(parts.enter_context(tempfile.TemporaryDirectory(prefix="isomon-pictures-")))
        past = parts.enter_context(prometheus_with(folder / "prometheus", month_of_history(), KEPT))
        running = parts.enter_context(collector(folder / "collector", prometheus_url=past.url))
        page = parts.enter_context(browser())
        sign_in(page, running.url, running.read_token)
        page.get(f"{running.url}/history")
        picture(page, out / "web-history.png")


def pictures_of_lifecycle(out: Path) -> None:
    """A worker that waits for a lock, and two that ended badly before it."""
    with ExitStack() as parts:
        folder = Path(parts.enter_context(tempfile.TemporaryDirectory(prefix="isomon-pictures-")))
        running = parts.enter_context(collector(folder / "collector"))
        ran("leaves", folder / "leaves", running)
        ran("fails", folder / "fails", running)
        parts.enter_context(starting("hangs", folder / "hangs", running))
        page = parts.enter_context(browser())
        sign_in(page, running.url, running.read_token)
        page.get(f"{running.url}/lifecycle")
        time.sleep(5)
        picture(page, out / "web-lifecycle.png")


async def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--out", type=Path, default=CHECKOUT / "docs" / "images")
    parser.add_argument("--seconds", type=float, default=25.0, help="how long users live with the defects (default: 25)")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    await asyncio.to_thread(pictures_of_history, options.out)
    await asyncio.to_thread(pictures_of_lifecycle, options.out)
    async with AsyncExitStack() as closing:
        stack = await closing.enter_async_context(Stack(progress=print))
        await closing.enter_async_context(Population(stack.urls.chat, users=14, requests_per_s=14, run_timeout_s=5))
        api = stack.parts.collector
        for name in ("checkout-v2", "search-v3"):
            await api.apply_rollout(name, {"rollout": name, "service": "chat", "internal_users": ["ann", "bob"], "stages": STAGES})
        await api.take_step("checkout-v2", "start", "the new basket for our own people first")
        await asyncio.sleep(options.seconds)
        for fault in FAULTS:
            await stack.parts.chat.inject(fault)
        await asyncio.sleep(options.seconds)
        await stack.parts.chat.heal()
        await api.take_step("search-v3", "start", "ranking by meaning")
        await asyncio.sleep(8)
        await asyncio.to_thread(pictures_of_stack, stack.urls.collector, stack.layout.read_token.read_text(), options.out)


if __name__ == "__main__":
    asyncio.run(main())
