"""The Dockerfile: pinned, not root, and with everything that the package needs to be built."""

from __future__ import annotations

import fnmatch
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

from tests.compose.compose import DOCKERFILE, ROOT, service

IGNORE = DOCKERFILE.with_name(DOCKERFILE.name + ".dockerignore")


def instructions() -> list[tuple[str, str]]:
    """(instruction, rest) of each line, continued lines joined."""
    text = re.sub(r"\\\n\s*", "", DOCKERFILE.read_text())
    lines = [line for line in text.splitlines() if line.strip() and not line.startswith("#")]
    return [(line.split(maxsplit=1)[0], line.split(maxsplit=1)[1]) for line in lines]


def stages() -> dict[str, list[tuple[str, str]]]:
    found: dict[str, list[tuple[str, str]]] = {}
    for name, rest in instructions():
        if name == "FROM":
            found[rest.split(" AS ")[1]] = [(name, rest)]
        else:
            list(found.values())[-1].append((name, rest))
    return found


def copied() -> list[str]:
    """The paths of the tree that any stage copies."""
    rests = [rest for name, rest in instructions() if name == "COPY" and not rest.startswith("--from")]
    return [source for rest in rests for source in rest.split()[:-1]]


def test_base_images_have_exact_tags():
    bases = {rest.split(" AS ")[0] for name, rest in instructions() if name == "FROM"} - set(stages())

    assert len(bases) == 1
    assert re.fullmatch(r"python:3\.13\.\d+-slim-[a-z]+", bases.pop())


def test_images_that_run_are_not_root_and_have_no_compiler_or_source():
    runtime = stages()["runtime"]

    assert ("USER", "10001:10001") in runtime
    assert not any(name == "RUN" for stage in ("runtime", "collector", "chat") for name, _ in stages()[stage])
    for stage in ("collector", "chat"):
        assert stages()[stage][0] == ("FROM", f"runtime AS {stage}")
        assert not any(name == "USER" for name, _ in stages()[stage])
    assert service("collector")["user"] == service("chat")["user"] == "10001:10001"


def test_each_image_says_whether_it_is_healthy_and_starts_without_a_shell():
    for stage in ("collector", "chat"):
        found = dict(stages()[stage])
        assert "/readyz" in found["HEALTHCHECK"]
        assert found["CMD"].startswith('["python"')
    assert dict(stages()["runtime"])["ENTRYPOINT"].startswith('["python"')


def test_dependencies_come_in_the_versions_of_the_lock():
    for name, rest in instructions():
        if name == "RUN" and "pip install" in rest:
            assert "--constraint requirements/ci.txt" in rest


def test_no_secret_package_host_or_remote_file_is_named():
    text = DOCKERFILE.read_text()

    assert not any(name in ("ADD", "ARG") for name, _ in instructions())
    assert not re.search(r"https?://(?!127\.0\.0\.1)", text)
    assert not re.search(r"index-url|trusted-host|password|token", text, re.IGNORECASE)


def test_everything_that_is_copied_exists_and_passes_the_ignore_file():
    allowed = [line[1:] for line in IGNORE.read_text().splitlines() if line.startswith("!")]

    for source in copied():
        assert (ROOT / source).exists(), source
        assert any(fnmatch.fnmatch(source, pattern) for pattern in allowed), f"{source} is not sent to the builder"
    assert "*" in IGNORE.read_text().splitlines()
    assert not any(pattern.startswith(("secrets", ".git")) for pattern in allowed)


def test_the_copied_files_build_a_package_with_everything_in_it(tmp_path: Path):
    """A folder that the Dockerfile forgets would be missing only in the image."""
    tree = tmp_path / "tree"
    tree.mkdir()
    for source in copied():
        target = tree / source
        target.parent.mkdir(parents=True, exist_ok=True)
        if (ROOT / source).is_dir():
            shutil.copytree(ROOT / source, target, symlinks=True, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(ROOT / source, target)

    done = subprocess.run(
        [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "--no-index", "--wheel-dir", tmp_path / "wheels", tree],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )

    assert done.returncode == 0, done.stderr
    (wheel,) = (tmp_path / "wheels").glob("*.whl")
    inside = set(zipfile.ZipFile(wheel).namelist())
    for part in (
        "telemetry/names.py",
        "collector/app.py",
        "collector/migrations/env.py",
        "cli/main.py",
        "alerts/runbooks/IsolationViolation.md",
        "collector/web/templates/regions/verdicts.html",
        "collector/web/static/page.css",
    ):
        assert f"isolation_monitor/{part}" in inside
