"""A short run of every fuzzed decoder, and the control: what was planted is found. `make fuzz` goes on for longer."""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path

import pytest

from tests.fuzz.running import fuzz
from tests.fuzz.targets import TARGETS

RUNS = 4_000
"""Inputs of the slow test: by number, so that a slow machine tries as many."""


@pytest.fixture(scope="module", autouse=True)
def atheris() -> None:
    if importlib.util.find_spec("atheris") is None:
        (pytest.fail if os.environ.get("ISOMON_REQUIRE_REAL") == "1" else pytest.skip)("atheris is not installed")


@pytest.mark.parametrize("name", TARGETS)
def test_every_seed_is_taken_or_refused(name: str) -> None:
    """What was found once stays mended."""
    seeds = TARGETS[name].seeds()

    for seed in seeds:
        TARGETS[name].take(seed)
        TARGETS[name].take(seed[: len(seed) // 2])

    assert seeds


@pytest.mark.slow
@pytest.mark.parametrize("name", TARGETS)
def test_a_short_run_finds_nothing(name: str, tmp_path: Path) -> None:
    done = fuzz(name, tmp_path, f"-runs={RUNS}", "-seed=1", "-max_total_time=60", seconds=240)

    assert done.is_clean, f"{done.said}\n{[path.read_bytes() for path in done.found.iterdir()]}"
    assert done.runs > len(TARGETS[name].seeds())


@pytest.mark.slow
def test_a_run_finds_what_was_planted(tmp_path: Path) -> None:
    done = fuzz("planted", tmp_path, "-runs=200000", "-seed=1", "-max_total_time=120", seconds=240)

    assert not done.is_clean
    assert "found what was planted" in done.said
    assert [path.name.startswith("crash-") for path in done.found.iterdir()] == [True]
