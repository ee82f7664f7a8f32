"""The benchmark of containers keeps its budgets: fifty deaths of fifty, over an engine restart in their midst."""

from __future__ import annotations

import pytest

from bench import watch_containers


@pytest.mark.slow
async def test_no_death_is_missed_and_none_counted_twice_over_an_engine_restart() -> None:
    rows = {row.name: row for row in await watch_containers.rows(quick=True)}

    assert rows["container deaths seen"].value == watch_containers.CONTAINERS
    assert rows["container deaths counted twice"].value == 0
