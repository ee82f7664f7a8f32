"""The report of `make bench-kill`, from outcomes that were made up."""

from __future__ import annotations

from bench.kill import rows
from tests.real_parts.killing import Outcome


def test_what_was_lost_of_all_that_was_acknowledged_is_one_row() -> None:
    found = {
        row.name: row for row in rows([Outcome("sqlite", lost=1), Outcome("application", lost=2)], [Outcome("early", lost=9)], 1.0, 0, 0)
    }

    assert (found["acknowledged lost"].value, found["acknowledged lost"].ok) == (3.0, False)
