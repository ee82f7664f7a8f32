"""Pictures of dashboards for docs/images: the demonstration's stack with real users and its six defects, drawn by the preview.

    .venv/bin/python scripts/dashboard_pictures.py [--out docs/images] [--board isolation-overview] [--seconds 20]

Takes some five minutes. The numbers are those of the stack's own Prometheus; Chromium makes the drawing a picture.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import sys
import tempfile
import time
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

CHECKOUT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(CHECKOUT))

from isolation_monitor.dashboards.preview.__main__ import write  # noqa: E402 - the checkout's own tests have to be found first
from isolation_monitor.dashboards.preview.prometheus import Prometheus  # noqa: E402
from isolation_monitor.demo.expectations import EXPECTATIONS  # noqa: E402
from isolation_monitor.demo.stack import Stack  # noqa: E402
from isolation_monitor.demo.users import Population  # noqa: E402
from tests.real_parts.browser import browser  # noqa: E402


def picture(drawing: Path, file: Path, longest: int) -> None:
    """Save an SVG as a PNG of its own size, up to `longest` pixels long."""
    with browser() as page:
        page.get(drawing.resolve().as_uri())
        size = {name: float(page.execute_script(f"return document.documentElement.getAttribute('{name}')")) for name in ("width", "height")}
        size["height"] = min(size["height"], longest)
        metrics = {"width": int(size["width"]), "height": 800, "deviceScaleFactor": 1, "mobile": False}
        page.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
        clip = {"x": 0, "y": 0, **size, "scale": 1}
        shot: dict[str, Any] = page.execute_cdp_cmd("Page.captureScreenshot", {"clip": clip, "captureBeyondViewport": True})
    file.write_bytes(base64.b64decode(shot["data"]))
    print(file)


def pictures(prometheus_url: str, boards: list[str], out: Path, length_s: float, longest: int) -> None:
    with tempfile.TemporaryDirectory(prefix="isomon-pictures-") as folder, Prometheus(prometheus_url, values={"service": "chat"}) as client:
        drawn = {path.stem: path for path in write(client, Path(folder), length_s=length_s)}
        for name in boards:
            picture(drawn[name], out / f"{name}.png", longest)


async def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--out", type=Path, default=CHECKOUT / "docs" / "images")
    known = sorted(path.stem for path in (CHECKOUT / "dashboards" / "generated").glob("*.json"))
    parser.add_argument("--board", action="append", choices=known, help="a dashboard; may be repeated (default: isolation-overview)")
    parser.add_argument("--seconds", type=float, default=20.0, help="how long users live with each defect (default: 20)")
    parser.add_argument("--longest", type=int, default=1195, help="pixels (default: 1195, two rows of isolation-overview)")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    async with AsyncExitStack() as closing:
        stack = await closing.enter_async_context(Stack(progress=print))
        await closing.enter_async_context(Population(stack.urls.chat, users=14, requests_per_s=14, run_timeout_s=5))
        began = time.monotonic()
        await asyncio.sleep(3 * options.seconds)
        for expected in EXPECTATIONS:
            await stack.parts.chat.inject(expected.fault)
            await asyncio.sleep(options.seconds)
            await stack.parts.chat.heal()
            await asyncio.sleep(options.seconds / 2)
        await asyncio.sleep(15)
        length_s = time.monotonic() - began
        boards = options.board or ["isolation-overview"]
        await asyncio.to_thread(pictures, stack.urls.prometheus, boards, options.out, length_s, options.longest)


if __name__ == "__main__":
    asyncio.run(main())
