"""All cases, found in `tests/leaks/cases`."""

from __future__ import annotations

import dataclasses
import importlib
from pathlib import Path

from tests.leaks.case import Case
from tests.leaks.limits import LIMITS

FOLDER = Path(__file__).parent / "cases"


def module_names() -> list[str]:
    return [f"tests.leaks.cases.{path.stem}" for path in sorted(FOLDER.glob("*.py")) if path.stem != "__init__"]


def cases_of(module: str) -> list[Case]:
    """Return the cases of a module; a helper beside them has none."""
    cases: list[Case] = getattr(importlib.import_module(module), "CASES", [])
    return [dataclasses.replace(case, limit=LIMITS[case.name]) if case.name in LIMITS else case for case in cases]


def all_cases() -> list[Case]:
    """Return every case, by module and then in the module's order.

    Raises:
        ValueError: two cases have one name.
    """
    cases = [case for module in module_names() for case in cases_of(module)]
    names = [case.name for case in cases]
    if twice := {name for name in names if names.count(name) > 1}:
        raise ValueError(f"case names are not unique: {', '.join(sorted(twice))}")
    return cases
