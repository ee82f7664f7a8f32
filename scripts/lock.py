"""Writes requirements/ci.txt: the exact versions of everything that `.[dev]` needs, as .venv has them now.

Run it with `.venv/bin/python scripts/lock.py` after changing pyproject.toml and testing with what pip chose. With
`--check` it writes nothing and fails when a requirement of pyproject.toml has no version in the lock that meets it.
"""

from __future__ import annotations

import sys
import tomllib
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

CHECKOUT = Path(__file__).resolve().parent.parent
LOCK = CHECKOUT / "requirements" / "ci.txt"
HEADER = """\
# Exact versions that CI and `make setup` install (as constraints). Written by scripts/lock.py; do not edit.
"""
EXTRA = "dev"


def main(arguments: list[str]) -> int:
    """Write or check the lock; return the exit code."""
    if arguments == ["--check"]:
        wrong = problems(direct_requirements(), read(LOCK.read_text()))
        for problem in wrong:
            print(problem, file=sys.stderr)
        return 1 if wrong else 0
    versions = installed_closure(direct_requirements())
    LOCK.write_text(HEADER + "".join(f"{name}=={version}\n" for name, version in sorted(versions.items())))
    print(f"{LOCK.relative_to(CHECKOUT)}: {len(versions)} packages")
    return 0


def direct_requirements() -> list[Requirement]:
    """Return what pyproject.toml asks for with the `dev` extra and the extras that it names."""
    project = tomllib.loads((CHECKOUT / "pyproject.toml").read_text())
    own = canonicalize_name(project["project"]["name"])
    extras = project["project"]["optional-dependencies"]
    found = [Requirement(text) for text in [*project["build-system"]["requires"], *project["project"]["dependencies"]]]
    wanted, seen = [EXTRA], set[str]()
    while wanted:
        extra = wanted.pop()
        if extra in seen:
            continue
        seen.add(extra)
        for requirement in map(Requirement, extras[extra]):
            if canonicalize_name(requirement.name) == own:
                wanted += requirement.extras
            else:
                found.append(requirement)
    return found


def installed_closure(direct: list[Requirement]) -> dict[str, str]:
    """Return name and version of every installed distribution that the requirements reach.

    Raises:
        importlib.metadata.PackageNotFoundError: one is not installed; run `make setup` first.
    """
    versions: dict[str, str] = {}
    visited: set[tuple[str, frozenset[str]]] = set()
    wanted = list(direct)
    while wanted:
        requirement = wanted.pop()
        name = canonicalize_name(requirement.name)
        key = (name, frozenset(requirement.extras))
        if key in visited:
            continue
        visited.add(key)
        distribution = metadata.distribution(name)
        versions[name] = str(Version(distribution.version))
        for text in distribution.requires or ():
            needed = Requirement(text)
            if needed.marker is None or any(needed.marker.evaluate({"extra": extra}) for extra in requirement.extras or {""}):
                wanted.append(needed)
    return versions


def read(text: str) -> dict[str, str]:
    """Return name and version of each line of a lock."""
    pairs = (line.split("==") for line in text.splitlines() if "==" in line and not line.startswith("#"))
    return {canonicalize_name(name): version for name, version in pairs}


def problems(direct: list[Requirement], lock: dict[str, str]) -> list[str]:
    """Return a line for each requirement that the lock does not pin, or pins outside of its range."""
    wrong = []
    for requirement in direct:
        version = lock.get(canonicalize_name(requirement.name))
        if version is None:
            wrong.append(f"requirements/ci.txt lacks {requirement}: run .venv/bin/python scripts/lock.py")
        elif not requirement.specifier.contains(version, prereleases=True):
            wrong.append(f"requirements/ci.txt pins {requirement.name} {version}, pyproject.toml asks {requirement}: run scripts/lock.py")
    return wrong


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
