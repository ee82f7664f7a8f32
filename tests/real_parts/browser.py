"""A real Chromium without a window, driven by ChromeDriver; its profile is gone with the `with` block."""

from __future__ import annotations

import contextlib
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from selenium import webdriver
from selenium.webdriver.chrome.options import Options
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.remote.webdriver import WebDriver

from isolation_monitor.demo.binaries import CHROMEDRIVER, CHROMIUM
from tests.real_parts.installed import installed

ARGUMENTS = (
    "--headless=new",
    # Tests run as root on CI, where the sandbox cannot work, and in containers with a small /dev/shm.
    "--no-sandbox",
    "--disable-dev-shm-usage",
    "--disable-background-networking",
    "--disable-component-update",
    "--no-first-run",
    "--window-size=1200,800",
)


@contextlib.contextmanager
def browser() -> Iterator[WebDriver]:
    """Run a browser until the block ends. Skips the test where Chromium is missing (fails if ISOMON_REQUIRE_REAL=1)."""
    chromium, driver = installed(CHROMIUM), installed(CHROMEDRIVER)
    profile = Path(tempfile.mkdtemp(prefix="isomon-browser-"))
    options = Options()
    options.binary_location = str(chromium.path)
    for argument in (*ARGUMENTS, f"--user-data-dir={profile}"):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    page = webdriver.Chrome(options=options, service=Service(executable_path=str(driver.path)))
    try:
        yield page
    finally:
        page.quit()
        shutil.rmtree(profile, ignore_errors=True)
