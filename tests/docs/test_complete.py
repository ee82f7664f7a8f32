"""The documentation is complete and current: every metric, setting, alert and command has its place, and every link leads somewhere."""

from __future__ import annotations

import re
import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import pytest

from isolation_monitor.cli.main import main as isomon
from isolation_monitor.collector.settings import CollectorSettings
from isolation_monitor.telemetry import names
from isolation_monitor.telemetry.settings import PREFIX, Settings

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
PAGES = sorted([ROOT / "README.md", ROOT / "CHANGELOG.md", *DOCS.rglob("*.md"), *ROOT.glob("examples/*/README.md")])


def test_generated_pages_are_what_the_code_says() -> None:
    done = subprocess.run([sys.executable, "scripts/build_docs.py", "--check"], cwd=ROOT, capture_output=True, text=True, check=False)

    assert done.returncode == 0, done.stdout + done.stderr


def test_every_metric_label_and_setting_is_documented() -> None:
    metrics, settings = (DOCS / "metrics.md").read_text(), (DOCS / "settings.md").read_text()

    assert [m.name for m in names.CATALOGUE if f"`{m.name}`" not in metrics] == []
    assert [label for m in names.CATALOGUE for label in m.labels if f"`{label}`" not in metrics] == []
    assert [n for n in names.PUBLIC_SERIES if f"`{n}`" not in metrics] == []
    assert [f.name for f in fields(Settings) if f"`{PREFIX}{f.name.upper()}`" not in settings] == []


def test_every_setting_of_the_collector_is_documented_with_what_it_means() -> None:
    settings = (DOCS / "settings.md").read_text()

    assert [name for name in CollectorSettings.model_fields if f"`COLLECTOR_{name.upper()}`" not in settings] == []
    assert [name for name, field in CollectorSettings.model_fields.items() if not field.description] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda p: str(p.relative_to(ROOT)))
def test_every_relative_link_leads_to_a_file(page: Path) -> None:
    links = re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", page.read_text(encoding="utf-8"))

    assert [link for link in links if "://" not in link and not (page.parent / link).exists()] == []


def test_every_make_target_and_isomon_command_in_the_pages_exists(capsys: pytest.CaptureFixture[str]) -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.M))
    text = "\n".join(p.read_text(encoding="utf-8") for p in PAGES)

    assert set(re.findall(r"(?:^|`)make ([a-z-]+)", text, re.M)) <= targets
    for words in sorted(set(re.findall(r"isomon ((?:gate|rollout|demo|slo) [a-z-]+|migrate|doctor)", text))):
        # Here and not in a process of its own: there are dozens, and each would import all of it.
        assert _exit_code([*words.split(), "--help"]) == 0, f"isomon {words}: {capsys.readouterr().err}"


def _exit_code(arguments: list[str]) -> int | str | None:
    with pytest.raises(SystemExit) as end:
        isomon(arguments)
    return end.value.code


def test_the_quick_starts_code_is_real(tmp_path: Path) -> None:
    """The two lines and the declarations of the page run as they stand, against the real package."""
    blocks = re.findall(r"```python\n(.*?)```", (DOCS / "quick-start.md").read_text(), re.S)
    before = (
        "from types import SimpleNamespace\n"
        "async def app(scope, receive, send): ...\n"
        "engine = None\n"
        "tokens = SimpleNamespace(user_of=lambda scope: 'ann')\n"
        "class Agent:\n    def __init__(self, user): ...\n"
        "from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column\n"
        "class Base(DeclarativeBase): pass\n"
        "class Note(Base):\n    __tablename__ = 'notes'\n    id: Mapped[int] = mapped_column(primary_key=True)\n    user_id: Mapped[str]\n"
        "def may_see(user, room): return True\n"
    )
    code = before + "\n".join(blocks).replace("...\n", "pass\n") + "\nassert create_agent('ann')\nmonitor.close()\n"

    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False)

    assert done.returncode == 0, done.stderr
