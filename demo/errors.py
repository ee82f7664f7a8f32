"""Errors of the demonstration; each text says what was found and what to do."""

from __future__ import annotations

COMPOSE_HINT = "or run the whole stack in containers: docker compose -f docker-compose.monitoring.yml up"


class DemoError(Exception):
    """The demonstration cannot go on; the text is for a person."""


class PartMissingError(DemoError):
    """A program that the stack runs is not installed, or too old."""

    def __init__(self, name: str, minimum: str, packages: tuple[str, ...], setting: str, too_old: list[str]) -> None:
        self.name = name
        self.packages = packages
        found = f"found only {', '.join(too_old)}" if too_old else "it is not installed"
        super().__init__(
            f"{name} >= {minimum} is needed: {found}. Install it (Debian 12, Ubuntu 24.04: apt-get install {' '.join(packages)}), "
            f"or set {setting} to its path"
        )


class NotACheckoutError(DemoError):
    """The demonstration was started from an installed package, without the repository around it."""


class StartError(DemoError):
    """A process of the stack ended or did not become ready in time."""


class StepFailedError(DemoError):
    """A step of the story did not hold; the text names the step and what was seen instead."""


class NoStackError(DemoError):
    """No running demonstration was found."""
